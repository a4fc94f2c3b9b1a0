"""Clients of a model that reasons before it answers."""

import pytest
import scripted_model
from asking import check_node, check_python, serve


@pytest.fixture(scope="module")
def server(tiny_base, tmp_path_factory):
    model = scripted_model.build(tiny_base, tmp_path_factory.mktemp("models") / "reasoning", thinks=True)
    with serve("reasoning", model, "--tool_call_parser", "hermes", "--reasoning_parser", "qwen3") as started:
        yield started


@pytest.mark.parametrize("client", ["openai", "litellm"])
def test_python(server, client, tmp_path):
    check_python(server, client, tmp_path)


def test_node(server):
    check_node(server)
