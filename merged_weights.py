"""Merge a LoRA adapter (SFT or DPO) into its base: 16-bit safetensors that any tool loads.

Reads an adapter folder and the base that it names. Writes weights, config, generation config, tokenizer with its
chat template, a model card and run.json. The merged model has to answer as base + adapter does, or there is no
run.json and the exit code is 1. It is done tensor by tensor, with or without a GPU, so memory stays small whatever the
model's size; `--backend unsloth` merges by unsloth's own code, with the whole model on the GPU.

    python merged_weights.py --model_id outputs/sft --merged_weights_path outputs/merged
"""

import time

from sllm import checkpoint, cli, gate_record, runs


def build_parser():
    p = cli.parser(__doc__, __file__)
    add = p.add_argument_group("model").add_argument
    add("--model_id", required=True, help="the adapter: a folder, or a Hub id")
    add("--base_model", metavar="ID", help="16-bit base model; default: the one that the adapter's config names")
    add("--backend", choices=("auto", "unsloth", "peft"), default="auto",
        help="what merges; auto and peft: tensor by tensor, in little memory; unsloth: its own merge, on a CUDA "
        "GPU")  # fmt: skip
    add("--dtype", choices=("auto", "bfloat16", "float16"), default="auto",
        help="of the merged weights; auto: the base's where it has 16 bits, else bfloat16")  # fmt: skip
    add("--require_gate", metavar="FOLDER", help="merge only what passed evaluate_model.py's gate there; its scores go "
        "into the model card")  # fmt: skip
    group = p.add_argument_group("output")
    add = group.add_argument
    add("--merged_weights_path", default="outputs/merged", help="folder to write")
    add("--max_shard_size_gb", type=cli.positive_float, metavar="GB",
        help="largest weight file, in 10^9 bytes; default: the files of the base (not with --backend "
        "unsloth)")  # fmt: skip
    add("--push_to_hub", metavar="REPO", help="upload to this Hub repository (made private if new)")
    cli.add_overwrite_flag(group)
    return p


def main(args) -> dict:
    started = time.monotonic()
    from sllm.merge import source

    # ── inputs ──
    (base_id, adapter), scores, out, _ = cli.collect_errors(
        lambda: source.require_adapter(args),
        lambda: gate_record.require(args.require_gate, args.model_id) if args.require_gate else [],
        lambda: checkpoint.check_output(args.merged_weights_path, overwrite=args.overwrite),
        lambda: source.require_token(args),
    )
    import torch

    from sllm import chat, licenses, model_card
    from sllm.merge import export, merge, parity
    from sllm.train import backend

    choice = backend.choose_merge(args.backend)
    base = source.local(base_id, "base")
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
    if choice.name == "unsloth" and any(tensor.source.dtype != tensor.dtype for tensor in plan.tensors):
        choice = backend.Choice("peft", f"unsloth keeps each weight's own type, which is not {plan.dtype} for all")
    dtype_name = str(plan.dtype).removeprefix("torch.")
    changed = sum(tensor.changed for tensor in plan.tensors)
    cli.say("adapter", f"{adapter}, on {changed} of {len(plan.tensors)} tensors")
    cli.say("base", f"{base_id}, {plan.parameters:,} parameters")
    for note in [*checkpoint.notes(adapter, str(base)), *licenses.notes(base, licenses.of_lineage(adapter))]:
        cli.say("note", note)
    cli.say("backend", choice)
    cli.say("writes", f"{out}: {checkpoint.gib(plan.size)} in {dtype_name}, {len(plan.files)} file(s)")
    if plan.group_memory:
        cli.say("memory", f"about {checkpoint.gib(plan.group_memory)}: the adapter changes stacked experts")
    replaced = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) if out.is_dir() else 0
    checkpoint.require_disk(out, plan.size + 2**26 - replaced, "the merged model")
    checkpoint.prepare_output(out, overwrite=args.overwrite)

    # ── work ──
    with export.remove_on_failure(out):
        if choice.name == "unsloth":
            backend.merge_by_unsloth(adapter, base, out, dtype_name)
        else:
            merge.write(plan, out)
        export.write_config_files(out, base=base, adapter=adapter, generation=generation, plan=plan)
        chat.check_probe(chat.load_tokenizer(str(out)), {"probe": chat.probe(tokenizer)}, out)
        result = parity.check(base, adapter, out, tokenizer, plan.dtype)
    cli.say("parity", result)
    if not result.passed:
        for mismatch in result.mismatches[:12]:
            print(f"  {mismatch}")
        raise cli.CheckFailed(
            f"merge parity failed: the merged model does not answer as base + adapter does ({result}); {out} is "
            "left for inspection, without run.json; merge again with --overwrite"
        )
    if result.lossy:
        hint = "; --dtype float16 keeps more" if dtype_name == "bfloat16" else ""
        print(f"note: the adapter changes the weights by little, and {dtype_name} rounds part of that away{hint}")

    # ── save ──
    metrics = {
        "parameters": plan.parameters, "bytes": plan.size, "dtype": dtype_name,
        "max_logit_difference": result.max_difference, "logit_bound": result.bound,
        "rms_logit_difference": result.rms_difference, "rms_logit_bound": result.rms_bound,
        "greedy_tokens": result.prompts * result.tokens, "rms_adapter_effect": result.rms_effect,
        "near_ties": result.near_ties, "peak_rss_bytes": runs.peak_rss(),
    }  # fmt: skip
    text = model_card.card(
        name=out.name, model=args.push_to_hub or args.merged_weights_path, base_model=base_id,
        stages=model_card.lineage(adapter, base_id), tokenizer=tokenizer,
        merged={"parameters": plan.parameters, "dtype": dtype_name, "parity": result, "scores": scores},
    )  # fmt: skip
    with export.remove_on_failure(out):
        checkpoint.write_run(
            out, "merged", args, parents=[adapter], base_model=base_id, metrics=metrics,
            seconds=time.monotonic() - started, **chat.identity(tokenizer), card=lambda record: text,
        )  # fmt: skip
    if args.push_to_hub:
        metrics["url"] = export.push(out, args.push_to_hub)
    return {"stage": "merged", "merged_weights_path": str(out), "backend": choice.name, **metrics}


if __name__ == "__main__":
    cli.run(main, build_parser())
