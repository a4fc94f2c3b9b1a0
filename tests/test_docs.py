"""Every command in the READMEs and recipes parses: a renamed flag cannot leave the texts behind."""

import importlib
import re
import shlex

import pytest
from conftest import ROOT

TEXTS = [ROOT / "README.md", ROOT / "README.ko.md", *sorted(ROOT.glob("recipes/*.sh")), *sorted(ROOT.glob("*.py"))]


def commands(text: str) -> list[list[str]]:
    """`python script.py …` and `python -m sllm.… …` commands, continuation lines joined."""
    joined = _with_variables(re.sub(r"\\+\n\s*", " ", text))
    joined = re.sub(r'"\$\w+_port"', "8000", joined)
    found = re.findall(
        r"^\s*(?:\$ )?(?:\w+=\S+ )*(?:exec )?(python (?:\w+\.py|-m sllm\.\w+)(?: .*)?)$", joined, re.MULTILINE
    )
    return [shlex.split(command.split(" #")[0].split(" | ")[0]) for command in found]


def _with_variables(text: str) -> str:
    """A recipe with its variables of flags put in: once for each of the values that they are given."""
    given: dict[str, list[str]] = {}
    for name, quoted, bare in re.findall(r'^\s+(\w+)=(?:"([^"$]*)"|\$\{\w+:-(\w+)\})$', text, re.MULTILINE):
        given.setdefault(name, []).append(quoted or bare)
    texts = []
    for i in range(max(map(len, given.values()), default=1)):
        values = {name: each[min(i, len(each) - 1)] for name, each in given.items()}
        texts.append(re.sub(r"\$(\w+)\b", lambda found, values=values: values.get(found[1], found[0]), text))
    return "\n".join(texts)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_parse(path):
    for words in commands(path.read_text(encoding="utf-8")):
        module, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1].removesuffix(".py"), words[2:])
        rest = [word for word in rest if word != "$@"]
        try:
            importlib.import_module(module).build_parser().parse_args(rest)
        except SystemExit as stop:
            assert stop.code == 0, f"{path.name}: {shlex.join(words)}"


def test_both_readmes_show_the_same_commands():
    english, korean = (commands((ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "README.ko.md"))
    assert english == korean and len(english) >= 8


def test_every_script_has_a_section_and_a_working_example():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in ROOT.glob("*.py"):
        assert path.name in readme
        assert commands(path.read_text(encoding="utf-8").split('"""')[1]), f"{path.name}: no command in its docstring"


@pytest.mark.parametrize("name", ["README.md", "README.ko.md", "benchmarks/README.md", "templates/README.md"])
def test_links_lead_somewhere_and_nothing_is_left_open(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (path.parent / target).exists(), target
