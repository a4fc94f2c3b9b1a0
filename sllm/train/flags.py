"""Flags that SFT and DPO share. Standard library only, so that `--help` answers at once."""

import argparse

from sllm import cli


def add_model_flags(p: argparse.ArgumentParser) -> None:
    add = p.add_argument_group("model").add_argument
    add("--model_id", required=True, help="what is read: a model or adapter folder, or a Hub id")
    add("--base_model", metavar="ID",
        help="base of the adapter, where it has moved from the place that the adapter's config names")  # fmt: skip
    add("--chat_template", default="auto", metavar="NAME|FILE",
        help="auto (the tokenizer's own, else chatml), a name in templates/chat/, or a .jinja file")  # fmt: skip
    add("--backend", choices=("auto", "unsloth", "peft"), default="auto", help="what trains the adapter")
    add("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto",
        help="weights and compute; auto: bfloat16 (float16 on older cards) on a GPU, float32 without one")  # fmt: skip
    add("--bits", type=int, choices=(4, 8, 16), default=16, help="load the base in 4, 8 or 16 bits")
    add("--load_in_4bit", action=cli.BOOLEAN, help="the same as --bits 4")
    add("--max_seq_length", type=cli.positive_int, default=8192, help="tokens; capped by what the model has")


# Of a fresh adapter. The flags themselves have no default, so that one that is given beside an existing adapter,
# whose shape is fixed, can be told from one that is not.
LORA_DEFAULTS = {
    "lora_r": 64, "lora_alpha": 128, "lora_dropout": 0.0, "use_rslora": False, "lora_target_modules": ["all-linear"],
}  # fmt: skip


def add_lora_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("LoRA", "of a fresh adapter; where --model_id is an adapter, it keeps its own")
    add = group.add_argument
    add("--lora_r", type=cli.positive_int, help="rank (default: 64)")
    add("--lora_alpha", type=cli.positive_int, help="scale is alpha / r (default: 128)")
    add("--lora_dropout", type=cli.between(0, 0.99), help="dropout before the adapter (default: 0)")
    add("--use_rslora", action=cli.BOOLEAN, help="scale by alpha / sqrt(r) instead (default: no)")
    add("--lora_target_modules", nargs="+", metavar="NAME",
        help="layers that get an adapter, by the end of their names; all-linear, the default: every linear layer of "
        "the language model but the output layer")  # fmt: skip


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
    add = p.add_argument_group("training").add_argument
    add("--train_epochs", type=cli.between(0.001, 10_000), default=5, help="passes over the rows")
    add("--max_steps", type=cli.steps, default=-1, help="optimizer steps; -1: by --train_epochs")
    add("--batch_size", type=cli.positive_int, default=4, help="rows of one forward pass")
    add("--gradient_accum_steps", type=cli.positive_int, default=8, help="forward passes of one optimizer step")
    add("--learning_rate", type=cli.positive_float, default=learning_rate, help="peak learning rate")
    add("--lr_scheduler_type", choices=SCHEDULES, default="cosine", help="learning rate schedule")
    add("--warmup_ratio", type=cli.fraction, default=warmup_ratio, help="share of the steps")
    add("--weight_decay", type=cli.nonnegative_float, default=0.1, help="weight decay of AdamW")
    add("--max_grad_norm", type=cli.nonnegative_float, default=1.0,
        help="gradient norm is clipped to it; 0: no clipping")  # fmt: skip
    add("--optim", choices=OPTIMIZERS, default="auto", help="auto: adamw_8bit on a GPU, adamw_torch without one")
    add("--gradient_checkpointing", action=cli.BOOLEAN,
        help="recompute activations to save memory; default: on a GPU only")  # fmt: skip
    add("--seed", type=cli.seed, default=42, help="random seed of data order and LoRA weights")
    add("--save_steps", type=cli.positive_int, default=100, help="steps between checkpoints and evaluations")
    add("--save_total_limit", type=cli.positive_int, default=2, help="checkpoints kept")
    add("--early_stopping_patience", type=cli.positive_int, metavar="N",
        help="stop after N evaluations in a row without a lower eval_loss; default: never")  # fmt: skip
    add("--logging_steps", type=cli.positive_int, default=1, help="steps between two progress lines")
    add("--report_to", nargs="+", choices=REPORTERS, default=["tensorboard"], metavar="NAME", help="%(choices)s")


def add_data_flags(p: argparse.ArgumentParser, rows: str) -> None:
    group = p.add_argument_group("data")
    add = group.add_argument
    add("--trainset_path", required=True, help=f"{rows}: a .jsonl or .json file, or a folder of prepare_data.py")
    add("--validation_path", metavar="FILE", help="rows to evaluate on")
    add("--val_set_size", type=cli.nonnegative_float, default=0.0, metavar="N",
        help="without --validation_path: hold out this many rows (or this share, below 1) of the training "
        "rows")  # fmt: skip
    add("--cache_dir", metavar="DIR", help="where the tokens of files of 2,000 rows and more are kept for the next "
        "run; default: sllm_tokens in the cache of Hugging Face's datasets")  # fmt: skip
    add("--num_proc", type=cli.positive_int, metavar="N", help="processes that tokenize; default: one for each core")
    cli.add_skip_flag(group)


def add_inspection_flags(group) -> None:
    add = group.add_argument
    add("--preview", type=cli.positive_int, metavar="N",
        help="print N rows as the model will see them, supervised tokens coloured, and stop")  # fmt: skip
    add("--dry_run", action="store_true",
        help="check data, template, disk and memory, print the plan, and stop; exit 2 if memory is short")  # fmt: skip
