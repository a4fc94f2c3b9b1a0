"""Training rows as the model will see them."""

import sys
from itertools import groupby


def show(tokenizer, sequences: dict, count: int) -> None:
    """Print rows as the model will see them: supervised tokens in green, or between ⟦ ⟧ without a terminal."""
    start, end = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("⟦", "⟧")
    rows = zip(sequences["input_ids"][:count], sequences["labels"][:count], strict=True)
    for number, (ids, labels) in enumerate(rows, 1):
        text = ""
        for is_supervised, span in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] >= 0):
            piece = tokenizer.decode([token for token, _ in span])
            text += f"{start}{piece}{end}" if is_supervised else piece
        supervised = sum(label >= 0 for label in labels)
        print(f"── row {number}: {len(ids)} tokens, {supervised} supervised " + "─" * 30 + f"\n{text}\n")
