"""Merge a LoRA adapter (SFT or DPO) into its base: 16-bit safetensors that any tool loads.

Reads an adapter folder and the base that it names. Writes weights, config, generation config, tokenizer with its
chat template, a model card and run.json. The merged model has to answer as base + adapter does, or there is no
run.json and the exit code is 1. It is done tensor by tensor, with or without a GPU, so memory stays small whatever the
model's size; `--backend unsloth` merges by unsloth's own code, with the whole model on the GPU.

    python merged_weights.py --model_id outputs/sft --merged_weights_path outputs/merged
"""

import contextlib
import json
import shutil
import tempfile
import time
from pathlib import Path

from sllm import checkpoint, cli

HUB_FILES = ["*.json", "*.safetensors", "*.py", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*"]


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("model")
    group.add_argument("--model_id", required=True, help="the adapter: a folder, or a Hub id")
    group.add_argument(
        "--base_model", metavar="ID", help="its base in 16 bits, where that is not what the adapter's config names"
    )
    group.add_argument(
        "--backend",
        choices=("auto", "unsloth", "peft"),
        default="auto",
        help="what merges; auto and peft: tensor by tensor, in little memory; unsloth: its own merge, on a CUDA GPU",
    )
    group.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16"),
        default="auto",
        help="of the merged weights; auto: the base's where it has 16 bits, else bfloat16",
    )
    group = p.add_argument_group("output")
    group.add_argument("--merged_weights_path", default="outputs/merged", help="folder to write")
    group.add_argument(
        "--max_shard_size_gb",
        type=cli.positive_float,
        metavar="GB",
        help="largest weight file, in 10^9 bytes; default: the files of the base (not with --backend unsloth)",
    )
    group.add_argument("--push_to_hub", metavar="REPO", help="upload to this Hub repository (made private if new)")
    cli.add_overwrite_flag(group)
    return p


def main(args) -> dict:
    started = time.monotonic()

    # ── inputs ──
    (base_id, adapter), out, _ = cli.collect_errors(
        lambda: require_adapter(args),
        lambda: checkpoint.check_output(args.merged_weights_path, overwrite=args.overwrite),
        lambda: require_token(args),
    )
    import torch

    from sllm import chat
    from sllm.merge import export, merge, parity
    from sllm.train import backend

    choice = choose(args.backend)
    base = local(base_id, "base")
    checkpoint.require_model(str(adapter), base_model=str(base))  # by content: a base on the Hub is here only now
    checkpoint.require_distinct(out, adapter, base)
    tokenizer = chat.load_tokenizer(str(adapter))
    if not tokenizer.chat_template:
        raise cli.InputError(f"{adapter}: its tokenizer has no chat template; copy the one it was trained with into it")
    dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
    limit = args.max_shard_size_gb and args.max_shard_size_gb * 1e9
    _, generation, plan = cli.collect_errors(
        lambda: chat.check_probe(tokenizer, checkpoint.read_run(adapter), adapter),
        lambda: export.generation_config(base, tokenizer),
        lambda: merge.plan(base, adapter, dtype, limit),
    )
    if choice.name == "unsloth" and any(piece.source.dtype != piece.dtype for piece in plan.pieces):
        choice = backend.Choice("peft", f"unsloth keeps each weight's own type, which is not {plan.dtype} for all")
    dtype_name = str(plan.dtype).removeprefix("torch.")
    changed = sum(piece.changed for piece in plan.pieces)
    print(f"adapter             {adapter}, on {changed} of {len(plan.pieces)} tensors")
    print(f"base                {base_id}, {plan.parameters:,} parameters")
    for note in checkpoint.notes(adapter, str(base)):
        print(f"note                {note}")
    print(f"backend             {choice.name} ({choice.reason})")
    print(f"writes              {out}: {checkpoint.gib(plan.size)} in {dtype_name}, {len(plan.files)} file(s)")
    if plan.held:
        print(f"memory              about {checkpoint.gib(plan.held)}: the adapter changes stacked experts")
    replaced = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) if out.is_dir() else 0
    checkpoint.require_disk(out, plan.size + 2**26 - replaced, "the merged model")
    checkpoint.prepare_output(out, overwrite=args.overwrite)

    # ── work ──
    with nothing_left(out):
        if choice.name == "unsloth":
            in_own_process(merge_by_unsloth, adapter, base, out, dtype_name)
        else:
            merge.write(plan, out)
        export.write_config_files(out, base=base, adapter=adapter, generation=generation, plan=plan)
        chat.check_probe(chat.load_tokenizer(str(out)), {"probe": chat.probe(tokenizer)}, out)
        same = parity.check(base, adapter, out, tokenizer, plan.dtype)
    print(f"parity              {same}")
    if not same.passed:
        for flip in same.mismatches[:12]:
            print(f"  {flip}")
        raise SystemExit(
            f"error: merge parity failed: the merged model does not answer as base + adapter does ({same}); {out} is "
            "left for inspection, without run.json; merge again with --overwrite"
        )
    if same.lossy:
        finer = "; --dtype float16 keeps more" if dtype_name == "bfloat16" else ""
        print(f"note: the adapter changes the weights by little, and {dtype_name} rounds part of that away{finer}")

    # ── save ──
    metrics = {
        "parameters": plan.parameters,
        "bytes": plan.size,
        "dtype": dtype_name,
        "max_logit_difference": same.max_difference,
        "logit_bound": same.bound,
        "rms_logit_difference": same.rms_difference,
        "rms_logit_bound": same.rms_bound,
        "greedy_tokens": same.prompts * same.tokens,
        "rms_adapter_effect": same.rms_effect,
        "near_ties": same.near_ties,
        "peak_rss_bytes": peak_rss(),
    }
    stages = export.lineage(adapter)
    text = export.card(
        name=out.name,
        base_model=export.shown(base_id),
        stages=stages,
        parameters=plan.parameters,
        dtype=dtype_name,
        chat_template=(checkpoint.read_run(adapter) or {}).get("arguments", {}).get("chat_template", "its own"),
        chat_template_hash=chat.template_hash(tokenizer),
        end_of_turn=chat.end_of_turn(tokenizer)[0],
        served_as=args.push_to_hub or args.merged_weights_path,
        parity=same,
        versions=checkpoint.versions(),
    )
    with nothing_left(out):
        (out / "README.md").write_text(text, encoding="utf-8")
        checkpoint.write_run(
            out,
            "merged",
            args,
            parents=[adapter],
            base_model=base_id,
            metrics=metrics,
            seconds=time.monotonic() - started,
            probe=chat.probe(tokenizer),
            chat_template_hash=chat.template_hash(tokenizer),
        )
    if args.push_to_hub:
        metrics["url"] = push(out, args.push_to_hub)
    return {"stage": "merged", "merged_weights_path": str(out), "backend": choice.name, **metrics}


