"""The guarantees of training that only a loaded model can show, each checked before the first step."""

import math

import torch

from sllm.cli import CheckFailed, InputError

REFERENCE_TOLERANCE = 1e-3  # nats per token
# Noise of one token's log-probability (standard deviation, nats) between two computations in 16 bits: a logit between
# 16 and 32 is rounded to steps of 1/8 in bfloat16 and of 1/64 in float16, twice, after sums in another order.
TOKEN_NOISE = {torch.bfloat16: 0.08, torch.float16: 0.01}
STORED_TOKENS = 512  # completion tokens that the check of stored references reads, where there are as many
# Largest logit difference that arithmetic alone may cause, relative to the largest logit, for each dtype.
ISOLATION_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}

# Largest difference of two gradients of the same rows, relative to their norm: all weights in float32, and otherwise.
ACCUMULATION_TOLERANCES = (1e-3, 5e-2)
BATCH_LOSSES = {"aot", "aot_unpaired", "bco_pair", "sft"}  # of TRL's DPO: defined over a batch, not a mean over pairs


def loss_mask(trainer, columns: dict, end: int) -> dict:
    """Guarantee 2, on what the model is given: its loss is that of the supervised tokens themselves, each predicted
    from those before it, and the end of the answer is among them.

    Args:
        columns: the training rows before packing, as lists. end: the token that ends a turn.
    Returns:
        What run.json says of it: by how much the trainer's loss differs, relative to the loss.
    Raises:
        InputError: the labels, or the loss, are others.
    """
    rows = _shortest_rows(trainer, columns)
    inputs = trainer._prepare_inputs(trainer.data_collator(rows))
    ids, labels = inputs["input_ids"], inputs["labels"]  # (rows, seq) or (1, seq), not shifted
    supervised = labels != -100
    wrong = int((labels[supervised] != ids[supervised]).sum())
    if wrong or not supervised.any():
        raise InputError(
            f"{wrong} of {int(supervised.sum())} labels are not the token at their place: the loss would be that of "
            "other tokens (guarantee 2); nothing was trained"
        )
    if end not in labels[supervised]:
        raise InputError("no label is the token that ends a turn: the model would not learn to stop (guarantee 2)")
    model, was_training = trainer.model, trainer.model.training
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        batch = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**batch, use_cache=False).logits[:, :-1].float()
        expected = torch.nn.functional.cross_entropy(logits[supervised[:, 1:]], labels[:, 1:][supervised[:, 1:]])
        loss = trainer.compute_loss(model, dict(inputs)).float()
    trainer._metrics["eval"].clear()
    model.train(was_training)
    difference = ((loss - expected).abs() / expected.clamp_min(1e-6)).item()
    if math.isfinite(expected.item()) and not difference <= (1e-3 if model.dtype == torch.float32 else 5e-2):
        raise InputError(
            f"the trainer's loss is {loss.item():.4g} where that of the supervised tokens is {expected.item():.4g} "
            "(guarantee 2); nothing was trained"
        )
    print(f"loss mask: {int(supervised.sum())} labels checked, relative loss difference {difference:.1e}")
    return {"loss_mask": difference}


def accumulation_parity(trainer, columns: dict) -> dict:
    """Guarantee 8: rows give the same gradient in one batch as cut into micro-batches, the last of them partial.

    Runs the trainer's own step, forward and backward, on its three shortest rows: all at once, and as two and one.

    Args:
        columns: the training rows before packing, as lists.
    Returns:
        What run.json says of it: the norm of the gradients' difference, relative to the gradient's.
    Raises:
        InputError: the gradients differ.
    """
    if not BATCH_LOSSES.isdisjoint(getattr(trainer, "loss_types", ())):
        print(f"accumulation parity: not checked, as the loss {' + '.join(trainer.loss_types)} depends on the batch")
        return {}
    rows = _shortest_rows(trainer, columns)
    whole, cut = _gradient(trainer, [rows]), _gradient(trainer, [rows[:2], rows[2:]] if len(rows) > 2 else [rows])
    if not whole.isfinite().all():
        return {}  # the first step will say so
    difference = ((whole - cut).norm() / whole.norm().clamp_min(1e-12)).item()
    float32 = all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    if not difference <= ACCUMULATION_TOLERANCES[0 if float32 else 1]:
        raise InputError(
            f"gradient accumulation changes the gradient: three rows in one batch and as two and one differ by "
            f"{difference:.1%}; training would depend on how --batch_size and --gradient_accum_steps cut the rows"
        )
    print(f"accumulation parity: relative gradient difference {difference:.1e}")
    return {"accumulation_parity": difference}


