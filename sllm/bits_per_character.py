"""How well models predict the answers of held-out rows, in bits per character: lower is better, and models of
different tokenizers compare.

    python -m sllm.bits_per_character base=outputs/demo/base sft=outputs/demo/sft \\
        --testset_path sample_data/world/test_names.jsonl
"""

from collections.abc import Sequence
from typing import Any

from sllm import checkpoint, cli, retention


def build_parser():
    p = cli.parser(__doc__, "-m sllm.bits_per_character")
    p.add_argument("models", nargs="+", metavar="NAME=MODEL", help="a name to show, and a model or adapter")
    p.add_argument("--testset_path", required=True, help="rows with their answers, as for training")
    p.add_argument("--max_rows", type=cli.positive_int, help="take the first rows only")
    p.add_argument("--max_seq_length", type=cli.positive_int, default=4096, help="tokens; longer rows are left out")
    p.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"), help="of the weights")
    p.add_argument("--seed", type=cli.seed, default=42, help="of the bootstrap")
    return p


def main(args) -> dict:
    import numpy as np

    from sllm.data import formats

    models = {}
    for pair in args.models:
        name, separator, model = pair.partition("=")
        if not separator or not name or not model or name in models:
            raise cli.InputError(f"{pair}: give each model as NAME=MODEL, with a name of its own")
        models[name] = model
    rows, *sources = cli.collect_errors(
        lambda: formats.load_rows(args.testset_path, "sft"), *(_source(model) for model in models.values())
    )
    rows = rows[: args.max_rows]
    characters = np.array([_answer_length(row) for row in rows])
    bits = {
        name: _bits(model, *source, rows, args) for (name, model), source in zip(models.items(), sources, strict=True)
    }
    known = ~np.isnan(np.stack(list(bits.values()))).any(0)
    if not known.any():
        raise cli.InputError(f"{args.testset_path}: no row fits in --max_seq_length {args.max_seq_length}")
    count = int(known.sum())
    first, table, results = None, [], {}
    for name, values in bits.items():
        value, ratios = retention.ratio(values[known], characters[known], args.seed)
        low, high = retention.interval(ratios)
        results[name] = {"bits_per_character": value, "low": low, "high": high}
        difference = ""
        if first is not None:
            below, above = retention.interval(ratios - first[1])
            difference = f"{value - first[0]:+.3f} ({below:+.3f} to {above:+.3f})"
            results[name] |= {"difference": value - first[0], "difference_interval": [below, above]}
        table.append((name, f"{value:.3f} ({low:.3f}–{high:.3f})", difference))
        first = first or (value, ratios)
    print(cli.table(["model", "bits per character", f"against {next(iter(models))}"], table))
    left_out = len(rows) - count
    print(f"{count} answers{f', {left_out} longer rows left out' if left_out else ''}; in brackets: 95 % interval "
          "(bootstrap over rows)")  # fmt: skip
    return {"rows": count, "models": results}


def _source(model: str):
    return lambda: checkpoint.require_model(model)


def _answer_length(row: dict) -> int:
    from sllm import chat

    answers = [message for message in row["messages"] if message["role"] == "assistant"]
    return sum(len(chat.nfc(answer["content"])) for answer in answers if answer.get("weight", 1))


def _bits(model_id: str, base: str, adapter: str | None, rows: list[dict], args):
    """Bits of each row's answers and their ends, given what stands before them: (rows,) float64; NaN for a row that is
    too long. The prompt is rendered as in training."""
    from transformers.utils import logging

    from sllm import chat
    from sllm.train import with_peft

    logging.disable_progress_bar()
    tokenizer = chat.load_tokenizer(model_id)
    chat.check_probe(tokenizer, checkpoint.read_run(model_id), model_id)
    chat.set_chat_template(tokenizer)
    for note in checkpoint.notes(model_id, base):
        print(f"note: {note}")
    settings = {"bits": 16, "max_seq_length": args.max_seq_length, "train": False, "gradient_checkpointing": False}
    model = with_peft.load_model(base, adapter=adapter, dtype=args.dtype, **settings).eval()
    return answer_bits(model, tokenizer, rows, args.max_seq_length)[0]


def answer_bits(model: Any, tokenizer: Any, rows: Sequence[dict], max_seq_length: int) -> tuple[Any, Any]:
    """(bits, tokens) of each row's answers and their ends: (rows,) float64 each; NaN for a row that is too long.

    Args:
        tokenizer: with its chat template set.
        rows: training rows.
    """
    import numpy as np

    from sllm import chat

    bits, tokens = np.zeros(len(rows)), np.zeros(len(rows))
    for i, row in enumerate(rows):
        for example in chat.build_examples(tokenizer, row["messages"]):
            if len(example.input_ids) > max_seq_length:
                bits[i] = tokens[i] = np.nan
                break
            start = example.completion_mask.index(1)
            bits[i] += retention.token_bits(model, example.input_ids, start) @ example.completion_mask[start:]
            tokens[i] += sum(example.completion_mask)
    return bits, tokens


if __name__ == "__main__":
    cli.run(main, build_parser())
