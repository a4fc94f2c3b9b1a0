"""Asking the teacher for all rows, and keeping what comes: train.jsonl, rejects.jsonl and the counts.

The journal of the calls is the one record of a run. The files are rewritten from it when a run resumes, so that
however it ended no call is made twice, no row is written twice and none is lost.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from sllm import cli, tasks
from sllm.api_calls import UNPARSED, Client, Job, Request, Result
from sllm.data.teacher import answers, plans
from sllm.data.teacher.contexts import Context, Contexts
from sllm.data.teacher.plans import Plan

JOURNAL, SETTINGS = "teacher_calls.jsonl", "teacher.json"


@dataclass(frozen=True, eq=False)
class RowJob(Job[dict[str, Any]]):
    plan: Plan = field(kw_only=True)


@dataclass
class Counts:
    """Of one task. `first_try`: rows that needed one attempt; `missing`: calls that failed, or were not made."""

    planned: int = 0
    written: int = 0
    first_try: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    missing: int = 0


@dataclass
class Written:
    """What a run has written so far."""

    tasks: dict[str, Counts]
    attempts: Counter[int] = field(default_factory=Counter)  # of the rows that were written
    levels: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)  # rows by the file of their context
    unfit: Counter[str] = field(default_factory=Counter)  # rows that were not planned, by reason

    def rows(self) -> int:
        return sum(counts.written for counts in self.tasks.values())

    def rejected(self) -> int:
        return sum(counts.rejected.total() for counts in self.tasks.values())

    def missing(self) -> int:
        return sum(counts.missing for counts in self.tasks.values())


def job(plan: Plan, parameters: dict[str, Any], *, structured: bool) -> RowJob:
    """A plan as it is sent. `structured`: with the schema of what is asked for, where it is JSON."""
    given = parameters | ({"response_format": plans.schema(plan.asked)} if structured and plan.asked else {})
    request = Request(plan.id, plan.messages, given)
    return RowJob(request, partial(answers.read, plan), partial(answers.revise, plan, request), plan=plan)


def planned(contexts: Sequence[Context], task_ids: Sequence[str], rows: int, seed: int) -> Iterator[Plan | str]:
    """All rows in their order; a reason where there is none."""
    for index, task_id, number in plans.pairs(len(contexts), task_ids, rows):
        yield plans.plan(contexts[index], task_id, number, seed)


class Writer:
    """Takes the results in their order. `most`: rows, None for no limit."""

    def __init__(self, folder: Path, contexts: Contexts, task_ids: Sequence[str], most: int | None):
        self.written = Written({task_id: Counts() for task_id in task_ids})
        self._most = most
        self._questions: dict[tuple[str, str], str] = {}  # (task, user turn) → id
        self._answers: dict[str, str] = {}
        self._train: IO[str] = (folder / "train.jsonl").open("w", encoding="utf-8")
        self._rejects: IO[str] = (folder / "rejects.jsonl").open("w", encoding="utf-8")
        for reject in contexts.rejects:
            self._line(self._rejects, {"id": None, "task": None, **asdict(reject)})

    def wanted(self) -> float:
        return float("inf") if self._most is None else self._most - self.written.rows()

    def take(self, job: RowJob, result: Result[dict[str, Any]]) -> None:
        plan, counts = job.plan, self.written.tasks[job.plan.task.id]
        counts.planned += 1
        if result.value is None and result.failure != UNPARSED:
            counts.missing += 1
            return
        row, error = result.value, result.error
        failures = list(error.failures) if isinstance(error, answers.Broken) else []
        if row is not None and (first := self._first(plan, row)):
            row, failures = None, [tasks.Failure("duplicate", f"duplicate of {first}")]
        if row is None:
            counts.rejected.update({failure.rule: 1 for failure in failures[:1]})
            reasons = [f"{failure.rule}: {failure.reason}" for failure in failures]
            completion = result.completion
            self._line(self._rejects, {
                "id": plan.id, "task": plan.task.id, "context_id": plan.context.id, "place": plan.context.place,
                "reason": "; ".join(reasons), "attempts": result.attempts,
                "answer": completion.text if completion else "",
                "finish_reason": completion.finish_reason if completion else None,
            })  # fmt: skip
            return
        counts.written += 1
        counts.first_try += result.attempts == 1
        self.written.attempts[result.attempts] += 1
        self.written.files[plan.context.file] += 1
        self.written.levels[plan.level or "none"] += 1
        self.written.verdicts.update([plan.verdict] if plan.verdict else [])
        self._line(self._train, row)

    def _first(self, plan: Plan, row: dict[str, Any]) -> str | None:
        """The earlier row that asks the same about the same text, or answers the same."""
        question, answer = row["messages"][-2]["content"], row["messages"][-1]["content"]
        first = self._questions.setdefault((plan.task.id, _normal(question)), plan.id)
        if first == plan.id and plan.task.style != "line":  # two texts may well have one title
            first = self._answers.setdefault(_normal(answer), plan.id)
        return first if first != plan.id else None

    def _line(self, file: IO[str], entry: dict[str, Any]) -> None:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        file.flush()

    def close(self) -> None:
        self._train.close()
        self._rejects.close()


def write(
    client: Client, contexts: Contexts, args: Any, task_ids: Sequence[str], folder: Path, *, structured: bool,
    parameters: dict[str, Any],
) -> tuple[Written, float]:  # fmt: skip
    """Ask for every row, but for what the journal of `client` answers already. Returns the counts, and the seconds.

    Raises:
        InputError: the teacher cannot be asked; cli.Interrupted: by Ctrl-C.
    """
    writer, started = Writer(folder, contexts, task_ids, args.max_rows), time.monotonic()

    def jobs() -> Iterator[RowJob]:
        for plan in planned(contexts.used, task_ids, args.rows_per_context, args.seed):
            if isinstance(plan, str):
                writer.written.unfit[plan.partition("(")[0].strip()] += 1
            else:
                yield job(plan, parameters, structured=structured)

    total = len(contexts.used) * len(task_ids) * args.rows_per_context
    try:
        client.ask_each(jobs(), writer.take, total=total, attempts=args.max_attempts, noun="row", wanted=writer.wanted)
    finally:
        writer.close()
        client.journal.close()
    return writer.written, time.monotonic() - started


def report(written: Written, contexts: Contexts, client: Client, seconds: float) -> dict[str, Any]:
    """The content of report.json."""
    reasons = Counter(reject.reason.partition(":")[0].partition(" of ")[0] for reject in contexts.rejects)
    total: Counter[str] = Counter()
    for counts in written.tasks.values():
        total += counts.rejected
    usage = asdict(client.tally) | {"price": client.price}
    return {
        "contexts": {"read": contexts.read, "used": len(contexts.used), "rejected": dict(reasons.most_common())},
        "rows": {"written": written.rows(), "rejected": written.rejected(), "missing": written.missing(),
                 "not_planned": dict(written.unfit)},
        "tasks": {task: asdict(counts) | {"rejected": dict(counts.rejected.most_common())}
                  for task, counts in written.tasks.items()},
        "rejected": dict(total.most_common()),
        "attempts": {str(number): count for number, count in sorted(written.attempts.items())},
        "system_prompts": {level: written.levels[level] for level in (*plans.LEVELS, "none") if written.levels[level]},
        "verdicts": dict(written.verdicts),
        "failed_calls": {failure: {"count": sum(reasons.values()), "reasons": dict(reasons.most_common(10))}
                         for failure, reasons in client.failures.items() if failure != UNPARSED},
        "usage": usage,
        "seconds": round(seconds, 1),
        "rows_per_second": round(written.rows() / seconds, 2) if client.tally.new_calls and seconds else None,
    }  # fmt: skip


def show(report: dict[str, Any]) -> None:
    """The table of the tasks, and notes."""

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.0%}" if whole else "-"

    rows = [
        [task, c["written"], share(c["first_try"], c["planned"]), sum(c["rejected"].values()), c["missing"],
         ", ".join(f"{rule} {count}" for rule, count in list(c["rejected"].items())[:3])]
        for task, c in report["tasks"].items()
    ]  # fmt: skip
    print("\n" + cli.table(["task", "rows", "first try", "rejected", "missing", "mostly for"], rows))
    usage = report["usage"]
    cost = "" if usage["cost"] is None else f", cost {usage['cost']:,.2f}"
    tokens = f"{usage['prompt_tokens']:,} tokens in, {usage['completion_tokens']:,} out"
    cli.say("teacher", f"{cli.plural(usage['calls'], 'call')} ({usage['new_calls']:,} now), {tokens}{cost}")
    if usage["calls_without_usage"]:
        cli.say(
            "note", f"the tokens of {cli.plural(usage['calls_without_usage'], 'call')} are not known, nor their cost"
        )
    for reason, count in report["rows"]["not_planned"].items():
        cli.say("note", f"{cli.plural(count, 'row')} not asked for: {reason}")
    for failure in report["failed_calls"].values():
        (reason, _), *_ = failure["reasons"].items()
        cli.say(
            "note", f"{cli.plural(failure['count'], 'row')} missing, which --resume asks for again (mostly: {reason})"
        )


def _normal(text: str) -> str:
    return " ".join(text.split())
