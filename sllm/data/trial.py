"""Encode prepared rows as a trainer will, before any training."""

from typing import TYPE_CHECKING, Any

from sllm.data import tokenize
from sllm.data.input_files import InputFile
from sllm.data.rows import Skipped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(files: list[InputFile], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> dict[str, Any]:
    """Encode the rows of all files. Those that a trainer would refuse move from `rows` to `rejects` of their file.

    Args:
        files: all of one kind, training or preference; changed in place.
        max_length: tokens that the trainer will truncate at.
    Returns:
        The statistics of `sft_columns` or `dpo_columns`, with `refused`: how many rows moved.
    """
    skipped = Skipped(True, share=1.0)  # any number: the report counts them
    rows = [row for file in files for row in file.rows]
    for file in files:
        skipped.expect(file.path, file.read)
    columns_of = tokenize.dpo_columns if rows and "chosen" in rows[0] else tokenize.sft_columns
    _, stats = columns_of(tokenizer, rows, max_length, skipped=skipped)
    for file in files:
        for row in file.rows:
            if reason := skipped.reason(row):
                file.reject(row.line or 0, reason, row)
        file.sort_rejects()
        file.rows = [row for row in file.rows if not skipped.reason(row)]
    return {"refused": len(skipped.rows), **stats}
