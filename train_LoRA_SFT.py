"""Supervised fine-tuning with LoRA: task rows → an adapter that peft, unsloth and vLLM load.

Reads training rows (a file, or the folder that prepare_data.py wrote) and a base model, or an adapter to go on
with. Writes the adapter with its tokenizer and chat template, metrics.jsonl, loss.png, checkpoints and run.json.

    python train_LoRA_SFT.py --trainset_path sample_data/task_rows.jsonl --model_id sample_data/tiny_base \\
        --learning_rate 2e-3 --train_epochs 3 --output_dir outputs/sft
"""

import time

from sllm import checkpoint, cli


def build_parser():
    p = cli.parser(__doc__, __file__)
    cli.add_training_data_flags(p, "training rows")
    cli.add_model_flags(p)
    cli.add_lora_flags(p)
    cli.add_training_flags(p, learning_rate=2e-5, warmup_ratio=0.03)
    group = p.add_argument_group("supervised fine-tuning")
    group.add_argument("--train_on_inputs", action=cli.BOOLEAN, default=False, help="supervise the prompt's tokens too")
    group.add_argument(
        "--padding_free",
        action=cli.BOOLEAN,
        default=None,
        help="flatten the rows of a batch into one sequence instead of padding them; default: yes, where the model "
        "keeps them apart",
    )
    group.add_argument(
        "--packing",
        action=cli.BOOLEAN,
        default=False,
        help="fill sequences of --max_seq_length with whole rows: fewer and larger optimizer steps",
    )
    group.add_argument(
        "--group_by_length", action=cli.BOOLEAN, default=False, help="batches of similar length; for padded training"
    )
    cli.add_inspection_flags(group)
    cli.add_output_flags(p, "outputs/sft", resume="go on from the last complete checkpoint of --output_dir")
    return p


def main(args) -> dict | None:
    started = time.monotonic()
    from sllm import chat
    from sllm.data import formats, splits, tokenize
    from sllm.merge import layout
    from sllm.train import arguments, backend, callbacks, evaluation, memory, resume, session, targets, varlen_attention

    # ── inputs ──
    validation = arguments.validation_path(args)
    skipped = formats.Skipped(args.skip_bad_rows)
    _, (base, adapter), rows, valid_rows, out, _ = cli.collect_errors(
        lambda: arguments.resolve(args),
        lambda: checkpoint.require_model(args.model_id, base_model=args.base_model),
        lambda: formats.load_rows(args.trainset_path, "sft", skipped=skipped),
        lambda: formats.load_rows(validation, "sft", skipped=skipped) if validation else [],
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
    max_length = memory.max_length(args, base)
    columns, stats = tokenize.sft_columns(
        tokenizer, rows, max_length, train_on_inputs=args.train_on_inputs, skipped=skipped
    )
    valid_columns, valid_stats = tokenize.sft_columns(tokenizer, valid_rows, max_length, skipped=skipped)
    if args.preview:
        session.preview(tokenizer, columns, args.preview)
        return None
    flat = args.packing or args.padding_free is not False
    batch_size, accumulation = arguments.micro_batches(args, columns, flat)
    tokens = session.batch_tokens(batch_size, columns, flat=flat, packed_to=max_length if args.packing else None)
    needs = memory.estimate(
        args, base=base, adapter=adapter, num_adapters=1, tokens_per_batch=tokens, backend=choice.name
    )
    summary = [
        ("backend", f"{choice.name} ({choice.reason})"),
        ("chat template", session.template_summary(tokenizer, template)),
        ("rows", f"{stats['rows']:,} → {stats['sequences']:,} sequences, {stats['tokens']:,} tokens, "
                 f"{stats['supervised_tokens']:,} supervised"),
        ("longest", f"{stats['longest']:,} of {max_length:,} tokens; {stats['truncated']} cut, "
                    f"{stats['dropped']} dropped"),
        ("validation", f"{valid_stats['rows']:,} rows" if valid_rows else "none"),
        ("batches", "packed" if args.packing else "padding-free" if flat else "padded"),
    ]  # fmt: skip
    print(memory.format_table(needs, summary))
    for line in [*tokenize.cut_summary(stats, most=memory.context_length(base)), *skipped.lines()]:
        print(line)
    for note in checkpoint.notes(args.model_id, base):
        print(f"note: {note}")
    layout.require_mergeable(base, needs.adapted)
    checkpoint.require_disk(args.output_dir, needs.disk, "this run")
    if args.dry_run:
        return {"stage": "sft", "dry_run": True, **stats, "memory_bytes": needs.memory, "disk_bytes": needs.disk}
    resume_from = resume.prepare_output(args)
    skipped.write(out)
    session.set_up_logging(out)

    # ── model ──
    import datasets
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer, pack_dataset

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
    if flat and choice.name == "peft":
        varlen_attention.use(model)

    # ── work ──
    dataset = datasets.Dataset.from_dict(columns)
    if args.packing:
        dataset = pack_dataset(dataset.shuffle(seed=args.seed), max_length, "bfd")
    valid_dataset = datasets.Dataset.from_dict(valid_columns) if valid_rows else None
    for split in filter(None, (dataset, valid_dataset)):
        split._unsloth_truncated_to = max_length  # or unsloth, not knowing that rows are cut, pads them all the same
    every = arguments.save_interval(args, len(dataset))
    config = SFTConfig(
        output_dir=str(out),
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
        **arguments.precision(args),
        gradient_checkpointing=checkpointing,
        **targets.loss_settings(needs.adapted),
        max_length=None,  # rows are cut, counted and masked already
        dataset_kwargs={"skip_prepare_dataset": True},
        padding_free=flat,
        train_sampling_strategy="group_by_length" if args.group_by_length else "random",
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
    conversations = [row["messages"] for row in valid_rows or rows]
    with session.adapter_in_float32(model):
        trainer = evaluation.per_token(SFTTrainer)(
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
            ),
        )
    trainer.remove_callback(PrinterCallback)  # our progress line replaces it
    isolation = session.separate_rows(args, trainer, columns) if trainer.args.padding_free or args.packing else {}
    before = callbacks.probe(trainer)["loss"]
    seconds = session.train(trainer, resume_from)
    after = callbacks.probe(trainer)["loss"]

    # ── save ──
    session.save_adapter(trainer, base, out)
    callbacks.plot(out, {"loss (nats per supervised token)": ("loss",)})
    metrics = {"loss_before": before, "loss_after": after, **isolation, **session.final_metrics(trainer, seconds)}
    checkpoint.write_run(
        out,
        "sft",
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
    print(f"loss on the training rows: {before:.3f} → {after:.3f}")
    return {"stage": "sft", "output_dir": str(out), **metrics}


if __name__ == "__main__":
    cli.run(main, build_parser())
