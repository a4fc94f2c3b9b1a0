"""Resuming a training run: the same run, from its last complete checkpoint."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from sllm import checkpoint, cli
from sllm.train import checkpoints

_INPUTS = ("trainset_path", "validation_path", "model_id")
_CHANGEABLE = (
    "overwrite resume preview dry_run report_to output_dir logging_steps save_total_limit cache_dir num_proc".split()
)


@dataclass(frozen=True)
class Fingerprint:
    """What has to be the same for a resumed run to be the same run: the arguments under their flags' names, as JSON
    holds them, and in place of an input [its path, the hash of its contents]."""

    arguments: dict

    @classmethod
    def of(cls, args) -> "Fingerprint":
        arguments = {name: value for name, value in vars(args).items() if name not in _CHANGEABLE}
        for name in _INPUTS:
            arguments[name] = arguments[name] and [arguments[name], checkpoint.folder_hash(arguments[name])]
        return cls(json.loads(json.dumps(arguments)))

    def changes(self, now: "Fingerprint", except_for: tuple[str, ...] = ()) -> list[str]:
        """A line for each argument that is another now."""
        return [
            f"--{name} was {_describe(self.arguments.get(name))}, now {_describe(value)}"
            for name, value in now.arguments.items()
            if not _same(name, self.arguments.get(name), value) and name not in except_for
        ]

    def is_longer_than(self, before: "Fingerprint") -> bool:
        steps, steps_before = self.arguments["max_steps"], before.arguments["max_steps"]
        if steps_before > 0 or steps > 0:
            return steps > steps_before > 0
        return self.arguments["train_epochs"] > before.arguments["train_epochs"]


def _same(name: str, before: object, now: object) -> bool:
    """Is it the same argument? An input counts by its content, wherever it lies now and however it is named."""
    if name in _INPUTS and isinstance(before, list) and now and now[1]:
        return before[1] == now[1]
    return before == now


def _describe(value: object) -> str:
    """A path with its content's hash is shown as the path; where both paths are equal the content differs."""
    return f"{value[0]} ({str(value[1])[:8]})" if isinstance(value, list) and len(value) == 2 else str(value)


def check_output(args) -> Path:
    """The output folder may be written; with --resume it holds a checkpoint. Changes nothing."""
    out = Path(args.output_dir)
    if args.preview or (args.dry_run and out.is_dir()):
        return out
    if args.resume and args.overwrite:
        raise cli.InputError("--resume continues the run in --output_dir and --overwrite removes it; choose one")
    if args.resume and not Path(args.output_dir).is_dir():
        raise cli.InputError(f"{args.output_dir} is missing, so there is nothing to resume; leave out --resume")
    has_checkpoints = any(out.glob(f"checkpoint-*/{checkpoints.COMPLETE}"))
    unfinished = not (args.overwrite or args.resume or (out / checkpoint.RUN_FILE).exists()) and has_checkpoints
    checkpoint.check_output(out, overwrite=args.overwrite, resume=args.resume or unfinished)
    if unfinished:
        raise cli.InputError(
            f"{out} exists and has checkpoints of a run that was stopped; continue it with --resume, replace it with "
            "--overwrite, or name another folder"
        )
    if args.resume:
        last, passed_over = checkpoints.latest_checkpoint(out)
        if last is None:
            reasons = "".join(f"; {path.name}: {reason}" for path, reason in passed_over.items())
            raise cli.InputError(
                f"{out} has no complete checkpoint to resume from{reasons}; start over with --overwrite"
            )
        _check_same_run(args, out, checkpoints.read_marker(last))
    return out


def require_distinct(args, base: str) -> None:
    """InputError where --overwrite would remove what the run reads: its model, the base of that, or its rows."""
    if args.overwrite:
        reads = (args.model_id, base, args.trainset_path, args.validation_path, args.chat_template)
        checkpoint.require_distinct(args.output_dir, *reads)


def _check_same_run(args, out: Path, marker: dict) -> None:
    """A resumed run has the arguments that it was started with; one that is finished has more steps to take."""
    before, now = Fingerprint(marker["arguments"]), Fingerprint.of(args)
    finished = checkpoint.read_run(out) is not None
    changes = before.changes(now, except_for=("max_steps", "train_epochs") if finished else ())
    if changes:
        raise cli.InputError(
            f"{out} was started with other flags ({'; '.join(changes)}); use the same flags, or start over with "
            "--overwrite"
        )
    if finished and not now.is_longer_than(before):
        raise cli.InputError(
            f"{out} is complete (it has run.json), so there is nothing to resume; a larger --train_epochs or "
            "--max_steps trains it further"
        )


def prepare_output(args) -> tuple[Path, str | None]:
    """Make the output folder. Returns it and the checkpoint to resume from; newer ones that are incomplete are
    removed."""
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    command = cli.command_line(drop=["--overwrite"], add=["--resume"])
    cli.offer_resume(lambda: command if checkpoints.latest_checkpoint(out)[0] else None)
    started = {"command": cli.command_line(drop=["--resume"]), **Fingerprint.of(args).arguments}
    checkpoint.write_atomically(out / checkpoint.UNFINISHED, json.dumps(started, ensure_ascii=False))
    if not args.resume:
        return out, None
    (out / checkpoint.RUN_FILE).unlink(missing_ok=True)  # of a finished run that now continues
    last, passed_over = checkpoints.latest_checkpoint(out)
    for path, reason in passed_over.items():
        print(f"passed over: {path}: {reason}")
        shutil.rmtree(path)
    print(f"resuming from {last}")
    return out, str(last)
