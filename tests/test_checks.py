"""Guarantee 4 for references that were computed before training: a sound run is not refused, another model is."""

import contextlib
import types

import pytest
import torch

from sllm.cli import CheckFailed
from sllm.train import checks

pytestmark = pytest.mark.torch

ONE = float(-torch.log(torch.tensor(8.0)))  # a token's log-probability among eight equal ones


class Model(torch.nn.Module):
    device = torch.device("cpu")

    def forward(self, input_ids, **kwargs):
        return types.SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8))


def trainer(stored: list[float] | None, *, bf16: bool, length: int = 2, training_differs: float = 0.0, pairs: int = 1):
    """A trainer of `pairs` equal pairs of `length` tokens a side; `stored`: what each token's reference is off by.

    Args:
        training_differs: what a token's log-probability differs by in train mode, as unsloth's does without the mask.
    """
    model = Model()

    def collate(rows: list[dict]) -> dict:
        shape = (2 * len(rows), length + 2)
        mask = torch.ones(shape, dtype=torch.long)
        mask[:, :2] = 0
        batch = {
            "input_ids": torch.zeros(shape, dtype=torch.long),
            "attention_mask": torch.ones(shape),
            "completion_mask": mask,
        }
        if stored is not None:
            off = torch.tensor([stored[row["at"]] for row in rows])
            batch["ref_chosen_logps"] = batch["ref_rejected_logps"] = length * (ONE + training_differs + off)
        return batch

    def compute_ref_log_probs(model, batch):
        one = ONE + training_differs * model.training
        return torch.full((len(batch["input_ids"]),), length * one).chunk(2)

    return types.SimpleNamespace(
        args=types.SimpleNamespace(
            precompute_ref_batch_size=None, per_device_train_batch_size=2, bf16=bf16, fp16=False
        ),
        train_dataset=[{"at": at} for at in range(pairs)], data_collator=collate, model=model,
        accelerator=types.SimpleNamespace(autocast=contextlib.nullcontext), compute_ref_log_probs=compute_ref_log_probs,
    )  # fmt: skip


@pytest.mark.parametrize("bf16", [False, True])
def test_references_are_compared_in_the_mode_they_were_computed_in(bf16):
    """unsloth computes them in train mode, without the padding mask; the check of the policy is in eval mode."""
    made = trainer([0.0] * 4, bf16=bf16, training_differs=0.3, pairs=4)
    made.model.train()
    assert checks.dpo_reference(made) < 1e-5
    assert made.model.training


@pytest.mark.parametrize(("bf16", "off"), [(False, 0.002), (True, 0.3)])
def test_stored_references_of_another_model_are_refused(bf16, off):
    with pytest.raises(CheckFailed, match="not the model that training starts from: .* nats per token"):
        checks.dpo_reference(trainer([off], bf16=bf16))
    assert checks.dpo_reference(trainer([off / 10], bf16=bf16)) < 1e-5
    assert checks.dpo_reference(trainer(None, bf16=bf16)) < 1e-5


def test_more_than_the_first_batch_is_read():
    """One short pair says little in 16 bits; 64 of them say enough, whichever of them are wrong."""
    wrong = [0.0] * 2 + [0.05] * 126
    with pytest.raises(CheckFailed, match="nats per token"):
        checks.dpo_reference(trainer([x * 3 for x in wrong], bf16=True, length=4, pairs=128))


def roundings(dtype: torch.dtype, tokens: int, answers: int, draws: int, seed: int) -> torch.Tensor:
    """Differences of `answers` sums over `tokens` log-probabilities between two computations, (draws, answers).

    The logits are rounded to `dtype` after hidden states that differ by a quarter of a rounding step; the
    log-sum-exp over a vocabulary moves with its largest logit, half as much.
    """
    generator = torch.Generator().manual_seed(seed)
    step = torch.finfo(dtype).eps * 16  # between 16 and 32
    total = torch.zeros(draws, answers)
    for _ in range(tokens):
        exact = 16 + 16 * torch.rand(2, draws, answers, generator=generator)  # the chosen logit and the largest one
        first, second = (
            (exact + step / 4 * torch.randn(exact.shape, generator=generator)).to(dtype).float() for _ in range(2)
        )
        total += (first - second)[0] - (first - second)[1] / 2
    return total


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [4, 8, 16, 64])
def test_rounding_alone_is_not_refused_and_another_model_is(dtype, tokens):
    """0.05 nats a token is what a short SFT moves its answers by."""
    answers, draws = checks.STORED_TOKENS // tokens, 4000
    noise = roundings(dtype, tokens, answers, draws, seed=tokens)
    lengths = torch.full((answers,), tokens)

    def refused(sums: torch.Tensor) -> float:
        found = [checks.stored_difference(draw, lengths, dtype) for draw in sums]
        return sum(difference > bound for difference, bound in found) / draws

    assert refused(noise) <= 1e-3
    assert refused(noise[:, :2]) <= 1e-3  # a data set of one pair
    assert refused(noise + 0.05 * tokens) >= 0.999


def test_a_training_that_made_the_model_worse_is_refused_and_one_that_did_nothing_is_told(capsys):
    checks.require_learning(2.0, 1.5)
    assert not capsys.readouterr().out
    checks.require_learning(2.0, 2.49)
    checks.require_learning(0.01, 0.1)  # noise, where the rows are known by heart
    checks.require_learning(2.0, 1.995)
    assert "2.000 → 1.995: is --learning_rate too low" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="2.000 → 2.510; try a lower --learning_rate"):
        checks.require_learning(2.0, 2.51)


def test_a_model_that_would_not_stop_is_noted(capsys):
    class Constant(torch.nn.Module):
        """Whose next token is always 5."""

        device = torch.device("cpu")

        def forward(self, input_ids, **kwargs):
            assert int(input_ids[0, -1]) == 7  # what stands in front of the end
            logits = torch.zeros(*input_ids.shape, 8)
            logits[..., 5] = 1
            return types.SimpleNamespace(logits=logits)

    made = types.SimpleNamespace(model=Constant(), accelerator=types.SimpleNamespace(autocast=contextlib.nullcontext))
    columns = {"input_ids": [[1, 2, 7, 5, 3], [1, 7, 6]], "labels": [[-100, -100, 7, 5, -100], [-100, 7, 6]]}
    assert checks.stopping(made, columns, 5) == {"stopping": 1.0}
    assert "note" not in capsys.readouterr().out
    assert checks.stopping(made, columns, 6) == {"stopping": 0.0}
    assert "the model has not learned to stop: it would end 0 of 1 training answers" in capsys.readouterr().out
    assert checks.stopping(made, columns, 4) == {}
