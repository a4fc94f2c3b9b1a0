"""Imports point one way: scripts → wings → ground. No wing imports another, and ground needs no torch."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

WINGS = {"data", "train", "merge", "serve", "page", "evaluate"}
# python -m sllm.NAME: scripts, as far as imports go
COMMANDS = {"tiny_base", "compare_outputs", "bits_per_character", "accept", "measure", "measure_retention"}
MODULES = sorted((ROOT / "sllm").rglob("*.py"))


def imported(path) -> set[str]:
    """Names below `sllm` that a module imports, at its top or in its functions: the wing, or the module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "sllm":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sllm."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sllm.")}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    home = path.relative_to(ROOT / "sllm").parts[0].removesuffix(".py")
    if home not in COMMANDS:
        assert imported(path) & WINGS <= {home}
    assert not imported(path) & COMMANDS - {home}


def test_the_rule_can_fail(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def f():\n    from sllm.serve import engine\n    from sllm import train\n")
    assert imported(path) == {"serve", "train"}


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("train_LoRA_*.py")))
def test_training_imports_nothing_of_merging_and_serving(script):
    assert not imported(ROOT / script) & {"merge", "serve", "page"}


def test_ground_imports_the_standard_library_only():
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"sllm"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import sllm.cli, sllm.network, sllm.checkpoint, sllm.accept, sllm.hub, sllm.tasks, sllm.world
import sllm.progress, sllm.api_calls, sllm.train.flags, sllm.serve.flags, sllm.evaluate.judge_flags
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
