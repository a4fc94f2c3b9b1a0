"""What every script shares on the command line: the parser, flag groups declared once, errors as exit codes,
and the last stdout line. Standard library only, so that `--help` answers at once.
"""

import argparse
import errno
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from itertools import takewhile
from typing import Any, NoReturn, TypeVar, cast

N = TypeVar("N", int, float)
BOOLEAN = argparse.BooleanOptionalAction  # --flag / --no-flag


class InputError(Exception):
    """Bad input or usage: exit code 2, one `error:` line for each problem, no traceback.

    Args:
        problems: one text or several. Each says what is wrong, where, and what fixes it.
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


class Interrupted(Exception):
    """Ctrl-C after everything worth saving was saved: exit code 130. `hint` is the command that resumes."""

    def __init__(self, hint: str):
        self.hint = hint
        super().__init__(hint)


class CheckFailed(Exception):
    """What a stage made, or was making, is not sound (training diverged): exit code 1, one `error:` line."""


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Misspelt flags are named with those that were meant, before argparse misses a required one."""
        from difflib import get_close_matches

        known, problems = list(self._option_string_actions), []
        for word in takewhile(lambda word: word != "--", sys.argv[1:] if args is None else args):
            flag = word.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in known:
                close = get_close_matches(flag, [name for name in known if len(name) > 4], 1, 0.85)
                if not close:  # a part of exactly one: --epochs of --train_epochs
                    parts = [
                        name for name in known if f"_{flag[2:]}_" in f"_{name[2:]}_" or name.startswith(f"{flag}_")
                    ]
                    close = parts if len(parts) == 1 else []
                problems.append(word + (f" (did you mean {close[0]}?)" if close else ""))
        if problems:
            self.error(f"unrecognized arguments: {', '.join(problems)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see python {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Docstring as written, the default behind every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        variable = f"SLLM_{action.dest.upper()}"  # may hold a key or a password
        if os.environ.get(variable) == action.default:
            return f"{action.help} (default: ${variable})"
        return super()._get_help_string(action)


def parser(docstring: str, script: str) -> argparse.ArgumentParser:
    """An argument parser that shows the script's docstring and prints usage errors as one line."""
    return _Parser(prog=os.path.basename(script), description=docstring, formatter_class=_Help, allow_abbrev=False)


def add_skip_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--skip_bad_rows",
        action="store_true",
        help="leave out rows that cannot be used, at most 5 %% of a file, and list them; default: they are errors",
    )


def add_output_flags(p: argparse.ArgumentParser, default: str, *, resume: str | None = None) -> None:
    group = p.add_argument_group("output")
    group.add_argument("--output_dir", default=default, help="folder to write")
    add_overwrite_flag(group)
    if resume:
        group.add_argument("--resume", action="store_true", help=resume)


def add_overwrite_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument("--overwrite", action="store_true", help="replace what is there")


def _checked(number_type: type[N], requirement: str, is_valid: Callable[[N], bool]) -> Callable[[str], N]:
    """An argument type: a number that is valid, or an error that says what is required."""

    def number(text: str) -> N:
        with suppress(ValueError):
            value = number_type(text)
            if is_valid(value):  # a NaN never is
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {requirement}")

    return number


