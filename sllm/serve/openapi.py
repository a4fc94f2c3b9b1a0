"""The tasks as `/v1/tasks` lists them, and the OpenAPI document that `/docs` shows: a real request for each task, and
only what is really answered.
"""

import json
from pathlib import Path

from fastapi import FastAPI

from sllm import tasks
from sllm.tasks.table import FIELDS

SAMPLES = Path(__file__).resolve().parent.parent.parent / "sample_data" / "task_rows.jsonl"


def task_entries() -> list[dict]:
    """Every task as `/v1/tasks` lists it."""
    examples = {}
    if SAMPLES.is_file():
        for line in SAMPLES.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["task"] not in examples:
                examples[row["task"]] = tasks.split_user_turn(row["task"], row["user_content"])
    entries = []
    for task in tasks.TASKS.values():
        fields = [{"name": name, "description": FIELDS[name][1], "required": True} for name in task.fields]
        if "question" not in task.fields:
            fields.append({"name": "question", "description": FIELDS["question"][1], "required": False})
        ratio = task.length_ratio and [None if bound == float("inf") else bound for bound in task.length_ratio]
        entries.append(
            {
                "id": task.id,
                "name_ko": task.name_ko,
                "name_en": task.name_en,
                "style": task.style,
                "fields": fields,
                "question": task.question,
                "rules": list(task.rules),
                "length_ratio": ratio,
                "system_prompt": task.system_prompt,
                "example": examples.get(task.id),
            }
        )
    return entries


def task_examples(entries: list[dict]) -> dict:
    """For the documentation page: the example of each task, ready to send."""
    return {
        entry["id"]: {
            "summary": f"{entry['id']} {entry['name_ko']}",
            "value": (entry["example"] or {}) | {"temperature": 0, "max_tokens": 128},
        }
        for entry in entries
    }


def document(app: FastAPI) -> None:
    """Complete the OpenAPI document: 422 is never sent, and a key can be given."""
    plain = app.openapi

    def openapi() -> dict:
        if app.openapi_schema:
            return app.openapi_schema
        schema = plain()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        schemes = schema["components"].setdefault("securitySchemes", {})
        schemes["key"] = {"type": "http", "scheme": "bearer"}
        schema["security"] = [{}, {"key": []}]
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        return schema

    app.openapi = openapi
