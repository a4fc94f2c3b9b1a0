"""Starts the servers of these tests and runs clients against them, each in an environment of its own.

Run by `make test-clients`. There are three servers: `plain`, the tiny model without flags; `tools` and `reasoning`, a
model that says fixed texts (scripted_model.py) behind vLLM's parsers. What one client checks of one server is one test:
a function for each check in its `with_….py`, of which the output names those that failed.
"""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from server_process import Running

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = ROOT / ".venv-clients"
KEY = "key-of-the-clients"


@contextmanager
def serve(name: str, model: Path, *flags: str):
    server = Running("--model_id", model, "--served_model_name", "tiny", *flags, SLLM_API_KEYS=f"clients:{KEY}")
    server.name = name
    try:
        yield server
    finally:
        ended = server.stop()
    assert ended == 0


def ask(server, *command: object, **env: str) -> str:
    """Run a client; its standard output."""
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        env.setdefault(proxy, "")
    env = {"OPENAI_BASE_URL": server.url + "/v1", "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", **env}
    done = subprocess.run(
        [str(word) for word in command], env=os.environ | env, capture_output=True, text=True, timeout=240, cwd=HERE
    )
    assert done.returncode == 0, f"{done.stdout[-20000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def is_idle(server) -> bool:
    """Nothing runs or waits, in the engine or in front of it: what clients left was ended."""
    text = httpx.get(server.url + "/metrics", headers={"Authorization": f"Bearer {KEY}"}).raise_for_status().text
    names = ("sllm_sequences_in_flight", "vllm:num_requests_running", "vllm:num_requests_waiting")
    found = [line for line in text.splitlines() if line.startswith(names)]
    return len(found) >= len(names) and all(float(line.rsplit(" ", 1)[1]) == 0 for line in found)


def of_debian(command: str) -> str:
    """Path of a program that no registry's package brings."""
    path = shutil.which(command)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"no {command}: apt-get install openjdk-17-jdk-headless curl")
    assert path, f"no {command}"
    return path


def check_python(server, client: str, folder: Path) -> None:
    """Every check that a Python client has of this server."""
    python = ENVIRONMENTS / client / "bin" / "python"
    ask(server, python, f"with_{client}.py", server.name, CLIENT_FOLDER=str(folder))
    server.wait_for(lambda: is_idle(server))


def check_node(server) -> None:
    ask(server, ENVIRONMENTS / "node" / "bin" / "node", "with_openai.cjs", server.name,
        NODE_PATH=str(ENVIRONMENTS / "node" / "node_modules"))  # fmt: skip
    server.wait_for(lambda: is_idle(server))