_LARGEST = 2**31 - 1  # of a count: more overflows in the libraries, after minutes of work
positive_int = _checked(int, f"a whole number from 1 to {_LARGEST}", lambda value: 1 <= value <= _LARGEST)
steps = _checked(int, f"-1 or a whole number from 1 to {_LARGEST}", lambda value: value == -1 or 1 <= value <= _LARGEST)
seed = _checked(int, f"a whole number from 0 to {2**32 - 1}", lambda value: 0 <= value < 2**32)
positive_float = _checked(float, "a number above 0", lambda value: 0 < value < float("inf"))
nonnegative_float = _checked(float, "a number from 0 on", lambda value: 0 <= value < float("inf"))
fraction = _checked(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def between(low: float, high: float) -> Callable[[str], float]:
    """An argument type: a number from `low` to `high`."""
    return _checked(float, f"a number from {low:g} to {high:g}", lambda value: low <= value <= high)


def integer(low: int, high: int) -> Callable[[str], int]:
    """An argument type: a whole number from `low` to `high`."""
    return _checked(int, f"a whole number from {low} to {high}", lambda value: low <= value <= high)


def collect_errors(*checks: Callable[[], object]) -> list[Any]:
    """Run every check, so that all that is wrong is said at once; returns their results.

    Raises:
        InputError: with the problems of every check that failed.
    """
    results, problems = [], []
    for check in checks:
        try:
            results.append(check())
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return results


def command_line(*, drop: Sequence[str] = (), add: Sequence[str] = ()) -> str:
    """This process's command as one would type it, without the flags in `drop` and with those in `add`."""
    import shlex

    words = [word for word in sys.argv[1:] if word not in drop]
    words += [word for word in add if word not in words]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None:  # python -m
        return shlex.join(["python", "-m", module.name.removesuffix(".__main__"), *words])
    return shlex.join(["python", os.path.relpath(sys.argv[0]), *words])


def run(main: Callable[[argparse.Namespace], dict[str, Any] | None], p: argparse.ArgumentParser) -> None:
    """Parse the command line, run `main`, print its results as the last line and exit with the right code.

    0 done; 2 bad input or usage, a full disk, too little memory; 130 interrupted; 1 a failed check or a bug.
    """
    args = p.parse_args()
    for stream in (sys.stdout, sys.stderr):
        cast(TextIOWrapper, stream).reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    started = time.monotonic()
    try:
        results = main(args)
    except InputError as error:
        _exit(2, *error.problems)
    except CheckFailed as error:
        _exit(1, str(error))
    except (KeyboardInterrupt, Interrupted) as stop:
        print(f"interrupted{f'; to resume: {stop.hint}' if isinstance(stop, Interrupted) else ''}", file=sys.stderr)
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "sllm":
            raise
        _exit(
            2,
            f"{sys.executable} has no {error.name}; after `make setup` type `. .venv/bin/activate` first, or pip "
            "install -r requirements.txt",
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        fault = environment_fault(error)
        if fault:
            command = _resume[0]() if _resume and "--batch_size" not in fault else None  # another run, with another
            _exit(2, f"{fault}; to resume: {command}" if command else fault)
        traceback.print_exc()
        raise SystemExit(1) from None
    if results is not None:
        print(json.dumps(json_safe({**results, "seconds": round(time.monotonic() - started, 1)}), ensure_ascii=False))


def _exit(code: int, *problems: str) -> NoReturn:
    for problem in problems:
        print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
    raise SystemExit(code) from None


# torch's writer says "unexpected pos 64 vs 0" where a file is shorter than what it wrote: nothing else makes it so
_FULL_DISK = ("No space left on device", "Disk quota exceeded", "unexpected pos ")
_BAD_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP)
_resume: list[Callable[[], str | None]] = []


def offer_resume(command: Callable[[], str | None]) -> None:
    """From here on, where the machine stops the run, say how to resume it: `command` returns it, or None where there is
    no checkpoint to resume from."""
    _resume[:] = [command]


def environment_fault(error: BaseException | None) -> str | None:
    """What to say of an error that the machine caused and not a bug: a full disk, a place that cannot be written, too
    little GPU memory. None for any other error. Libraries wrap such errors, so its causes are looked at too."""
    while error is not None:
        text, kind = str(error), type(error).__name__
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full{f': {error.filename}' if error.filename else ''}; free some space, then run again"
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"{error.filename}: {error.strerror}; choose another path, or change its permissions"
        if isinstance(error, OSError) and error.errno in _BAD_PLACE:
            return f"{error.filename}: {error.strerror}; remove or repair what is there, or choose another path"
        # safetensors and torch.save say it in words of their own
        if any(words in text for words in _FULL_DISK) or ("PytorchStreamWriter" in text and "write" in text):
            return f"the disk is full ({_first_line(text)}); free some space, then run again"
        if kind == "SafetensorError" and "I/O error" in text:
            return f"{_first_line(text)}; remove or repair what is there, or choose another path"
        if kind == "OutOfMemoryError":
            return (
                f"not enough GPU memory ({_first_line(text)}); try a smaller --batch_size (and more "
                "--gradient_accum_steps), a smaller --max_seq_length, or --bits 4"
            )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200]


def json_safe(value: Any) -> Any:
    """The same with None for numbers that are not finite: JSON has neither NaN nor Infinity."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shorten(texts: Sequence[str], limit: int = 6) -> list[str]:
    """The first `limit` texts, and how many more there are: a wrong base has a problem in each of its 224 layers."""
    return [*texts[:limit], *([f"… and {len(texts) - limit:,} more"] if len(texts) > limit else [])]


def plural(count: int, noun: str) -> str:
    """1 row, 2 rows, 1,000 rows."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def say(name: str, value: object) -> None:
    """One line of a script's table: what it is about to do, and with what."""
    print(f"{name:<16}{value}", flush=True)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain text table; wide (Hangul) characters count as two columns."""
    from unicodedata import east_asian_width

    def width(text: str) -> int:
        return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)

    cells = [[str(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(width(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell + " " * (w - width(cell)) for cell, w in zip(row, widths, strict=True)).rstrip()

    return "\n".join([line(cells[0]), "  ".join("─" * w for w in widths), *(line(row) for row in cells[1:])])
