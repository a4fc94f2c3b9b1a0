"""Memory and time of merging: merged_weights.py against peft's merge_and_unload, on a synthetic Llama-type model.

Writes the model (random bf16 weights, shards of at most 1 GB) and a LoRA adapter (r 64, all seven projections) to
a temporary folder, which takes about three times the model's size of disk at the peak, merges it both ways, one
after the other, and prints a Markdown table. merged_weights.py includes its parity check; the peer has none.

    python benchmarks/merge_memory.py --gb 8
"""

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sllm import checkpoint, cli  # noqa: E402

HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY, RANK = 3072, 8192, 24, 8, 128256, 64
SHARD = 10**9
PEER = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out, max_shard_size="1GB")
AutoTokenizer.from_pretrained(adapter).save_pretrained(out)
"""


def build_parser():
    p = cli.parser(__doc__, __file__)
    p.add_argument("--gb", type=cli.positive_float, default=8, help="size of the model, in 10^9 bytes")
    p.add_argument("--work_dir", help="where the models are written and removed again; default: the temporary folder")
    p.add_argument("--peer", action=cli.BOOLEAN, default=True, help="measure peft's merge_and_unload as well")
    p.add_argument("--tokenizer", default=str(ROOT / "sample_data" / "tiny_base"), help="folder to take one from")
    return p


def main(args) -> dict:
    width = KV_HEADS * HIDDEN // HEADS
    shapes = {"q": (HIDDEN, HIDDEN), "k": (width, HIDDEN), "v": (width, HIDDEN), "o": (HIDDEN, HIDDEN)}
    linear = {f"self_attn.{name}_proj": shape for name, shape in shapes.items()}
    linear |= {f"mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")} | {"mlp.down_proj": (HIDDEN, INNER)}
    layer = sum(rows * columns for rows, columns in linear.values())
    layers = max(1, round((args.gb * 1e9 / 2 - 2 * VOCABULARY * HIDDEN) / layer))
    size = 2 * (layers * layer + 2 * VOCABULARY * HIDDEN)
    work = Path(tempfile.mkdtemp(prefix="merge_memory_", dir=args.work_dir))
    checkpoint.require_disk(work, int(2.2 * size), "the benchmark")
    try:
        base, adapter, out = work / "base", work / "adapter", work / "merged"
        make_base(base, linear, layers, args.tokenizer)
        make_adapter(adapter, base, linear, layers, args.tokenizer)
        ours = [ROOT / "merged_weights.py", "--model_id", adapter, "--merged_weights_path", out, "--backend", "peft"]
        runs = {"merged_weights.py, parity check included": measured(ours)}
        largest = max(path.stat().st_size for path in out.glob("*.safetensors"))
        metrics = checkpoint.read_run(out)["metrics"]
        shutil.rmtree(out)
        if args.peer:
            runs["peft merge_and_unload + save_pretrained"] = measured(["-c", PEER, base, adapter, out])
    finally:
        shutil.rmtree(work)
    versions = ", ".join(f"{name} {checkpoint.versions()[name]}" for name in ("torch", "transformers", "peft"))
    print(f"\n{date.today()}, {versions}. {size / 1e9:.2f} GB of bf16 weights, {layers} layers, largest shard "
          f"{largest / 1e9:.2f} GB, LoRA r {RANK} on all seven projections.\n")  # fmt: skip
    print("| merge | peak resident memory | seconds |\n|---|---:|---:|")
    for name, (peak, seconds) in runs.items():
        print(f"| {name} | {checkpoint.gib(peak)} | {seconds:.0f} |")
    print(
        f"\nParity: largest logit difference {metrics['max_logit_difference']:.4g}, bound {metrics['logit_bound']:.4g}."
    )
    return {"bytes": size, "peak_rss_bytes": {name: peak for name, (peak, _) in runs.items()}}


def make_base(folder: Path, linear: dict, layers: int, tokenizer: str) -> None:
    """Random weights, written as they are drawn."""
    from transformers import LlamaConfig

    folder.mkdir()
    LlamaConfig(
        architectures=["LlamaForCausalLM"], dtype="bfloat16", hidden_size=HIDDEN, intermediate_size=INNER,
        num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, vocab_size=VOCABULARY,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ).save_pretrained(folder)  # fmt: skip
    tensors = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for i in range(layers):
        tensors |= {f"model.layers.{i}.{name}.weight": shape for name, shape in linear.items()}
        tensors |= {
            f"model.layers.{i}.{name}.weight": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")
        }
    write(folder, "model", tensors | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}, SHARD)
    save_tokenizer(tokenizer, folder)


def make_adapter(folder: Path, base: Path, linear: dict, layers: int, tokenizer: str) -> None:
    from peft import LoraConfig

    folder.mkdir()
    names = [name.rpartition(".")[2] for name in linear]
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=names)
    config.base_model_name_or_path = str(base)
    config.save_pretrained(folder)
    tensors = {}
    for i, (name, (rows, columns)) in itertools.product(range(layers), linear.items()):
        path = f"base_model.model.model.layers.{i}.{name}"
        tensors |= {f"{path}.lora_A.weight": (RANK, columns), f"{path}.lora_B.weight": (rows, RANK)}
    write(folder, "adapter_model", tensors, float("inf"))
    save_tokenizer(tokenizer, folder)


def write(folder: Path, stem: str, tensors: dict[str, tuple[int, ...]], limit: float) -> None:
    import torch

    from sllm.weights import safetensors_io

    torch.manual_seed(0)

    def drawn(name: str, shape: tuple[int, ...]):
        if len(shape) == 1:
            yield torch.ones(shape, dtype=torch.bfloat16)
            return
        step = max(1, safetensors_io.BLOCK // shape[1])
        for first in range(0, shape[0], step):
            block = torch.empty(min(step, shape[0] - first), shape[1]).normal_(std=0.005 if "lora_B" in name else 0.02)
            yield block.bfloat16()

    files: list[dict] = [{}]
    for name, shape in tensors.items():
        count = sum(2 * a[0] * (a[1] if len(a) > 1 else 1) for a in files[-1].values())
        if files[-1] and count + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1) > limit:
            files.append({})
        files[-1][name] = shape
    weight_map = {}
    for number, content in enumerate(files, 1):
        name = f"{stem}-{number:05}-of-{len(files):05}.safetensors" if len(files) > 1 else f"{stem}.safetensors"
        safetensors_io.write_file(
            folder / name, [(n, torch.bfloat16, shape, drawn(n, shape)) for n, shape in content.items()]
        )
        weight_map |= dict.fromkeys(content, name)
    if len(files) > 1:
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / f"{stem}.safetensors.index.json").write_text(index, encoding="utf-8")


def save_tokenizer(source: str, folder: Path) -> None:
    from sllm import chat

    tokenizer = chat.load_tokenizer(source)
    chat.set_chat_template(tokenizer)
    tokenizer.save_pretrained(folder)


def measured(words: list) -> tuple[int, float]:
    """Run python with `words`: (peak resident bytes of it and its children, seconds). The children's memory is
    sampled; its own is the kernel's high-water mark."""
    import psutil

    started, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT)
    while process.poll() is None:
        try:
            own = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").partition("VmHWM:")[2]
            children = sum(child.memory_info().rss for child in psutil.Process(process.pid).children(recursive=True))
            peak = max(peak, (int(own.split()[0]) * 1024 if own else 0) + children)
        except (OSError, psutil.Error):
            pass
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"error: {words[0]} ended with {process.returncode}")
    return peak, time.monotonic() - started


if __name__ == "__main__":
    cli.run(main, build_parser())
