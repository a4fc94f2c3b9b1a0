"""What clients and operators expect of an OpenAI-compatible server, asked of api_server.py and of vLLM's own server.

Both serve the tiny base with the same engine flags, one server at a time. Each is started three times: open, with a
parser for tool calls; with adapters; and locked, with API keys and room for few requests. A server that a request has
brought down is started again. An expectation (expectations/, a module for each area) is what OpenAI's or Anthropic's
reference or vLLM's documentation says, or what running a server takes. Writes the table docs/expectations.md; the last
line of the output is JSON.

    python benchmarks/serve_expectations.py
    python benchmarks/serve_expectations.py --only ours --area tools errors --output outputs/expectations.md
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from datetime import date
from importlib import metadata
from pathlib import Path

from expectations.registry import EXPECTATIONS, Expectation
from expectations.servers import ROOT, Server, descendants, flags_of, make_adapters, vllm_version


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", choices=("ours", "theirs"), help="one server; the other's column stays empty")
    p.add_argument("--area", nargs="+", choices=list(dict.fromkeys(one.area for one in EXPECTATIONS)))
    p.add_argument("--output", default=str(ROOT / "docs" / "expectations.md"))
    p.add_argument("--logs", metavar="FOLDER", help="keep the servers' logs here")
    return p


# ── the run ────────────────────────────────────────────────────────────────────────────────────────────────


def run(name: str, chosen: list[Expectation], adapters: Path, logs: Path) -> dict[str, str | None]:
    """area · name of each expectation → None, or why it does not hold."""
    results: dict[str, str | None] = {}
    for kind in ("open", "adapters", "locked"):
        group = [one for one in chosen if one.kind.split()[0] == kind]
        if not group:
            continue
        server = started(name, kind, adapters, logs)
        try:
            for one in sorted(group, key=lambda one: one.kind.endswith("last")):
                begun = time.monotonic()
                reason = attempt(one, server)
                if reason is not None and not one.kind.endswith("last") and server.status("/health", 20) != 200:
                    reason += " (it brought the server down)"
                    server.stop()
                    server = started(name, kind, adapters, logs)
                results[key(one)] = reason
                print(f"  {'✓' if reason is None else '✗'} {time.monotonic() - begun:5.1f} s  {key(one)}", flush=True)
                if reason is not None:
                    print(f"             {reason}", flush=True)
        finally:
            server.stop()
    return results


def started(name: str, kind: str, adapters: Path, logs: Path) -> Server:
    begun = time.monotonic()
    server = Server(name, kind, adapters, logs / f"{name}_{kind}.log")
    server.children = descendants(server.process.pid)
    print(f"{name}, {kind}: ready after {time.monotonic() - begun:.0f} s", flush=True)
    return server


def key(one: Expectation) -> str:
    return f"{one.area} · {one.name}"


def attempt(one: Expectation, server: Server) -> str | None:
    try:
        one.ask(server)
    except AssertionError as error:
        reason = str(error) or "not so"
    except Exception as error:  # an answer of another shape, or none
        reason = f"{type(error).__name__}: {error}"
    else:
        return None
    for hidden in (str(server.adapters), str(ROOT)):
        reason = reason.replace(hidden, "…")
    reason = re.sub(r"127\.0\.0\.1:\d+", "HOST", " ".join(reason.split()))
    return reason if len(reason) <= 200 else reason[:199] + "…"


def table(chosen: list[Expectation], results: dict[str, dict]) -> str:
    """The Markdown file."""
    versions = {"vllm": vllm_version(), **{name: metadata.version(name) for name in ("openai", "anthropic", "fastapi")}}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    areas = list(dict.fromkeys(one.area for one in chosen))

    def count(name: str, area: str | None = None) -> str:
        if name not in results:
            return "–"
        rows = [one for one in chosen if area in (None, one.area)]
        return f"{sum(results[name].get(key(one), '') is None for one in rows)}"

    flags = {
        name: " ".join(flags_of(name, "open", 8000, Path("ADAPTERS"))[1 if name == "ours" else 2 :])
        for name in ("ours", "theirs")
    }
    lines = [
        "# What clients and operators expect",
        "",
        f"Written by `benchmarks/serve_expectations.py`, {date.today()}; Python {sys.version.split()[0]}, {said}.",
        "The same requests and the same assertions for `api_server.py` (ours) and for",
        "`python -m vllm.entrypoints.openai.api_server` (vLLM's), both on the tiny base, without a GPU. vLLM's has the",
        "flags that help it: request ids, offline docs, a queue limit, time to shut down, runtime LoRA. A ✗ has the",
        "reason that the assertion gave.",
        "",
        "| area | expectations | ours | vLLM's |",
        "|---|---:|---:|---:|",
        *(
            f"| {area} | {sum(one.area == area for one in chosen)} | {count('ours', area)} | {count('theirs', area)} |"
            for area in areas
        ),
        f"| **all** | **{len(chosen)}** | **{count('ours')}** | **{count('theirs')}** |",
        "",
        "| area | expectation | ours | vLLM's |",
        "|---|---|---|---|",
    ]
    for area in areas:
        for one in [one for one in chosen if one.area == area]:
            cells = [cell(results[name].get(key(one), "not asked")) if name in results else "–" for name in flags]
            lines.append(f"| {area} | {escaped(one.name)} | {' | '.join(cells)} |")
    lines += ["", "Flags of the open servers (others have adapters, or two API keys and room for eight requests):", ""]
    for name, words in flags.items():
        lines += [f"- {'ours' if name == 'ours' else 'vLLM’s'}: `{words}`"]
    return "\n".join(lines) + "\n"


def cell(reason: str | None) -> str:
    return "✓" if reason is None else f"✗ {escaped(reason if len(reason) <= 110 else reason[:109] + '…')}"


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")


def main(args) -> None:
    chosen = [one for one in EXPECTATIONS if not args.area or one.area in args.area]
    folder = Path(tempfile.mkdtemp(prefix="expectations-"))
    logs = Path(args.logs or folder / "logs")
    logs.mkdir(parents=True, exist_ok=True)
    try:
        make_adapters(folder)
        names = [args.only] if args.only else ["ours", "theirs"]
        results = {name: run(name, chosen, folder, logs) for name in names}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(table(chosen, results), encoding="utf-8")
    ours, theirs = (results.get(name, {}) for name in ("ours", "theirs"))
    worse = [name for name in ours if ours[name] is not None and name in theirs and theirs[name] is None]
    passed = {name: sum(reason is None for reason in results[name].values()) for name in results}
    print(json.dumps({"ours": passed.get("ours"), "theirs": passed.get("theirs"), "rows": len(chosen), "worse": worse},
                     ensure_ascii=False))  # fmt: skip


if __name__ == "__main__":
    main(build_parser().parse_args())