def require_adapter(args) -> tuple[str, Path]:
    """(base, adapter folder) of --model_id; an adapter on the Hub is downloaded."""
    if not Path(args.model_id).exists():
        checkpoint.require_model(args.model_id)  # refuses what is not a Hub id either
    folder = local(args.model_id, "adapter")
    if checkpoint.is_adapter(folder):
        require_json(folder / "adapter_config.json")
    base, adapter = checkpoint.require_model(str(folder), base_model=args.base_model)
    if adapter is None:
        raise cli.InputError(f"{folder} is a whole model, not an adapter: there is nothing to merge")
    return base, folder


def require_json(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise cli.InputError(f"{path} cannot be read as JSON ({error}); copy or download it again") from None


def choose(name: str):
    """What merges: tensor by tensor unless unsloth is requested, as its merge holds the whole model."""
    from sllm.train import backend

    if name == "auto":
        return backend.Choice("peft", "tensor by tensor, in little memory; --backend unsloth for its own merge")
    return backend.choose(name)


@contextlib.contextmanager
def nothing_left(out: Path):
    """Remove the folder when it is not written whole: a full disk, a weight that is not finite, Ctrl-C."""
    try:
        yield
    except (cli.InputError, KeyboardInterrupt):
        shutil.rmtree(out, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)
        place = f" ({error.filename})" if error.filename else ""
        raise cli.InputError(
            f"{out} cannot be written: {error.strerror or error}{place}; what was written is removed. Free some disk, "
            "or write elsewhere: --merged_weights_path"
        ) from None


def require_token(args) -> None:
    """--push_to_hub needs a token, and it is better to hear so before the work than after it."""
    if args.push_to_hub:
        from huggingface_hub import get_token

        if not get_token():
            raise cli.InputError("--push_to_hub: no Hugging Face token; run `hf auth login` or set HF_TOKEN")


def local(model_id: str, what: str) -> Path:
    """The folder itself, or a Hub repository's files in the cache."""
    if Path(model_id).exists():
        return Path(model_id)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        flag = "--base_model" if what == "base" else "--model_id"
        raise cli.InputError(
            f"{what} {model_id} is not a folder and cannot be downloaded ({reason}); name it: {flag}"
        ) from None


def merge_by_unsloth(adapter: Path, base: Path, out: Path, dtype: str) -> None:
    """unsloth's own merge, in a process of its own: it patches transformers, which the parity check has to use as it
    is, and its GPU memory comes back."""
    from sllm.train import with_unsloth

    with tempfile.TemporaryDirectory() as moved:  # the adapter, naming the base that was checked
        for path in (path for path in adapter.iterdir() if path.is_file()):
            (Path(moved) / path.name).symlink_to(path.resolve())
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(base.resolve())
        (Path(moved) / "adapter_config.json").unlink()
        (Path(moved) / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        model = with_unsloth.load_model(
            str(base),
            adapter=moved,
            dtype=dtype,
            bits=16,
            max_seq_length=2048,
            train=False,
            gradient_checkpointing=False,
        )
        from sllm import chat

        with_unsloth.save_merged(model, str(out), chat.load_tokenizer(str(adapter)))


def in_own_process(function, *arguments):
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes. VmHWM, because ru_maxrss may be a parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def push(folder: Path, repository: str) -> str:
    """Upload the finished folder; a repository that does not exist yet is made private."""
    import huggingface_hub

    try:
        url = huggingface_hub.create_repo(repository, private=True, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=repository, folder_path=folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        again = f"hf upload {repository} {folder}"
        raise SystemExit(f"error: {folder} is complete, but the upload failed ({reason}); again: {again}") from None
    print(f"uploaded            {url}")
    return str(url)


if __name__ == "__main__":
    cli.run(main, build_parser())
