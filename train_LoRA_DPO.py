"""Direct preference optimisation with LoRA: preference pairs → an adapter that prefers the chosen answers.

Goes on with an SFT adapter, whose model is then the reference too (checked at step 0), or starts from a merged or
any other full model with a fresh adapter. Reads preference pairs; writes the adapter with its tokenizer and chat
template, metrics.jsonl, loss.png, checkpoints and run.json.

    python train_LoRA_DPO.py --trainset_path sample_data/preference_pairs.jsonl --model_id outputs/sft \\
        --learning_rate 2e-4 --train_epochs 3 --output_dir outputs/dpo
"""

import time

from sllm import checkpoint, cli

LOSSES = (
    "sigmoid sigmoid_norm hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down "
    "discopop sft"
).split()  # TRL's, see DPOConfig.loss_type


def build_parser():
    p = cli.parser(__doc__, __file__)
    cli.add_training_data_flags(p, "preference pairs")
    cli.add_model_flags(p)
    cli.add_lora_flags(p)
    cli.add_training_flags(p, learning_rate=5e-7, warmup_ratio=0.1)
    group = p.add_argument_group("preference optimisation")
    group.add_argument("--beta", type=cli.positive_float, default=0.1, help="how dear it is to leave the reference")
    group.add_argument(
        "--loss_type",
        nargs="+",
        choices=LOSSES,
        default=["sigmoid"],
        metavar="LOSS",
        help="one or a sum of: %(choices)s",
    )
    group.add_argument(
        "--label_smoothing",
        type=cli.between(0, 0.49),
        default=0.0,
        help="share of the pairs that may be the wrong way round; exo_pair needs one, sigmoid and robust take one",
    )
    group.add_argument(
        "--precompute_ref_log_probs",
        action=cli.BOOLEAN,
        default=False,
        help="score all pairs with the reference once, before training, instead of at every step",
    )
    cli.add_inspection_flags(group)
    cli.add_output_flags(p, "outputs/dpo", resume="go on from the last complete checkpoint of --output_dir")
    return p


def check_loss(args) -> None:
    if args.lora_dropout:
        raise cli.InputError("--lora_dropout: DPO is trained without dropout (TRL switches it off); leave the flag out")
    if "exo_pair" in args.loss_type and not args.label_smoothing:
        raise cli.InputError("--loss_type exo_pair needs --label_smoothing above 0; its paper takes 0.001")


