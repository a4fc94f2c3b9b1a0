"""Suites that ask the model itself: labelled test sets as they are published, and lm-evaluation-harness's tasks."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT, assert_refused, succeed

from sllm.cli import InputError
from sllm.evaluate import labelled, lm_eval_scores, zero_shot
from sllm.evaluate.labelled import Item

NLI = ("참", "알 수 없음", "거짓")
PUBLISHED = [  # name of the file, its content, choices, label
    ("kornli.tsv", 'sentence1\tsentence2\tgold_label\n그가 말했다, "저 왔어요."\t그는 말이 없다.\tcontradiction\n',
     NLI, 2),
    ("klue_nli.json", [{"guid": "1", "premise": "비가 온다.", "hypothesis": "날씨가 맑다.",
                        "gold_label": "contradiction", "author": "contradiction"}], NLI, 2),
    ("klue_nli_hub.jsonl", {"premise": "비가 온다.", "hypothesis": "땅이 젖는다.", "label": 0}, NLI, 0),
    ("pairs.csv", "id,qid1,qid2,question1,question2,is_duplicate\n0,1,2,언제 와?,언제 오니?,0\n", ("아니오", "예"), 1),
    ("klue_sts.json", [{"sentence1": "가요.", "sentence2": "갑니다.", "labels": {"label": 4.9, "binary-label": 1}}],
     ("아니오", "예"), 1),
    ("paws.tsv", "id\tsentence1\tsentence2\tlabel\n1\t가 나\t나 가\t0\n", ("아니오", "예"), 0),
    ("nsmc.tsv", 'id\tdocument\tlabel\n9\t"정말" 재미있다\t1\n', ("부정", "긍정"), 1),
    ("beep.tsv", 'comments\tcontain_gender_bias\tbias\thate\n"""너""였어요"\tFalse\tnone\toffensive\n',
     ("문제 없음", "공격적", "혐오"), 1),
    ("ynat.jsonl", {"guid": "1", "title": "축구 대표팀 승리", "label": 5}, labelled.TOPICS, 5),
    ("boolq.jsonl", {"paragraph": "양말은 발에 신는다.", "question": "양말은 발에 신는가?", "label": 1},
     ("아니오", "예"), 1),
    ("copa.tsv", "premise\tquestion\talternative_1\talternative_2\tlabel\n"
                 "비가 왔다.\t결과\t땅이 젖었다.\t해가 떴다.\t0\n",
     ("땅이 젖었다.", "해가 떴다."), 0),
    ("wic.jsonl", {"word": "배", "context_1": "[배]가 고프다", "context_2": "[배]를 탔다", "label": 0},
     ("아니오", "예"), 0),
    ("hellaswag.jsonl", {"context": "밥을 짓는다. ", "ending_1": "가", "ending_2": "나", "ending_3": "다",
                         "ending_4": "라", "label": 2}, ("가", "나", "다", "라"), 2),
    ("sentineg.tsv", "sentence\tlabel\n별로 안 좋아요\t0\n", ("부정", "긍정"), 0),
    ("kobest_boolq.tsv", "Text\tQuestion\tAnswer\n양말은 신는다.\t신는가?\tTrue\n", ("아니오", "예"), 1),
    ("kobest_copa.tsv", "sentence\tquestion\t1\t2\tAnswer\n비가 왔다.\t원인\t해가 떴다.\t구름이 꼈다.\t2\n",
     ("해가 떴다.", "구름이 꼈다."), 1),
    ("kobest_wic.tsv", "Target\tSENTENCE1\tSENTENCE2\tANSWER\n배\t배가 고프다\t배를 탔다\tFALSE\n",
     ("아니오", "예"), 0),
    ("kobest_sentineg.tsv", "Label\tText\n1\t정말\u2028좋아요\n", ("부정", "긍정"), 1),
    ("pairs.tsv", "question1\tquestion2\tlabel\n언제 와?\t뭐 해?\t1\n", ("아니오", "예"), 0),
    ("click.json", [{"id": "1", "paragraph": "", "question": "수도는?", "choices": ["부산", "서울"], "answer": "서울"}],
     ("부산", "서울"), 1),
]  # fmt: skip


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "content", "choices", "label"), PUBLISHED, ids=[one[0] for one in PUBLISHED])
def test_published_test_sets_are_read(tmp_path, name, content, choices, label):
    _, [item], _ = labelled.load(write(tmp_path, name, content))
    assert (item.choices, item.label) == (choices, label)
    assert item.context == item.context.rstrip()


