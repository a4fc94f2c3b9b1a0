"""The texts hold: their commands parse, English and Korean pages show the same, links and named flags exist."""

import importlib
import re
import shlex

import pytest
from conftest import ROOT

from sllm import tasks

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
DESCRIBED = ["benchmarks.which_data_helped"]  # on the page of another script
GENERATED = ROOT / "docs" / "expectations.md"  # written by benchmarks/serve_expectations.py
KOREAN = sorted([ROOT / "README.ko.md", *ROOT.glob("docs/*.ko.md")])
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/*.md")} - {GENERATED} - set(KOREAN))
GUIDES = [
    *PAGES,
    *KOREAN,
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "deploy", "templates", "sample_data")),
]
WRAPPED = [*PAGES, *KOREAN, ROOT / "benchmarks" / "README.md"]
COMMANDED = [*GUIDES, *sorted(ROOT.glob("recipes/*.sh")), *sorted(ROOT.glob("*.py"))]
OTHER_FLAGS = {"--only", "--small"}  # of benchmarks/gpu/run.sh


def name_of(path) -> str:
    return str(path.relative_to(ROOT))


def korean_twin(path):
    return path.with_suffix(".ko.md")


def read(path) -> str:
    return path.read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """`python script.py …` and `python -m sllm.… …` commands, continuation lines joined."""
    joined = _with_variables(re.sub(r"\\+\n\s*", " ", text))
    joined = re.sub(r'"\$\w+_port"', "8000", joined)
    lines = re.findall(
        r"^\s*(?:\$ )?(?:\w+=\S+ )*(?:exec )?(python (?:(?:benchmarks/)?\w+\.py|-m sllm\.\w+)(?: .*)?)$",
        joined,
        re.MULTILINE,
    )
    return [shlex.split(command.split(" #")[0].split(" | ")[0]) for command in lines]


def _with_variables(text: str) -> str:
    """A recipe with its variables of flags put in: once for each of the values that they are given."""
    given: dict[str, list[str]] = {}
    for name, quoted, bare in re.findall(r'^\s+(\w+)=(?:"([^"$]*)"|\$\{\w+:-(\w+)\})$', text, re.MULTILINE):
        given.setdefault(name, []).append(quoted or bare)
    texts = []
    for i in range(max(map(len, given.values()), default=1)):
        values = {name: each[min(i, len(each) - 1)] for name, each in given.items()}
        texts.append(re.sub(r"\$(\w+)\b", lambda match, values=values: values.get(match[1], match[0]), text))
    return "\n".join(texts)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block; comments of shell commands left out, as they are translated."""
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [(kind, re.sub(r"\s+# .*", "", content) if kind == "bash" else content) for kind, content in fenced]


def prose(text: str) -> list[tuple[int, str]]:
    """(line number, line) outside of blocks, tables and pictures, without the targets of links."""
    numbered, in_block = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_block = not in_block
        elif not in_block and not line.lstrip().startswith(("|", "![", "<img")):
            numbered.append((number, re.sub(r"\]\([^)]*\)", "]", line)))
    return numbered


def links(text: str) -> list[str]:
    outside = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", outside) + re.findall(r'<img[^>]* src="([^"]+)"', outside)


def anchors(text: str) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def parser_of(module: str):
    found = importlib.import_module(module)
    return importlib.import_module(f"{module}.__main__" if hasattr(found, "__path__") else module).build_parser()


@pytest.mark.parametrize("path", COMMANDED, ids=name_of)
def test_commands_parse(path):
    for words in commands(read(path)):
        script = words[1].removesuffix(".py").replace("/", ".")
        module, rest = (words[2], words[3:]) if words[1] == "-m" else (script, words[2:])
        rest = [word for word in rest if word not in ("$@", "${valid[@]}")]
        try:
            parser_of(module).parse_args(rest)
        except SystemExit as stop:
            assert stop.code == 0, f"{name_of(path)}: {shlex.join(words)}"


@pytest.mark.parametrize("path", [*PAGES, *KOREAN], ids=name_of)
def test_named_flags_exist(path):
    known = {flag for module in [*SCRIPTS, *DESCRIBED] for flag in parser_of(module)._option_string_actions}
    outside = re.sub(r"^ *```.*?^ *```$", "", read(path), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z]\w*+(?:-\w++)?(?!\*)", outside))
    assert named - known - OTHER_FLAGS == set()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_korean_twins_show_the_same_commands_and_outputs(path):
    english, korean = blocks(read(path)), blocks(read(korean_twin(path)))
    assert english == korean


def test_every_korean_page_has_an_english_twin():
    assert [korean_twin(path) for path in PAGES] == KOREAN


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_page_with_a_command_and_a_row_in_the_readme(script):
    for suffix in (".md", ".ko.md"):
        page = read(ROOT / "docs" / f"{script}{suffix}")
        assert any(words[1] == f"{script}.py" for words in commands(page))
        assert f"\n| [{script}.py](docs/{script}{suffix}) | " in read(ROOT / f"README{suffix}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_working_example_in_its_docstring(script):
    assert commands(read(ROOT / f"{script}.py").split('"""')[1])


@pytest.mark.parametrize("name", ["tasks.md", "tasks.ko.md"])
def test_every_task_and_rule_is_documented(name):
    named = set(re.findall(r"`(\w+)`", read(ROOT / "docs" / name)))
    rules = {rule for task in tasks.TASKS.values() for rule in task.rules}
    assert {*tasks.TASKS, *rules} - named == set()


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_readmes_are_short(name):
    assert len(read(ROOT / name).splitlines()) <= 160


@pytest.mark.parametrize("path", WRAPPED, ids=name_of)
def test_prose_is_wrapped(path):
    long = [f"{name_of(path)}:{number}" for number, line in prose(read(path)) if len(line) > 110]
    assert not long


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_links_lead_somewhere(path):
    broken = []
    for target in links(read(path)):
        file, _, anchor = target.partition("#")
        if "://" in file:
            continue
        there = path.parent / file if file else path
        if not there.exists() or (anchor and anchor not in anchors(read(there))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_nothing_is_left_open(path):
    assert "@@" not in read(path)
