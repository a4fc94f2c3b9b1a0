"""Supervised fine-tuning with LoRA: task rows → an adapter that peft, unsloth and vLLM load.

Reads training rows (a file, or the folder that prepare_data.py wrote) and a base model, or an adapter that is trained
further. Writes the adapter with its tokenizer and chat template, metrics.jsonl, loss.png, checkpoints and run.json.

    python train_LoRA_SFT.py --trainset_path sample_data/task_rows.jsonl --model_id sample_data/tiny_base \\
        --learning_rate 2e-3 --train_epochs 3 --output_dir outputs/sft
"""

import time

from sllm import checkpoint, cli
from sllm.train import flags

STAGE = "sft"
PANELS = {"loss (nats per supervised token)": ("loss",)}  # of loss.png


def build_parser():
    p = cli.parser(__doc__, __file__)
    flags.add_data_flags(p, "training rows")
    flags.add_model_flags(p)
    flags.add_lora_flags(p)
    flags.add_training_flags(p, learning_rate=2e-5, warmup_ratio=0.03)
    group = p.add_argument_group("supervised fine-tuning")
    group.add_argument("--train_on_inputs", action=cli.BOOLEAN, default=False, help="supervise the prompt's tokens too")
    group.add_argument("--padding_free", action=cli.BOOLEAN, help="flatten the rows of a batch into one sequence "
                       "instead of padding them; default: yes, where the model keeps them separate")  # fmt: skip
    group.add_argument("--packing", action=cli.BOOLEAN, default=False, help="fill sequences of --max_seq_length with "
                       "whole rows: fewer and larger optimizer steps")  # fmt: skip
    group.add_argument("--group_by_length", action=cli.BOOLEAN, default=False, help="batches of similar length; for "
                       "padded training")  # fmt: skip
    flags.add_inspection_flags(group)
    cli.add_output_flags(p, "outputs/sft", resume="continue from the last complete checkpoint of --output_dir")
    return p


def main(args) -> dict | None:
    started = time.monotonic()
    from sllm import chat, model_card
    from sllm.data import formats, packing, training
    from sllm.train import arguments, backend, memory, preview, resume, targets
    from sllm.weights import layout

    # ── inputs ──
    skipped = formats.Skipped(args.skip_bad_rows)
    _, (base, adapter), files, *_ = cli.collect_errors(
        lambda: arguments.resolve(args),
        lambda: checkpoint.require_model(args.model_id, base_model=args.base_model),
        lambda: training.open_files(args, arguments.validation_path(args), "sft", skipped),
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
    data, valid = training.encode(args, files, tokenizer, max_length, skipped)
    dataset, stats = data.dataset, data.stats
    if args.preview:
        return preview.show(tokenizer, dataset[: args.preview], args.preview)
    flat = args.packing or args.padding_free is not False
    batch_size, accumulation = arguments.micro_batches(args, data.lengths, flat)
    tokens = memory.batch_tokens(batch_size, data.lengths, flat=flat, packed_to=max_length if args.packing else None)
    plan = memory.estimate(args, base, adapter, num_adapters=1, tokens_per_batch=tokens, backend=choice.name)
    summary = [
        ("backend", str(choice)),
        ("chat template", chat.describe_template(tokenizer, template)),
        ("longest", f"{stats['longest']:,} of {max_length:,} tokens; {stats['truncated']} truncated, "
                    f"{stats['dropped']} dropped"),
        ("rows", f"{stats['rows']:,} → {stats['sequences']:,} sequences, {stats['tokens']:,} tokens, "
                 f"{stats['supervised_tokens']:,} supervised"),
        ("validation", f"{valid.stats['rows']:,} rows" if valid else "none"),
        ("batches", "packed" if args.packing else "padding-free" if flat else "padded"),
    ]  # fmt: skip
    print(memory.format_table(plan, summary))
    notes = training.notes(args, base, data, valid, skipped, memory.context_length(base))
    for line in [*notes, *(f"note: {note}" for note in checkpoint.notes(args.model_id, base))]:
        print(line)
    layout.require_mergeable(base, plan.adapted)
    checkpoint.require_disk(args.output_dir, plan.disk, "this run")
    if args.dry_run:
        memory.require_fit(plan)
        return {"stage": STAGE, "dry_run": True, **stats, "memory_bytes": plan.memory, "disk_bytes": plan.disk}
    out, resume_from = resume.prepare_output(args)
    skipped.write(out)

    # ── model ──
    from peft import LoraConfig
    from trl import SFTConfig

    from sllm.train import callbacks, checks, gradient_checks, metrics, trainers, varlen_attention

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
    if flat and choice.name == "peft":
        varlen_attention.use(model)
    if args.packing:
        dataset = packing.pack(dataset, max_length, args.seed)
    for split in filter(None, (dataset, valid_dataset)):
        trainers.mark_truncated(split, max_length)
    config = SFTConfig(
        max_length=None,  # rows are cut, counted and masked already
        dataset_kwargs={"skip_prepare_dataset": True},
        padding_free=flat,
        train_sampling_strategy="group_by_length" if args.group_by_length else "random",
        **targets.loss_settings(plan.adapted),
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
    trainer = trainers.SFTTrainer(
        model=model, args=config, train_dataset=dataset, eval_dataset=valid_dataset, processing_class=tokenizer,
        lengths=data.lengths,
        callbacks=callbacks.build(args, out, callbacks.samples(library, model, tokenizer, (valid or data).rows(3))),
    )  # fmt: skip
    columns = data.extremes()
    checked = checks.packing_isolation_or_padding(args, trainer, columns)
    before = trainers.probe(trainer)
    checked |= gradient_checks.loss_mask(trainer, columns, chat.end_of_turn(tokenizer)[1])
    checked |= gradient_checks.accumulation_parity(trainer, columns)
    seconds = trainers.run(trainer, resume_from)
    after = trainers.probe(trainer)
    checks.require_learning(before["loss"], after["loss"])
    checked |= checks.stopping(trainer, columns, chat.end_of_turn(tokenizer)[1])

    # ── save ──
    trainers.save_adapter(trainer, base, out)
    metrics.plot(out, PANELS)
    results = {"loss_before": before["loss"], "loss_after": after["loss"], **checked}
    results |= metrics.final_metrics(trainer, seconds) | checks.general_korean(trainer, args.model_id)
    checkpoint.write_run(
        out, STAGE, args, parents=[args.model_id], base_model=base, metrics=results,
        data=training.record(args, files, data, valid, skipped),
        seconds=time.monotonic() - started, **chat.identity(tokenizer),
        card=lambda record: model_card.of_adapter(record, tokenizer),
    )  # fmt: skip
    print(f"loss on the training rows: {before['loss']:.3f} → {after['loss']:.3f}")
    return {"stage": STAGE, "output_dir": str(out), **results}


if __name__ == "__main__":
    cli.run(main, build_parser())