def _shortest_rows(trainer, columns: dict) -> list[dict]:
    """The three shortest rows, as the trainer's collator takes them."""
    lengths = [len(ids) for ids in next(iter(columns.values()))]
    shortest = sorted(range(len(lengths)), key=lengths.__getitem__)[:3]
    if "seq_lengths" in trainer.train_dataset.column_names:  # packed
        return [{name: column[i] for name, column in columns.items()} | {"seq_lengths": [lengths[i]]} for i in shortest]
    return [trainer.train_dataset[i] for i in shortest]


def _gradient(trainer, batches: list[list[dict]]) -> torch.Tensor:
    """The gradient of one optimizer step over `batches`, as the trainer computes it: (trainable weights,), float32."""
    model, scaler = trainer.model, trainer.accelerator.scaler
    dropouts = {module: module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    was_training = model.training
    trainer.accelerator.scaler = None  # of float16: it may overflow at its first scale
    for module in dropouts:
        module.p = 0.0
    model.zero_grad()
    samples = iter([trainer.data_collator(rows) for rows in batches])
    samples, num_items = trainer.get_batch_samples(samples, len(batches), model.device)
    trainer.current_gradient_accumulation_steps = len(samples)  # as transformers' training loop sets it
    for batch in samples:
        trainer.training_step(model, batch, num_items)
    gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    for module, p in dropouts.items():
        module.p = p
    trainer.accelerator.scaler = scaler
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    model.train(was_training)
    return gradient


def packing_isolation_or_padding(args, trainer, columns: dict) -> dict:
    """Check guarantee 6 where rows share a sequence; returns what run.json says of it. Where padding-free batches are
    only the default, a model whose attention mixes the rows is trained on padded batches instead."""
    if not (trainer.args.padding_free or args.packing):
        return {}
    shortest = sorted(range(len(columns["input_ids"])), key=lambda i: len(columns["input_ids"][i]))[:3]
    rows = [{name: column[i] for name, column in columns.items()} for i in shortest]
    try:
        difference = packing_isolation(trainer, rows, packed=args.packing)
    except InputError:
        if args.packing or args.padding_free:
            raise
        trainer.args.padding_free = trainer.data_collator.padding_free = False
        print("batches: padded, because this model's attention ignores position_ids")
        return {}
    print(f"packing isolation: max relative logit difference {difference:.1e}")
    return {"packing_isolation": difference}


def packing_isolation(trainer, rows: list[dict], *, packed: bool) -> float:
    """Guarantee 6: a row's logits are the same flattened beside others, as the trainer's collator does it, as alone.

    Args:
        rows: a few training rows, each {"input_ids", "labels"}.
        packed: the trainer's rows are packed ones, that carry `seq_lengths`.
    Returns:
        The largest logit difference, relative to the largest logit.
    Raises:
        InputError: rows see each other; training flattened would mix them.
    """
    model = trainer.model
    lengths = [len(row["input_ids"]) for row in rows]
    if packed:
        joined = {name: sum((row[name] for row in rows), []) for name in ("input_ids", "labels")}
        inputs = trainer.data_collator([{**joined, "seq_lengths": lengths}])
    else:
        inputs = trainer.data_collator(rows)
    inputs.pop("labels")
    batch = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    was_training = model.training
    model.eval()
    largest, scale = 0.0, 1e-6
    with torch.no_grad():
        # No attention mask and no cache: with either, position_ids no longer keep the rows separate.
        together = model(**batch, use_cache=False).logits[0].float()  # (sum of lengths, vocabulary)
        for row, flattened in zip(rows, together[: sum(lengths)].split(lengths), strict=True):
            ids = torch.tensor([row["input_ids"]], device=model.device)
            alone = model(input_ids=ids, use_cache=False).logits[0].float()
            largest = max(largest, (flattened - alone).abs().max().item())
            scale = max(scale, alone.abs().max().item())
    model.train(was_training)
    difference = largest / scale
    if not difference <= ISOLATION_TOLERANCE.get(model.dtype, 6e-2):
        raise InputError(
            f"rows that share a sequence see each other (logits differ by {difference:.1%}): this model's attention "
            "ignores position_ids; train with --no-padding_free --no-packing"
        )
    return difference


def dpo_reference(trainer) -> float:
    """Guarantee 4: at step 0 the policy and what TRL uses as its reference give the same log-probabilities.

    The policy was just loaded from the SFT folder, so agreement means that the reference is that SFT model. References
    that were computed before training are compared with what TRL computes for the same batches now.

    Returns:
        The largest difference of a pair's side in the first batch, in nats per completion token.
    Raises:
        InputError: they differ by more than 1e-3; or stored references are another model's.
    """
    from trl.trainer.utils import selective_log_softmax

    stored = _stored_differences(trainer)  # first of all: in the mode that TRL left the model in
    _, batch = next(_batches(trainer))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    mask = batch["completion_mask"][:, 1:]  # (2 * pairs, seq - 1)
    was_training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        logits = trainer.model(**inputs, use_cache=False).logits[:, :-1]
        # TRL's own function, so that the two sides are rounded the same way
        policy = selective_log_softmax(logits, batch["input_ids"][:, 1:], row_mask=mask).sum(1)  # (2 * pairs,)
        reference = torch.cat(trainer.compute_ref_log_probs(trainer.model, batch))
    trainer.model.train(was_training)
    difference = ((policy.float() - reference.float()).abs() / mask.sum(1)).max().item()
    _refuse_reference(difference, REFERENCE_TOLERANCE)
    if stored is not None:
        dtype = torch.bfloat16 if trainer.args.bf16 else torch.float16 if trainer.args.fp16 else torch.float32
        _refuse_reference(*stored_difference(*stored, dtype))
    return difference


def stored_difference(sums: torch.Tensor, lengths: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """How far stored reference log-probabilities are from those of now, and how far rounding alone may put them.

    In float32 this is the largest difference per token. In 16 bits each token adds its own rounding, so the difference
    of a sum over n tokens grows like sqrt(n) and the one of another model like n: taken together, sum(d²) / sum(n) is
    the square of one token's noise, times chi-squared over its degrees of freedom. The bound is the quantile that one
    sound run in 10,000 exceeds (Wilson and Hilferty's approximation, 1931).

    Args:
        sums: (answers,) stored minus computed sum of log-probabilities, nats.
        lengths: (answers,) completion tokens of each.
    Returns:
        (difference, at most), both in nats per token.
    """
    if dtype not in TOKEN_NOISE:
        return (sums.abs() / lengths).max().item(), REFERENCE_TOLERANCE
    spread = 2 / (9 * len(sums))
    quantile = (1 - spread + 3.72 * spread**0.5) ** 3
    return (sums.square().sum() / lengths.sum()).sqrt().item(), TOKEN_NOISE[dtype] * quantile**0.5


def _stored_differences(trainer) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(sums, lengths) for `stored_difference`, None where the trainer stores no references.

    TRL stored them in this mode (train for unsloth, which then ignores the padding mask), outside autocast, batch by
    batch in this order; computed again like that they are the same numbers, where another mode or another batch's
    padding gives others in 16 bits.
    """
    sums, lengths = [], []
    for tokens, batch in _batches(trainer):
        if "ref_chosen_logps" not in batch:
            return None
        with torch.no_grad():
            now = torch.cat(trainer.compute_ref_log_probs(trainer.model, batch)).float()
        sums.append(torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]).float() - now)
        lengths.append(batch["completion_mask"][:, 1:].sum(1))
        if tokens >= STORED_TOKENS:
            break
    return torch.cat(sums), torch.cat(lengths)


def _batches(trainer):
    """(completion tokens so far, batch on the model's device): the batches that TRL computes references for."""
    size = trainer.args.precompute_ref_batch_size or trainer.args.per_device_train_batch_size
    dataset, tokens = trainer.train_dataset, 0
    for start in range(0, len(dataset), size):
        rows = [dataset[i] for i in range(start, min(start + size, len(dataset)))]
        batch = {name: value.to(trainer.model.device) for name, value in trainer.data_collator(rows).items()}
        tokens += int(batch["completion_mask"].sum())
        yield tokens, batch


def _refuse_reference(difference: float, tolerance: float) -> None:
    if not math.isfinite(difference):
        raise CheckFailed(
            "log-probabilities are not finite at step 0: the model has weights that are not finite, or overflows in "
            "its dtype; check the model, or try --dtype bfloat16 or float32. Nothing was trained"
        )
    if not difference <= tolerance:
        raise InputError(
            f"the DPO reference is not the model that training starts from: log-probabilities differ by "
            f"{difference:.2g} nats per token at step 0 (at most {tolerance:.2g}); nothing was trained"
        )
