"""Votes and thumbs of the chat page → preference rows for train_LoRA_DPO.py, and who wins.

Reads the database of chainlit_app.py. Arena votes, and up and down thumbs under answers to the same prompt, become
rows {"id", "task", "prompt", "chosen", "rejected"}; whole conversations stay in the prompt. Ties and both-bad are
dropped and counted, equal judgements are merged, contradicting ones are reported and decided by majority.

Writes train.jsonl, ratings.json and ratings.png (win rates and Bradley–Terry ratings with 95 % intervals), report.json
(every row's origin, what was dropped and why), rejects.jsonl (rows of the database that cannot be used, with the
reason), with --kto also kto.jsonl, and run.json into --output_dir.

    python build_preferences.py --from_chat outputs/chat/chat.db --output_dir outputs/preferences
    python train_LoRA_DPO.py --model_id outputs/demo/sft --trainset_path outputs/preferences/train.jsonl
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("sources")
    group.add_argument(
        "--from_chat", required=True, metavar="DB", help="the chat page's database: a SQLite file or a SQLAlchemy URL"
    )
    group.add_argument(
        "--max_pairs_per_prompt", type=cli.whole(1, 1_000_000), default=10,
        help="of up and down thumbs on one prompt; each answer is used as often as the others",
    )  # fmt: skip
    group.add_argument(
        "--keep_truncated", "--keep_cut", action="store_true", help="keep chosen answers that did not end by themselves"
    )
    group = p.add_argument_group("ratings")
    group.add_argument(
        "--bootstrap", type=cli.between(100, 10_000), default=1000, help="resamples behind the intervals, from 100 on"
    )
    group.add_argument("--seed", type=cli.seed, default=42, help="of the resamples")
    p.add_argument("--kto", action="store_true", help="write unpaired rows for KTO too: kto.jsonl")
    cli.add_output_flags(p, "outputs/preferences")
    return p


def main(args) -> dict:
    started = time.monotonic()
    checkpoint.check_output(args.output_dir, overwrite=args.overwrite)
    from sllm.chatstore import ChatStore
    from sllm.data import preferences, ratings

    given = args.from_chat
    if not given.removeprefix("sqlite://").strip("/"):
        raise InputError(f"--from_chat {given!r} names no file; chainlit_app.py makes outputs/chat/chat.db")
    store = ChatStore(args.from_chat if "://" in args.from_chat else f"sqlite:///{args.from_chat}", must_exist=True)
    if args.overwrite:
        checkpoint.require_distinct(args.output_dir, store.url.database)
    args.from_chat = store.url.render_as_string()  # what is recorded and said holds no password
    sys.argv = [args.from_chat if word == given else word for word in sys.argv]
    # Each source adds its pairs to `found.pairs`; from here on they are all alike.
    records = store.read()
    store.close()
    found = preferences.from_chat(
        records, keep_truncated=args.keep_truncated, max_pairs_per_prompt=args.max_pairs_per_prompt
    )  # fmt: skip
    judged = len(found.pairs) + sum(found.dropped.values())
    entries = preferences.merge(found)
    votes = [(c.left.model, c.right.model, c.choice) for c in records.comparisons if c.choice]
    rated = ratings.rate(votes, samples=int(args.bootstrap), seed=args.seed)
    kto, kto_dropped = preferences.unpaired(records, keep_truncated=args.keep_truncated) if args.kto else ([], {})
    if not entries and not kto:
        why = [f"{count} {reason}" for reason, count in found.dropped.items()]
        why += [f"{reject.table} {reject.id}: {reject.reason}" for reject in records.rejects[:5]]
        why = "; ".join(why) or "nobody has voted yet"
        raise InputError(f"{args.from_chat} has no preference in it: {why}")

    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)
    write_rows(out / "train.jsonl", [entry["row"] for entry in entries])
    if args.kto:
        write_rows(out / "kto.jsonl", kto)
    write_rows(out / "rejects.jsonl", [asdict(reject) for reject in records.rejects])
    write_json(out / "ratings.json", rated)
    if rated["models"]:
        ratings.plot(rated, str(out / "ratings.png"))
    report = {
        "judgements": judged,
        "rows": len(entries),
        "dropped": dict(found.dropped),
        "rejects": len(records.rejects),
        "capped": found.capped,
        "contradictions": found.contradictions,
        "votes": len(votes),
        "kto": {"rows": len(kto), "dropped": dict(kto_dropped)} if args.kto else None,
        "origin": [{"id": entry["row"]["id"]} | {k: v for k, v in entry.items() if k != "row"} for entry in entries],
    }
    write_json(out / "report.json", report)
    data = {"kind": "preference", "rows": {"train": len(entries)}, "sha256": checkpoint.file_hash(out / "train.jsonl")}
    checkpoint.write_run(out, "data", args, parents=[], data=data, seconds=time.monotonic() - started)
    show(report, rated)
    return {
        "stage": "data",
        "output_dir": str(out),
        "rows": len(entries),
        "judgements": judged,
        "kto_rows": len(kto),
        "rejects": len(records.rejects),
    }


def show(report: dict, rated: dict) -> None:
    dropped = sum(report["dropped"].values())
    print(f"{report['judgements']} judgements → {report['rows']} rows, {dropped} dropped or merged")
    for reason, count in report["dropped"].items():
        print(f"  {count:>5} {reason}")
    if report["rejects"]:
        print(f"  {report['rejects']:>5} rows of the database cannot be used: rejects.jsonl says why")
    for entry in report["capped"]:
        question = entry["prompt"][-1]["content"][:40]
        possible = entry["up"] * entry["down"]
        print(f"  “{question}” {entry['up']} up, {entry['down']} down: {entry['kept']} of {possible} pairs kept")
    for entry in report["contradictions"]:
        question = entry["prompt"][-1]["content"][:40]
        print(f"  both ways: “{question}” {', '.join(entry['for'])} against {', '.join(entry['against'])}")
    if len({m["group"] for m in rated["models"]}) > 1:
        print("  ratings compare inside a group only: some models never met, directly or through others")
    if rated["models"]:
        shown = [
            [m["model"], f"{m['rating']:.0f}", spread(m, "{:.0f}"), m["votes"], m["wins"], m["losses"],
             m["ties"]]
            for m in rated["models"]
        ]  # fmt: skip
        print("\n" + cli.table(["model", "rating", "95 %", "votes", "won", "lost", "neither"], shown))
        shown = [
            [f"{p['a']} over {p['b']}", f"{p['a_rate']:.0%}", spread(p, "{:.0%}"), p["votes"],
             p["a_wins"], p["b_wins"], p["ties"], p["both_bad"]]
            for p in rated["pairs"]
        ]  # fmt: skip
        print("\n" + cli.table(["pair", "win rate", "95 %", "votes", "won", "lost", "ties", "both bad"], shown))


def spread(entry: dict, form: str) -> str:
    """The interval; resamples of a few votes that agree all agree too, and would look certain."""
    return f"{form.format(entry['low'])}–{form.format(entry['high'])}" if entry["votes"] >= 10 else "few votes"


def write_rows(path: Path, rows: list[dict]) -> None:
    checkpoint.write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, value) -> None:
    checkpoint.write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main, build_parser())
