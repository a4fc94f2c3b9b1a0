"""What a line of an answer file says of its row, the table of all lines, and reading a finished file."""

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.generation import Generation, logprobs_of, text

SKIPPED = "skipped"  # finish_reason of a row that was not asked


def fields(
    tokenizer, group: list[Generation], stops: list[int], *, prompt_tokens: int, logprobs: int | None = None
) -> dict:
    """What a line says of a row's answers: of the first one, and with several of them a list of each; see
    vllm_inference.py."""
    first, outputs = group[0], [text(tokenizer, answer, stops) for answer in group]
    record = {
        "output": outputs[0],
        "finish_reason": first.finish_reason,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(first.token_ids),
    }
    if len(group) > 1:
        record["outputs"] = outputs
        record["finish_reasons"] = [answer.finish_reason for answer in group]
        record["completion_token_counts"] = [len(answer.token_ids) for answer in group]
    if logprobs is not None:
        each = [logprobs_of(tokenizer, answer, logprobs) for answer in group]
        record |= {"logprobs": each[0]} | ({"outputs_logprobs": each} if len(group) > 1 else {})
    return record


def skipped(reason: str, *, prompt_tokens: int) -> dict:
    """The line of a row that cannot be asked: there, so that line n answers row n and scores as no answer."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": 0}
    return {"output": "", "finish_reason": SKIPPED, **counts, "reason": reason}


def tokens_of(line: dict) -> int:
    """Tokens of all answers of a line."""
    return sum(line.get("completion_token_counts", [line["completion_tokens"]]))


def summary(lines: list[dict], new: int, seconds: float, load_seconds: float) -> dict:
    """Print a table by task, warn of empty answers, and return the results of the stage.

    Args:
        lines: every answer; the last `new` of them were made in `seconds`.
    """
    by_task: dict[str, list[dict]] = {}
    for line in lines:
        by_task.setdefault(line["task"] or "-", []).append(line)
    rows = [_row(task, by_task[task]) for task in sorted(by_task)]
    if len(rows) > 1:
        rows.append(_row("all", lines))
    print(cli.table(["task", "rows", "stop", "length", "prompt tokens", "answer tokens", "characters"], rows))
    answered = [line for line in lines if line["finish_reason"] != SKIPPED]
    skipped = [line["id"] for line in lines if line["finish_reason"] == SKIPPED]
    empty = [line["id"] for line in answered if not all(text.strip() for text in _texts(line))]
    for ids, state in ((skipped, "skipped"), (empty, "with an empty answer")):
        if ids:
            print(f"warning: {cli.plural(len(ids), 'row')} of {len(lines)} {state}: {', '.join(ids[:5])}"[:160])
    tokens = sum(tokens_of(line) for line in lines[len(lines) - new :])
    return {
        "rows": len(lines),
        "new_rows": new,
        "answers": sum(len(_texts(line)) for line in answered),
        "skipped": len(skipped),
        "finish_reasons": dict(Counter(reason for line in lines for reason in _reasons(line))),
        "empty": len(empty),
        "prompt_tokens": sum(line["prompt_tokens"] for line in lines),
        "completion_tokens": sum(map(tokens_of, lines)),
        "tokens_per_second": round(tokens / seconds, 1) if tokens and seconds else None,
        "load_seconds": round(load_seconds, 1),
    }


def _texts(line: dict) -> list[str]:
    return line.get("outputs", [line["output"]])


def _reasons(line: dict) -> list[str]:
    return line.get("finish_reasons", [line["finish_reason"]])


def _row(task: str, lines: list[dict]) -> list:
    """Counts of answers by how they ended; means by row of the prompt, and by answer of the rest."""
    reasons = Counter(reason for line in lines for reason in _reasons(line))
    answered = max(sum(reasons.values()), 1)
    prompts = sum(line["prompt_tokens"] for line in lines) / len(lines)
    tokens = sum(map(tokens_of, lines)) / answered
    characters = sum(len(text) for line in lines for text in _texts(line)) / answered
    means = (f"{mean:.1f}" for mean in (prompts, tokens, characters))
    return [task, len(lines), reasons["stop"], reasons["length"], *means]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """A file's answers by their ids. InputError with file and line of what cannot be one."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); make it with vllm_inference.py") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); make the file with vllm_inference.py") from None
    lines: dict[str, dict[str, Any]] = {}
    for number, written in enumerate(content.split("\n"), 1):
        if not written.strip():
            continue
        try:
            line = _checked(json.loads(written))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}:{number}: not a line of answers ({error}); make the file with vllm_inference.py"
            ) from None
        if line["id"] in lines:
            raise InputError(f"{path}:{number}: a second answer to {line['id']}; give each row an id of its own")
        lines[line["id"]] = line
    if not lines:
        raise InputError(f"{path} is empty; make it with vllm_inference.py")
    return lines


def _checked(line: Any) -> dict[str, Any]:
    """The line in composed form (NFC), as training and serving have it. ValueError with what is wrong."""
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    for key in ("id", "output", "finish_reason"):
        if not isinstance(line.get(key), str):
            raise ValueError(f"{key} is not a text")
    for key in ("task", "reference"):
        if not isinstance(line.setdefault(key, None), str | None):
            raise ValueError(f"{key} is not a text")
    messages = line.get("messages")
    if not (isinstance(messages, list) and messages):
        raise ValueError("messages is not a list of messages")
    for message in messages:
        if not (isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))):
            raise ValueError("a message has no role or content")
    texts, reasons = line.setdefault("outputs", [line["output"]]), line.setdefault("finish_reasons", [])
    reasons = line["finish_reasons"] = reasons or [line["finish_reason"]]
    if not (isinstance(texts, list) and isinstance(reasons, list) and len(texts) == len(reasons) > 0):
        raise ValueError("outputs and finish_reasons are not lists of the same length")
    if not all(isinstance(value, str) for value in (*texts, *reasons)):
        raise ValueError("outputs or finish_reasons holds something else than texts")
    try:
        composed: dict[str, Any] = json.loads(unicodedata.normalize("NFC", json.dumps(line, ensure_ascii=False)))
        json.dumps(composed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half a character (a lone surrogate); write the file in UTF-8, not in escapes") from None
    return composed


def source(path: Path) -> dict[str, Any]:
    """The file and its hash, and from the record beside it the model, and how it was asked."""
    if not path.is_file():
        return {}
    source: dict[str, Any] = {"answers": str(path), "sha256": checkpoint.file_hash(path)}
    try:
        record = json.loads(path.with_suffix(".run.json").read_text(encoding="utf-8"))
        model = checkpoint.find(path.parent, record, record["parents"][-1]["path"])
        source |= {"model": model, "settings": record["data"]["settings"], "versions": record["versions"]}
    except (OSError, ValueError, LookupError, TypeError):
        pass  # answers of another tool have no record
    return source
