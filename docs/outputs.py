"""The outputs that the pages show: `make demo`, then python docs/outputs.py runs the pages' commands and puts what they
print into both languages."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, WIDTH = ROOT / "docs", 118
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def main() -> None:
    folders = ("data", "sft", "dpo", "merged", "evaluation")
    made = [*(ROOT / "outputs" / name for name in folders), *ROOT.glob("outputs/answers*")]
    if existing := [str(path.relative_to(ROOT)) for path in made if path.exists()]:
        sys.exit(f"error: {', '.join(existing)} would be overwritten; move or remove them")
    put("prepare_data", 0, run(commands("prepare_data")[0]))
    *_, trained = [run(command) for command in commands("train_LoRA_SFT")]
    put("train_LoRA_SFT", 0, trained)
    trained = run(commands("train_LoRA_DPO")[0])
    put("train_LoRA_DPO", 0, "…\n" + trained[trained.index("reference check") :])
    put("merged_weights", 0, run(commands("merged_weights")[0]))
    answered, _, _ = [run(command) for command in commands("vllm_inference")]
    lines = answered.splitlines()
    tasks = [i for i, line in enumerate(lines) if line.startswith("task")]
    put("vllm_inference", 0, "\n".join([*lines[: tasks[2] + 1], "…", *lines[tasks[-2] :]]))
    put("vllm_inference", 1, run(commands("vllm_inference", 1)[0]))
    put("evaluate_model", 0, run(commands("evaluate_model")[0]))
    put("evaluate_model", 1, run(commands("evaluate_model", 2)[0]))
    put("evaluate_model", 2, run(commands("evaluate_model", 3)[0]))
    for stage in ("sft", "dpo"):
        shutil.copy(ROOT / "outputs" / stage / "loss.png", DOCS / f"{stage}_loss.png")


def commands(page: str, block: int = 0) -> list[str]:
    """The commands of one of the page's bash blocks."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = [match[2] for match in BLOCK.finditer(text) if match[1] == "bash"]
    return blocks[block].replace("\\\n", "").strip().splitlines()


def run(command: str) -> str:
    print(f"$ {command}", flush=True)
    python = command.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(python, shell=True, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout.replace(str(ROOT), "…")


def put(page: str, block: int, output: str) -> None:
    """Put an output, its lines cut, into one of the blocks of a page that are not commands."""
    cut = [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in output.strip("\n").splitlines()]
    for path in (DOCS / f"{page}.md", DOCS / f"{page}.ko.md"):
        text = path.read_text(encoding="utf-8")
        place = [match for match in BLOCK.finditer(text) if not match[1]][block]
        path.write_text(text[: place.start(2)] + "\n".join(cut) + "\n" + text[place.end(2) :], encoding="utf-8")


if __name__ == "__main__":
    main()
