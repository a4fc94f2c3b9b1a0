"""llm, the command line: prompts whole and streamed, a conversation that goes on, schemas, its log, tools."""

import json
import os
import subprocess
import sys
from pathlib import Path

import common
from common import ANSWER, CITIES, CITY, MODEL, QUESTION

FOLDER = Path(os.environ["CLIENT_FOLDER"])
(FOLDER / "extra-openai-models.yaml").write_text(f"""\
- {{model_id: ours, model_name: {MODEL}, api_base: "{common.URL}", api_key_name: ours, supports_schema: true, supports_tools: true}}
- {{model_id: ours-text, model_name: {MODEL}, api_base: "{common.URL}", api_key_name: ours, completion: true}}
- {{model_id: ours-responses, model_name: {MODEL}, api_base: "{common.URL}", api_key_name: ours, responses: true}}
""")  # noqa: E501
(FOLDER / "keys.json").write_text(json.dumps({"ours": common.KEY}))
SHORT = ("-o", "max_tokens", "8", "-o", "temperature", "0")
PYTHON = 'def get_weather(city: str) -> str:\n    "날씨를 알려 줍니다."\n    return "맑음"\n'


def llm(*words: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("llm"), *words],
        env={**os.environ, "LLM_USER_PATH": str(FOLDER)}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain_prompt_streamed_and_whole():
    streamed = llm("-m", "ours", QUESTION, "-s", "짧게 답하세요.", *SHORT)
    assert streamed.strip()
    assert streamed == llm("-m", "ours", QUESTION, "-s", "짧게 답하세요.", "--no-stream", *SHORT)
    logged = json.loads(llm("logs", "--json", "-n", "1"))[0]
    assert logged["response"].strip() == streamed.strip()
    assert 1 <= logged["output_tokens"] <= 8


def plain_conversation_goes_on():
    llm("-m", "ours", "안녕하세요.", *SHORT)
    assert llm("-c", QUESTION, *SHORT).strip()


def plain_schema():
    said = llm("-m", "ours", QUESTION, "--schema", json.dumps(CITY), "-o", "temperature", "0")
    assert json.loads(said)["city"] in CITIES


def plain_text_completion():
    assert llm("-m", "ours-text", "물은", *SHORT).strip()


def plain_responses():
    assert llm("-m", "ours-responses", QUESTION, "-o", "temperature", "0").strip()


def tools_called_and_answered():
    for stream in ([], ["--no-stream"]):
        said = llm("-m", "ours", QUESTION, "--functions", PYTHON, *stream)
        assert said.strip() == ANSWER, said
        first = json.loads(llm("logs", "--json", "-n", "2"))
        assert [call["arguments"]["city"] for one in first for call in one["tool_calls"]] == CITIES


if __name__ == "__main__":
    common.run()
