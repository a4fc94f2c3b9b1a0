"""Votes and thumbs of the chat page → preference rows for train_LoRA_DPO.py, and ratings of the models.

Reads the database of chainlit_app.py. Arena votes, and up and down thumbs under answers to the same prompt, become
rows {"id", "task", "prompt", "chosen", "rejected"}; the prompt is the whole conversation. Ties and "both bad" are
dropped and counted, equal judgements are merged, contradicting ones are reported and decided by majority.

Writes train.jsonl, ratings.json and ratings.png (win rates and Bradley–Terry ratings with 95 % intervals), report.json
(every row's origin, what was dropped and why), rejects.jsonl (rows of the database that cannot be used, with the
reason), with --kto also kto.jsonl, and run.json into --output_dir.

    python build_preferences.py --from_chat outputs/chat/chat.db --output_dir outputs/preferences
    python train_LoRA_DPO.py --model_id outputs/demo/sft --trainset_path outputs/preferences/train.jsonl
"""

import time
from dataclasses import asdict

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.data.json_writer import write_json, write_jsonl


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("sources")
    group.add_argument(
        "--from_chat", required=True, metavar="DB", help="the chat page's database: a SQLite file or a SQLAlchemy URL"
    )
    group.add_argument(
        "--max_pairs_per_prompt", type=cli.integer(1, 1_000_000), default=10,
        help="most pairs of thumbs on one prompt; its answers are used equally often",
    )  # fmt: skip
    group.add_argument(
        "--keep_truncated", "--keep_cut", action="store_true", help="keep chosen answers that were cut off"
    )
    group = p.add_argument_group("ratings")
    group.add_argument(
        "--bootstrap", type=cli.between(100, 10_000), default=1000, help="resamples for the intervals, at least 100"
    )
    group.add_argument("--seed", type=cli.seed, default=42, help="of the resamples")
    p.add_argument("--kto", action="store_true", help="write unpaired rows for KTO too: kto.jsonl")
    cli.add_output_flags(p, "outputs/preferences")
    return p


def main(args) -> dict:
    started = time.monotonic()
    checkpoint.check_output(args.output_dir, overwrite=args.overwrite)
    from sllm import bradley_terry
    from sllm.chatstore.command_line import read_named
    from sllm.data import preferences, ratings

    records, database = read_named(args, "from_chat")
    if args.overwrite:
        checkpoint.require_distinct(args.output_dir, database)
    # Each source adds its pairs to `collected`; from here on they are all alike.
    collected = preferences.from_chat(
        records, keep_truncated=args.keep_truncated, max_pairs_per_prompt=args.max_pairs_per_prompt
    )
    judgements = len(collected.pairs) + sum(collected.dropped.values())
    entries = preferences.merge(collected)
    votes = [(c.left.model, c.right.model, c.choice) for c in records.comparisons if c.choice]
    fitted = bradley_terry.rate(votes, samples=int(args.bootstrap), seed=args.seed)
    kto, kto_dropped = preferences.unpaired(records, keep_truncated=args.keep_truncated) if args.kto else ([], {})
    if not entries and not kto:
        reasons = [f"{count} {reason}" for reason, count in collected.dropped.items()]
        reasons += [f"{reject.table} {reject.id}: {reject.reason}" for reject in records.rejects[:5]]
        raise InputError(f"{args.from_chat} has no preferences: {'; '.join(reasons) or 'there are no votes yet'}")

    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)
    write_jsonl(out / "train.jsonl", [entry.row for entry in entries])
    if args.kto:
        write_jsonl(out / "kto.jsonl", kto)
    write_jsonl(out / "rejects.jsonl", map(vars, records.rejects))
    write_json(out / "ratings.json", asdict(fitted))
    if fitted.models:
        ratings.plot(fitted, str(out / "ratings.png"))
    report = {
        "judgements": judgements,
        "rows": len(entries),
        "dropped": dict(collected.dropped),
        "rejects": len(records.rejects),
        "capped": collected.capped,
        "contradictions": collected.contradictions,
        "votes": len(votes),
        "kto": {"rows": len(kto), "dropped": dict(kto_dropped)} if args.kto else None,
        "origin": [entry.origin for entry in entries],
    }
    write_json(out / "report.json", report)
    data = {"kind": "preference", "rows": {"train": len(entries)}, "sha256": checkpoint.file_hash(out / "train.jsonl")}
    checkpoint.write_run(out, "data", args, parents=[], data=data, seconds=time.monotonic() - started)
    show(report, fitted)
    counts = {"rows": len(entries), "judgements": judgements, "kto_rows": len(kto), "rejects": report["rejects"]}
    return {"stage": "data", "output_dir": str(out), **counts}


def show(report: dict, fitted) -> None:
    dropped = sum(report["dropped"].values())
    print(f"{report['judgements']} judgements → {report['rows']} rows, {dropped} dropped or merged")
    for reason, count in report["dropped"].items():
        print(f"  {count:>5} {reason}")
    if report["rejects"]:
        print(f"  {report['rejects']:>5} rows of the database cannot be used; the reasons are in rejects.jsonl")
    for entry in report["capped"]:
        question, pairs = entry["prompt"][-1]["content"][:40], entry["up"] * entry["down"]
        print(f"  “{question}” {entry['up']} up, {entry['down']} down: {entry['kept']} of {pairs} pairs kept")
    for entry in report["contradictions"]:
        question = entry["prompt"][-1]["content"][:40]
        print(f"  both ways: “{question}” {', '.join(entry['for'])} against {', '.join(entry['against'])}")
    if len({model.group for model in fitted.models}) > 1:
        print("  ratings compare inside a group only: some models never met, directly or through others")
    if fitted.models:
        table = [
            [m.model, f"{m.rating:.0f}", interval(m, "{:.0f}"), m.votes, m.wins, m.losses, m.ties]
            for m in fitted.models
        ]
        print("\n" + cli.table(["model", "rating", "95 %", "votes", "won", "lost", "neither"], table))
        table = [
            [f"{p.a} over {p.b}", f"{p.a_rate:.0%}", interval(p, "{:.0%}"), p.votes, p.a_wins, p.b_wins, p.ties,
             p.both_bad]
            for p in fitted.pairs
        ]  # fmt: skip
        print("\n" + cli.table(["pair", "win rate", "95 %", "votes", "won", "lost", "ties", "both bad"], table))


def interval(entry, form: str) -> str:
    """Empty for a few votes: if they all agree, so do their resamples, and the interval would look certain."""
    return f"{form.format(entry.low)}–{form.format(entry.high)}" if entry.votes >= 10 else "few votes"


if __name__ == "__main__":
    cli.run(main, build_parser())
