"""The results as Markdown: what goes into benchmarks/README.md as it is."""

GIB = 2**30


def line(check: dict) -> str:
    mark = "ok  " if check["ok"] else "FAIL"
    said = f"{check['what']}: {check['figure']} (bound {check['bound']})"
    return f"{mark} {check['model']:<12} {check['guarantee']:<20} {said}"


def markdown(found: dict) -> str:
    parts = [heading(found)]
    if found.get("checks"):
        parts.append(checks(found["checks"]))
    if found.get("not_run"):
        parts.append("Not run here: " + "; ".join(found["not_run"]) + ".")
    if found.get("runs"):
        parts += [speed(found), targets(found)]
    return "\n\n".join(parts) + "\n"


def heading(found: dict) -> str:
    machine = found["machine"]
    names = ("unsloth", "torch", "transformers", "trl", "peft", "bitsandbytes", "triton")
    libraries = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    gpu = machine["gpu"].replace(", ", ", driver ") or "no GPU"
    backends = ", ".join(found["backends"])
    return f"{found['when'][:10]}, {gpu}, Python {machine['python']}, {libraries}. Backends: {backends}."


def checks(found: list[dict]) -> str:
    wrong = sum(not check["ok"] for check in found)
    rows = [
        f"{len(found)} checks, {wrong} failed.",
        "",
        "| model | guarantee | what | figure | bound | |",
        "|---|---|---|---|---|---|",
    ]
    for check in found:
        cells = [check[name].replace("|", "\\|") for name in ("model", "guarantee", "what", "figure", "bound")]
        rows.append(f"| {' | '.join(cells)} | {'ok' if check['ok'] else '**FAILED**'} |")
    return "\n".join(rows)


def speed(found: dict) -> str:
    sizes, peak = found["sizes"], found["peak"]
    rows = [
        f"Rows: median {sizes['median']} tokens, at most {sizes['longest']:,}; long rows {sizes['long']:,}. LoRA r "
        f"{sizes['lora_r']} on all seven projections; batch {sizes['batch_size']} × {sizes['gradient_accum_steps']} "
        f"padded, 1 × {sizes['gradient_accum_steps']} packed and 2 × {sizes['gradient_accum_steps']} pairs; "
        f"{sizes['steps']} steps after {sizes['warm_up']} of warm-up. Tokens are real ones, padding not counted. "
        f"Peak of the device: {peak['flops'] / 1e12:,.1f} TFLOP/s ({peak['matmul']}, {peak['device']}).",
        *([] if found["machine"]["gpu"] else ["", "**Without a GPU these figures show only that everything runs.**"]),
        "",
        "| model | backend | case | tokens/s | MFU | peak memory GiB | against peft 16-bit padded |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for run in found["runs"]:
        cells = [run["model"], f"{run['backend']} {run['bits']}-bit", run["case"]]
        if "failed" in run:
            rows.append(f"| {' | '.join(cells)} | {run['failed'].replace('|', ' ')} | | | |")
            continue
        other = against(found, run)
        ratio = f"{run['tokens_per_second'] / other['tokens_per_second']:.2f}×" if other and other is not run else ""
        cells += [
            f"{run['tokens_per_second']:,.0f}",
            f"{mfu(found, run):.0%}",
            f"{run['peak_memory_bytes'] / GIB:.1f}",
            ratio,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def mfu(found: dict, run: dict) -> float:
    """4 · N · tokens/s over the measured peak: a LoRA step computes no gradients of the N frozen weights."""
    return 4 * found["parameters"][run["model"]] * run["tokens_per_second"] / found["peak"]["flops"]


def pick(found: dict, model: str, backend: str, bits: int, case: str) -> dict | None:
    wanted = {"model": model, "backend": backend, "bits": bits, "case": case}
    return next((run for run in found["runs"] if wanted.items() <= run.items() and "failed" not in run), None)


def against(found: dict, run: dict) -> dict | None:
    """The run of peft in 16 bits, padded, that a run is compared with."""
    case = run["case"] if run["case"] in ("sft long", "dpo padded") else "sft padded"
    return pick(found, run["model"], "peft", 16, case)


def targets(found: dict) -> str:
    model = found["runs"][0]["model"]

    def ratio(case: str, other: str, key: str) -> float | None:
        mine, theirs = pick(found, model, "unsloth", 16, case), pick(found, model, "peft", 16, other)
        return mine[key] / theirs[key] if mine and theirs else None

    packed = pick(found, model, "unsloth", 16, "sft packed")
    share = mfu(found, packed) if packed else None
    rows = ["| target, unsloth 16-bit | | measured |", "|---|---|---|"]
    speed, memory = "tokens_per_second", "peak_memory_bytes"
    for what, bound, value, ok in (
        ("SFT packed, tokens/s against peft padded", "≥ 2.0×", ratio("sft packed", "sft padded", speed),
         lambda v: v >= 2),
        ("peak memory of the long rows against peft", "≤ 0.5×", ratio("sft long", "sft long", memory),
         lambda v: v <= 0.5),
        ("MFU, packed", "≥ 45 %", share, lambda v: v >= 0.45),
        ("DPO, tokens/s against peft", "≥ 1.5×", ratio("dpo padded", "dpo padded", speed), lambda v: v >= 1.5),
    ):  # fmt: skip
        shown = "not measured" if value is None else f"{value:.0%}" if "%" in bound else f"{value:.2f}×"
        rows.append(
            f"| {what} | {bound} | {shown}{'' if value is None else ', met' if ok(value) else ', **missed**'} |"
        )
    return "\n".join(rows)
