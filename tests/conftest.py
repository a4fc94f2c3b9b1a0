"""Fixtures: the shipped tiny base, and one small real run of each stage that the tests share."""

import importlib
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import preloaded
import pytest

# A background job inherits Ctrl-C as ignored, and so would every process that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_ROWS = ROOT / "sample_data" / "task_rows.jsonl"
SAMPLE_PAIRS = ROOT / "sample_data" / "preference_pairs.jsonl"


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    return Path(os.environ.get("SLLM_TINY_BASE", ROOT / "sample_data" / "tiny_base"))


@cache
def _preloaded(modules: tuple[str, ...]) -> preloaded.Preloaded:
    return preloaded.Preloaded(modules)


def run_script(*words: object, **env: str) -> subprocess.CompletedProcess:
    """Run a script of ours as a user would, from the repository root."""
    if not env and words[0] in preloaded.MODULES:
        return _preloaded(preloaded.MODULES[words[0]]).run([*map(str, words)])
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def script():
    return run_script


def succeed(*words: object) -> dict:
    """Run a script that has to exit 0; returns its last line."""
    done = run_script(*words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def in_process(command: list[str], *flags: object) -> dict:
    """Run a script's main in this process, so that a test can break something under it."""
    module = importlib.import_module(command[0].removesuffix(".py"))
    return module.main(module.build_parser().parse_args([*command[1:], *map(str, flags)]))


def assert_refused(done: subprocess.CompletedProcess, *said: str) -> None:
    """Exit 2, one `error:` line for each problem and nothing else on stderr, each text of `said` in it."""
    assert done.returncode == 2, done.stderr or done.stdout
    lines = done.stderr.splitlines()
    assert lines, done.stderr
    assert all(line.startswith("error: ") for line in lines), done.stderr
    for text in said:
        assert text in done.stderr


SFT = [
    "train_LoRA_SFT.py", "--lora_r", "8", "--lora_alpha", "16", "--learning_rate", "3e-3", "--batch_size", "2",
    "--gradient_accum_steps", "2", "--report_to", "none",
]  # fmt: skip


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory) -> Path:
    """Every fourth of the first 92 sample rows: 23 rows, however many are added."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(SAMPLE_ROWS.read_text(encoding="utf-8").splitlines(keepends=True)[:92:4]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sft_folder(tiny_base, few_rows, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("stages") / "sft"
    succeed(
        *SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--val_set_size", "3", "--max_steps", "8",
        "--save_steps", "4", "--output_dir", out,
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def few_pairs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = SAMPLE_PAIRS.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[::8]), encoding="utf-8")
    return path


DPO = [
    "train_LoRA_DPO.py", "--learning_rate", "5e-4", "--batch_size", "3", "--gradient_accum_steps", "1",
    "--report_to", "none",
]  # fmt: skip


@pytest.fixture(scope="session")
def dpo_folder(sft_folder, few_pairs) -> Path:
    out = sft_folder.parent / "dpo"
    succeed(
        *DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--train_epochs", "4", "--output_dir", out
    )  # fmt: skip
    return out


@pytest.fixture
def dtypes_of_quantised_training(monkeypatch) -> list:
    """Models say that they are quantised (their weights need not be); a run adds the dtypes that it trains in."""
    from sllm.train import trainers, with_peft

    load, run, dtypes = with_peft.load_model, trainers.run, []

    def quantised(*args, **kwargs):
        model = load(*args, **kwargs)
        model.is_loaded_in_4bit = True
        return model

    def watched(trainer, resume_from):
        dtypes.extend({p.dtype for p in trainer.model.parameters() if p.requires_grad})
        return run(trainer, resume_from)

    monkeypatch.setattr(with_peft, "load_model", quantised)
    monkeypatch.setattr(trainers, "run", watched)
    return dtypes


@pytest.fixture(scope="module")
def browser():
    from browser_helpers import Browser
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = Browser(playwright)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, page):
    """The test module's chat page, in a tab of its own."""
    opened = browser.open(page.url)
    yield opened
    opened.page.context.close()


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server of the tests' own; its URL without a database."""
    from postgres import start

    with start() as url:
        yield url


@pytest.fixture(scope="session")
def new_database(request, tmp_path_factory):
    """Makes URLs of new, empty databases for the chat page: SQLite's, or PostgreSQL's with PAGE_DATABASE=postgresql."""
    number = iter(range(10_000))
    if os.environ.get("PAGE_DATABASE") == "postgresql":
        from postgres import create_database

        url = request.getfixturevalue("postgresql")
        return lambda: create_database(url, f"page{next(number)}")
    folder = tmp_path_factory.mktemp("databases")
    return lambda: f"sqlite:///{folder}/{next(number)}/chat.db"


def pytest_collection_modifyitems(items) -> None:
    """The longest files first, or one worker ends minutes after the others."""
    slow = (
        "gpu_benchmark page train page_browser learning mistakes page_conversations api_server serve_lean tiny_base "
        "page_faults serve_openapi serve_lora engine"
    ).split()
    place = {f"test_{name}": i for i, name in enumerate(slow)}
    items.sort(key=lambda item: place.get(item.path.stem, len(slow)))
