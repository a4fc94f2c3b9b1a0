"""What build_preferences.py says of the pairs: in report.json, and on the terminal."""

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sllm import cli
from sllm.bradley_terry import Ratings
from sllm.data import length_balance
from sllm.data.preferences import CollectedPairs, PreferenceEntry
from sllm.data.samples import Candidates

SHOWN = 5  # reasons, and pairs that were judged both ways


def build(
    collected: CollectedPairs,
    merged: Sequence[PreferenceEntry],
    entries: Sequence[PreferenceEntry],
    candidates: Candidates,
    *,
    judgements: int,
    votes: int,
) -> dict[str, Any]:
    """
    Args:
        merged, entries: the rows before and after --balance_length.
    """
    answers = [answer for each in candidates.answers for answer in each]
    return {
        "judgements": judgements,
        "rows": len(entries),
        "sources": dict(Counter(entry.source for entry in entries)),
        "dropped": dict(+collected.dropped),
        "capped": collected.capped,
        "contradictions": collected.contradictions,
        "votes": votes,
        "samples": {
            "prompts": len(candidates.questions), "scored": len(answers), "left_out": dict(candidates.left_out),
        } if candidates.questions else None,
        "margins": length_balance.margins(entries),
        "scores": length_balance.parts(entries),
        "length": {"before": length_balance.describe(merged), "after": length_balance.describe(entries)},
    }  # fmt: skip


def nothing(args: argparse.Namespace, collected: CollectedPairs, rejects: Sequence[dict[str, Any]]) -> list[str]:
    """The problem where no row can be written."""
    reasons = [f"{count} {reason}" for reason, count in (+collected.dropped).items()]
    first: dict[str, dict[str, Any]] = {}
    for reject in rejects:
        first.setdefault(reject["reason"], reject)
    counts = Counter(reject["reason"] for reject in rejects)
    for reason, reject in list(first.items())[:SHOWN]:
        more = f" (and {counts[reason] - 1:,} more rows)" if counts[reason] > 1 else ""
        reasons.append(f"{_place(reject)}: {reason}{more}")
    given = [args.from_chat, *args.from_samples, args.model_id or args.adapter, args.from_teacher, *args.from_ratings]
    sources = ", ".join(str(source) for source in given if source) or args.teacher_model
    return [f"{sources}: no preferences in it: {'; '.join(reasons) or 'there are no votes yet'}"]


def _place(reject: dict[str, Any]) -> str:
    return f"{reject['file']}:{reject['line']}" if "file" in reject else f"{reject['table']} {reject['id']}"


def show(report: dict[str, Any]) -> None:
    dropped = sum(report["dropped"].values())
    sources = ", ".join(f"{count:,} {source}" for source, count in report["sources"].items())
    print(f"{report['judgements']:,} judgements → {report['rows']:,} rows ({sources}), {dropped:,} dropped or merged")
    for reason, count in report["dropped"].items():
        print(f"  {count:>5} {reason}")
    if report["rejects"]:
        print(f"  {report['rejects']:>5} rows cannot be used; the reasons are in rejects.jsonl")
    for entry in report["capped"]:
        question, pairs = entry["prompt"][-1]["content"][:40], entry["up"] * entry["down"]
        print(f"  “{question}” {entry['up']} up, {entry['down']} down: {entry['kept']} of {pairs} pairs kept")
    for entry in report["contradictions"][:SHOWN]:
        question = entry["prompt"][-1]["content"][:40]
        print(f"  both ways: “{question}” {', '.join(entry['for'])} against {', '.join(entry['against'])}")
    if len(report["contradictions"]) > SHOWN:
        print(f"  … and {len(report['contradictions']) - SHOWN} more pairs that were judged both ways")
    if samples := report["samples"]:
        left_out = "".join(f", {count:,} {reason}" for reason, count in samples["left_out"].items())
        cli.say("samples", f"{samples['scored']:,} answers to {samples['prompts']:,} prompts{left_out}")
    if report["sft"] is not None:
        cli.say("best as SFT", cli.plural(report["sft"], "row"))
    for name, asked in report["asked"].items():
        cost = "" if asked["cost"] is None else f", cost {asked['cost']:,.2f}"
        cli.say(name, f"{cli.plural(asked['calls'], 'call')} ({asked['new_calls']:,} now){cost}")
        for reason, count in asked["failures"].items():
            cli.say("", f"{cli.plural(count, 'call')} failed: {reason}; --resume makes such calls again")
    if report["rows"]:
        _show_scores(report)
        _show_length(report["length"])


def _show_scores(report: dict[str, Any]) -> None:
    names = ("least", "p10", "p50", "p90", "most", "mean")
    if report["margins"]:
        table = [[source, of["pairs"], *(f"{of[name]:.2f}" for name in names)] for source, of in
                 report["margins"].items()]  # fmt: skip
        headers = ["margins", "pairs", "least", "10 %", "median", "90 %", "most", "mean"]
        print("\n" + cli.table(headers, table))
    if report["scores"]:
        table = [
            [name, of["pairs"], f"{of['chosen_mean']:.2f}", f"{of['rejected_mean']:.2f}", of["chosen_full"],
             of["rejected_full"]]
            for name, of in report["scores"].items()
        ]  # fmt: skip
        headers = ["part of the score", "pairs", "chosen, mean", "rejected, mean", "chosen = 1", "rejected = 1"]
        print("\n" + cli.table(headers, table))


def _show_length(length: dict[str, Any]) -> None:
    print()
    for name in ("before", "after") if length["before"] != length["after"] else ("after",):
        found = length[name]
        if "share_longer" not in found:
            continue
        share = f"chosen is longer in {found['share_longer']:.1%} ({found['low']:.1%}–{found['high']:.1%})"
        title = "length" if length["before"] == length["after"] else f"length {name}"
        cli.say(title, f"{share} of {cli.plural(found['longer'] + found['shorter'], 'pair')}, by "
                f"{found['mean_difference']:+.1f} characters on average")  # fmt: skip


def show_ratings(fitted: Ratings) -> None:
    if len({model.group for model in fitted.models}) > 1:
        print("  ratings compare inside a group only: some models never met, directly or through others")
    if not fitted.models:
        return
    table = [
        [m.model, f"{m.rating:.0f}", interval(m, "{:.0f}"), m.votes, m.wins, m.losses, m.ties] for m in fitted.models
    ]
    print("\n" + cli.table(["model", "rating", "95 %", "votes", "won", "lost", "neither"], table))
    table = [
        [f"{p.a} over {p.b}", f"{p.a_rate:.0%}", interval(p, "{:.0%}"), p.votes, p.a_wins, p.b_wins, p.ties,
         p.both_bad]
        for p in fitted.pairs
    ]  # fmt: skip
    print("\n" + cli.table(["pair", "win rate", "95 %", "votes", "won", "lost", "ties", "both bad"], table))


def interval(entry: Any, form: str) -> str:
    """Empty for a few votes: if they all agree, so do their resamples, and the interval would look certain."""
    return f"{form.format(entry.low)}–{form.format(entry.high)}" if entry.votes >= 10 else "few votes"
