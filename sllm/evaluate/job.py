"""What evaluate_model.py hands to the processes that load models: `sllm.measure`, `sllm.measure_retention`."""

import argparse
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from sllm import checkpoint, cli


def parser(docstring: str, command: str) -> argparse.ArgumentParser:
    p = cli.parser(docstring, command)
    p.add_argument("job", metavar="JOB.json", help="what to measure, as evaluate_model.py writes it")
    return p


def read(path: str) -> Namespace:
    return Namespace(**json.loads(Path(path).read_text(encoding="utf-8")))


def settings(job: Namespace, adapter: str | None) -> dict[str, Any]:
    """The model, by its contents, and its precision: what is measured with them need not be measured again."""
    return {
        "model": checkpoint.folder_hash(job.base) or job.base,
        "adapter": checkpoint.folder_hash(adapter) if adapter else None,
        "dtype": job.dtype,
    }
