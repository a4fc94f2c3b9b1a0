"""Direct preference optimisation with LoRA: preference pairs → an adapter that prefers the chosen answers.

Trains an SFT adapter further, whose model is then the reference too (checked at step 0), or starts from a merged or
any other full model with a fresh adapter. Reads preference pairs; writes the adapter with its tokenizer and chat
template, metrics.jsonl, loss.png, checkpoints and run.json.

    python train_LoRA_DPO.py --trainset_path sample_data/world/pairs.jsonl --model_id outputs/sft \\
        --learning_rate 5e-5 --train_epochs 1 --output_dir outputs/dpo
"""

import time

from sllm import checkpoint, cli
from sllm.train import flags

STAGE = "dpo"
PANELS = {"loss": ("loss",), "reward accuracy": ("rewards/accuracies",), "reward margin": ("rewards/margins",),
          "log-probability (sum over the answer)": ("logps/chosen", "logps/rejected")}  # fmt: skip


def build_parser():
    p = cli.parser(__doc__, __file__)
    flags.add_data_flags(p, "preference pairs")
    flags.add_model_flags(p)
    flags.add_lora_flags(p)
    flags.add_training_flags(p, learning_rate=5e-7, warmup_ratio=0.1)
    group = p.add_argument_group("preference optimisation")
    group.add_argument("--beta", type=cli.positive_float, default=0.1, help="KL strength: higher stays closer to the "
                       "reference")  # fmt: skip
    group.add_argument("--loss_type", nargs="+", choices=flags.DPO_LOSSES, default=["sigmoid"], metavar="LOSS",
                       help="one or a sum of: %(choices)s")  # fmt: skip
    group.add_argument("--label_smoothing", type=cli.between(0, 0.49), default=0.0, help="assumed share of pairs with "
                       "chosen and rejected swapped; required by exo_pair, used by sigmoid and robust")  # fmt: skip
    group.add_argument("--precompute_ref_log_probs", action=cli.BOOLEAN, default=False, help="score all pairs with "
                       "the reference once, before training, instead of at every step")  # fmt: skip
    flags.add_inspection_flags(group)
    cli.add_output_flags(p, "outputs/dpo", resume="continue from the last complete checkpoint of --output_dir")
    return p


