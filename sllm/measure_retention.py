"""Measure what tuning took away from the models of one base: bits per character and KL to the base on general Korean.
Started by evaluate_model.py, in a process of its own whose memory is free again when it ends.

Reads the same JSON file as `sllm.measure`; writes retention/NAME.json below its output_dir.

    python -m sllm.measure_retention JOB.json
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

from sllm import chat, checkpoint, cli, retention
from sllm.cli import InputError
from sllm.evaluate import job as evaluation_job
from sllm.retention import PROBE


def build_parser():
    return evaluation_job.parser(__doc__, "-m sllm.measure_retention")


def main(args) -> None:
    from transformers.utils import logging

    from sllm.evaluate import model_results

    job = evaluation_job.read(args.job)
    probe = Path(job.probe_path or PROBE)
    logging.disable_progress_bar()
    load_once = cache(partial(load, dtype=job.dtype))
    try:
        texts = retention.probe(path=probe)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--probe_path {probe}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not texts:
        raise InputError(f"--probe_path {probe} is empty; give it texts, a line each")
    for name, adapter in job.models.items():
        origin = None if adapter else base_of(job.base)
        settings = evaluation_job.settings(job, adapter)
        settings |= {"origin": checkpoint.folder_hash(origin) if origin else None}
        cli.say("retention", f"{name}: {cli.plural(len(texts), 'text')}")
        path = Path(job.output_dir) / "retention" / f"{name}.json"
        measure = partial(of_model, job.base, adapter, origin, texts, load_once)
        model_results.measure_once(path, settings, [str(probe)], measure, resume=job.resume)


def load(model: str, *, dtype: str):
    from sllm.train import with_peft

    settings = {"bits": 16, "max_seq_length": 0, "train": False, "gradient_checkpointing": False}
    return with_peft.load_model(model, adapter=None, dtype=dtype, **settings).eval()


def base_of(folder: str) -> str | None:
    """The base of a model that merged_weights.py merged, where it is still there."""
    record = checkpoint.read_run(folder) if Path(folder).is_dir() else None
    if not record or record.get("stage") != "merged":
        return None
    base = checkpoint.find(folder, record, record["base"]["path"])
    return base if Path(base).is_dir() else None


def of_model(base: str, adapter: str | None, origin: str | None, texts: list[str], load_once) -> dict[str, Any]:
    """Arrays of (texts,): characters, bits, and kl, None where there is nothing to compare with."""
    from peft import PeftModel

    tokenizer, model = chat.load_tokenizer(adapter or base), load_once(base)
    try:
        if adapter:
            tuned = PeftModel.from_pretrained(model, adapter)
            measured = retention.measure(tuned, tokenizer, texts)
            tuned.unload()
            if tuned.peft_config["default"].modules_to_save:
                load_once.cache_clear()  # whole modules of the base were replaced
        else:
            measured = retention.measure(model, tokenizer, texts, base=load_once(origin) if origin else model)
    except ValueError as error:
        raise InputError(f"{adapter or base}: general Korean cannot be measured ({error})") from None
    compared = bool(adapter or origin)
    return {
        "texts_hash": measured.texts_hash,
        "characters": measured.characters.tolist(),
        "tokens": measured.tokens.tolist(),
        "bits": measured.bits.tolist(),
        "kl": measured.kl.tolist() if compared else None,
        "summary": measured.summary if compared else None,
    }


if __name__ == "__main__":
    cli.run(main, build_parser())
