"""What training must notice by itself: divergence, damaged checkpoints, an evaluation that depends on the batch,
weights too coarse to move; and what a finished run can still be asked for."""

import itertools
import json
import re
import shutil
from argparse import Namespace

import pytest
from conftest import DPO, SFT, assert_refused, in_process

from sllm import checkpoint
from sllm.cli import CheckFailed, InputError
from sllm.train import arguments, checkpoints, metrics, resume

pytestmark = pytest.mark.torch


def copied(folder, copy, **change):
    """A copy of a model folder with one weight changed by `change`: {tensor name: function}."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("run.json"))
    weights = load_file(copy / "model.safetensors")
    for name, function in change.items():
        function(weights[name])
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


def losses(folder) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in metrics.read_metrics(folder) if "loss" in row}


# ── divergence ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("clip", ["1", "0"])
def test_training_that_diverges_stops_before_the_step_and_keeps_the_last_checkpoint(
    tiny_base, few_rows, tmp_path, monkeypatch, clip
):
    """A gradient that is not finite, here in the third step, as a learning rate far too high makes one in the end."""
    from trl import SFTTrainer

    compute, calls = SFTTrainer.compute_loss, []

    def spoilt(self, model, inputs, *args, **kwargs):
        loss = compute(self, model, inputs, *args, **kwargs)
        calls.append(model.training)
        return loss * float("nan") if sum(calls) == 3 + 5 else loss  # three are of the check before the first step

    monkeypatch.setattr(SFTTrainer, "compute_loss", spoilt)
    out = tmp_path / "sft"
    flags = ["--trainset_path", few_rows, "--model_id", tiny_base, "--save_steps", "2", "--max_steps", "6"]
    accumulate = ["--batch_size", "1", "--no-padding_free", "--max_grad_norm", clip]  # two forward passes a step
    with pytest.raises(CheckFailed, match=r"diverged in step 3: .*checkpoint-2 is the last.*--learning_rate"):
        in_process(SFT, *flags, *accumulate, "--output_dir", out)
    assert not (out / "run.json").exists()
    assert not (out / "adapter_model.safetensors").exists()
    last, passed_over = checkpoints.latest_checkpoint(out)
    assert last.name == "checkpoint-2"
    assert not passed_over
    from safetensors.torch import load_file

    assert all(tensor.isfinite().all() for tensor in load_file(last / "adapter_model.safetensors").values())


def test_a_learning_rate_far_too_high_exits_1_with_one_line(script, tiny_base, few_rows, tmp_path):
    done = script(
        *SFT, "--learning_rate", "1e30", "--warmup_ratio", "0", "--trainset_path", few_rows, "--model_id", tiny_base,
        "--output_dir", tmp_path / "x",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "training diverged in step" in said
    assert "--learning_rate (it was 1e+30)" in said
    assert " grad " in done.stdout
    assert not (tmp_path / "x" / "run.json").exists()
    for line in (tmp_path / "x" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_base_with_one_broken_weight_is_refused_before_the_first_step(
    tiny_base, few_rows, few_pairs, tmp_path, stage
):
    def spoil(weight):
        weight[0, 0] = float("nan")

    base = copied(tiny_base, tmp_path / "base", **{"model.layers.1.mlp.up_proj.weight": spoil})
    command, rows = (SFT, few_rows) if stage == "sft" else (DPO, few_pairs)
    with pytest.raises(InputError, match="contains NaN or infinity"):
        in_process(command, "--trainset_path", rows, "--model_id", base, "--output_dir", tmp_path / "x")
    assert not (tmp_path / "x" / "run.json").exists()


# ── guarantee 8: accumulation parity ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", ["sft", "sft padded", "dpo"])
def test_a_step_is_the_same_however_its_rows_are_cut(
    stage, tiny_base, sft_folder, few_rows, few_pairs, tmp_path, monkeypatch
):
    """Seven rows, so that the last window is partial, and its last micro-batch too."""
    from safetensors.torch import load_file

    source, start = (few_pairs, sft_folder) if stage == "dpo" else (few_rows, tiny_base)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:7]), encoding="utf-8")
    flags = ["--trainset_path", rows, "--model_id", start, "--train_epochs", "1", "--optim", "sgd"]
    flags += ["--lr_scheduler_type", "constant", "--warmup_ratio", "0", "--learning_rate", "1"]
    flags += ["--max_grad_norm", "0", "--weight_decay", "0"]
    as_given = lambda args, *_: (args.batch_size, args.gradient_accum_steps)  # noqa: E731
    monkeypatch.setattr(arguments, "micro_batches", as_given)  # a CPU would make one of each step's
    adapters = {}
    for size, accumulation in ((4, 1), (2, 2), (1, 4)):
        out = tmp_path / f"{size}x{accumulation}"
        result = in_process(
            DPO if stage == "dpo" else SFT, *flags, *(["--no-padding_free"] if stage == "sft padded" else []),
            "--batch_size", size, "--gradient_accum_steps", accumulation, "--output_dir", out,
        )  # fmt: skip
        assert result["accumulation_parity"] < 1e-4
        adapters[out.name] = load_file(out / "adapter_model.safetensors")
    for name, weight in adapters["4x1"].items():
        for other in ("2x2", "1x4"):
            difference = (adapters[other][name] - weight).norm() / weight.norm()
            assert difference < 1e-3, (name, other)


def test_bfloat16_trains_without_a_gpu(tiny_base, few_rows, tmp_path):
    result = in_process(
        SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "2", "--dtype", "bfloat16",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert 1e-6 < result["accumulation_parity"] < 0.05  # of rounding


@pytest.mark.parametrize("change", ["no token count", "attention dropout"])
def test_what_some_models_do_leaves_the_gradient_the_same(change, tiny_base, few_rows, tmp_path, monkeypatch):
    """Gemma 4 says that its loss takes no token count; Llama may drop attention weights in training."""
    from transformers import LlamaForCausalLM

    base = shutil.copytree(tiny_base, tmp_path / "base")
    if change == "no token count":
        monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    else:
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
        (base / "run.json").unlink()
    result = in_process(
        SFT, "--trainset_path", few_rows, "--model_id", base, "--max_steps", "1", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert result["accumulation_parity"] < 1e-4


def test_accumulation_that_changes_the_gradient_is_refused(tiny_base, few_rows, tmp_path, monkeypatch):
    """Each micro-batch normalised by its own tokens, as trainers did for years."""
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "_get_num_items_in_batch", lambda *args: None)
    with pytest.raises(CheckFailed, match="gradient accumulation changes the gradient: .*differ by"):
        in_process(
            SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "1", "--output_dir",
            tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out" / "run.json").exists()


# ── guarantee 2, on what the model is given ────────────────────────────────────────────────────────────────


def shift(labels: list[int]) -> list[int]:
    return [*labels[1:], -100]


def without_end(labels: list[int]) -> list[int]:
    return [*labels[:-1], -100]


@pytest.mark.parametrize(
    ("change", "said"),
    [(shift, "labels differ from the input token"), (without_end, "would not learn to stop")],
    ids=["shifted by one", "without the end of turn"],
)
def test_labels_that_are_not_the_answer_are_refused(change, said, tiny_base, few_rows, tmp_path, monkeypatch):
    from sllm.data import labels

    labels_of = labels.labels_of
    monkeypatch.setattr(labels, "labels_of", lambda ids, runs: change(labels_of(ids, runs)))
    with pytest.raises(CheckFailed, match=said):
        in_process(SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("flags", [[], ["--packing"], ["--no-padding_free"]], ids=["flattened", "packed", "padded"])
def test_a_loss_of_other_tokens_is_refused(flags, tiny_base, few_rows, tmp_path, monkeypatch):
    """As by a loss that shifts labels which are shifted already."""
    from sllm.train.trainers import SFTTrainer

    compute_loss = SFTTrainer.compute_loss

    def shifted(self, model, inputs, *args, **kwargs):
        return compute_loss(self, model, inputs | {"labels": inputs["labels"].roll(-1, 1)}, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", shifted)
    with pytest.raises(CheckFailed, match="the trainer's loss is .* where the cross-entropy of the supervised tokens"):
        in_process(SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "o", *flags)


def test_training_that_changes_nothing_is_refused(tiny_base, few_rows, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(CheckFailed, match="3 steps changed no weight of the adapter"):
        in_process(
            SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "3", "--warmup_ratio", "0",
            "--output_dir", tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out" / "run.json").exists()


def test_pairs_that_look_swapped_are_noted(sft_folder, few_pairs, tmp_path, capsys):
    flags = ["--model_id", sft_folder, "--output_dir", tmp_path / "dpo", "--dry_run", "--trainset_path"]
    in_process(DPO, *flags, few_pairs)
    assert "swapped" not in capsys.readouterr().out
    pairs = [json.loads(line) for line in few_pairs.read_text(encoding="utf-8").splitlines()]
    pairs = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    in_process(DPO, *flags, tmp_path / "pairs.jsonl")
    assert re.search(
        r"note: in \d+ of \d+ pairs, such as .*:\d+ \(.*\), the chosen answer breaks", capsys.readouterr().out
    )


# ── evaluation ─────────────────────────────────────────────────────────────────────────────────────────────


def test_eval_loss_is_per_supervised_token_whatever_the_batch(tiny_base, few_rows, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from sllm import chat
    from sllm.data import formats, hold_out, tokenize

    found = {}
    for size, flags in ((1, []), (3, []), (3, ["--no-padding_free"]), (5, ["--packing"])):
        out = tmp_path / f"{size}{len(flags)}{flags}"
        in_process(
            SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--val_set_size", "7", "--max_steps", "1",
            "--learning_rate", "1e-12", "--batch_size", size, "--output_dir", out, *flags,
        )  # fmt: skip
        found[out.name] = [row["eval_loss"] for row in metrics.read_metrics(out) if "eval_loss" in row][-1]

    tokenizer = chat.load_tokenizer(str(tiny_base))
    chat.set_chat_template(tokenizer)
    rows = formats.load_rows(str(few_rows), "sft")
    held_out = list(itertools.compress(rows, hold_out.held_out(hold_out.keys_of(rows), 7, 42)))
    columns, stats = tokenize.sft_columns(tokenizer, held_out, 2048)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    total = 0.0
    with torch.no_grad():
        for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum").item()
    for name, loss in found.items():
        assert loss == pytest.approx(total / stats["supervised_tokens"], abs=1e-4), name


# ── the adapter's own precision ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", [SFT, DPO], ids=["sft", "dpo"])
def test_the_adapter_of_a_quantised_model_stays_in_float32_and_moves(
    command, sft_folder, tiny_base, few_rows, few_pairs, tmp_path, dtypes_of_quantised_training
):
    """TRL casts it to bfloat16, where a step of 5e-7 rounds to nothing. The model says that it is quantised; its
    weights need not be."""
    import torch
    from safetensors.torch import load_file

    kinds = dtypes_of_quantised_training
    rows = few_rows if command is SFT else few_pairs
    in_process(
        command, "--trainset_path", rows, "--model_id", sft_folder, "--learning_rate", "5e-7", "--max_steps", "3",
        "--warmup_ratio", "0", "--output_dir", tmp_path / "x",
    )  # fmt: skip
    assert kinds == [torch.float32]
    before, after = (
        load_file(sft_folder / "adapter_model.safetensors"),
        load_file(tmp_path / "x/adapter_model.safetensors"),
    )
    moved = sum((before[name] != after[name]).sum().item() for name in before)
    assert moved > 0.95 * sum(tensor.numel() for tensor in before.values())


# ── checkpoints ────────────────────────────────────────────────────────────────────────────────────────────

RUN = ["--val_set_size", "3", "--save_steps", "2", "--save_total_limit", "3"]


@pytest.fixture(scope="module")
def finished(tiny_base, few_rows, tmp_path_factory):
    """A finished run of 6 steps with three checkpoints."""
    out = tmp_path_factory.mktemp("finished") / "sft"
    flags = [*RUN, "--trainset_path", few_rows, "--model_id", tiny_base]
    in_process(SFT, *flags, "--max_steps", "6", "--output_dir", out)
    return out, flags


def damage(path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # one bit of the last byte
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("optimizer.pt", "missing"), ("optimizer.pt", "cut"), ("scheduler.pt", "missing"), ("rng_state.pth", "missing"),
        ("adapter_model.safetensors", "flipped"), ("trainer_state.json", "cut"), ("complete", "missing"),
        ("complete", "empty"), ("complete", "cut"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_what_was_written_is_passed_over(finished, tmp_path, name, how):
    folder = tmp_path / "sft"
    shutil.copytree(finished[0], folder)
    damage(folder / "checkpoint-6" / name, how)
    last, passed_over = checkpoints.latest_checkpoint(folder)
    assert last.name == "checkpoint-4"
    assert [path.name for path in passed_over] == ["checkpoint-6"]
    assert all(passed_over.values())


def test_a_finished_run_is_extended_from_its_last_sound_checkpoint(finished, tmp_path, capsys):
    """The optimizer of the newest checkpoint is gone: the one before it is taken, and that is said."""
    source, flags = finished
    folder = tmp_path / "sft"
    shutil.copytree(source, folder)
    before = losses(folder)
    for wrong in (["--max_steps", "6"], ["--max_steps", "4"]):
        with pytest.raises(InputError, match="is complete .*--max_steps trains it further"):
            in_process(SFT, *flags, *wrong, "--resume", "--output_dir", folder)
    with pytest.raises(InputError, match="--learning_rate was 0.003, now 0.1"):
        in_process(SFT, *flags, "--max_steps", "8", "--learning_rate", "0.1", "--resume", "--output_dir", folder)
    damage(folder / "checkpoint-6" / "optimizer.pt", "missing")
    result = in_process(SFT, *flags, "--max_steps", "8", "--resume", "--output_dir", folder)
    said = capsys.readouterr().out
    assert "checkpoint-6: optimizer.pt is missing" in said
    assert "checkpoint-4" in said
    assert result["steps"] == 8
    assert list(losses(folder)) == list(range(1, 9))
    assert all(losses(folder)[step] == before[step] for step in range(1, 5))
    assert checkpoint.read_run(folder)["arguments"]["max_steps"] == 8
    assert not (folder / checkpoint.UNFINISHED).exists()


def test_without_a_sound_checkpoint_the_reasons_are_listed(script, finished, tmp_path):
    source, flags = finished
    folder = tmp_path / "sft"
    shutil.copytree(source, folder)
    (folder / "run.json").unlink()
    (folder / checkpoint.UNFINISHED).write_text("")
    for path in folder.glob("checkpoint-*"):
        damage(path / "scheduler.pt", "missing")
    done = script(*SFT, *flags, "--max_steps", "6", "--resume", "--output_dir", folder)
    assert_refused(done, "no complete checkpoint", "checkpoint-6: scheduler.pt is missing", "--overwrite")


def test_quantised_runs_resume_with_the_flags_they_were_started_with(tiny_base, few_rows, tmp_path):
    """--load_in_4bit became --bits 4 after it was recorded, so that no such run could ever be resumed."""
    import train_LoRA_SFT

    words = ["--trainset_path", str(few_rows), "--model_id", str(tiny_base), "--output_dir", str(tmp_path / "x")]
    for flags in (["--load_in_4bit"], ["--bits", "4"], ["--no-load_in_4bit"], []):
        recorded = []
        for again in ([], ["--resume"]):
            args = train_LoRA_SFT.build_parser().parse_args([*words, *flags, *again])
            arguments.resolve(args)
            recorded.append(resume.Fingerprint.of(args).arguments)
        assert recorded[0] == recorded[1]
        assert recorded[0]["bits"] == (4 if flags in (["--load_in_4bit"], ["--bits", "4"]) else 16)
    args = train_LoRA_SFT.build_parser().parse_args([*words, "--load_in_4bit", "--bits", "8"])
    with pytest.raises(InputError, match="contradict"):
        arguments.resolve(args)


# ── settings ───────────────────────────────────────────────────────────────────────────────────────────────


def test_lora_flags_beside_an_adapter_are_not_ignored(sft_folder, few_rows, tmp_path):
    flags = ["--trainset_path", few_rows, "--model_id", sft_folder, "--output_dir", tmp_path / "x"]
    given = [flag for flag in SFT if "lora" not in flag and flag not in ("8", "16")]
    with pytest.raises(InputError) as error:
        in_process(given, *flags, "--lora_r", "4", "--lora_target_modules", "q_proj", "--dry_run")
    assert ["--lora_r 4" in p or "--lora_target_modules" in p for p in error.value.problems] == [True, True]
    assert all("cannot be changed" in problem for problem in error.value.problems)
    result = in_process(given, *flags, "--lora_r", "8", "--dry_run")  # what it has
    assert result["dry_run"]


def test_the_output_layer_can_be_adapted(tiny_base, few_rows, tmp_path):
    """TRL's chunked loss would refuse it."""
    from safetensors.torch import load_file

    in_process(
        SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--lora_target_modules", "q_proj", "lm_head",
        "--max_steps", "2", "--warmup_ratio", "0", "--output_dir", tmp_path / "x",
    )  # fmt: skip
    weights = load_file(tmp_path / "x" / "adapter_model.safetensors")
    assert any("lm_head.lora_B" in name and tensor.any() for name, tensor in weights.items())


