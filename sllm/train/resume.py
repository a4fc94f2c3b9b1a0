"""Resuming a training run: the same run, from its last checkpoint that is whole."""

import json
import shutil
from pathlib import Path

from sllm import checkpoint, cli
from sllm.train import checkpoints

ARGUMENTS = checkpoint.UNFINISHED  # what an unfinished run was started with
_INPUTS = ("trainset_path", "validation_path", "model_id")


def check_output(args) -> Path:
    """The output folder may be written; with --resume it holds a checkpoint. Changes nothing."""
    if args.preview:
        return Path(args.output_dir)
    if args.resume and args.overwrite:
        raise cli.InputError("--resume continues the run in --output_dir and --overwrite removes it; choose one")
    if args.resume and not Path(args.output_dir).is_dir():
        raise cli.InputError(f"{args.output_dir} is missing, so there is nothing to resume; leave out --resume")
    out = checkpoint.check_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    if args.resume:
        last, passed_over = checkpoints.latest_checkpoint(out)
        if last is None:
            why = "".join(f"; {path.name}: {reason}" for path, reason in passed_over.items())
            raise cli.InputError(f"{out} has no complete checkpoint to resume from{why}; start over with --overwrite")
        _check_same_run(args, out, checkpoints.read_marker(last))
    return out


def require_distinct(args, base: str) -> None:
    """InputError where --overwrite would remove what the run reads: its model, the base of that, or its rows."""
    if args.overwrite:
        reads = (args.model_id, base, args.trainset_path, args.validation_path, args.chat_template)
        checkpoint.require_distinct(args.output_dir, *reads)


def _check_same_run(args, out: Path, marker: dict) -> None:
    """A resumed run has the arguments that it was started with; one that is finished has more steps to take."""
    before, now = marker["arguments"], resume_fingerprint(args)
    finished = checkpoint.read_run(out) is not None
    longer = ("max_steps", "train_epochs") if finished else ()
    changed = [
        f"--{name} was {_shown(before.get(name))}, now {_shown(now[name])}"
        for name in now
        if not _same(name, before.get(name), now[name]) and name not in longer
    ]
    if changed:
        raise cli.InputError(
            f"{out} was started with other flags ({'; '.join(changed)}); use the same flags, or start over with "
            "--overwrite"
        )
    if finished and not _is_longer(before, now):
        raise cli.InputError(
            f"{out} is complete (it has run.json), so there is nothing to resume; a larger --train_epochs or "
            "--max_steps trains it further"
        )


def _same(name: str, before: object, now: object) -> bool:
    """Is it the same argument? An input counts by its content, wherever it lies now and however it is named."""
    if name in _INPUTS and isinstance(before, list) and now and now[1]:
        return before[1] == now[1]
    return before == now


def _is_longer(before: dict, now: dict) -> bool:
    if before["max_steps"] > 0 or now["max_steps"] > 0:
        return now["max_steps"] > before["max_steps"] > 0
    return now["train_epochs"] > before["train_epochs"]


def _shown(value: object) -> str:
    """A path with its content's hash is shown as the path; where both paths are equal the content differs."""
    return f"{value[0]} ({str(value[1])[:8]})" if isinstance(value, list) and len(value) == 2 else str(value)


def resume_fingerprint(args) -> dict:
    """The arguments and the inputs' hashes: what has to be the same for a resumed run to be the same run."""
    free = {"overwrite", "resume", "preview", "dry_run", "report_to", "output_dir", "logging_steps", "save_total_limit"}
    decides = {name: value for name, value in vars(args).items() if name not in free}
    for name in _INPUTS:
        decides[name] = decides[name] and [decides[name], checkpoint.folder_hash(decides[name])]
    return json.loads(json.dumps(decides))


def _command(out: Path) -> str | None:
    """What resumes this run; None without a complete checkpoint."""
    return cli.command_line(drop=["--overwrite"], add=["--resume"]) if checkpoints.latest_checkpoint(out)[0] else None


def prepare_output(args) -> tuple[Path, str | None]:
    """Make the output folder. Returns it and the checkpoint to resume from; newer ones that are not whole are
    removed."""
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    cli.offer_resume(lambda: _command(out))
    started = {"command": cli.command_line(drop=["--resume"]), **resume_fingerprint(args)}
    checkpoint.write_atomically(out / ARGUMENTS, json.dumps(started, ensure_ascii=False))
    if not args.resume:
        return out, None
    (out / checkpoint.RUN_FILE).unlink(missing_ok=True)  # of a finished run that now continues
    last, passed_over = checkpoints.latest_checkpoint(out)
    for path, reason in passed_over.items():
        print(f"passed over: {path}: {reason}")
        shutil.rmtree(path)
    print(f"resuming from {last}")
    return out, str(last)
