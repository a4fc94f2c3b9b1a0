"""What the finished runs of correctness.py left behind, held against bounds: each check is a figure and its bound."""

import json
from dataclasses import dataclass
from pathlib import Path

CURVES = 0.02  # largest difference between two loss curves, of the loss
RESUMED = 0.01  # the same, of one run and its killed and resumed twin
QUANTISED = 0.1  # the same, of a run on a base in 4 or 8 bits and the one in 16
MAX_SEQ_LENGTH = 512  # of the runs
MOVED = 0.95  # least share of lora_B's weights, which begin as zeros, that training has to have moved


@dataclass
class Check:
    model: str
    guarantee: str
    what: str
    figure: str
    bound: str
    ok: bool


class Checks(list[Check]):
    """The checks of one model. `add`: passed where `figure` is at most `bound`, or as `ok` says."""

    def __init__(self, model: str):
        super().__init__()
        self.model = model

    def add(self, guarantee: str, what: str, figure: float | str, bound: float | str, ok: bool | None = None) -> None:
        ok = figure <= bound if ok is None else ok
        texts = [f"{value:.2g}" if isinstance(value, float) else str(value) for value in (figure, bound)]
        self.append(Check(self.model, guarantee, what, *texts, bool(ok)))


def judge(model: str, backends: list[str], folder: Path, done: dict[str, dict]) -> list[Check]:
    """What the finished runs left in `folder` held against the bounds. `done`: each run's last line, by its name."""
    checks = Checks(model)
    _judge_runs(checks, folder, done)
    _judge_backends(checks, backends, folder, done)
    return checks


def _judge_runs(checks: Checks, folder: Path, done: dict[str, dict]) -> None:
    """Each run by itself, and beside the same backend's plain one."""
    model = checks.model
    expected, end = _expected_rows(folder / model, folder / "rows.jsonl")
    for name in done:
        backend, _, kind = name.partition(" ")
        _judge_rows(checks, folder, name, expected, end)
        for resumed, killed, unbroken in (("resumed", "killed", "padded"), ("dpo-resumed", "dpo-killed", "dpo")):
            if kind == resumed and f"{backend} {unbroken}" in done:
                difference = _curve_difference(
                    folder / f"{model}-{backend}-{killed}", folder / f"{model}-{backend}-{unbroken}"
                )
                checks.add("7 resume", f"{name}: loss curve beside the unbroken run's", difference, RESUMED)
        if "packing_isolation" in done[name]:
            bound = 6e-2 if has_cuda() else 1e-4
            checks.add("6 packing isolation", f"{name}: logits", done[name]["packing_isolation"], bound)
        if "accumulation_parity" in done[name]:
            bound = 5e-2 if has_cuda() else 1e-3
            checks.add("8 accumulation parity", f"{name}: gradients", done[name]["accumulation_parity"], bound)
        if kind in ("4-bit", "8-bit", "float16") and f"{backend} padded" in done:
            run = folder / f"{model}-{backend}-{kind}"
            difference = _curve_difference(run, folder / f"{model}-{backend}-padded")
            checks.add(
                "precision",
                f"{name}: loss curve beside 16 bits",
                difference,
                CURVES if kind == "float16" else QUANTISED,
            )
            dtypes, moved = _adapter(run)
            checks.add("precision", f"{name}: adapter's dtype", dtypes, "F32", dtypes == "F32")
            checks.add("precision", f"{name}: share of lora_B that moved", moved, MOVED, moved >= MOVED)
        if kind == "validated":
            same = _root_is_best(folder / f"{model}-{backend}-validated")
            checks.add(
                "best checkpoint", f"{name}: the folder's adapter", same, "the best one's", same == "the best one's"
            )
        if kind == "dpo-stored" and f"{backend} dpo" in done:
            runs = [folder / f"{model}-{backend}-{stage}" for stage in ("dpo-stored", "dpo")]
            checks.add(
                "4 DPO reference",
                f"{name}: loss curve beside references of each step",
                _curve_difference(*runs),
                CURVES,
            )
        if kind in ("dpo", "dpo-stored"):
            checks.add("4 DPO reference", f"{name}: nats per token at step 0", done[name]["reference_difference"], 1e-3)
        if kind == "merged":
            checks.add(
                "5 merge parity", f"{name}: largest logit difference, {done[name]['near_ties']} near-ties",
                float(done[name]["max_logit_difference"]), float(done[name]["logit_bound"]),
            )  # fmt: skip
            probes = {_probe(folder / f"{model}-{backend}-{stage}") for stage in ("padded", "dpo", "merged")}
            checks.add("1 prompt parity", f"{backend}: different probes of SFT, DPO and merged", len(probes) - 1, 0)
            ends = json.loads((folder / f"{model}-{backend}-merged" / "generation_config.json").read_text())
            ids = ends["eos_token_id"] if isinstance(ends["eos_token_id"], list) else [ends["eos_token_id"]]
            checks.add(
                "3 stopping", f"{backend}: end of turn among the merged model's EOS", str(end), str(ids), end in ids
            )


