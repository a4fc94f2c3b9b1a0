"""The guarantees of training that only a loaded model can show, each checked before the first step."""

import torch

from sllm.cli import InputError

REFERENCE_TOLERANCE = 1e-3  # nats per token
STORED_TOLERANCE = 2e-2  # of references computed beforehand, in 16 bits: another batch, another attention kernel
# Largest logit difference that arithmetic alone may cause, relative to the largest logit, for each dtype.
ISOLATION_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}


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
    shared = [{
        "input_ids": sum((row["input_ids"] for row in rows), []),
        "labels": sum((row["labels"] for row in rows), []),
        "seq_lengths": [len(row["input_ids"]) for row in rows],
    }]  # fmt: skip
    inputs = trainer.data_collator(shared if packed else rows)
    inputs.pop("labels")
    batch = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    was_training = model.training
    model.eval()
    worst, scale, start = 0.0, 1e-6, 0
    with torch.no_grad():
        # No attention mask and no cache: with either, position_ids no longer keep the rows apart.
        together = model(**batch, use_cache=False).logits[0].float()  # (sum of lengths, vocabulary)
        for row in rows:
            ids = torch.tensor([row["input_ids"]], device=model.device)
            alone = model(input_ids=ids, use_cache=False).logits[0].float()
            worst = max(worst, (together[start : start + ids.shape[1]] - alone).abs().max().item())
            scale = max(scale, alone.abs().max().item())
            start += ids.shape[1]
    model.train(was_training)
    difference = worst / scale
    if not difference <= ISOLATION_TOLERANCE.get(model.dtype, 6e-2):
        raise InputError(
            f"rows that share a sequence see each other (logits differ by {difference:.1%}): this model's attention "
            "ignores position_ids; train with --no-padding_free --no-packing"
        )
    return difference


def dpo_reference(trainer) -> float:
    """Guarantee 4: at step 0 the policy and what TRL uses as its reference give the same log-probabilities.

    The policy was just loaded from the SFT folder, so agreement means that the reference is that SFT model.

    Returns:
        The largest difference on the first pairs, in nats per completion token.
    Raises:
        InputError: they differ by more than 1e-3; or scores that were computed beforehand are another model's.
    """
    # A whole batch, padded as references that were computed beforehand were: bf16 rounds by what stands beside.
    size = trainer.args.precompute_ref_batch_size or trainer.args.per_device_train_batch_size
    rows = [trainer.train_dataset[i] for i in range(min(size, len(trainer.train_dataset)))]
    batch = trainer.data_collator(rows)
    batch = {name: value.to(trainer.model.device) for name, value in batch.items()}
    mask = batch["completion_mask"][:, 1:].float()  # (2 * pairs, seq - 1)
    was_training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        logits = trainer.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits[:, :-1]
        chosen = batch["input_ids"][:, 1:, None]
        # a row at a time: in float32 all of them together may be larger than the model
        logps = [
            torch.log_softmax(row.float(), -1).gather(-1, ids)[:, 0] for row, ids in zip(logits, chosen, strict=True)
        ]
        policy = (torch.stack(logps) * mask).sum(1)  # (2 * pairs,)
        reference = torch.cat(trainer.compute_ref_log_probs(trainer.model, batch)).float()
    trainer.model.train(was_training)

    def apart(scores: torch.Tensor) -> float:
        return ((scores - reference).abs() / mask.sum(1)).max().item()

    sixteen_bits = trainer.args.bf16 or trainer.args.fp16
    difference, tolerance = apart(policy), REFERENCE_TOLERANCE
    if difference <= tolerance and "ref_chosen_logps" in batch:
        stored = apart(torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]).float())
        tolerance = STORED_TOLERANCE if sixteen_bits else tolerance
        difference = max(difference, stored)
    if not difference <= tolerance:
        raise InputError(
            f"the DPO reference is not the model that training starts from: log-probabilities differ by "
            f"{difference:.2g} nats per token at step 0 (at most {tolerance}); nothing was trained"
        )
    return difference
