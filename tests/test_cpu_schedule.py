"""The scheduler of the server on a CPU, in the real engine."""

import json
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

pytestmark = pytest.mark.torch


def test_few_prompts_are_read_in_halves_and_many_at_once(tiny_base):
    bursts = {
        "eight": [64] * 8,
        "five": [64] * 5,
        "short": [40, 40],
        "long": [600],
        "uneven": [200, 30, 30],
        "many": [64] * 17,
    }
    code = f"""
    import json, random
    from sllm.serve import engine
    engine.set_environment()
    from vllm import LLM, SamplingParams
    settings = engine.options({str(tiny_base)!r}, adapters=[], dtype="auto", max_model_len=1024)
    llm = LLM(scheduler_cls="sllm.serve.cpu_schedule.Scheduler", **settings)
    params, found = SamplingParams(max_tokens=1, ignore_eos=True), {{}}
    for name, lengths in {bursts!r}.items():
        prompts = [{{"prompt_token_ids": [random.randrange(100, 1900) for _ in range(n)]}} for n in lengths]
        llm.enqueue(prompts, params, use_tqdm=False)
        found[name] = []
        while llm.llm_engine.has_unfinished_requests():
            found[name].append(len(llm.llm_engine.step()))
    print(json.dumps(found))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout.splitlines()[-1])  # how many answers each step of the engine brought
    assert answered == {"eight": [4, 2, 2], "five": [3, 2], "short": [2], "long": [1], "uneven": [2, 1], "many": [17]}