def _judge_rows(checks: Checks, folder: Path, name: str, expected: list, end: int) -> None:
    """The rows that a run fed its model against those encoded: token ids, supervised positions, end of turn."""
    backend, _, kind = name.partition(" ")
    recorded = folder / f"{checks.model}-{backend}-{'flat' if kind == 'padding-free' else kind}.rows.json"
    if kind in ("padded", "padding-free", "packed") and recorded.exists():
        rows = sorted(json.loads(recorded.read_text()))
        wrong = sum(row not in expected for row in rows)
        if kind != "packed":  # an epoch: each row once
            wrong += sum(one != other for one, other in zip(rows, expected, strict=False)) if not wrong else 0
            wrong += abs(len(rows) - len(expected))
        checks.add(
            "2 loss mask", f"{name}: rows fed otherwise than encoded", f"{wrong} of {len(rows)}", "0", wrong == 0
        )
        unlearned = sum(not supervised or row[supervised[-1]] != end for row, supervised in rows)
        checks.add("2 loss mask", f"{name}: rows whose end of turn is not learned", unlearned, 0)


def _judge_backends(checks: Checks, backends: list[str], folder: Path, done: dict[str, dict]) -> None:
    """The same run on two backends: the rows in the same places, the loss curves alike."""
    model = checks.model
    by = "peft" if "peft" in backends else backends[-1]  # what the others are held against
    reference = f"{by} padded"
    for name in done:
        backend, _, kind = name.partition(" ")
        if kind in ("padded", "padding-free") and name != reference and reference in done:
            folders = (folder / f"{model}-{backend}-{'flat' if kind == 'padding-free' else kind}",
                       folder / f"{model}-{by}-padded")  # fmt: skip
            rows = [json.loads(Path(f"{path}.rows.json").read_text()) for path in folders]
            moved = sum(one != other for one, other in zip(*rows, strict=False))
            checks.add("loss curves", f"{name} beside {reference}: rows in another place", moved, 0)
            checks.add(
                "loss curves", f"{name} beside {reference}: largest difference", _curve_difference(*folders), CURVES
            )


def _expected_rows(base: Path, rows: Path) -> tuple[list, int]:
    """What training has to be fed, sorted: each row as [ids, supervised positions]; and the end of turn's id."""
    from sllm import chat
    from sllm.data import formats, tokenize

    tokenizer = chat.load_tokenizer(str(base))
    chat.set_chat_template(tokenizer)
    columns, _ = tokenize.sft_columns(tokenizer, formats.load_rows(str(rows), "sft"), MAX_SEQ_LENGTH)
    pairs = zip(columns["input_ids"], columns["labels"], strict=True)
    expected = [[ids, [at for at, label in enumerate(labels) if label >= 0]] for ids, labels in pairs]
    return sorted(expected), chat.end_of_turn(tokenizer)[1]


def _curve_difference(one: Path, other: Path) -> float:
    """The largest difference of two runs' losses at the same step, of the loss; infinite where steps are missing."""
    from sllm.train import metrics

    curves = [
        {row["step"]: row["loss"] for row in metrics.read_metrics(path) if "loss" in row} for path in (one, other)
    ]
    if not curves[0] or curves[0].keys() != curves[1].keys():
        return float("inf")
    return max(abs(curves[0][step] - loss) / loss for step, loss in curves[1].items())


def _adapter(folder: Path) -> tuple[str, float]:
    """The number formats of a saved adapter, and the share of lora_B's weights that are not zero."""
    from safetensors import safe_open

    formats, count, moved = set(), 0, 0
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            formats.add(str(file.get_slice(name).get_dtype()))
            if "lora_B" in name:
                weight = file.get_tensor(name)
                count, moved = count + weight.numel(), moved + int(weight.count_nonzero())
    return " ".join(sorted(formats)), moved / max(count, 1)


def _root_is_best(folder: Path) -> str:
    """Is the adapter in the folder's root, byte for byte, that of the checkpoint with the lowest eval_loss?"""
    from sllm.train import metrics

    losses = {row["step"]: row["eval_loss"] for row in metrics.read_metrics(folder) if "eval_loss" in row}
    best = folder / f"checkpoint-{min(losses, key=losses.get)}"
    files = [place / "adapter_model.safetensors" for place in (folder, best)]
    if not files[1].exists():
        return f"{best.name} is missing"
    return "the best one's" if files[0].read_bytes() == files[1].read_bytes() else f"not that of {best.name}"


def _probe(folder: Path) -> str:
    from sllm import checkpoint

    return json.dumps(checkpoint.read_run(folder)["probe"], sort_keys=True)


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
