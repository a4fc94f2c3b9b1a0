"""What the checks of all clients share: their runner, the tool that they offer, and what the scripted model says.

A check is a function of a `with_….py` whose name begins with that of a server: plain, tools or reasoning. With a server
at hand they run like this, too:

    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=…
    .venv-clients/openai/bin/python tests/clients/with_openai.py plain
"""

import os
import sys
import traceback

MODEL = "tiny"
URL, KEY = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")

QUESTION = "서울과 부산의 날씨를 알려 주세요."
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "날씨를 알려 줍니다.", "parameters": PARAMETERS},
}
CITIES = ["서울", "부산"]  # that the scripted model calls the tool for
CITY = PARAMETERS | {"properties": {"city": {"enum": CITIES}}}
ANSWER = "오늘은 서울이 맑습니다."
REASONING = "서울을 물었으니 맑다고 답하자."


def run() -> None:
    """Run the checks of the calling script for the server that the command line names, each of them."""
    checks = {
        name: function
        for name, function in vars(sys.modules["__main__"]).items()
        if name.startswith(sys.argv[1] + "_") and callable(function)
    }
    failed = 0
    for name, check in checks.items():
        try:
            check()
            print(f"passed {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
    sys.exit(1 if failed or not checks else 0)
