"""Runs scripts in forks of a process that has imported the heavy libraries: they take six to ten seconds of a start."""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAINING = ("sllm.train.trainers", "sllm.train.with_peft", "sllm.merge.merge", "sllm.merge.parity")
MODULES = {
    "train_LoRA_SFT.py": TRAINING,
    "train_LoRA_DPO.py": TRAINING,
    "merged_weights.py": TRAINING,
    "benchmarks/mistakes.py": TRAINING,
    "vllm_inference.py": ("vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker", "vllm.v1.engine.core"),
}


class Preloaded:
    """A process that has imported `modules`, for as long as this one lives.

    Its forks get the environment of each call, but what a library reads of it at its import is that of the first; and
    they share one seed of Python's hashes.
    """

    def __init__(self, modules: tuple[str, ...]):
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, words: list[str]) -> subprocess.CompletedProcess:
        """What `subprocess.run([sys.executable, *words])` returns."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            with suppress(BrokenPipeError):  # it has ended, see below
                print(json.dumps([words, dict(os.environ), str(out), str(err)]), file=self.process.stdin, flush=True)
            returncode = self.process.stdout.readline()
            assert returncode, f"the preloaded process ended with {self.process.wait()}"
            return subprocess.CompletedProcess(words, int(returncode), _read(out), _read(err))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _start(words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def main(modules: list[str]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the modules print while they are imported
    sys.path[0] = str(ROOT)  # as for a script in the root
    if modules[0].startswith("vllm"):  # torch reads some of it while it is imported
        from sllm.serve import environment

        environment.set_environment()
    before = dict(os.environ)
    for module in modules:
        import_module(module)
    set_by_modules = {name: value for name, value in os.environ.items() if before.get(name) != value}
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            words, environment, out, err = json.loads(line)
            return _start(words, set_by_modules | environment, out, err)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
