"""What only a loaded model can show of a training: its guarantees, each checked before the first step, whether it
learned, and what it lost."""

import math

import torch

from sllm import checkpoint, retention
from sllm.cli import CheckFailed

REFERENCE_TOLERANCE = 1e-3  # nats per token
# Noise of one token's log-probability (standard deviation, nats) between two computations in 16 bits: a logit between
# 16 and 32 is rounded to steps of 1/8 in bfloat16 and of 1/64 in float16, twice, after sums in another order.
TOKEN_NOISE = {torch.bfloat16: 0.08, torch.float16: 0.01}
STORED_TOKENS = 512  # completion tokens that the check of stored references reads, where there are as many
# Largest logit difference that arithmetic alone may cause, relative to the largest logit, for each dtype.
ISOLATION_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}


def packing_isolation_or_padding(args, trainer, columns: dict) -> dict:
    """Check guarantee 6 where rows share a sequence; returns what run.json says of it. Where padding-free batches are
    only the default, a model whose attention mixes the rows is trained on padded batches instead."""
    if not (trainer.args.padding_free or args.packing):
        return {}
    shortest = sorted(range(len(columns["input_ids"])), key=lambda i: len(columns["input_ids"][i]))[:3]
    rows = [{name: columns[name][i] for name in ("input_ids", "labels")} for i in shortest]
    try:
        difference = packing_isolation(trainer, rows, packed=args.packing)
    except CheckFailed:
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
        CheckFailed: rows see each other; training flattened would mix them.
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
        raise CheckFailed(
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
        CheckFailed: they differ by more than 1e-3; or stored references are another model's.
    """
    from trl.trainer.utils import selective_log_softmax

    stored = _stored_differences(trainer)  # first of all: in the mode that TRL left the model in
    _, batch = next(_batches(trainer))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    mask = batch["completion_mask"][:, 1:]  # (2 * pairs, seq - 1)
    was_training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        # TRL's own functions, so that the two sides are rounded the same way
        if getattr(trainer, "use_liger_kernel", False):
            policy, *_ = trainer._get_per_token_logps_and_entropies(
                trainer.model, {**inputs, "use_cache": False}, batch["input_ids"], batch["completion_mask"]
            )
        else:
            logits = trainer.model(**inputs, use_cache=False).logits[:, :-1]
            policy = selective_log_softmax(logits, batch["input_ids"][:, 1:], row_mask=mask)
        policy = policy.sum(1)  # (2 * pairs,)
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
        raise CheckFailed(
            f"the DPO reference is not the model that training starts from: log-probabilities differ by "
            f"{difference:.2g} nats per token at step 0 (at most {tolerance:.2g}); nothing was trained"
        )


def stopping(trainer, columns: dict, end: int, count: int = 16) -> dict:
    """Has the model learned to stop? A note where it has not: a base may never have trained the token that ends its
    template's turns, and its output weights are then those of other unused tokens.

    Args:
        columns: training rows before packing, as lists: the shortest ones. end: the token that ends a turn.
        count: rows that are read.
    Returns:
        What run.json says of it: the share of the rows' answers after which `end` is the most likely token.
    """
    prefixes = []
    for ids, labels in sorted(zip(columns["input_ids"], columns["labels"], strict=True), key=lambda row: len(row[0])):
        if end in labels[1:] and len(prefixes) < count:
            prefixes.append(ids[: len(labels) - 1 - labels[::-1].index(end)])
    if not prefixes:
        return {}
    model, stopped = trainer.model, 0
    was_training = model.training
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        for ids in prefixes:
            logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
            stopped += int(logits[0, -1].argmax()) == end
    model.train(was_training)
    counted = f"{stopped} of {len(prefixes)} training answers"
    print(f"stopping: the model would end {counted} where they end")
    if stopped < len(prefixes) / 2:
        print(
            f"note: the model has not learned to stop: it would end {counted}. Train longer; or, where the base never "
            "learned the token that ends a turn, with a template whose turns end with EOS, as --chat_template chatml"
        )
    return {"stopping": stopped / len(prefixes)}


def require_learning(before: float, after: float) -> None:
    """Compare the loss on the training rows before and after; a note where it hardly changed.

    Raises:
        CheckFailed: it rose by more than a quarter, and by more than the noise of an adapter that fits its rows.
    """
    change = f"{before:.3f} → {after:.3f}"
    if after > max(1.25 * before, before + 0.1):
        raise CheckFailed(
            f"training made the model worse: the loss on the training rows rose, {change}; try a lower "
            "--learning_rate. The adapter was not saved; checkpoints are left"
        )
    if after > 0.99 * before:
        print(f"note: training changed little, loss {change}: is --learning_rate too low, or the run too short?")


def general_korean(trainer, model_id: str) -> dict:
    """Say how well the tuned model predicts general Korean, against its base: see `sllm.retention`.

    Args:
        model_id: what the run started from; what its run.json says of the same texts is told, too.
    Returns:
        What run.json says of it.
    """
    with trainer.accelerator.autocast():
        texts = retention.probe(retention.SMALL)
        summary = retention.measure(trainer.model, trainer.processing_class, texts).summary
    before = ((checkpoint.read_run(model_id) or {}).get("metrics") or {}).get("retention") or {}
    comparable = before.get("texts_hash") == summary["texts_hash"]
    print(retention.sentence(summary, before["bits_per_character"] if comparable else None))
    return {"retention": summary}
