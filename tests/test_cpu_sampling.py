"""Sampling in the real engine on a CPU: a seed gives the same answer whatever happens to the row."""

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
from sllm.serve import engine, environment
environment.set_environment()
from vllm import LLM, SamplingParams

options = engine.options(BASE, adapters=[], dtype="auto", max_model_len=512, kv_tokens=1)  # room for one long row
llm = LLM(scheduler_cls="sllm.serve.cpu_scheduler.Scheduler", max_num_batched_tokens=2048, **options)
scheduler = llm.llm_engine.engine_core.engine_core.scheduler
counts = {"parts": 0, "preempted": 0}
schedule, preempt = scheduler.schedule, scheduler._preempt_request

def counted_schedule(*args, **kwargs):
    output = schedule(*args, **kwargs)
    for name, tokens in output.num_scheduled_tokens.items():  # num_computed_tokens has these already
        request = scheduler.requests[name]
        counts["parts"] += request.num_computed_tokens < request.num_tokens and request.sampling_params.seed is not None
    return output

def counted_preempt(*args, **kwargs):
    counts["preempted"] += 1
    return preempt(*args, **kwargs)

scheduler.schedule, scheduler._preempt_request = counted_schedule, counted_preempt
draw = random.Random(0)
tokens = range(100, llm.model_config.get_vocab_size())
lengths = [60 if row % 10 == 2 else draw.choice([20, 60, 150, 240]) for row in range(30)]  # three answers need room
prompts = [{"prompt_token_ids": draw.choices(tokens, k=length)} for length in lengths]
kinds = [
    {}, {}, {"n": 3}, {"logprobs": 3, "prompt_logprobs": 1}, {"min_p": 0.05}, {"top_k": 40}, {"top_p": 0.9},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.3}, {"temperature": 0}, {"seed": None},
]

def params(row):
    settings = {"temperature": 1.0, "seed": row, "max_tokens": 40, "ignore_eos": True} | kinds[row % len(kinds)]
    return SamplingParams(**settings)

def ask(rows, tokens) -> dict:
    llm.reset_prefix_cache()
    scheduler.max_num_scheduled_tokens = tokens  # prompt tokens in one step
    counts.update(parts=0, preempted=0)
    done = llm.generate([prompts[row] for row in rows], [params(row) for row in rows], use_tqdm=False)
    answers = [[choice.token_ids for choice in row.outputs] for row in done]
    return {"answers": dict(zip(rows, answers)), **counts}

everyone = range(len(prompts))
found = {"together": ask(everyone, 2048), "in parts": ask(everyone, 64), "backwards": ask(everyone[::-1], 200)}
alone = [ask([row], 2048) for row in everyone]
found["alone"] = {key: sum(one[key] for one in alone) for key in counts}
found["alone"]["answers"] = {row: answer for one in alone for row, answer in one["answers"].items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tiny_base, tmp_path_factory) -> dict:
    """The same 30 requests in three crowds and each alone, where there is no compiler."""
    env = {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
    code = f"BASE = {str(tiny_base)!r}\n{textwrap.dedent(CODE)}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_seed_gives_the_same_answer_in_parts_after_preemption_and_alone(found):
    alone = found["alone"]
    assert alone["parts"] == alone["preempted"] == 0  # the others are held against what nothing happened to
    for crowd in ("together", "in parts", "backwards"):
        assert found[crowd]["preempted"] > 0
        different = [row for row, answer in alone["answers"].items() if answer != found[crowd]["answers"][row]]
        assert [row for row in different if int(row) % 10 != 9] == [], crowd  # every tenth has no seed
        assert len(different) >= 2, crowd
    assert found["in parts"]["parts"] > 20
    assert found["backwards"]["parts"] > 0


def test_seeds_differ_from_each_other(found):
    answers = found["alone"]["answers"]
    assert all(len(answer[0]) == 40 for answer in answers.values())
    assert all(len(answers[row]) == 3 and len({tuple(one) for one in answers[row]}) == 3 for row in ("2", "12", "22"))
