"""Build the small base model that demo and tests use, from scratch: from plain texts about the small world (sllm/world)
and the bare texts of `sample_data/`.

A Llama of 3.5 M parameters, which carries the whole pipeline through the same code and the same engine as an 8B model.
It learns to read: what its dialogues ask can only be answered from the passage above them, except for what common
words mean. It never sees a task's prompt with its answer.

    python -m sllm.tiny_base --output_dir outputs/tiny_base
    python -m sllm.tiny_base --model_id outputs/tiny_base --steps 2400 --output_dir outputs/tiny_base_further
"""

import json
import tempfile
from pathlib import Path

from sllm import checkpoint, cli, tasks
from sllm.tiny_base import corpus
from sllm.tiny_base.training import STATE, digest, train


def build_parser():
    p = cli.parser(__doc__, "-m sllm.tiny_base")
    p.add_argument("--sample_data", default="sample_data", help="folder whose .jsonl rows are part of the corpus")
    p.add_argument("--model_id", metavar="FOLDER", help="a base of this script, to be trained further: width, "
                   "layers and tokens are its own; default: from scratch")  # fmt: skip
    p.add_argument("--steps", type=cli.positive_int, default=8000, help="optimizer steps of 2,048 tokens")
    p.add_argument("--vocab_size", type=cli.positive_int, default=2048, help="tokens at most, specials included")
    p.add_argument("--hidden_size", type=cli.integer(64, 8192), default=256, help="width; 32 a head")
    p.add_argument("--layers", type=cli.positive_int, default=4, help="decoder layers")
    p.add_argument("--processes", type=cli.integer(1, 2), default=2, help="data-parallel processes that share the "
                   "cores (two take a batch in half the time; two threads in two thirds)")  # fmt: skip
    p.add_argument("--seed", type=cli.seed, default=42, help="weights and texts")
    cli.add_output_flags(p, "outputs/tiny_base", resume="continue a build that was stopped")
    return p


def main(args) -> dict:
    checkpoint.check_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    checkpoint.require_distinct(args.output_dir, args.sample_data)
    if not corpus.sample_texts(args.sample_data):
        raise cli.InputError(f"{args.sample_data} has no .jsonl rows")
    if args.model_id:
        checkpoint.require(args.model_id, stage="base")
        checkpoint.require_distinct(args.output_dir, args.model_id)
    if args.resume:
        _check_resumable(args, Path(args.output_dir))
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)

    import torch

    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder) / "rendezvous"
        if args.processes == 1:
            train(0, args, out, rendezvous)
        else:
            torch.multiprocessing.spawn(train, (args, out, rendezvous), args.processes)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    (out / "metrics.json").unlink()
    for path in out.glob(STATE.format("*")):
        path.unlink()
    documents, seconds = metrics.pop("documents"), metrics.pop("seconds")
    data = {"texts": len(corpus.sample_texts(args.sample_data)), "tasks": list(tasks.ORIGINAL), "documents": documents}
    parents = [args.model_id] if args.model_id else []
    checkpoint.write_run(out, "base", args, parents=parents, data=data, metrics=metrics, seconds=seconds)
    return {"stage": "base", "output_dir": str(out), **metrics}


def _check_resumable(args, out: Path) -> None:
    """Refuse to resume unless the saved states of all processes are of one step, and of these flags and texts."""
    import torch

    paths = [out / STATE.format(rank) for rank in range(args.processes)]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise cli.InputError(f"--resume: {', '.join(missing)} does not exist; start without it")
    states = [torch.load(path, weights_only=True) for path in paths]
    names = ("model_id", "sample_data", "steps", "vocab_size", "hidden_size", "layers", "processes", "seed")
    begun = states[0]["arguments"]
    problems = []
    for name in names:
        if getattr(args, name) != (value := begun[name]):
            flag = f"without --{name}" if value is None else f"with --{name} {value}"
            problems.append(f"--resume: the build was started {flag}")
    if not problems and states[0]["texts"] != digest(corpus.sample_texts(args.sample_data)):
        problems = [f"--resume: the texts in {args.sample_data} have changed"]
    if len({state["step"] for state in states}) > 1:
        problems += [f"--resume: the states of the processes in {out} are of different steps; start without it"]
    if problems:
        raise cli.InputError(problems)


if __name__ == "__main__":
    cli.run(main, build_parser())
