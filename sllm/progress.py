"""How far a long loop is: a bar on a terminal, else a line every five seconds. Standard library only."""

import sys
import time
from collections.abc import Callable


def counter(total: int, noun: str) -> Callable[..., None]:
    """A function to call with the tokens of each of `total` things as it is finished, and with a note for the line.

    Args:
        noun: in the singular.
    """
    started = last = time.monotonic()
    done = tokens = 0
    terminal = sys.stdout.isatty()

    def report(new_tokens: int, note: str = "") -> None:
        nonlocal done, tokens, last
        done, tokens = done + 1, tokens + new_tokens
        now = time.monotonic()
        if done < total and now - last < (0.1 if terminal else 5):
            return
        last, passed = now, max(now - started, 1e-9)
        left = passed / done * (total - done)
        line = f"{done}/{total} {noun}s  {done / passed:.1f} {noun}s/s  {tokens / passed:,.0f} tok/s  ETA {left:.0f} s"
        line += f"  {note}" if note else ""
        if terminal:
            filled = 24 * done // total
            print(f"\r\033[K{'█' * filled}{'░' * (24 - filled)} {line}", end="\n" if done == total else "", flush=True)
        else:
            print(line, flush=True)

    return report
