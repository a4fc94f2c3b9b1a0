"""The guarantees of the design on each backend, by the project's own commands: SFT → DPO → merge on small models.

Several commands run side by side: none of them is timed. judge.py judges what they leave.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from judge import MAX_SEQ_LENGTH, Check, has_cuda, judge
from models_and_data import ROOT, write_pairs, write_rows

STEPS = 24
ROWS, BATCH, ACCUMULATION = 96, 2, 2  # one epoch: every row once
COMMAND_SECONDS = 300  # after which a command is taken to hang


class Commands:
    """Runs the project's scripts, each with a log in `folder`."""

    def __init__(self, folder: Path, at_once: int):
        self.folder = folder
        self.pool = ThreadPoolExecutor(at_once)

    def start(self, name: str, *words: object, after: Future | None = None, kill_at: int | None = None) -> Future:
        return self.pool.submit(self._run, name, words, after, kill_at)

    def _run(self, name: str, words: tuple, after: Future | None, kill_at: int | None) -> dict:
        """The last line of the command; of one that is killed at a step, {}."""
        if after:
            after.result()
        log = self.folder / f"{name}.log"
        with log.open("w") as file:
            # unsloth writes the trainers that it patches there, and those that run side by side would meet
            env = {**os.environ, "UNSLOTH_COMPILE_LOCATION": str(self.folder / f"{name}.compiled")}
            process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, env=env, stdout=file, stderr=file)
            if kill_at is not None:
                out = Path(str(words[words.index("--output_dir") + 1]))
                while process.poll() is None and _step(out) < kill_at:
                    time.sleep(0.05)
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return {}
            try:
                code: object = process.wait(COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                code = f"a hang of {COMMAND_SECONDS} s"
        lines = log.read_text(encoding="utf-8").splitlines()
        if code:
            said = [line for line in lines if line.startswith("error:")] or lines[-3:]
            raise RuntimeError(f"{name} ended with {code}: {' '.join(said)[:600]} (log: {log})")
        return json.loads([line for line in lines if line.startswith("{")][-1])  # warnings may come at exit


def _step(out: Path) -> int:
    try:
        return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def run_checks(models: list[str], backends: list[str], folder: Path, at_once: int, build) -> list[dict]:
    """Every check on every model. A command that fails is a failed check, and what needs it too.

    Args:
        build: writes the model of a name to a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", ROWS, median=160, longest=MAX_SEQ_LENGTH - 40)
    write_pairs(folder / "pairs.jsonl", 24, median=160, longest=MAX_SEQ_LENGTH - 40)
    checks: list[Check] = []
    started = {}
    commands = Commands(folder, at_once)
    for model in models:
        build(model, folder / model)
        started[model] = _start(commands, model, backends, folder)
    for model in models:
        done = {}
        for name, future in started[model].items():
            try:
                done[name] = future.result()
            except Exception as error:
                checks.append(Check(model, "—", f"{name} runs to its end", str(error), "exit 0", False))
        checks += judge(model, backends, folder, done)
    return [asdict(check) for check in checks]


def _start(commands: Commands, model: str, backends: list[str], folder: Path) -> dict[str, Future]:
    base = folder / model
    common = [
        "--trainset_path", folder / "rows.jsonl", "--model_id", base, "--max_seq_length", MAX_SEQ_LENGTH,
        "--batch_size", BATCH, "--gradient_accum_steps", ACCUMULATION, "--max_steps", STEPS, "--learning_rate", "1e-3",
        "--lora_r", 16, "--lora_alpha", 32, "--report_to", "none", "--save_steps", 8,
    ]  # fmt: skip
    recorder = ROOT / "benchmarks" / "gpu" / "recorder.py"
    started = {}

    def sft(name: str, *flags: object, **kwargs) -> Future:
        name = f"{model}-{name}"
        recorded = [recorder, folder / f"{name}.rows.json"]
        words = ["train_LoRA_SFT.py", *common, *flags, "--output_dir", folder / name]
        return commands.start(name + ("-resumed" if "--resume" in flags else ""), *recorded, *words, **kwargs)

    for backend in backends:
        chosen = ["--backend", backend]
        padded = started[f"{backend} padded"] = sft(f"{backend}-padded", *chosen, "--no-padding_free")
        started[f"{backend} padding-free"] = sft(f"{backend}-flat", *chosen, "--padding_free")
        started[f"{backend} packed"] = sft(f"{backend}-packed", *chosen, "--packing", "--max_steps", 4)
        started[f"{backend} validated"] = sft(
            f"{backend}-validated", *chosen, "--val_set_size", 16, "--max_steps", 8, "--save_steps", 2
        )
        for kind, flags in precisions(backend).items():
            started[f"{backend} {kind}"] = sft(f"{backend}-{kind}", *chosen, "--no-padding_free", *flags)
        killed = sft(f"{backend}-killed", *chosen, "--no-padding_free", kill_at=12)
        started[f"{backend} resumed"] = sft(f"{backend}-killed", *chosen, "--no-padding_free", "--resume", after=killed)
        stage = {
            name: folder / f"{model}-{backend}-{name}"
            for name in ("padded", "dpo", "dpo-stored", "dpo-killed", "merged")
        }
        pairs = [
            "train_LoRA_DPO.py", *chosen, "--trainset_path", folder / "pairs.jsonl", "--model_id", stage["padded"],
            "--max_seq_length", MAX_SEQ_LENGTH, "--batch_size", 2, "--gradient_accum_steps", 2, "--max_steps", 8,
            "--save_steps", 2, "--learning_rate", "2e-4", "--report_to", "none", "--output_dir", stage["dpo"],
        ]  # fmt: skip
        dpo = started[f"{backend} dpo"] = commands.start(stage["dpo"].name, *pairs, after=padded)
        stored = [words if words is not stage["dpo"] else stage["dpo-stored"] for words in pairs]
        started[f"{backend} dpo-stored"] = commands.start(
            stage["dpo-stored"].name, *stored, "--precompute_ref_log_probs", after=padded
        )
        again = [words if words is not stage["dpo"] else stage["dpo-killed"] for words in pairs]
        killed = commands.start(f"{stage['dpo'].name}-killed", *again, after=padded, kill_at=5)
        started[f"{backend} dpo-resumed"] = commands.start(
            f"{stage['dpo'].name}-resumed", *again, "--resume", after=killed
        )
        started[f"{backend} merged"] = commands.start(
            stage["merged"].name, "merged_weights.py", *chosen, "--model_id", stage["dpo"], "--merged_weights_path",
            stage["merged"], after=dpo,
        )  # fmt: skip
    return started


def precisions(backend: str) -> dict[str, list]:
    """Runs in other precisions, name → flags. bitsandbytes and float16 need a GPU, and unsloth loads no 8 bits here."""
    if not has_cuda():
        return {}
    flags = {"4-bit": ["--bits", 4], "float16": ["--dtype", "float16"]}
    return flags | ({"8-bit": ["--bits", 8]} if backend == "peft" else {})


def not_run(backends: list[str]) -> list[str]:
    """What this machine leaves out, in words."""
    if has_cuda():
        return []
    names = ("4-bit", "8-bit", "float16")
    return [f"{backend} {name}: needs a GPU" for backend in backends for name in names]
