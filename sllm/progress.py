"""How far a long loop is: a bar on a terminal, else a line every five seconds. Standard library only."""

import sys
import time
from collections.abc import Callable


def counter(total: int | None, noun: str) -> Callable[..., None]:
    """A function to call with the tokens of each of `total` things as it is finished, and with a note for the line.

    Args:
        total: None where it is not known.
        noun: in the singular.
    Returns:
        A function (tokens, note="", count=1); `count`: things that are finished.
    """
    started = last = time.monotonic()
    done = tokens = 0
    terminal = sys.stdout.isatty()

    def report(new_tokens: int, note: str = "", count: int = 1) -> None:
        nonlocal done, tokens, last
        done, tokens = done + count, tokens + new_tokens
        now = time.monotonic()
        if done != total and now - last < (0.1 if terminal else 5):
            return
        last, passed = now, max(now - started, 1e-9)
        line = f"{done}/{total}" if total else f"{done}"
        line += f" {noun}s  {done / passed:.1f} {noun}s/s"
        line += f"  {tokens / passed:,.0f} tok/s" if tokens else ""
        line += f"  ETA {passed / done * max(total - done, 0):.0f} s" if total else ""
        line += f"  {note}" if note else ""
        if terminal:
            filled = min(24 * done // (total or done), 24)
            bar = f"{'█' * filled}{'░' * (24 - filled)} " if total else ""
            print(f"\r\033[K{bar}{line}", end="\n" if done == total else "", flush=True)
        else:
            print(line, flush=True)

    return report


def stream(noun: str, size: int) -> Callable[..., None]:
    """A function to call with how many things were done, and how much of `size` that was, where the number of things
    is not known before. With `finished` it ends the bar.

    Args:
        noun: in the singular.
        size: of everything, in any unit; 0: not known.
    """
    started = last = time.monotonic()
    done = passed_size = 0
    shown = False
    terminal = sys.stdout.isatty()

    def report(things: int, part: int, *, finished: bool = False) -> None:
        nonlocal done, passed_size, last, shown
        done, passed_size = done + things, passed_size + part
        now = time.monotonic()
        if (not shown and now - started < 2) or (not finished and now - last < (0.2 if terminal else 5)):
            return
        last, passed, shown = now, max(now - started, 1e-9), True
        line = f"{done:,} {noun}s  {done / passed:,.0f} {noun}s/s"
        share = min(passed_size / size, 1.0) if size else 0.0
        if share and not finished:
            line += f"  {share:.0%}  ETA {passed / share * (1 - share):.0f} s"
        if terminal:
            print(f"\r\033[K{line}", end="\n" if finished else "", flush=True)
        else:
            print(line, flush=True)

    return report
