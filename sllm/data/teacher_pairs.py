"""A teacher's answers, chosen, against those of the model that is trained, rejected: pairs of answers to one prompt."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sllm import api_calls, cli, output_lines
from sllm.api_calls import Completion, Request
from sllm.data import answer_scores
from sllm.data.preferences import Answer, CollectedPairs, prompt_key
from sllm.data.samples import facts_problems, question_of

Lines = dict[str, dict[str, Any]]  # of an answer file, by id


def read(path: str | Path, facts: Mapping[str, dict[str, Any]]) -> Lines:
    """InputError for a file that is not of answers, or that answers other prompts than `facts` has."""
    lines = output_lines.read(Path(path))
    if problems := facts_problems(path, lines, facts):
        raise cli.InputError(problems)
    return {id: line for id, line in lines.items() if line["finish_reason"] != output_lines.SKIPPED}


def answers_of(path: str | Path, lines: Lines) -> dict[str, Answer]:
    """The first answer to each prompt of an answer file."""
    model = str(output_lines.source(Path(path)).get("model", path))
    return {
        prompt_key(line["messages"]): Answer(
            line["messages"], line["output"], model, line["task"], line["finish_reason"]
        )
        for line in lines.values()
    }


def parameters(args: argparse.Namespace) -> dict[str, Any]:
    return {"max_tokens": args.max_tokens, "seed": args.seed}


def check(args: argparse.Namespace) -> None:
    """Ask the teacher one short question. InputError for an address, key or model that is wrong."""
    api_calls.from_flags(args, "teacher").check(parameters(args))


def ask(lines: Lines, args: argparse.Namespace, journal: Path) -> tuple[dict[str, Answer], dict[str, Any]]:
    """The teacher's answer to each prompt, and JSON of its calls. Shows progress.

    Args:
        args: with the flags --teacher_… of `sllm.data.preference_flags`.
        journal: prompts that it holds the answers to are not asked again.
    """
    client = api_calls.from_flags(args, "teacher", journal)
    requests = [Request(f"teacher {id}", line["messages"], parameters(args)) for id, line in lines.items()]

    def parse(completion: Completion) -> Completion:
        if not completion.text.strip():
            raise ValueError("an empty answer")
        return completion

    results = client.ask_all(requests, parse, noun="answer")
    client.journal.close()
    answers = {
        prompt_key(line["messages"]): Answer(
            line["messages"], result.value.text.strip(), args.teacher_model, line["task"], result.value.finish_reason
        )
        for line, result in zip(lines.values(), results, strict=True)
        if result.value
    }
    return answers, answer_scores.calls_of(client)


def pairs(
    teacher: Mapping[str, Answer],
    student: str | Path,
    lines: Lines,
    facts: Mapping[str, dict[str, Any]],
    *,
    keep_truncated: bool = False,
) -> CollectedPairs:
    """The teacher's answers against those of the file `student`, which has these `lines`. The teacher's are dropped
    where they break a rule of the task, or are known not to be true.

    Args:
        teacher: by `preferences.prompt_key`.
    """
    collected = CollectedPairs()
    own = answers_of(student, lines)
    for line in lines.values():
        key = prompt_key(line["messages"])
        if key not in teacher:
            collected.dropped["prompts without an answer of the teacher"] += 1
        elif not answer_scores.is_good(answer_scores.parts(question_of(line, facts), teacher[key].text)):
            collected.dropped["the teacher's answer breaks a rule or is not true"] += 1
        else:
            collected.add(teacher[key], own[key], "teacher", keep_truncated=keep_truncated)
    return collected
