"""The shipped base is what its script builds: deterministic, small, without a template, and it can read."""

import json
import random

import pytest
from conftest import ROOT, assert_refused, run_script, succeed

from sllm import chat
from sllm.cli import InputError
from sllm.tiny_base import __main__ as build
from sllm.tiny_base import corpus, measure, training
from sllm.world import plain

pytestmark = pytest.mark.torch
SHIPPED = ROOT / "sample_data" / "tiny_base"


def test_the_shipped_model_is_small_and_whole():
    from transformers import AutoModelForCausalLM

    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 12e6
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    assert str(model.dtype) == "torch.bfloat16"
    assert model.config.model_type == "llama"
    assert 3e6 <= sum(weight.numel() for weight in model.parameters()) <= 6e6
    assert chat.load_tokenizer(str(SHIPPED)).chat_template is None


def test_the_shipped_tokenizer_is_trained_on_the_samples_and_the_world():
    record = json.loads((SHIPPED / "run.json").read_text(encoding="utf-8"))
    texts = corpus.sample_texts(ROOT / "sample_data", set(record["data"]["tasks"]))
    assert len(texts) == record["data"]["texts"]
    built = corpus.train_tokenizer(corpus.tokenizer_texts(texts, record["seed"]), record["arguments"]["vocab_size"])
    shipped = json.loads((SHIPPED / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads(built.backend_tokenizer.to_str())["model"] == shipped["model"]
    text = "한국어 문장과 English, 12,345와 이모지 🙂도 그대로."
    assert built.decode(built(text)["input_ids"], skip_special_tokens=True) == text


def test_no_answer_of_the_task_rows_is_learned_from():
    answers = {json.loads(line)["assistant_content"] for line in open(ROOT / "sample_data/task_rows.jsonl", encoding="utf-8")}  # fmt: skip  # noqa: E501
    assert len(answers) > 80
    assert not answers & set(corpus.sample_texts(ROOT / "sample_data"))


SMALL = "--vocab_size 600 --hidden_size 64 --layers 1".split()


def built(*flags: object) -> dict:
    """A small build by one process, this one."""
    return build.main(build.build_parser().parse_args([*SMALL, "--processes", "1", *map(str, flags)]))


def test_building_is_deterministic_by_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(measure, "share_right", lambda *args: 0.0)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = built("--steps", 3, "--output_dir", tmp_path / name, "--seed", seed)
    assert result["tokens"] == 600
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in SHIPPED.iterdir()}
    for folder in (tmp_path / "a", SHIPPED):  # adapters have to share the base's tokenizer
        assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["padding"] is None
    built("--steps", 3, "--model_id", tmp_path / "a", "--output_dir", tmp_path / "further")
    assert json.loads((tmp_path / "further" / "run.json").read_text(encoding="utf-8"))["parents"][0]["stage"] == "base"
    assert (tmp_path / "further" / "model.safetensors").read_bytes() != a
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "further" / name).read_bytes()
    command = ("-m", "sllm.tiny_base", "--output_dir")
    assert_refused(run_script(*command, tmp_path / "a"), "exists", "--overwrite")
    overwriting = run_script(*command, tmp_path / "a", "--model_id", tmp_path / "a", "--overwrite")
    assert_refused(overwriting, "name another output folder")
    assert_refused(run_script(*command, tmp_path / "d", "--model_id", tmp_path), "run.json")
    assert_refused(run_script(*command, tmp_path / "d", "--sample_data", tmp_path), "no .jsonl rows")


def test_a_build_that_was_stopped_ends_with_the_same_weights(tmp_path, monkeypatch):
    import torch

    flags = ["--steps", 5, "--output_dir"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(training, "SAVE_STEPS", 2)
    monkeypatch.setattr(measure, "share_right", lambda *args: 0.0)
    built(*flags, tmp_path / "whole")
    at_step = []

    def stop(*args):
        at_step.append(torch.load(tmp_path / "cut" / training.STATE.format(0))["step"])
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "share_right", stop)
    with pytest.raises(KeyboardInterrupt):
        built(*flags, tmp_path / "cut")
    assert at_step == [2]
    monkeypatch.setattr(measure, "share_right", lambda *args: 0.0)
    built(*flags, tmp_path / "cut", "--resume")
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    assert not list((tmp_path / "cut").glob(training.STATE.format("*")))
    with pytest.raises(InputError, match="--resume: .*does not exist"):
        built(*flags, tmp_path / "none", "--resume")