def test_quotes_are_read_as_each_file_means_them(tmp_path):
    texts = {name: labelled.load(write(tmp_path, name, content))[1][0].context for name, content, *_ in PUBLISHED}
    assert '"너"였어요' in texts["beep.tsv"]
    assert '"정말" 재미있다' in texts["nsmc.tsv"]
    assert '그가 말했다, "저 왔어요."' in texts["kornli.tsv"]
    assert texts["copa.tsv"] == "비가 왔다 그래서"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("other.tsv", "a\tb\n1\t2\n", "its columns are a, b"),
        ("label.jsonl", {"sentence": "좋다", "label": 7}, "row 1: not a row of KoBEST SentiNeg (label 7 of 2 choices)"),
        ("label.tsv", "sentence1\tsentence2\tgold_label\n가\t나\t참\n", "row 1: not a row of KorNLI"),
        ("empty.tsv", "sentence\tlabel\n", "no rows"),
        ("columns.tsv", "sentence\tlabel\n좋다\t1\t2\n", "neither tab-separated"),
        ("broken.json", "[{", "neither tab-separated"),
        ("number.jsonl", {"sentence": 3, "label": 1}, "sentence is not a text"),
        ("silent.tsv", "id\tdocument\tlabel\n1\t\t1\n", "no row has a text and a label"),
        ("list.json", "[1, 2]", "no rows"),
    ],
)
def test_what_is_no_test_set_is_refused(tmp_path, name, content, said):
    with pytest.raises(InputError, match=re.escape(said)):
        labelled.load(write(tmp_path, name, content))


def test_rows_without_a_text_or_a_label_are_left_out(tmp_path):
    nsmc = write(tmp_path, "nsmc.tsv", "id\tdocument\tlabel\n1\t\t1\n2\t좋다\t1\n")
    nli = write(tmp_path, "nli.tsv", "sentence1\tsentence2\tgold_label\n가\t나\t-\n가\t나\tneutral\n")
    for path in (nsmc, nli):
        _, [item], left_out = labelled.load(path)
        assert (item.id, left_out) == ("2", 1)


def test_examples_come_from_every_label(tmp_path):
    rows = "".join(f"문장{i}\t{int(i < 3)}\n" for i in range(20))
    train = write(tmp_path, "train.tsv", "sentence\tlabel\n" + rows)
    test = write(tmp_path, "test.tsv", "sentence\tlabel\n좋다\t1\n")
    [loaded] = zero_shot.load([str(test)], [str(train)], 4, 1)
    assert [shot.label for shot in loaded.shots].count(1) == 2
    other = write(tmp_path, "other.tsv", "id\tdocument\tlabel\n1\t가\t1\n")
    with pytest.raises(InputError, match="is NSMC"):
        zero_shot.load([str(test)], [str(other)], 4, 1)
    with pytest.raises(InputError, match="--shots_path"):
        zero_shot.load([str(test)], [], 4, 1)


def test_the_likeliest_choice_raw_and_per_character():
    assert zero_shot.picked(("가", "가나다라"), (-2.0, -4.0), per_character=False) == 0
    assert zero_shot.picked(("가", "가나다라"), (-2.0, -4.0), per_character=True) == 1


def test_macro_f1_is_scikit_learns():
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    for labels in (2, 3, 5):
        truth, picks = random.integers(0, labels, (2, 200))
        found = zero_shot.f1(list(truth), list(picks))
        assert found["value"] == pytest.approx(f1_score(truth, picks, average="macro"))
        assert found["low"] < found["value"] < found["high"]
        assert 0.02 < found["standard_error"] < 0.06


