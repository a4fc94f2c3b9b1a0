"""Training rows as the model will see them."""

import sys


def show(tokenizer, sequences: dict, count: int) -> None:
    """Print rows as the model will see them: supervised tokens in green, or between ⟦ ⟧ without a terminal."""
    start, end = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("⟦", "⟧")
    for i, (ids, labels) in enumerate(zip(sequences["input_ids"], sequences["labels"], strict=True)):
        if i == count:
            break
        text, run, was = "", [], None
        for token, label in zip([*ids, None], [*labels, None], strict=True):
            on = label is not None and label >= 0
            if (on != was or token is None) and run:
                piece = tokenizer.decode(run)
                text += f"{start}{piece}{end}" if was else piece
                run = []
            run.append(token)
            was = on
        supervised = sum(label >= 0 for label in labels)
        print(f"── row {i + 1}: {len(ids)} tokens, {supervised} supervised " + "─" * 30 + f"\n{text}\n")
