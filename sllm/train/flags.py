"""Flags that SFT and DPO share. Standard library only, so that `--help` answers at once."""

import argparse

from sllm import cli


def add_model_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("model")
    group.add_argument("--model_id", required=True, help="what is read: a model or adapter folder, or a Hub id")
    group.add_argument(
        "--base_model",
        metavar="ID",
        help="base of the adapter, where it has moved from the place that the adapter's config names",
    )
    group.add_argument(
        "--chat_template",
        default="auto",
        metavar="NAME|FILE",
        help="auto (the tokenizer's own, else chatml), a name in templates/chat/, or a .jinja file",
    )
    group.add_argument("--backend", choices=("auto", "unsloth", "peft"), default="auto", help="what trains the adapter")
    group.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="weights and compute; auto: bfloat16 (float16 on older cards) on a GPU, float32 without one",
    )
    group.add_argument("--bits", type=int, choices=(4, 8, 16), default=16, help="load the base in 4, 8 or 16 bits")
    group.add_argument("--load_in_4bit", action=cli.BOOLEAN, default=None, help="the same as --bits 4")
    group.add_argument(
        "--max_seq_length", type=cli.positive_int, default=8192, help="tokens; capped by what the model has"
    )


# Of a fresh adapter. The flags themselves have no default, so that one that is given beside an existing adapter,
# whose shape is fixed, can be told from one that is not.
LORA_DEFAULTS = {
    "lora_r": 64, "lora_alpha": 128, "lora_dropout": 0.0, "use_rslora": False, "lora_target_modules": ["all-linear"],
}  # fmt: skip


def add_lora_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("LoRA", "of a fresh adapter; where --model_id is an adapter, it keeps its own")
    group.add_argument("--lora_r", type=cli.positive_int, help="rank (default: 64)")
    group.add_argument("--lora_alpha", type=cli.positive_int, help="scale is alpha / r (default: 128)")
    group.add_argument("--lora_dropout", type=cli.between(0, 0.99), help="dropout before the adapter (default: 0)")
    group.add_argument("--use_rslora", action=cli.BOOLEAN, help="scale by alpha / sqrt(r) instead (default: no)")
    group.add_argument(
        "--lora_target_modules",
        nargs="+",
        metavar="NAME",
        help="layers that get an adapter, by the end of their names; all-linear, the default: every linear layer of "
        "the language model but the output layer",
    )


# transformers' names, of those that need no further settings. In full here, so that a wrong one is refused at once.
SCHEDULES = "cosine linear constant constant_with_warmup cosine_with_restarts polynomial inverse_sqrt".split()
OPTIMIZERS = "auto adamw_torch adamw_torch_fused adamw_8bit paged_adamw_8bit paged_adamw_32bit adafactor sgd".split()
DPO_LOSSES = (
    "sigmoid sigmoid_norm hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down "
    "discopop sft"
).split()  # TRL's, see DPOConfig.loss_type
REPORTERS = "tensorboard wandb mlflow swanlab trackio comet_ml clearml none".split()


def add_training_flags(p: argparse.ArgumentParser, *, learning_rate: float, warmup_ratio: float) -> None:
    """Flags that SFT and DPO share, with the stage's own learning rate and warm-up."""
    group = p.add_argument_group("training")
    group.add_argument("--train_epochs", type=cli.between(0.001, 10_000), default=5, help="passes over the rows")
    group.add_argument("--max_steps", type=cli.steps, default=-1, help="optimizer steps; -1: by --train_epochs")
    group.add_argument("--batch_size", type=cli.positive_int, default=4, help="rows of one forward pass")
    group.add_argument(
        "--gradient_accum_steps", type=cli.positive_int, default=8, help="forward passes of one optimizer step"
    )
    group.add_argument("--learning_rate", type=cli.positive_float, default=learning_rate, help="peak learning rate")
    group.add_argument("--lr_scheduler_type", choices=SCHEDULES, default="cosine", help="learning rate schedule")
    group.add_argument("--warmup_ratio", type=cli.fraction, default=warmup_ratio, help="share of the steps")
    group.add_argument("--weight_decay", type=cli.nonnegative_float, default=0.1, help="weight decay of AdamW")
    group.add_argument(
        "--max_grad_norm",
        type=cli.nonnegative_float,
        default=1.0,
        help="gradient norm is clipped to it; 0: no clipping",
    )
    group.add_argument(
        "--optim", choices=OPTIMIZERS, default="auto", help="auto: adamw_8bit on a GPU, adamw_torch without one"
    )
    group.add_argument(
        "--gradient_checkpointing",
        action=cli.BOOLEAN,
        default=None,
        help="recompute activations to save memory; default: on a GPU only",
    )
    group.add_argument("--seed", type=cli.seed, default=42, help="random seed of data order and LoRA weights")
    group.add_argument(
        "--save_steps", type=cli.positive_int, default=100, help="steps between checkpoints and evaluations"
    )
    group.add_argument("--save_total_limit", type=cli.positive_int, default=2, help="checkpoints kept")
    group.add_argument(
        "--early_stopping_patience",
        type=cli.positive_int,
        metavar="N",
        help="stop after N evaluations in a row without a lower eval_loss; default: never",
    )
    group.add_argument("--logging_steps", type=cli.positive_int, default=1, help="steps between two progress lines")
    group.add_argument(
        "--report_to", nargs="+", choices=REPORTERS, default=["tensorboard"], metavar="NAME", help="%(choices)s"
    )


def add_data_flags(p: argparse.ArgumentParser, rows: str) -> None:
    group = p.add_argument_group("data")
    group.add_argument(
        "--trainset_path", required=True, help=f"{rows}: a .jsonl or .json file, or a folder of prepare_data.py"
    )
    group.add_argument("--validation_path", metavar="FILE", help="rows to evaluate on")
    group.add_argument(
        "--val_set_size",
        type=cli.nonnegative_float,
        default=0.0,
        metavar="N",
        help="without --validation_path: hold out this many rows (or this share, below 1) of the training rows",
    )
    cli.add_skip_flag(group)


def add_inspection_flags(group) -> None:
    group.add_argument(
        "--preview",
        type=cli.positive_int,
        metavar="N",
        help="print N rows as the model will see them, supervised tokens coloured, and stop",
    )
    group.add_argument(
        "--dry_run", action="store_true", help="check data, template, disk and memory, print the plan, and stop"
    )