# ── by the engine ──

ITEMS = [
    Item(str(i), f"질문: {question}\n답:", ("예", "아니요", "잘 모르겠습니다."), i % 3)
    for i, question in enumerate(["물은 차가운가요?", "해는 뜨거운가요?", "돌은 가벼운가요?", "밤은 밝은가요?"])
]


@pytest.fixture(scope="module")
def evaluated(tiny_base, sft_folder, few_rows, tmp_path_factory):
    """Base and adapter, by both suites and on rows, in one call; the harness is asked the same items as zero_shot."""
    folder = tmp_path_factory.mktemp("zero_shot")
    rows = [{"question": item.context, "choices": item.choices, "answer": item.label} for item in ITEMS]
    write(folder, "items.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    task = {"task": "same_items", "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "질문: {{question}}\n답:",
            "doc_to_choice": "{{choices}}", "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}  # fmt: skip
    write(folder / "tasks", "same_items.yaml", task)  # JSON is YAML
    flags = ["--models", f"base={tiny_base}", f"sft={sft_folder}", "--testset_path", few_rows, "--max_tokens", 16,
             "--zero_shot_path", folder / "items.jsonl", "--zero_shot_styles", "plain", "chat",
             "--lm_eval_tasks", "same_items", "korean_basics", "--lm_eval_include_path", folder / "tasks",
             "--output_dir", folder / "out"]  # fmt: skip
    (folder / "tasks" / "korean_basics.yaml").symlink_to(ROOT / "sample_data" / "lm_eval" / "korean_basics.yaml")
    (folder / "tasks" / "korean_basics.py").symlink_to(ROOT / "sample_data" / "lm_eval" / "korean_basics.py")
    results = succeed("evaluate_model.py", *flags)
    return {"flags": flags, "out": folder / "out", "results": results}


def found(evaluated, suite: str, model: str) -> dict:
    return json.loads((evaluated["out"] / suite / f"{model}.json").read_text(encoding="utf-8"))["found"]


@pytest.mark.parametrize("model", ["base", "sft"])
def test_log_likelihoods_are_those_of_lm_eval(evaluated, model):
    ours = found(evaluated, "zero_shot", model)["items"]["plain"]
    theirs = found(evaluated, "lm_eval", model)["samples"]["same_items"]
    assert len(theirs) == len(ITEMS)
    for sample in theirs:
        values = [float(value) for value, _ in sample["filtered_resps"]]
        assert ours[sample["doc_id"]] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("style", ["plain", "chat"])
@pytest.mark.parametrize("model", ["base", "sft"])
def test_log_likelihoods_are_those_of_transformers(evaluated, tiny_base, sft_folder, model, style):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from sllm import chat

    reference = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    reference = PeftModel.from_pretrained(reference, sft_folder) if model == "sft" else reference
    tokenizer = chat.load_tokenizer(str(sft_folder if model == "sft" else tiny_base))
    chat.set_chat_template(tokenizer)
    [loaded] = zero_shot.load([str(evaluated["out"].parent / "items.jsonl")], [], 0, 0)
    expected = []
    for context, choice in zero_shot.pairs(tokenizer, loaded, style):
        with torch.no_grad():
            logits = reference.eval()(torch.tensor([context + choice])).logits[0].log_softmax(-1)
        expected.append(sum(float(logits[len(context) + i - 1, id]) for i, id in enumerate(choice)))
        if style == "chat":
            assert tokenizer.decode(choice) in ITEMS[0].choices
    values = [value for item in found(evaluated, "zero_shot", model)["items"][style] for value in item]
    assert values == pytest.approx(expected, abs=1e-3)


def test_adapters_of_a_base_share_its_load(evaluated, sft_folder, few_rows, tmp_path):
    """And answer as they do alone."""
    succeed("vllm_inference.py", "--model_id", sft_folder, "--testset_path", few_rows, "--max_tokens", 16,
            "--output_path", tmp_path / "alone.jsonl")  # fmt: skip
    together = (evaluated["out"] / "answers" / "sft.jsonl").read_text(encoding="utf-8")
    assert together == (tmp_path / "alone.jsonl").read_text(encoding="utf-8")


def test_results_have_every_suite(evaluated):
    results = json.loads((evaluated["out"] / "results.json").read_text(encoding="utf-8"))
    assert {"conformance", "reference", "zero_shot", "lm_eval"} <= set(results["suites"])
    assert set(results["models"]["sft"]["scores"]["zero_shot"]) == {
        "accuracy_plain", "accuracy_norm_plain", "accuracy_chat", "accuracy_norm_chat"}  # fmt: skip
    assert set(results["details"]["zero_shot"]["macro_f1"]["items"]) == {"base", "sft"}
    accuracy = results["details"]["zero_shot"]["accuracy"]["items"]["sft"]["accuracy_plain"]
    assert accuracy["value"] == results["models"]["sft"]["scores"]["zero_shot"]["accuracy_plain"]["value"]
    assert accuracy["standard_error"] is not None
    assert results["details"]["lm_eval"]["models"]["base"]["task_hashes"].keys() == {"same_items", "korean_basics"}
    assert set(results["by_task"]["lm_eval"]) == {"same_items", "korean_basics"}
    lines = (evaluated["out"] / "zero_shot.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(ITEMS)
    assert "우도로 고르기" in (evaluated["out"] / "report.html").read_text(encoding="utf-8")


def test_what_is_measured_is_not_measured_again(evaluated, script):
    paths = [
        evaluated["out"] / suite / f"{model}.json" for suite in ("zero_shot", "lm_eval") for model in ("base", "sft")
    ]
    before = [path.stat().st_mtime_ns for path in paths]
    done = script("evaluate_model.py", *evaluated["flags"], "--resume")
    assert done.returncode == 0, done.stderr
    assert "engine" not in done.stdout
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_the_gate_takes_every_suite(evaluated, script):
    done = script("evaluate_model.py", "--output_dir", evaluated["out"], "--gate", "base", "sft")
    assert "zero_shot" in done.stdout
    assert "lm_eval" in done.stdout


# ── bad input ──


def test_bad_flags_are_refused_before_anything_is_asked(script, tiny_base, tmp_path, few_rows):
    test = write(tmp_path, "t.tsv", "sentence\tlabel\n좋다\t1\n")
    answers = write(tmp_path, "a.jsonl", "{}")
    start = ["evaluate_model.py", "--output_dir", tmp_path / "out", "--models"]
    assert_refused(
        script(*start, f"a={answers}", "--zero_shot_path", test), "zero_shot needs the model itself, not its answers"
    )
    assert_refused(
        script(*start, f"a={tiny_base}", "--suites", "zero_shot"), "--suites zero_shot and --zero_shot_path belong"
    )
    assert_refused(
        script(*start, f"a={tiny_base}", "--zero_shot_path", tmp_path / "none.tsv"), "none.tsv: No such file"
    )
    assert_refused(script(*start, f"a={tiny_base}", "--lm_eval_tasks", "nonesuch"), "lm-eval does not know it")
    assert not (tmp_path / "out").exists()


def test_models_that_were_asked_different_questions_are_not_compared():
    sample = {"doc_id": 0, "filter": "none", "metrics": ["acc"], "acc": 1.0, "doc_hash": "1", "target_hash": "1",
              "arguments": {"gen_args_0": {"arg_0": "질문"}}}  # fmt: skip
    found = {"samples": {"t": [sample]}, "task_hashes": {"t": "1"}, "results": {}}
    same = found | {"task_hashes": {"t": "of another template"}}
    assert lm_eval_scores.measured({"a": found, "b": same}).scores["b"]["main"].tolist() == [1]
    with pytest.raises(InputError, match="other questions"):
        lm_eval_scores.measured({"a": found, "b": found | {"samples": {"t": [sample | {"doc_hash": "2"}]}}})
    with pytest.raises(InputError, match="no task"):
        lm_eval_scores.measured({"a": found | {"samples": {"t": [sample | {"acc": 7.0}]}}})
