"""The page in a real browser on the real stack (tiny models, vLLM, SQLite), and the loop from its votes into DPO."""

import json
import shutil

import httpx
import pytest
from browser_helpers import chat_page, needs_browser, wait_for
from conftest import DPO, succeed
from server_process import Running

from sllm import chat, tasks
from sllm.chatstore import ChatStore
from sllm.page.translations import EN, KO

pytestmark = [needs_browser, pytest.mark.page]
ENDS = ["</s>", "<|im_end|>"]  # tokens that end an answer


def serve(base, port: int = 0, **adapters) -> Running:
    return Running(
        "--port", port, "--model_id", base, "--served_model_name", "base", "--max_seq_length", 2048,
        "--max_num_seqs", 16, "--lora_modules", *(f"{name}={folder}" for name, folder in adapters.items()),
    )  # fmt: skip


@pytest.fixture(scope="module")
def api(tiny_base, sft_folder):
    server = serve(tiny_base, sft=sft_folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def database(new_database):
    return new_database()


@pytest.fixture(scope="module")
def page(api, database):
    started = chat_page(f"{api.url}/v1", database)
    yield started
    started.stop()


def settings(tab, **values) -> None:
    tab.page.click("#chat-settings-open-modal")
    for name, value in values.items():
        tab.page.fill(f"#{name}", str(value))
    tab.page.click("#confirm")
    tab.page.wait_for_selector("#confirm", state="detached")


def asked(database) -> list[str]:
    return [answer.prompt[-1]["content"] for answer in ChatStore(database).read().answers.values()]


def last_answer(database):
    return list(ChatStore(database).read().answers.values())[-1]


def test_a_chat_streams_and_is_kept(tab, database, api):
    assert "sft" in tab.page.inner_text("#chat-profiles")  # the last stage greets
    tab.send("물은 몇 도에서 끓나요?")
    assert tab.answers()[0]
    kept = last_answer(database)
    assert (kept.model, kept.user_id, kept.prompt) == (
        "sft",
        "local",
        [{"role": "user", "content": "물은 몇 도에서 끓나요?"}],
    )
    assert kept.sampling["temperature"] == 0.7
    assert kept.finish_reason in ("stop", "length")
    cards = httpx.get(f"{api.url}/v1/models").json()["data"]
    assert kept.template_hash == next(card["chat_template_sha256"] for card in cards if card["id"] == "sft")


def test_settings_change_the_request(tab, database):
    settings(tab, system_prompt="너는 친절한 도우미다.", seed=7)
    tab.send("안녕?")
    kept = last_answer(database)
    assert kept.prompt[0] == {"role": "system", "content": "너는 친절한 도우미다."}
    assert kept.sampling["seed"] == 7


@pytest.fixture
def endless_api(tiny_base, tmp_path):
    """A server of a base that hardly ever ends an answer: the logit of both tokens that end one is 0."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_base, tmp_path / "endless")
    weights = load_file(folder / "model.safetensors")
    ends = chat.load_tokenizer(str(folder)).convert_tokens_to_ids(ENDS)
    weights["model.embed_tokens.weight"][ends] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    succeed("-m", "sllm.accept", folder)
    server = Running("--model_id", folder, "--max_seq_length", 2048)
    yield server
    server.stop()


@pytest.mark.alone  # on a busy machine the answer is at its end before the browser shows its beginning
def test_stop_ends_the_generation_in_the_engine(browser, endless_api, new_database):
    database = new_database()
    page = chat_page(f"{endless_api.url}/v1", database)
    tab = browser.open(page.url)
    try:
        tab.page.click("#chat-settings-open-modal")
        tab.page.focus("[role=slider] >> nth=3")
        for _ in range(8):
            tab.page.keyboard.press("PageUp")  # from 512 tokens at most to 1,792
        tab.page.click("#confirm")
        tab.page.wait_for_selector("#confirm", state="detached")
        tab.send("아주 길게 이야기해 주세요.", wait=False)
        wait_for(lambda: len(tab.messages()) == 2 and len(tab.messages()[1]) > 100)
        assert not endless_api.idle()
        tab.page.click("#stop-button")
        wait_for(endless_api.idle, 3)
        tab.page.wait_for_selector(f"[data-sonner-toast]:has-text('{KO['stopped']}')")
        tab.still(500)
        assert last_answer(database).finish_reason == "stopped"
    finally:
        tab.page.context.close()
        page.stop()


def test_a_task_is_asked_with_its_form_and_judged(tab, database):
    tab.page.click(f"text={KO['task_starter']}")
    tab.page.wait_for_selector(".task-form")
    tab.page.wait_for_function(f"document.querySelectorAll('#task-picker option').length == {len(tasks.TASKS)}")
    labels = tab.page.eval_on_selector_all("#task-picker optgroup", "groups => groups.map((group) => group.label)")
    assert labels == [KO["task_original"], KO["task_earlier"]]
    tab.page.select_option("#task-picker", "task08_02")
    tab.page.click("#task-send")
    assert KO["task_missing"].strip() in tab.text()
    tab.page.click("#task-example")
    tab.page.click("#task-send")
    tab.page.wait_for_selector("[data-verdict]")
    tab.idle()
    kept = last_answer(database)
    assert kept.task == "task08_02"
    assert kept.prompt[0]["role"] == "system"
    assert "###Question###" in kept.prompt[1]["content"]


def test_a_task_in_the_arena_is_answered_by_two(tab, database):
    tab.profile("arena")
    tab.page.click("#command-과제")
    tab.page.click("#chat-submit")  # without a word
    tab.page.wait_for_selector(".task-form")
    tab.page.select_option("#task-picker", "task08_02")
    tab.page.click("#task-example")
    tab.page.click("#task-send")
    tab.page.wait_for_selector("[data-arena=vote], [data-arena=same]")  # the base has not learned to answer a task
    tab.idle()
    kept = ChatStore(database).read().comparisons[-1]
    assert kept.left.task == kept.right.task == "task08_02"
    assert kept.left.model != kept.right.model
    assert kept.left.prompt == kept.right.prompt
    assert kept.left.prompt[0]["role"] == "system"
    assert tab.page.url.endswith(kept.left.conversation)
    name = tasks.TASKS["task08_02"].name_ko
    tab.page.wait_for_selector(f"a:has-text('{name}')")  # in the sidebar, without a reload
    tab.send("이어서 물어요")
    roles = ["system", "user", "assistant", "user"]
    wait_for(lambda: [m["role"] for m in ChatStore(database).read().comparisons[-1].left.prompt] == roles)


def test_a_dropped_file_becomes_the_context(tab, database, tmp_path):
    for name, data, said in (
        ("cp949.txt", "한라산의 높이는 1,947m이다.".encode("cp949"), None),
        ("bad.txt", "한라산".encode("utf-16-le") + b"\xff\xd8", "bad.txt"),
        ("big.txt", "가".encode() * 600_000, "big.txt"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0", "picture.png"),
    ):
        (tmp_path / name).write_bytes(data)
        tab.page.set_input_files("#upload-button-input, input[type=file]", str(tmp_path / name))
        if name.endswith(".txt"):  # a picture shows no name
            tab.page.wait_for_selector(f"text={name}")
        tab.still(800)
        tab.send(f"{name} 높이는?", wait=False)
        if said:
            tab.page.wait_for_selector(f"[data-sonner-toast]:has-text('{said}')")
        sent = wait_for(lambda name=name: next((text for text in asked(database) if name in text), None))
        assert sent == (f"{name} 높이는?" if said else f"한라산의 높이는 1,947m이다.\n\n{name} 높이는?")
        tab.idle()
        tab.page.goto(tab.url)  # four answers as long as they like may be more than the model's context
        tab.ready()


def test_thumbs_with_a_comment(tab, database):
    tab.send("엄지를 주세요")
    kept = last_answer(database)
    tab.page.click(".positive-feedback-off")
    tab.page.fill("[role=dialog] textarea", "정확하다")
    tab.page.click("#submit-feedback")

    def thumbs() -> list[tuple]:
        return [(t.value, t.comment) for t in ChatStore(database).read().thumbs if t.answer.id == kept.id]

    wait_for(lambda: thumbs() == [(1, "정확하다")])  # the comment follows the thumb
    tab.page.click(".positive-feedback-on")
    wait_for(lambda: thumbs() == [])


def test_an_arena_hides_names_until_the_vote(tab, database):
    tab.profile("arena")
    tab.send("둘 중 누가 나을까요?")
    tab.page.wait_for_selector("[data-arena=vote]")
    shown = tab.page.inner_html("[data-arena]")
    assert "base" not in shown
    assert "sft" not in shown
    tab.page.click("[data-vote=right]")
    tab.page.wait_for_selector("[data-arena=voted]")
    found = ChatStore(database).read().comparisons[-1]
    assert found.choice == "right"
    assert {found.left.model, found.right.model} == {"base", "sft"}
    assert found.right.model in tab.page.inner_text(".arena-side[data-side=right]")
    tab.send("그 다음은?")  # goes on from the answer that was liked
    assert ChatStore(database).read().comparisons[-1].left.prompt[1]["content"] == found.right.text


def test_a_refresh_costs_nothing(tab, api):
    tab.profile("arena")
    tab.send("새로 고침")

    def cost():
        return api.metric("vllm:generation_tokens_total"), api.metric("sllm_sequences_in_flight"), api.engine_pids()

    before = cost()
    for _ in range(10):
        tab.page.reload()
        tab.ready()
    assert (
        api.metric("vllm:generation_tokens_total"),
        api.metric("sllm_sequences_in_flight"),
        api.engine_pids(),
    ) == before


@pytest.mark.parametrize(("locale", "width", "said"), [("en-US", 1200, EN), ("ko-KR", 390, KO), ("fr-FR", 1200, KO)])
def test_languages_and_a_phone(browser, page, locale, width, said):
    tab = browser.open(page.url, locale=locale, width=width, height=844)
    tab.page.wait_for_selector(f"text={said['task_starter']}")
    tab.profile("arena")
    tab.page.wait_for_selector(f"text={said['arena_about']}")
    tab.send("넓이 문제입니다. 물은 몇 도에서 끓나요?")
    tab.page.wait_for_selector("[data-arena=vote]")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    left, right = (tab.page.locator(f".arena-side[data-side={side}]").bounding_box() for side in ("left", "right"))
    assert (left["y"] < right["y"]) == (width < 640)
    tab.page.context.close()


def test_history_survives_a_restart_and_can_be_searched_renamed_and_deleted(
    browser, tiny_base, sft_folder, tmp_path, new_database
):
    """A restart of both processes: the server and the page."""
    database = new_database()
    api = serve(tiny_base, sft=sft_folder)
    first = chat_page(f"{api.url}/v1", database)
    tab = browser.open(first.url)
    tab.profile("arena")
    tab.send("기억할 질문입니다. 물은 몇 도에서 끓나요?")
    tab.page.wait_for_selector("[data-arena=vote]")
    port = int(first.url.rsplit(":", 1)[1])
    stopped = first.stop()
    copy = database
    if database.startswith("sqlite"):  # the file alone, without what SQLite keeps beside it
        copy = f"sqlite:///{shutil.copy(database.removeprefix('sqlite:///'), tmp_path / 'copy.db')}"
    api.stop()
    api = serve(tiny_base, port=api.port, sft=sft_folder)
    second = chat_page(f"{api.url}/v1", database, port=port)
    try:
        assert stopped == 0
        assert len(ChatStore(copy, must_exist=True).read().comparisons) == 1
        tab = browser.open(second.url)
        tab.page.click("a:has-text('기억할 질문')")
        tab.page.wait_for_selector("[data-arena=vote]")
        tab.still(500)
        tab.page.click("[data-vote=left]")  # the vote of a conversation from before the restart
        tab.page.wait_for_selector("[data-arena=voted]")
        assert ChatStore(database).read().comparisons[0].choice == "left"
        tab.send("이어서 물어요")
        kept = ChatStore(database).read().comparisons[-1].left
        assert [m["role"] for m in kept.prompt] == ["user", "assistant", "user"], kept.prompt
        tab.page.reload()
        tab.page.wait_for_selector("[data-arena=voted]")
        tab.page.click("#search-chats-button")
        tab.page.fill("[role=dialog] input", "기억할")
        tab.page.wait_for_selector("[role=dialog] [role=option]:has-text('기억할 질문')")
        tab.page.keyboard.press("Escape")
        tab.page.click("#thread-options >> nth=0")
        tab.page.click("#rename-thread")
        tab.page.fill("[role=dialog] input", "새 이름")
        tab.page.click("[role=dialog] button >> nth=-2")
        tab.page.wait_for_selector("a:has-text('새 이름')")
        tab.page.click("#thread-options >> nth=0")
        tab.page.click("#delete-thread")
        tab.page.click("[role=alertdialog] button >> nth=-1")
        wait_for(lambda: not ChatStore(database).read().answers)
    finally:
        second.stop()
        api.stop()


def test_the_loop_from_votes_to_the_next_model(browser, tiny_base, sft_folder, api, tmp_path, new_database):
    """Chat → 12 votes → build_preferences.py → train_LoRA_DPO.py → served → the list of models shows the new one."""
    database = new_database()
    chat = chat_page(f"{api.url}/v1", database)
    try:
        tab = browser.open(chat.url)
        tab.profile("arena")
        settings(tab, system_prompt="짧게 답하라.")
        for number in range(12):
            tab.send(f"{number}번 질문입니다. 물은 몇 도에서 끓나요?")
            tab.page.wait_for_selector("[data-arena=vote] >> nth=0")
            found = ChatStore(database).read().comparisons[-1]
            side = "left" if found.left.model == "sft" else "right"
            tab.page.click(f"[data-vote={side}] >> nth=-1")
            tab.page.wait_for_function("!document.querySelector('[data-arena=vote]')")
            tab.page.click("#new-chat-button")
            tab.ready()
    finally:
        chat.stop()
    made = succeed(
        "build_preferences.py",
        "--from_chat",
        database,
        "--output_dir",
        tmp_path / "preferences",
        "--keep_truncated",
        "--kto",
    )
    assert made["judgements"] == 12
    assert made["rows"] >= 10
    rated = json.loads((tmp_path / "preferences" / "ratings.json").read_text(encoding="utf-8"))
    assert rated["models"][0]["model"] == "sft"
    assert rated["pairs"][0]["a_wins"] == 12
    succeed(
        *DPO, "--model_id", sft_folder, "--trainset_path", tmp_path / "preferences" / "train.jsonl",
        "--max_steps", "2", "--output_dir", tmp_path / "voted",
    )  # fmt: skip
    server = serve(tiny_base, sft=sft_folder, voted=tmp_path / "voted")
    try:
        chat = chat_page(f"{server.url}/v1", database)
        try:
            tab = browser.open(chat.url)
            tab.profile("voted")
            tab.send("물은 몇 도에서 끓나요?")
            assert list(ChatStore(database).read().answers.values())[-1].model == "voted"
        finally:
            chat.stop()
    finally:
        server.stop()