def main(args) -> dict | None:
    started = time.monotonic()
    from sllm import chat
    from sllm.data import formats, splits, tokenize
    from sllm.merge import layout
    from sllm.train import arguments, backend, callbacks, checks, memory, resume, session, targets

    # ── inputs ──
    validation = arguments.validation_path(args)
    skipped = formats.Skipped(args.skip_bad_rows)
    _, _, (base, adapter), rows, valid_rows, out, _ = cli.collect_errors(
        lambda: check_loss(args),
        lambda: arguments.resolve(args),
        lambda: checkpoint.require_model(args.model_id, base_model=args.base_model),
        lambda: formats.load_rows(args.trainset_path, "preference", skipped=skipped),
        lambda: formats.load_rows(validation, "preference", skipped=skipped) if validation else [],
        lambda: resume.check_output(args),
        lambda: arguments.check_machine(args),
    )
    resume.require_apart(args, base)
    choice = backend.choose(args.backend)
    arguments.resolve_quantization(args, choice)
    if not (args.preview or args.dry_run):
        lora = choice.module()  # unsloth patches trl, transformers and peft, so it comes before them
    for note in formats.notes([*rows, *valid_rows]):
        print(note)
    if not valid_rows:
        rows, valid_rows = splits.hold_out(rows, args.val_set_size, args.seed)
    tokenizer = chat.load_tokenizer(args.model_id)
    chat.check_probe(tokenizer, checkpoint.read_run(args.model_id), args.model_id)
    template = chat.set_chat_template(tokenizer, args.chat_template)
    chat.check_probe(tokenizer, checkpoint.read_run(args.model_id), "--chat_template")
    max_length = memory.max_length(args, base)
    columns, stats = tokenize.dpo_columns(tokenizer, rows, max_length, skipped=skipped)
    valid_columns, valid_stats = tokenize.dpo_columns(tokenizer, valid_rows, max_length, skipped=skipped)
    if args.preview:
        session.preview(tokenizer, tokenize.as_sequences(columns), args.preview)
        return None
    sequences = tokenize.as_sequences(columns)
    tokens = 2 * session.batch_tokens(args.batch_size, sequences, flat=False)
    needs = memory.estimate(
        args, base=base, adapter=adapter, num_adapters=2, tokens_per_batch=tokens, backend=choice.name
    )
    summary = [
        ("backend", f"{choice.name} ({choice.reason})"),
        ("reference", f"the SFT adapter {adapter}" if adapter else f"the model {base}"),
        ("chat template", session.template_summary(tokenizer, template)),
        ("pairs", f"{stats['pairs']:,}, {stats['tokens']:,} tokens"),
        ("longest", f"{stats['longest']:,} of {max_length:,} tokens; {stats['truncated']} cut, "
                    f"{stats['dropped']} dropped"),
        ("validation", f"{valid_stats['pairs']:,} pairs" if valid_rows else "none"),
    ]  # fmt: skip
    print(memory.format_table(needs, summary))
    for line in [*tokenize.cut_summary(stats, most=memory.context_length(base)), *skipped.lines()]:
        print(line)
    for note in checkpoint.notes(args.model_id, base):
        print(f"note: {note}")
    layout.require_mergeable(base, needs.adapted)
    checkpoint.require_disk(args.output_dir, needs.disk, "this run")
    if args.dry_run:
        return {"stage": "dpo", "dry_run": True, **stats, "memory_bytes": needs.memory, "disk_bytes": needs.disk}
    resume_from = resume.prepare_output(args)
    skipped.write(out)
    session.set_up_logging(out)

    # ── model ──
    import datasets
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    class PairTrainer(DPOTrainer):
        """TRL's trainer on pairs that are rendered already: sllm.chat's ids are the ones that are served."""

        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

        def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
            """transformers finds the reference's subfolder and loads nothing else: the adapter in training, too."""
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)
            self.model.set_adapter("default")

    checkpointing = arguments.gradient_checkpointing(args)
    model = lora.load_model(
        base,
        adapter=adapter,
        dtype=args.dtype,
        bits=args.bits,
        max_seq_length=max_length,
        train=True,
        gradient_checkpointing=checkpointing,
    )
    if adapter is None:
        model = lora.add_lora(
            model,
            rank=args.lora_r,
            alpha=args.lora_alpha,
            dropout=args.lora_dropout,
            use_rslora=args.use_rslora,
            target_modules=needs.targets,
            seed=args.seed,
            max_seq_length=max_length,
            gradient_checkpointing=checkpointing,
        )
        targets.require_adapted(model, needs.adapted)

    # ── work ──
    dataset = datasets.Dataset.from_dict(columns)
    valid_dataset = datasets.Dataset.from_dict(valid_columns) if valid_rows else None
    every = arguments.save_interval(args, len(dataset))
    config = DPOConfig(
        output_dir=str(out),
        beta=args.beta,
        loss_type=args.loss_type,
        label_smoothing=args.label_smoothing,
        precompute_ref_log_probs=args.precompute_ref_log_probs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accum_steps,
        num_train_epochs=args.train_epochs,
        max_steps=args.max_steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.lr_scheduler_type,
        warmup_steps=arguments.warmup(args),
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        optim=arguments.optimizer(args),
        **arguments.precision(args),
        gradient_checkpointing=checkpointing,
        max_length=max_length,
        train_sampling_strategy="random",
        logging_steps=args.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would show a loss that is not finite as 0
        save_steps=every,
        save_total_limit=max(args.save_total_limit, 2),  # a kill while one is written leaves the other
        eval_strategy="steps" if valid_rows else "no",
        eval_steps=every if valid_rows else None,
        load_best_model_at_end=bool(valid_rows),
        metric_for_best_model="eval_loss" if valid_rows else None,
        report_to=args.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=choice.name == "unsloth",
        seed=args.seed,
    )
    session.use_one_gpu(config)
    conversations = [row["prompt"] for row in valid_rows or rows]
    with session.adapter_in_float32(model):
        trainer = PairTrainer(
            model=model,
            args=config,
            train_dataset=dataset,
            eval_dataset=valid_dataset,
            processing_class=tokenizer,
            callbacks=session.early_stopping(args)
            + callbacks.callbacks(
                out,
                samples=session.samples(lora, model, tokenizer, conversations),
                arguments=resume.started_with(args),
                fields=("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"),
            ),
        )
    trainer.remove_callback(PrinterCallback)  # our progress line replaces it
    difference = checks.dpo_reference(trainer)
    print(f"reference = the model that training starts from: {difference:.1e} nats per token apart")
    seconds = session.train(trainer, resume_from)
    after = callbacks.probe(trainer)

    # ── save ──
    session.save_adapter(trainer, base, out)
    callbacks.plot(
        out,
        {
            "loss": ("loss",),
            "reward accuracy": ("rewards/accuracies",),
            "reward margin": ("rewards/margins",),
            "log-probability (sum over the answer)": ("logps/chosen", "logps/rejected"),
        },
    )
    metrics = {
        "reference_difference": difference,
        "reward_accuracy": after["rewards/accuracies"],
        "reward_margin": after["rewards/margins"],
        **session.final_metrics(trainer, seconds),
    }
    checkpoint.write_run(
        out,
        "dpo",
        args,
        parents=[args.model_id],
        base_model=base,
        data={
            "train": session.data_record(args.trainset_path, stats),
            "valid": valid_stats if valid_rows else None,
            "skipped_rows": len(skipped.rows),
        },
        metrics=metrics,
        seconds=time.monotonic() - started,
        probe=chat.probe(tokenizer),
        chat_template_hash=chat.template_hash(tokenizer),
    )
    print(
        f"reward accuracy on the training pairs {metrics['reward_accuracy']:.2f}, margin {metrics['reward_margin']:.2f}"
    )
    return {"stage": "dpo", "output_dir": str(out), **metrics}


if __name__ == "__main__":
    cli.run(main, build_parser())
