"""The scheduler of the server on a CPU, in the real engine."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

from sllm.serve import environment

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not environment.on_cpu() and "CI" not in os.environ, reason="vLLM's CPU build only"),
]
CODE = """
import json, random
from sllm.serve import engine, environment, engine_client
environment.set_environment()
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

def ask(lengths, tokens=1, **kwargs):
    prompts = [{"prompt_token_ids": [random.randrange(100, 1900) for _ in range(length)]} for length in lengths]
    llm.enqueue(prompts, SamplingParams(max_tokens=tokens, ignore_eos=True, **kwargs), use_tqdm=False)

def step() -> int:  # how many answers it finished
    return len(llm.llm_engine.step())

def steps() -> list[int]:
    found = []
    while llm.llm_engine.has_unfinished_requests():
        found.append(step())
    return found

options = dict(dtype="auto", max_model_len=1024)
llm = LLM(scheduler_cls="sllm.serve.cpu_scheduler.Scheduler", **engine.options(BASE, adapters=[], **options))
found = {}
for name, lengths in BURSTS.items():
    ask(lengths)
    found[name] = steps()

ask([64, 64], tokens=6)  # both are taken in by the first step
first = step()
ask([64] * 6)
found["beside others"] = [first, *steps()]

ask([64] * 2, tokens=4)
ask([64] * 2, tokens=4, structured_outputs=StructuredOutputsParams(json_object=True))
found["json"] = sum(steps())

ask([64] * 8)
first = step()
llm.llm_engine.abort_request([str(llm.request_counter.counter - 1)], internal=False)
found["one leaves"] = [first, *steps()]

def asked_for(arguments, **kwargs):
    found["the server's"] = arguments.scheduler_cls
    raise ValueError

AsyncLLM.from_engine_args = asked_for
try:
    engine_client.start(BASE, adapters=[], parallel={}, seed=0, gpu_memory_utilization=0.5, max_num_seqs=8, **options)
except engine.InputError:
    print(json.dumps(found))
"""


def test_few_prompts_are_taken_in_by_halves_and_many_at_once(tiny_base):
    bursts = {
        "eight": [64] * 8,
        "five": [64] * 5,
        "short": [40, 40],
        "hundreds": [100, 100],
        "a scrap": [30, 900],
        "long": [600],
        "uneven": [200, 30, 30],
        "many": [64] * 17,
    }
    code = f"BASE, BURSTS = {str(tiny_base)!r}, {bursts!r}\n{textwrap.dedent(CODE)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "eight": [4, 2, 2],
        "five": [3, 2],
        "short": [2],
        "hundreds": [2],
        "a scrap": [2],
        "long": [1],
        "uneven": [2, 1],
        "many": [17],
        "beside others": [0, 3, 2, 1, 0, 2],  # the two that run have a token in every step
        "json": 4,
        "one leaves": [4, 2, 1],
        "the server's": "sllm.serve.cpu_scheduler.Scheduler",
    }
