"""Measure the models of one base with one load of the engine: answers to a test set, log-likelihoods of labelled
choices, the tasks of lm-evaluation-harness. Started by evaluate_model.py, in a process of its own whose memory is free
again when it ends.

Reads a JSON file: base, models (name → adapter or null) and the flags of evaluate_model.py. Writes below its
output_dir: answers/NAME.jsonl, zero_shot/NAME.json and lm_eval/NAME.json. What is there already, by the same settings,
stays where `resume` says so.

    python -m sllm.measure JOB.json
"""

from argparse import Namespace
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from sllm import chat, cli
from sllm.evaluate import job as evaluation_job

KV_TOKENS = 2**17  # of the KV cache on a CPU: rows beyond it wait


def build_parser():
    return evaluation_job.parser(__doc__, "-m sllm.measure")


def main(args) -> None:
    from sllm.serve import engine, environment, model_info

    job = evaluation_job.read(args.job)
    environment.set_environment()
    job.context = min(job.max_seq_length, model_info.context_length(job.base) or job.max_seq_length)

    @cache
    def load():
        adapters = [adapter for adapter in job.models.values() if adapter]
        return engine.load(job.base, adapters=adapters, dtype=job.dtype, max_model_len=job.context, kv_tokens=KV_TOKENS)

    try:
        measure_models(job, load)
    except (KeyboardInterrupt, cli.Interrupted):
        raise SystemExit(130) from None  # evaluate_model.py says how to go on


def measure_models(job: Namespace, load: Callable[[], Any]) -> None:
    from sllm.evaluate import model_results

    for name, adapter in job.models.items():
        print(f"\n── {name} ──", flush=True)
        if job.asks_rows:
            ask(job, name, adapter or job.base, load)
        settings = evaluation_job.settings(job, adapter) | {"context": job.context}
        own = {key: value for key, value in vars(job).items() if key.startswith(("zero_shot_", "num_shots", "seed"))}
        inputs = [*job.zero_shot_path, *job.shots_path]
        if "zero_shot" in job.suites:
            path = Path(job.output_dir) / "zero_shot" / f"{name}.json"
            model_results.measure_once(
                path, settings | own, inputs, partial(zero_shot, job, adapter, load), resume=job.resume
            )
        own = {key: value for key, value in vars(job).items() if key.startswith("lm_eval_")}
        if "lm_eval" in job.suites:
            path = Path(job.output_dir) / "lm_eval" / f"{name}.json"
            inputs = [job.lm_eval_include_path]
            model_results.measure_once(
                path, settings | own, inputs, partial(lm_eval, job, adapter, load), resume=job.resume
            )


def ask(job: Namespace, name: str, model: str, load: Callable[[], Any]) -> None:
    """Answer the test set as vllm_inference.py does, but with the engine of the other models."""
    import vllm_inference

    words = {"model_id": model, "testset_path": job.testset_path,
             "output_path": Path(job.output_dir) / "answers" / f"{name}.jsonl",
             "max_seq_length": job.max_seq_length, "max_tokens": job.max_tokens, "temperature": job.temperature,
             "n": job.n, "seed": job.seed, "dtype": job.dtype}  # fmt: skip
    flags = [str(word) for flag, value in words.items() for word in (f"--{flag}", value)]
    flags += ["--resume"] if job.resume else []
    vllm_inference.main(vllm_inference.build_parser().parse_args(flags), load=lambda *_: load(), resume=job.command)


def zero_shot(job: Namespace, adapter: str | None, load: Callable[[], Any]) -> Any:
    from sllm import progress
    from sllm.evaluate import zero_shot
    from sllm.serve import engine

    tokenizer = chat.load_tokenizer(adapter or job.base)
    chat.set_chat_template(tokenizer)
    sets = zero_shot.load(job.zero_shot_path, job.shots_path, job.num_shots, job.seed)

    def score(pairs):
        values, report = [(0.0, False)] * len(pairs), progress.counter(len(pairs), "choice")
        for index, value in engine.log_likelihoods(load(), pairs, adapter=adapter):
            values[index] = value
            report(sum(map(len, pairs[index])))
        return values

    return zero_shot.measure(tokenizer, sets, job.zero_shot_styles, score)


def lm_eval(job: Namespace, adapter: str | None, load: Callable[[], Any]) -> Any:
    from sllm.serve import harness

    return harness.evaluate(
        load(), job.base, adapter, tasks=job.lm_eval_tasks, num_fewshot=job.lm_eval_num_fewshot,
        limit=job.lm_eval_limit, apply_chat_template=job.lm_eval_chat,
        task_manager=harness.task_manager(job.lm_eval_include_path),
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main, build_parser())
