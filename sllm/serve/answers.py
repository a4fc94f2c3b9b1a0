"""The file of answers: one line a row, in the order of the rows, on disk as soon as it and all before it are done.

While a run goes on, `outputs.resume.json` stands beside `outputs.jsonl` and says with what the lines were made; when
the last row is answered `outputs.run.json` takes its place. So each file's existence says where the run stands.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError

FROM_ROW = ("id", "task", "messages", "reference")  # what an answered line shares with its row


def run_file(output: Path) -> Path:
    return output.with_suffix(".run.json")


def resume_file(output: Path) -> Path:
    return output.with_suffix(".resume.json")


def check_output(output: Path, *, overwrite: bool, resume: bool) -> None:
    """InputError unless `output` may be written. Touches nothing."""
    checkpoint.require_free(output)
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file: --output_path {output / 'outputs.jsonl'}")
    if output.exists() and not (overwrite or resume):
        state = f"has {_plural(len(_whole_lines(output)), 'answer')}"
        raise InputError(f"{output} exists and {state}; go on with --resume, replace it with --overwrite")
    if overwrite and resume:
        raise InputError("--overwrite and --resume exclude each other")


def resumable(output: Path, rows: list[dict], settings: dict) -> list[dict]:
    """The lines that are done, each checked against its row and all against how they were made.

    Args:
        settings: what decides the answers (model, template, sampling); the record beside the file must agree.
    Raises:
        InputError: the file is of another test set, or was made otherwise.
    """
    lines = _whole_lines(output) if output.exists() else []
    if not lines:
        return []
    record = next((path for path in (resume_file(output), run_file(output)) if path.is_file()), None)
    if record is None:
        raise InputError(f"{output} has no {resume_file(output).name} beside it that says what made it; --overwrite it")
    before = json.loads(record.read_text(encoding="utf-8"))["data"]["settings"]
    now = json.loads(json.dumps(settings))
    problems = [
        f"{output} was made with {key} {_short(before.get(key))}, this run has {_short(now[key])}; "
        "use the same, or start over with --overwrite"
        for key in now
        if before.get(key) != now[key]
    ]
    if len(lines) > len(rows):
        problems.append(f"{output} has {len(lines)} answers, the test set {_plural(len(rows), 'row')}")
    done = []
    for number, (line, row) in enumerate(zip(lines, rows, strict=False), 1):
        try:
            done.append(json.loads(line))
            other = [key for key in FROM_ROW if done[-1].get(key) != row[key]]
        except (ValueError, AttributeError):
            problems.append(f"{output}:{number}: no answer line; start over with --overwrite")
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


def write_in_order(
    finished: Iterable[tuple[int, object]], line_of: Callable[[int, object], dict], output: Path, total: int
) -> Iterator[dict]:
    """Append a line for each answer in the order of their indexes, and yield it; shows progress.

    Args:
        finished: (index, answer) in any order, each index of range(total) once.
        line_of: (index, answer) → the line.
    """
    waiting: dict[int, dict] = {}
    report, written = _progress(total), 0
    with output.open("a", encoding="utf-8") as file:
        for index, answer in finished:
            waiting[index] = line_of(index, answer)
            report(waiting[index]["completion_tokens"])
            while written in waiting:
                line = waiting.pop(written)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                written += 1
                yield line


def finish(output: Path, args, record: dict, metrics: dict, seconds: float) -> None:
    """Every row is answered: the record takes its final name."""
    checkpoint.write_run(
        output.parent, "answers", args, **record, metrics=metrics, seconds=seconds, file=run_file(output).name
    )
    resume_file(output).unlink(missing_ok=True)
    checkpoint.release(output)


def summary(lines: list[dict], new: int, seconds: float, load_seconds: float) -> dict:
    """Print a table by task, warn of empty answers, and return the results of the stage.

    Args:
        lines: every answer; the last `new` of them were made in `seconds`.
    """
    by_task: dict[str, list[dict]] = {}
    for line in lines:
        by_task.setdefault(line["task"] or "-", []).append(line)
    rows = [_row(task, by_task[task]) for task in sorted(by_task)]
    if len(rows) > 1:
        rows.append(_row("all", lines))
    print(cli.table(["task", "rows", "stop", "length", "prompt tokens", "answer tokens", "characters"], rows))
    empty = [line["id"] for line in lines if not line["output"].strip()]
    if empty:
        print(f"warning: {_plural(len(empty), 'answer')} of {len(lines)} empty: {', '.join(empty[:5])}"[:160])
    tokens = sum(line["completion_tokens"] for line in lines[len(lines) - new :])
    return {
        "rows": len(lines),
        "new_rows": new,
        "finish_reasons": dict(Counter(line["finish_reason"] for line in lines)),
        "empty": len(empty),
        "prompt_tokens": sum(line["prompt_tokens"] for line in lines),
        "completion_tokens": sum(line["completion_tokens"] for line in lines),
        "tokens_per_second": round(tokens / seconds, 1) if new else None,
        "load_seconds": round(load_seconds, 1),
    }


def _row(task: str, lines: list[dict]) -> list:
    reasons = Counter(line["finish_reason"] for line in lines)
    means = [sum(line[key] for line in lines) / len(lines) for key in ("prompt_tokens", "completion_tokens")]
    characters = sum(len(line["output"]) for line in lines) / len(lines)
    return [task, len(lines), reasons["stop"], reasons["length"], *(f"{mean:.1f}" for mean in (*means, characters))]


def _progress(total: int) -> Callable[[int], None]:
    """A function to call with the tokens of each finished row: a bar on a terminal, else a line every 5 s."""
    started = shown = time.monotonic()
    rows = tokens = 0
    terminal = sys.stdout.isatty()

    def report(new_tokens: int) -> None:
        nonlocal rows, tokens, shown
        rows, tokens = rows + 1, tokens + new_tokens
        now = time.monotonic()
        if rows < total and now - shown < (0.1 if terminal else 5):
            return
        shown, passed = now, max(now - started, 1e-9)
        left = passed / rows * (total - rows)
        line = f"{rows}/{total} rows  {rows / passed:.1f} rows/s  {tokens / passed:,.0f} tok/s  ETA {left:.0f} s"
        if terminal:
            filled = 24 * rows // total
            print(f"\r\033[K{'█' * filled}{'░' * (24 - filled)} {line}", end="\n" if rows == total else "", flush=True)
        else:
            print(line)

    return report


def _whole_lines(output: Path) -> list[str]:
    """Lines that were written to their end; what follows the last newline is torn."""
    content = output.read_bytes()
    return content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace").split("\n")[:-1]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text[:12] + "…" if len(text) == 66 else text  # a sha256