def main(args) -> dict | None:
    started = time.monotonic()
    from sllm import chat, model_card
    from sllm.data import formats, tokenize, training
    from sllm.train import arguments, backend, memory, preview, resume, targets
    from sllm.weights import layout

    # ── inputs ──
    skipped = formats.Skipped(args.skip_bad_rows)
    _, (base, adapter), files, *_ = cli.collect_errors(
        lambda: arguments.resolve(args),
        lambda: checkpoint.require_model(args.model_id, base_model=args.base_model),
        lambda: training.open_files(args, arguments.validation_path(args), "preference", skipped),
        lambda: arguments.check_dpo(args),
        lambda: resume.check_output(args),
        lambda: arguments.check_machine(args),
    )
    resume.require_distinct(args, base)
    choice = backend.choose(args.backend)
    library = backend.load(choice, args)  # unsloth patches trl, transformers and peft, so it comes before them
    tokenizer = chat.load_tokenizer(args.model_id)
    chat.check_probe(tokenizer, checkpoint.read_run(args.model_id), args.model_id)
    template = chat.set_chat_template(tokenizer, args.chat_template)
    max_length = memory.max_length(args, base)
    chat.check_probe(tokenizer, checkpoint.read_run(args.model_id), "--chat_template")
    data, valid = training.encode(args, files, tokenizer, max_length, skipped)
    dataset, stats = data.dataset, data.stats
    if args.preview:
        return preview.show(tokenizer, tokenize.as_sequences(dataset[: args.preview]), args.preview)
    batch_size, accumulation = args.batch_size, args.gradient_accum_steps
    tokens = 2 * memory.batch_tokens(batch_size, data.lengths, flat=False)
    plan = memory.estimate(args, base, adapter, num_adapters=2, tokens_per_batch=tokens, backend=choice.name)
    summary = [
        ("backend", str(choice)),
        ("chat template", chat.describe_template(tokenizer, template)),
        ("longest", f"{stats['longest']:,} of {max_length:,} tokens; {stats['truncated']} truncated, "
                    f"{stats['dropped']} dropped"),
        ("reference", f"the SFT adapter {adapter}" if adapter else f"the model {base}"),
        ("pairs", f"{stats['pairs']:,}, {stats['tokens']:,} tokens"),
        ("validation", f"{valid.stats['pairs']:,} pairs" if valid else "none"),
    ]  # fmt: skip
    print(memory.format_table(plan, summary))
    for line in training.notes(args, base, data, valid, skipped, memory.context_length(base)):
        print(line)
    for note in checkpoint.notes(args.model_id, base):
        print(f"note: {note}")
    layout.require_mergeable(base, plan.adapted)
    checkpoint.require_disk(args.output_dir, plan.disk, "this run")
    if args.dry_run:
        memory.require_fit(plan)
        return {"stage": STAGE, "dry_run": True, **stats, "memory_bytes": plan.memory, "disk_bytes": plan.disk}
    out, resume_from = resume.prepare_output(args)
    skipped.write(out)

    # ── model ──
    from peft import LoraConfig
    from trl import DPOConfig

    from sllm.train import callbacks, checks, gradient_checks, metrics, trainers

    trainers.set_up_logging(out)
    loading = {"max_seq_length": max_length, "gradient_checkpointing": arguments.gradient_checkpointing(args)}
    model = library.load_model(base, adapter=adapter, dtype=args.dtype, bits=args.bits, train=True, **loading)
    if adapter is None:
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=args.lora_r, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout,
            use_rslora=args.use_rslora, target_modules=plan.targets,
        )  # fmt: skip
        model = library.add_lora(model, lora, seed=args.seed, **loading)
        targets.require_adapted(model, plan.adapted)

    # ── work ──
    valid_dataset = valid.dataset if valid else None
    config = DPOConfig(
        beta=args.beta,
        loss_type=args.loss_type,
        label_smoothing=args.label_smoothing,
        precompute_ref_log_probs=args.precompute_ref_log_probs,
        max_length=max_length,
        train_sampling_strategy="random",
        router_aux_loss_coef=0.0,  # it depends on the batch, and TRL (1.14) adds it to each micro-batch undivided
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=args.train_epochs,
        max_steps=args.max_steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.lr_scheduler_type,
        warmup_steps=arguments.warmup(args),
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        optim=arguments.optimizer(args),
        gradient_checkpointing=loading["gradient_checkpointing"],
        seed=args.seed,
        **arguments.precision(args),
        **arguments.run_settings(args, out, len(dataset), evaluate=bool(valid)),
    )
    trainer = trainers.DPOTrainer(
        model=model, args=config, train_dataset=dataset, eval_dataset=valid_dataset, processing_class=tokenizer,
        callbacks=callbacks.build(args, out, callbacks.samples(library, model, tokenizer, (valid or data).rows(3))),
    )  # fmt: skip
    difference = checks.dpo_reference(trainer)
    print(f"reference check: max logp difference per token {difference:.1e}")
    checked = gradient_checks.accumulation_parity(trainer, data.extremes())
    seconds = trainers.run(trainer, resume_from)
    after = trainers.probe(trainer)

    # ── save ──
    trainers.save_adapter(trainer, base, out)
    metrics.plot(out, PANELS)
    results = {"reference_difference": difference, "reward_accuracy": after["rewards/accuracies"]}
    results |= {"reward_margin": after["rewards/margins"]}
    results |= checked | metrics.final_metrics(trainer, seconds) | checks.general_korean(trainer, args.model_id)
    checkpoint.write_run(
        out, STAGE, args, parents=[args.model_id], base_model=base, metrics=results,
        data=training.record(args, files, data, valid, skipped),
        seconds=time.monotonic() - started, **chat.identity(tokenizer),
        card=lambda record: model_card.of_adapter(record, tokenizer),
    )  # fmt: skip
    accuracy, margin = results["reward_accuracy"], results["reward_margin"]
    print(f"reward accuracy on the training pairs {accuracy:.2f}, margin {margin:.2f}")
    return {"stage": STAGE, "output_dir": str(out), **results}


if __name__ == "__main__":
    cli.run(main, build_parser())
