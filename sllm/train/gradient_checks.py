"""Guarantees 2 and 8: the loss and the gradient that a trainer computes, checked on a few short rows before the first
step."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sllm.cli import CheckFailed

ROW_TOKENS = 256  # of a row, at most: the logits of three rows fit beside any model
# Largest difference of two losses, relative to the loss or 1, and of two gradients of the same rows, relative to their
# norm: with all weights in float32, and in 16 bits. Rounding to bfloat16 made 0.2 to 0.5 % of a gradient, of SFT and of
# DPO, on a model of 4 M parameters; deeper ones round more often.
LOSS_TOLERANCES, GRADIENT_TOLERANCES = (1e-3, 5e-2), (1e-3, 0.1)
BATCH_LOSSES = {"aot", "aot_unpaired", "sft"}  # of TRL's DPO: not a mean over pairs
RANDOM_ATTRIBUTES = ("attention_dropout", "router_jitter_noise", "jitter_noise")  # of transformers' modules


def loss_mask(trainer, columns: dict, end: int) -> dict:
    """Guarantee 2, on what the model is given: labels equal the input ids where they are supervised, the end of a turn
    is among them, and the trainer's loss is their cross-entropy.

    Args:
        columns: training rows before packing, as lists: the shortest ones, and the longest.
        end: the token that ends a turn.
    Returns:
        What run.json says of it: by how much the trainer's loss differs, relative to the loss or 1.
    Raises:
        CheckFailed: one of these does not hold.
    """
    rows = _short_rows(trainer, columns)
    inputs = trainer._prepare_inputs(trainer.data_collator(rows))
    ids, labels = inputs["input_ids"], inputs["labels"]  # (rows, seq) or (1, seq), not shifted
    supervised = labels != -100
    if not supervised.any():
        raise CheckFailed("no token of a batch is supervised, so nothing would be learned (guarantee 2)")
    if wrong := int((labels[supervised] != ids[supervised]).sum()):
        raise CheckFailed(
            f"{wrong} of {int(supervised.sum())} labels differ from the input token at the same position, so the model "
            "would learn other tokens (guarantee 2); nothing was trained"
        )
    if not any(label == end for label in _last_labels(labels, [len(row["input_ids"]) for row in rows])):
        truncated = all(row["input_ids"][-1] != end for row in rows)
        raise CheckFailed(
            "the shortest rows end before their end-of-turn token; raise --max_seq_length"
            if truncated
            else "the token that ends a turn is not supervised: the model would not learn to stop (guarantee 2)"
        )
    model, was_training = trainer.model, trainer.model.training
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        batch = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**batch, use_cache=False).logits[:, :-1].float()
        expected = torch.nn.functional.cross_entropy(logits[supervised[:, 1:]], labels[:, 1:][supervised[:, 1:]]).item()
        loss = trainer.compute_loss(model, dict(inputs)).float().item()
    trainer._metrics["eval"].clear()
    model.train(was_training)
    difference = abs(loss - expected) / max(abs(expected), 1.0)
    if math.isfinite(expected) and not difference <= LOSS_TOLERANCES[_in_16_bits(model)]:
        raise CheckFailed(
            f"the trainer's loss is {loss:.4g} where the cross-entropy of the supervised tokens is {expected:.4g} "
            "(guarantee 2); nothing was trained"
        )
    print(f"loss mask: {int(supervised.sum())} labels checked, relative loss difference {difference:.1e}")
    return {"loss_mask": difference}


def accumulation_parity(trainer, columns: dict) -> dict:
    """Guarantee 8: rows give the same gradient in one batch as cut into micro-batches, the last of them partial.

    Runs the trainer's own step, forward and backward, on its three shortest rows: all at once, and as two and one.

    Args:
        columns: training rows before packing, as lists: the shortest ones, and the longest.
    Returns:
        What run.json says of it: the norm of the gradients' difference, relative to the gradient's.
    Raises:
        CheckFailed: the gradients differ.
    """
    skipped = None
    if not BATCH_LOSSES.isdisjoint(getattr(trainer, "loss_types", ())):
        skipped = f"the loss {' + '.join(trainer.loss_types)} depends on the batch"
    elif len(rows := _short_rows(trainer, columns)) < 3:
        skipped = "there are fewer than three rows"
    else:
        whole, cut = _gradient(trainer, [rows]), _gradient(trainer, [rows[:2], rows[2:]])
        if not whole.isfinite().all() or not whole.any():
            skipped = "the gradient of the shortest rows is not finite" if whole.any() else "their gradient is zero"
    if skipped:
        print(f"accumulation parity: not checked, because {skipped}")
        return {}
    difference = ((whole - cut).norm() / whole.norm()).item()
    if not difference <= GRADIENT_TOLERANCES[_in_16_bits(trainer.model)]:
        raise CheckFailed(
            f"gradient accumulation changes the gradient: three rows in one batch and as two and one differ by "
            f"{difference:.1%}; training would depend on how --batch_size and --gradient_accum_steps cut the rows"
        )
    print(f"accumulation parity: relative gradient difference {difference:.1e}")
    return {"accumulation_parity": difference}


def _short_rows(trainer, columns: dict) -> list[dict]:
    """The three shortest rows as the trainer's collator takes them, cut to what a batch of the run holds. `index` in
    columns: their numbers in the trainer's dataset; without it the columns are all of its rows."""
    columns = dict(columns)
    index = columns.pop("index", None)
    lengths = [sum(map(len, row)) for row in zip(*columns.values(), strict=True)]
    shortest = sorted(range(len(lengths)), key=lengths.__getitem__)[:3]
    longest = max(map(len, next(iter(columns.values()))))
    room = min(ROW_TOKENS, max(16, trainer.args.per_device_train_batch_size * longest // 3))
    if "prompt_ids" in columns:  # pairs; an answer keeps its beginning, where the two may differ
        cuts = {"prompt_ids": slice(-room, None), "chosen_ids": slice(room), "rejected_ids": slice(room)}
    else:  # training rows keep their end
        cuts = dict.fromkeys(columns, slice(-room, None))
    rows = [{name: column[i][cuts[name]] for name, column in columns.items()} for i in shortest]
    if "seq_lengths" in trainer.train_dataset.column_names:  # packed
        return [row | {"seq_lengths": [len(row["input_ids"])]} for row in rows]
    if "ref_chosen_logps" in trainer.train_dataset.column_names:  # the scores of the whole answers: constants here
        numbers = [index[i] if index else i for i in shortest]
        return [trainer.train_dataset[number] | row for number, row in zip(numbers, rows, strict=True)]
    return rows


def _last_labels(labels: torch.Tensor, lengths: list[int]) -> list[int]:
    """The label at the end of each row, of rows that are padded on the right or laid end to end."""
    if len(labels) == 1:
        return [labels[0, sum(lengths[: i + 1]) - 1].item() for i in range(len(lengths))]
    return [labels[i, length - 1].item() for i, length in enumerate(lengths)]


def _in_16_bits(model) -> bool:
    """Whether any weight is, or all are computed with, in 16 bits: an index into the tolerances."""
    return any(parameter.dtype != torch.float32 for parameter in model.parameters())


def _gradient(trainer, batches: list[list[dict]]) -> torch.Tensor:
    """The gradient of one optimizer step over `batches`, as the trainer computes it: (trainable weights,), float32."""
    model, was_training = trainer.model, trainer.model.training
    if trainer.args.gradient_checkpointing:  # which train() turns on
        model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    model.zero_grad()
    with _without_randomness(model), _fixed_scale(trainer.accelerator), trainer.accelerator.autocast():
        samples = iter([trainer.data_collator(rows) for rows in batches])
        samples, num_items = trainer.get_batch_samples(samples, len(batches), model.device)
        trainer.current_gradient_accumulation_steps = len(samples)  # as transformers' training loop sets it
        for batch in samples:
            trainer.training_step(model, batch, num_items)
    gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    model.train(was_training)
    return gradient


@contextmanager
def _without_randomness(model) -> Iterator[None]:
    """Dropout and noise are off, also where training mode would have them."""
    before = [
        (module, name, value)
        for module in model.modules()
        for name in (("p",) if isinstance(module, torch.nn.Dropout) else RANDOM_ATTRIBUTES)
        if isinstance(value := getattr(module, name, None), float) and value
    ]
    for module, name, _ in before:
        setattr(module, name, 0.0)
    yield
    for module, name, value in before:
        setattr(module, name, value)


@contextmanager
def _fixed_scale(accelerator) -> Iterator[None]:
    """In float16 a loss scale that gradients neither overflow nor vanish at, instead of the first one of a run."""
    scaler = accelerator.scaler
    if scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type, init_scale=2.0**10)
    yield
    accelerator.scaler = scaler
