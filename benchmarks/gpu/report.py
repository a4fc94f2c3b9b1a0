"""The results as Markdown: what goes into benchmarks/README.md as it is."""

GIB = 2**30


def line(check: dict) -> str:
    mark = "ok  " if check["ok"] else "FAIL"
    said = f"{check['what']}: {check['figure']} (bound {check['bound']})"
    return f"{mark} {check['model']:<12} {check['guarantee']:<20} {said}"


def markdown(results: dict) -> str:
    parts = [heading(results)]
    if results.get("checks"):
        parts.append(checks(results["checks"]))
    if results.get("not_run"):
        parts.append("Not run here: " + "; ".join(results["not_run"]) + ".")
    if results.get("runs"):
        parts += [speed(results), targets(results)]
    return "\n\n".join(parts) + "\n"


def heading(results: dict) -> str:
    machine = results["machine"]
    names = ("unsloth", "torch", "transformers", "trl", "peft", "bitsandbytes", "triton")
    libraries = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    gpu = machine["gpu"].replace(", ", ", driver ") or "no GPU"
    backends = ", ".join(results["backends"])
    return f"{results['when'][:10]}, {gpu}, Python {machine['python']}, {libraries}. Backends: {backends}."


def checks(results: list[dict]) -> str:
    wrong = sum(not check["ok"] for check in results)
    rows = [
        f"{len(results)} checks, {wrong} failed.",
        "",
        "| model | guarantee | what | figure | bound | |",
        "|---|---|---|---|---|---|",
    ]
    for check in results:
        cells = [check[name].replace("|", "\\|") for name in ("model", "guarantee", "what", "figure", "bound")]
        rows.append(f"| {' | '.join(cells)} | {'ok' if check['ok'] else '**FAILED**'} |")
    return "\n".join(rows)


def speed(results: dict) -> str:
    sizes, peak = results["sizes"], results["peak"]
    rows = [
        f"Rows: median {sizes['median']} tokens, at most {sizes['longest']:,}; long rows {sizes['long']:,}. LoRA r "
        f"{sizes['lora_r']} on all seven projections; batch {sizes['batch_size']} × {sizes['gradient_accum_steps']} "
        f"padded, 1 × {sizes['gradient_accum_steps']} packed and 2 × {sizes['gradient_accum_steps']} pairs; "
        f"{sizes['steps']} steps after {sizes['warm_up']} of warm-up. Tokens are real ones, padding not counted. "
        f"Peak of the device: {peak['flops'] / 1e12:,.1f} TFLOP/s ({peak['matmul']}, {peak['device']}).",
        *([] if results["machine"]["gpu"] else ["", "**Without a GPU these figures show only that everything runs.**"]),
        "",
        "| model | backend | case | tokens/s | MFU | peak memory GiB | against peft 16-bit padded |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for run in results["runs"]:
        cells = [run["model"], f"{run['backend']} {run['bits']}-bit", run["case"]]
        if "failed" in run:
            rows.append(f"| {' | '.join(cells)} | {run['failed'].replace('|', ' ')} | | | |")
            continue
        other = against(results, run)
        ratio = f"{run['tokens_per_second'] / other['tokens_per_second']:.2f}×" if other and other is not run else ""
        cells += [
            f"{run['tokens_per_second']:,.0f}",
            f"{mfu(results, run):.0%}",
            f"{run['peak_memory_bytes'] / GIB:.1f}",
            ratio,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def mfu(results: dict, run: dict) -> float:
    """4 · N · tokens/s over the measured peak: a LoRA step computes no gradients of the N frozen weights."""
    return 4 * results["parameters"][run["model"]] * run["tokens_per_second"] / results["peak"]["flops"]


def pick(results: dict, model: str, backend: str, bits: int, case: str) -> dict | None:
    fields = {"model": model, "backend": backend, "bits": bits, "case": case}
    return next((run for run in results["runs"] if fields.items() <= run.items() and "failed" not in run), None)


def against(results: dict, run: dict) -> dict | None:
    """The run of peft in 16 bits, padded, that a run is compared with."""
    case = run["case"] if run["case"] in ("sft long", "dpo padded") else "sft padded"
    return pick(results, run["model"], "peft", 16, case)


def targets(results: dict) -> str:
    model = results["runs"][0]["model"]

    def ratio(case: str, other: str, key: str) -> float | None:
        unsloth, peft = pick(results, model, "unsloth", 16, case), pick(results, model, "peft", 16, other)
        return unsloth[key] / peft[key] if unsloth and peft else None

    packed = pick(results, model, "unsloth", 16, "sft packed")
    share = mfu(results, packed) if packed else None
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
        text = "not measured" if value is None else f"{value:.0%}" if "%" in bound else f"{value:.2f}×"
        rows.append(f"| {what} | {bound} | {text}{'' if value is None else ', met' if ok(value) else ', **missed**'} |")
    return "\n".join(rows)