def test_all_of_the_steps_can_be_warm_up(tiny_base, few_rows, tmp_path):
    in_process(
        SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--warmup_ratio", "1", "--max_steps", "4",
        "--lr_scheduler_type", "linear", "--output_dir", tmp_path / "x",
    )  # fmt: skip
    rates = [row["learning_rate"] for row in metrics.read_metrics(tmp_path / "x") if "loss" in row]
    assert rates == pytest.approx([0, 0.003 / 4, 0.003 / 2, 0.003 * 3 / 4])


def test_early_stopping_stops_and_keeps_the_best(tiny_base, few_rows, tmp_path):
    result = in_process(
        SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--val_set_size", "3", "--learning_rate", "0.05",
        "--warmup_ratio", "0", "--save_steps", "1", "--max_steps", "12", "--early_stopping_patience", "2",
        "--output_dir", tmp_path / "x",
    )  # fmt: skip
    evaluated = [row["eval_loss"] for row in metrics.read_metrics(tmp_path / "x") if "eval_loss" in row]
    assert result["steps"] == len(evaluated) < 12
    assert min(evaluated) == result["best_eval_loss"] < min(evaluated[-2:])
    with pytest.raises(InputError, match="--early_stopping_patience needs rows to evaluate on"):
        in_process(SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--early_stopping_patience", "2", "--output_dir", tmp_path / "y")  # fmt: skip  # noqa: E501


def test_gradients_are_clipped_to_what_was_asked(tiny_base, few_rows, tmp_path):
    curves = []
    for clip in ("1e-6", "0"):
        in_process(
            SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "3", "--warmup_ratio", "0",
            "--optim", "sgd", "--weight_decay", "0", "--max_grad_norm", clip, "--output_dir", tmp_path / clip,
        )  # fmt: skip
        curves.append(losses(tmp_path / clip))
        rows = [row for row in metrics.read_metrics(tmp_path / clip) if "loss" in row]
        assert all(row["grad_norm"] > 0.1 for row in rows)  # as it was before it was clipped
    import torch
    from safetensors.torch import load_file

    tiny, free = (load_file(tmp_path / clip / "adapter_model.safetensors") for clip in ("1e-6", "0"))
    name = next(name for name in tiny if "lora_B" in name)
    assert 0 < tiny[name].norm() < 1e-7 < torch.linalg.norm(free[name])


NAMES = [
    (["--report_to", "foo"], "'foo'"),
    (["--report_to", "mlflow"], "mlflow: it is not installed"),
    (["--optim", "adamw_8bit"], "--optim adamw_8bit needs bitsandbytes"),
    (["--optim", "adamw"], "'adamw'"),
    (["--lr_scheduler_type", "cosinus"], "'cosinus'"),
    (["--max_steps", "0"], "-1 or a whole number from 1"),
    (["--batch_size", "x"], "'x' is not a whole number from 1"),
    (["--batch_size", "100000000000"], "whole number from 1"),
    (["--train_epochs", "1e300"], "number from 0.001 to 10000"),
    (["--seed", "-1"], "whole number from 0"),
    (["--val_set_size", "2.5"], "a share below 1, or a whole number"),
    (["--packing", "--no-padding_free"], "not with --no-padding_free"),
    (["--base_model", "nope"], "is a full model and has no base"),
    (["--lora_target_modules", "q_proj", "v_porj"], "no layer is named v_porj"),
]


@pytest.mark.parametrize(("flags", "said"), NAMES, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_wrong_names_are_refused_and_nothing_is_written(tiny_base, few_rows, tmp_path, capsys, flags, said):
    words = ["--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "x"]
    command = [word for word in SFT if word not in ("--report_to", "none")] if flags[0] == "--report_to" else SFT
    try:
        in_process(command, *words, *flags)
        raise AssertionError("it was not refused")
    except InputError as error:
        shown = "\n".join(error.problems)
    except SystemExit as stop:
        assert stop.code == 2
        shown = capsys.readouterr().err
    assert said in shown
    assert not (tmp_path / "x").exists()


def test_what_is_read_is_never_emptied(tiny_base, few_rows, sft_folder, tmp_path):
    """--overwrite replaces a folder of ours, also one that holds the rows, the model or its base."""
    here = tmp_path / "stage"
    shutil.copytree(sft_folder, here)
    shutil.copy(few_rows, here / "rows.jsonl")
    before = sorted(here.rglob("*"))
    flags = [word for word in SFT if "lora" not in word and word not in ("8", "16")]
    for rows, model in ((few_rows, here), (here / "rows.jsonl", tiny_base)):
        with pytest.raises(InputError, match="which --overwrite empties, and this run reads it"):
            in_process(flags, "--trainset_path", rows, "--model_id", model, "--overwrite", "--output_dir", here)
    assert sorted(here.rglob("*")) == before


def test_wandb_without_a_key_is_refused(monkeypatch, tmp_path):
    from importlib import util

    monkeypatch.setattr(arguments, "find_spec", lambda name: util.find_spec("json"))  # as if it were installed
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    import train_LoRA_SFT

    args = train_LoRA_SFT.build_parser().parse_args(["--trainset_path", "x", "--model_id", "y", "--report_to", "wandb"])
    with pytest.raises(InputError, match="wandb: no key; run `wandb login`"):
        arguments.check_machine(args)
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments.check_machine(args)


def test_offered_names_are_ones_that_the_libraries_take():
    import torch
    from transformers import get_scheduler
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.training_args import OptimizerNames

    from sllm.train import flags

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    for name in flags.SCHEDULES:
        get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=4)
    assert set(flags.OPTIMIZERS) - {"auto"} <= {name.value for name in OptimizerNames}
    assert set(flags.REPORTERS) - {"none"} <= INTEGRATION_TO_CALLBACK.keys()


def test_every_offered_loss_trains(sft_folder, few_pairs, tmp_path):
    from sllm.train import flags

    with pytest.raises(InputError, match="exo_pair needs --label_smoothing"):
        in_process(DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--loss_type", "exo_pair")
    with pytest.raises(InputError, match="trained without dropout"):
        in_process(DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--lora_dropout", "0.1")
    in_process(  # their sum
        DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--loss_type", *flags.DPO_LOSSES,
        "--label_smoothing", "0.01", "--max_steps", "1", "--batch_size", "2", "--output_dir", tmp_path / "x",
    )  # fmt: skip
    assert (tmp_path / "x" / "run.json").exists()


def test_readers_of_checkpoints_are_the_markers(finished):
    """Every file of a checkpoint is in its marker."""
    folder = finished[0] / "checkpoint-6"
    marker = checkpoints.read_marker(folder)
    assert set(marker["files"]) == {path.name for path in folder.iterdir()} - {checkpoints.COMPLETE}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"} <= set(marker["files"])
    assert marker["arguments"]["max_steps"] == 6


def test_a_disk_that_fills_during_training_is_one_line(script, tiny_base, few_rows, tmp_path):
    code = (
        "import errno, sys, train_LoRA_SFT as t\n"
        "from sllm import cli; from sllm.train import callbacks\n"
        "def full(folder, arguments): raise OSError(errno.ENOSPC, 'No space left on device', str(folder))\n"
        "callbacks.mark_complete = full\n"
        "sys.argv[0] = 'train_LoRA_SFT.py'\n"
        "cli.run(t.main, t.build_parser())\n"
    )
    done = script(
        "-c", code, *SFT[1:], "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "2", "--output_dir",
        tmp_path / "x",
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"error: the disk is full: {tmp_path / 'x' / 'checkpoint-2'}; free some space" in done.stderr


def test_what_the_machine_caused_is_told_from_bugs():
    from safetensors import SafetensorError

    from sllm.cli import environment_fault

    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = OSError(28, "No space left on device", "/x/optimizer.pt")
    assert "the disk is full: /x/optimizer.pt" in environment_fault(wrapped)
    assert "the disk is full" in environment_fault(
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    )
    assert "the disk is full" in environment_fault(
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/1: file write failed")
    )
    assert "the disk is full" in environment_fault(
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    )
    assert environment_fault(PermissionError(13, "Permission denied", "/x")).startswith("/x: Permission denied")
    assert environment_fault(IsADirectoryError(21, "Is a directory", "/x/loss.png")).startswith("/x/loss.png: Is a ")
    assert "repair" in environment_fault(SafetensorError("Error while serializing: I/O error: Is a directory (21)"))
    assert "--batch_size" in environment_fault(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."))
    assert environment_fault(RuntimeError("anything else")) is None
    assert environment_fault(OSError(2, "No such file", "/x")) is None


@pytest.mark.parametrize(
    ("command", "said"),
    [("python train.py --resume", "; to resume: python train.py --resume\n"), (None, "run again\n")],
)
def test_a_stopped_run_says_how_to_resume(capsys, monkeypatch, command, said):
    from sllm import cli

    def full(args):
        cli.offer_resume(lambda: command)
        raise OSError(28, "No space left on device", "/x/optimizer.pt")

    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr(cli, "_resume", [])
    with pytest.raises(SystemExit) as stop:
        cli.run(full, cli.parser("", "train.py"))
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: the disk is full: /x/optimizer.pt")
    assert err.endswith(said)


def test_a_checkpoint_whose_marker_is_not_a_file_is_skipped(tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        checkpoints.mark_complete(tmp_path / f"checkpoint-{step}", {})
    (tmp_path / "checkpoint-4" / "complete").unlink()
    (tmp_path / "checkpoint-4" / "complete").mkdir()
    last, passed_over = checkpoints.latest_checkpoint(tmp_path)
    assert last.name == "checkpoint-2"
    assert passed_over == {tmp_path / "checkpoint-4": "its complete file is damaged"}


def test_damaged_lines_of_metrics_are_left_out(tmp_path):
    lines = [b'{"step": 1, "loss": 2.0}', b'{"st\xb4p": 2}', b"[3]", b'{"loss": 1.0}', b'{"step": 5}', b'{"step": 6']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [row["step"] for row in metrics.read_metrics(tmp_path)] == [1, 5]


def test_a_stopped_run_that_is_started_again_names_resume(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "sft")
    (tmp_path / "sft" / "run.json").unlink()
    args = Namespace(output_dir=str(tmp_path / "sft"), preview=0, dry_run=False, overwrite=False, resume=False)
    with pytest.raises(InputError, match="continue it with --resume, replace it with --overwrite"):
        resume.check_output(args)
    args.dry_run = True  # which writes nothing
    assert resume.check_output(args) == tmp_path / "sft"


def test_a_run_is_resumed_where_its_inputs_lie_now():
    from sllm.train import resume

    assert resume._same("trainset_path", ["data/train.jsonl", "ab"], ["/moved/data/train.jsonl", "ab"])
    assert not resume._same("model_id", ["data/train.jsonl", "ab"], ["data/train.jsonl", "cd"])
    assert not resume._same("model_id", ["org/name", None], ["org/other", None])
    assert resume._same("validation_path", None, None)
    assert not resume._same("lora_target_modules", ["q_proj", "v_proj"], ["k_proj", "v_proj"])