def test_the_states_of_a_build_that_is_resumed_fit(tmp_path):
    import torch

    args = build.build_parser().parse_args(["--output_dir", str(tmp_path), "--sample_data", str(ROOT / "sample_data")])
    texts = training.digest(corpus.sample_texts(args.sample_data))

    def save(rank: int, step: int, **changed) -> None:
        state = {"step": step, "arguments": vars(args), "texts": texts} | changed
        torch.save(state, tmp_path / training.STATE.format(rank))

    save(0, 1000)
    with pytest.raises(InputError, match="training_state-1.pt does not exist"):
        build._check_resumable(args, tmp_path)
    save(1, 2000)
    with pytest.raises(InputError, match="of different steps"):
        build._check_resumable(args, tmp_path)
    save(1, 1000)
    build._check_resumable(args, tmp_path)
    save(0, 1000, texts="others")
    with pytest.raises(InputError, match="have changed"):
        build._check_resumable(args, tmp_path)
    save(0, 1000, arguments=vars(args) | {"seed": 7, "layers": 9})
    with pytest.raises(InputError, match="(?s)--layers 9.*--seed 7"):
        build._check_resumable(args, tmp_path)


def test_two_processes_build_the_same_model_as_one(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import load_file

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(measure, "share_right", lambda *args: 0.0)
    built("--steps", 30, "--output_dir", tmp_path / "1")
    succeed("-m", "sllm.tiny_base", *SMALL, "--steps", 30, "--output_dir", tmp_path / "2")
    assert {path.name for path in (tmp_path / "2").iterdir()} == {path.name for path in SHIPPED.iterdir()}
    one, two = (load_file(tmp_path / str(processes) / "model.safetensors") for processes in (1, 2))
    torch.manual_seed(42)
    start = training.new_model(chat.load_tokenizer(str(tmp_path / "1")), 64, 1).state_dict()
    for name, weight in one.items():  # sums in another order, and bfloat16
        assert (weight - two[name]).norm() <= 0.4 * (weight - start[name]).norm(), name


@pytest.mark.parametrize("form", plain.FORMS)
def test_it_answers_about_names_that_no_training_text_has(form):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    assert measure.share_right(model, chat.load_tokenizer(str(SHIPPED)), 40, form) >= 0.8


def test_the_documents_of_a_row_do_not_see_each_other():
    """The loss of the second document in a row is that of the document alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    ids = torch.randint(5, 1000, (1, 20), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[*range(8), *range(12)]])
    weights = torch.tensor([[0.0] * 9 + [1.0] * 11])
    together = training._loss(model, ids, positions, weights)
    alone = 11 * model(input_ids=ids[:, 8:], labels=ids[:, 8:]).loss
    assert abs(together - alone) < 1e-2 * alone
    seen = training._loss(model, ids, torch.arange(20)[None], weights)
    assert abs(seen - alone) > 1e-2 * alone


def test_a_row_begins_with_a_document_and_answers_count():
    tokenizer = chat.load_tokenizer(str(SHIPPED))
    batches = corpus.Batches(tokenizer, ["예시 글"], seed=1, steps=10)
    further = corpus.Batches(tokenizer, ["예시 글"], seed=1, steps=10, further=True)
    for blocks in (batches.batch(1), batches.batch(10), further.batch(1), further.batch(10)):
        assert [sum(map(len, block)) for block in blocks] == [corpus.TOKENS_PER_STEP] * 3
        for ids, positions, weights in zip(*blocks, strict=True):
            starts = [i for i, position in enumerate(positions) if position == 0]
            assert starts[0] == 0
            assert {(ids[i], weights[i]) for i in starts} == {(tokenizer.bos_token_id, 0.0)}
            assert set(weights) == {0.0, corpus.RANDOM_WEIGHT, 1.0}
            counted = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight == 1.0])
            assert "?" not in counted
            assert "." in counted
    for i in range(200):
        pieces = plain.document_pieces(random.Random(i), plain.DEFAULT)
        assert not any(follows for text, follows in pieces if "?" in text)
