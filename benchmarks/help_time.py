"""How long `--help` of every script takes: the median of ten runs each; prints a Markdown table.

python benchmarks/help_time.py
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    print("| script | `--help`, seconds |\n|---|---|")
    for path in sorted(ROOT.glob("*.py")):
        seconds = []
        for _ in range(10):
            started = time.perf_counter()
            subprocess.run([sys.executable, path, "--help"], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
        print(f"| {path.name} | {median(seconds):.2f} |")


if __name__ == "__main__":
    main()
