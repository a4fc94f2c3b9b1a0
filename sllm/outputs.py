"""The file of answers: one line a row, in the order of the rows, on disk as soon as it and all before it are done.

Until a run is finished, `outputs.resume.json` stands beside `outputs.jsonl` and says with what the lines were made;
when the last row is answered `outputs.run.json` takes its place. So each file's existence says where the run stands.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.disk import nearest_folder
from sllm.output_lines import tokens_of
from sllm.progress import counter

FROM_ROW = ("id", "task", "messages", "reference")  # what an answered line shares with its row


def run_file(output: Path) -> Path:
    return output.with_suffix(".run.json")


def resume_file(output: Path) -> Path:
    return output.with_suffix(".resume.json")


def check_output(output: Path, *, overwrite: bool, resume: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """InputError unless `output` may be written. Touches nothing.

    Args:
        inputs: files that this run reads, none of which may be written over; None is none.
    """
    checkpoint.require_free(output)
    problems = []
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file: --output_path {output / 'outputs.jsonl'}")
    read = {Path(path).resolve() for path in inputs if path}
    for path in (output, run_file(output), resume_file(output)):
        if path.resolve() in read:
            problems.append(f"--output_path {output}: this run reads {path} and would write over it; name another file")
    folder = nearest_folder(output.absolute().parent)
    if not folder.is_dir():
        problems.append(f"{output}: {folder} is a file, not a folder; name another --output_path")
    elif not os.access(folder, os.W_OK | os.X_OK) or (output.exists() and not os.access(output, os.W_OK)):
        path = output if output.exists() else folder
        problems.append(f"{output}: {path} may not be written; name another --output_path")
    if output.exists() and not output.is_file():
        problems.append(f"{output} is not a file; name another --output_path")
    elif output.exists() and not (overwrite or resume):
        state = f"has {cli.plural(len(complete_lines(output)), 'answer')}"
        problems.append(f"{output} exists and {state}; continue with --resume, replace it with --overwrite")
    if overwrite and resume:
        problems.append("--overwrite and --resume exclude each other")
    if problems:
        raise InputError(problems)


def resumable(output: Path, rows: list[dict], settings: dict) -> list[dict]:
    """The lines that are done, each checked against its row and all against how they were made.

    Args:
        settings: what decides the answers (model, template, sampling); the record beside the file must agree.
    Raises:
        InputError: the file is of another test set, or was made otherwise.
    """
    lines = complete_lines(output) if output.exists() else []
    if not lines:
        return []
    record = next((path for path in (resume_file(output), run_file(output)) if path.is_file()), None)
    if record is None:
        raise InputError(
            f"{resume_file(output)} is missing, so the settings of {output} are unknown; start over with --overwrite"
        )
    try:
        before = json.loads(record.read_text(encoding="utf-8"))["data"]["settings"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{record} is damaged, so the settings of {output} are unknown; start over with --overwrite"
        ) from None
    now = json.loads(json.dumps(settings))
    problems = [
        f"{output} was made with {key} {_short(before.get(key))}, this run has {_short(now[key])}; "
        "use the same, or start over with --overwrite"
        for key in now
        if before.get(key) != now[key]
    ]
    if len(lines) > len(rows):
        problems.append(f"{output} has {len(lines)} answers, the test set {cli.plural(len(rows), 'row')}")
    done = []
    for number, (line, row) in enumerate(zip(lines, rows, strict=False), 1):
        try:
            done.append(json.loads(line))
            other = [key for key in FROM_ROW if done[-1].get(key) != row[key]]
        except (ValueError, AttributeError):
            problems.append(f"{output}:{number}: not an answer line; start over with --overwrite")
            break
        if other:
            problems.append(
                f"{output}:{number}: answers row {done[-1].get('id')!r}, which differs from row {row['id']!r} in "
                f"{', '.join(other)}: it is of another test set; name another --output_path"
            )
            break
    if problems:
        raise InputError(problems)
    return done


def begin(output: Path, args, record: dict, *, keep: bool) -> None:
    """Make the files ready to append to: emptied, or with a torn last line removed.

    In this order, a kill between two steps leaves nothing that a later --resume could take for its own.
    """
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.hold(output)
        if not keep:
            run_file(output).unlink(missing_ok=True)
            output.write_bytes(b"")
        else:
            content = output.read_bytes()
            with output.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
        checkpoint.write_run(output.parent, "answers", args, **record, file=resume_file(output).name)
        run_file(output).unlink(missing_ok=True)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """A full disk, a file system that became read-only and their like as an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}); make room, or write elsewhere") from error


def write_in_order(
    finished: Iterable[tuple[int, object]], line_of: Callable[[int, object], dict], output: Path, total: int
) -> Iterator[dict]:
    """Append a line for each answer in the order of their indexes, and yield it; shows progress.

    Args:
        finished: (index, answer) in any order, each index of range(total) once.
        line_of: (index, answer) → the line.
    Raises:
        InputError: the file cannot be written any more; the lines yielded so far are in it.
    """
    waiting: dict[int, dict] = {}
    report, written = counter(total, "row"), 0
    with writing(output):
        file = output.open("ab", buffering=0)
    with file:
        for index, answer in finished:
            waiting[index] = line_of(index, answer)
            report(tokens_of(waiting[index]))
            while written in waiting:
                line = waiting.pop(written)
                with writing(output):
                    _write(file, (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
                written += 1
                yield line


def _write(file, content: bytes) -> None:
    """All of it: a disk that fills up takes a part, and says so at the next write."""
    while content:
        content = content[file.write(content) :]


def finish(output: Path, args, record: dict, metrics: dict, seconds: float) -> None:
    """Every row is answered: the record takes its final name."""
    with writing(output):
        checkpoint.write_run(
            output.parent, "answers", args, **record, metrics=metrics, seconds=seconds, file=run_file(output).name
        )
        resume_file(output).unlink(missing_ok=True)
    checkpoint.release(output)


def complete_lines(output: Path) -> list[str]:
    """Lines that were written to their end; what follows the last newline is torn."""
    content = output.read_bytes()
    return content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace").split("\n")[:-1]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) == 66:  # a sha256
        return text[:12] + "…"
    return text if len(text) < 200 else text[:199] + "…"
