"""Encode prepared rows as a trainer will, before any training."""

from sllm.data import tokenize as columns
from sllm.data.rows import Skipped


def encode(files: list[dict], tokenizer, max_length: int) -> dict:
    """Encode the rows of all files. Those that a trainer would refuse move from `rows` to `rejects` of their file.

    Args:
        files: {"path", "read", "rows", "rejects"} of each input, all of one sort; changed in place.
        max_length: tokens that the trainer will cut at.
    Returns:
        The statistics of `sft_columns` or `dpo_columns`, with `refused`: how many rows moved.
    """
    skipped = Skipped(True, share=1.0)  # any number: the report counts them
    rows = [row for file in files for row in file["rows"]]
    for file in files:
        skipped.expect(file["path"], file["read"])
    sort = columns.dpo_columns if rows and "chosen" in rows[0] else columns.sft_columns
    _, stats = sort(tokenizer, rows, max_length, skipped=skipped)
    for file in files:
        refused = [row for row in file["rows"] if skipped.reason(row)]
        file["rejects"] += [
            {"file": row.file, "line": row.line, "reason": skipped.reason(row), "row": row} for row in refused
        ]
        file["rejects"].sort(key=lambda reject: reject["line"])
        file["rows"] = [row for row in file["rows"] if not skipped.reason(row)]
    return {"refused": len(skipped.rows), **stats}
