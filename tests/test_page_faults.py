"""The page in a real browser against a server that fails in every way; only that server is a stand-in."""

import time

import httpx
import pytest
from browser_helpers import chat_page, needs_browser, stub, wait_for

from sllm.chatstore import ChatStore
from sllm.page import users
from sllm.page.api_client import MODEL_CACHE_SECONDS
from sllm.page.translations import KO

pytestmark = [needs_browser, pytest.mark.page]


@pytest.fixture(scope="module")
def api():
    server = stub()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def page(api, new_database):
    started = chat_page(api.url.removesuffix("/models"), new_database(), "--timeout", "3")
    yield started
    started.stop()


def seen(api) -> dict:
    return httpx.get(api.url.replace("/v1/models", "/log"), trust_env=False).json()


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("401", "key"),
        ("429", "full"),
        ("500", "bug"),
        ("503", "loading"),
        ("hangs", "slow"),
        ("too-long", "too_long"),
        ("empty", "empty"),
    ],
)
def test_a_refusal_is_said_in_korean_with_what_to_do(tab, api, model, word):
    tab.profile(model)
    tab.send("질문이 있습니다")
    text = tab.text()
    assert KO[word] in text
    assert KO[f"{word}_do"] in text
    assert "질문이 있습니다" in text  # nothing that was typed is lost
    before = len(seen(api)["seen"])
    tab.page.click(f"button:has-text('{KO['retry']}')")
    wait_for(lambda: len(seen(api)["seen"]) > before)
    tab.idle()
    assert seen(api)["seen"][-1]["messages"] == [{"role": "user", "content": "질문이 있습니다"}]


@pytest.mark.parametrize("model", ["dies", "broken", "silent-end"])
def test_an_answer_that_breaks_off_is_kept_and_marked(tab, page, model):
    tab.profile(model)
    tab.send("끊기는 답")
    text = tab.text()
    assert KO["broken"] in text
    assert model[:4] in tab.answers()[0]
    kept = [answer for answer in ChatStore(page.database).read().answers.values() if answer.model == model]
    assert kept[-1].finish_reason == "broken"
    assert kept[-1].text


def test_an_answer_is_copied(tab):
    tab.profile("good")
    tab.send("복사할 질문")
    tab.page.click(".ai-message button:has(svg.lucide-copy)")
    copied = wait_for(lambda: tab.page.evaluate("navigator.clipboard.readText()"))
    assert copied == "good의 답: 복사할 질문 — 이것은 대역 서버의 답입니다."


def test_a_full_server_is_waited_for(tab):
    tab.profile("busy-once")
    tab.send("기다려 줘", wait=False)
    tab.page.wait_for_selector(f"text={KO['full']}")
    tab.page.wait_for_selector("text=대역 서버의 답")
    tab.idle()
    assert KO["full"] not in tab.text()


def test_stop_ends_the_generation_at_the_server(tab, api, page):
    tab.profile("slow")
    tab.send("천천히", wait=False)
    tab.page.wait_for_selector("text=slow")
    tab.page.click("#stop-button")
    wait_for(lambda: seen(api)["running"] == 0, 5)
    tab.idle()
    assert KO["stopped"] in tab.text()
    assert "Task manually stopped" not in tab.text()
    wait_for(lambda: [a for a in ChatStore(page.database).read().answers.values() if a.finish_reason == "stopped"])


def test_an_answer_cannot_bring_a_script(tab):
    tab.profile("script")
    tab.send("공격해 봐")
    assert "안전한 끝" in tab.text()
    tab.still(500)
    links = tab.page.query_selector_all(".message-content a")
    assert all(
        (link.get_attribute("href") or "").startswith(("http", "#")) or not link.get_attribute("href") for link in links
    )
    for frame in [tab.page, *tab.page.frames]:
        assert frame.evaluate("window.hacked") is None
    assert not tab.page.query_selector(".message-content script, .message-content iframe")


def test_formulas_and_html_tables_are_rendered(tab):
    tab.profile("rich")
    tab.send("예쁘게")
    assert tab.page.query_selector(".message-content table td:has-text('938만')")
    assert tab.page.query_selector(".message-content math")
    assert tab.page.query_selector(".message-content .katex-html").is_visible() is False


def test_choices_keep_their_letters(tab):
    tab.profile("good")
    tab.send("보기:a) 사과 b) 배")
    assert "보기:a) 사과 b) 배" in tab.messages()[-1]


def test_nothing_is_loaded_from_elsewhere(tab):
    tab.send("안녕")
    assert tab.outside == []


def test_a_question_can_be_edited_and_stopped_then(tab, api):
    tab.profile("good")
    tab.send("처음 질문")
    tab.page.dispatch_event("button.edit-message", "click")  # it shows under the mouse
    tab.page.fill("#edit-chat-input", "고친 질문")
    tab.page.click(".confirm-edit")
    tab.page.wait_for_selector("text=good의 답: 고친 질문")
    tab.idle()
    assert seen(api)["seen"][-1]["messages"] == [{"role": "user", "content": "고친 질문"}]


def test_regenerating_asks_the_same_again(tab, api):
    tab.send("다시 해 줘")
    tab.page.click("button:has(svg.lucide-refresh-cw)")
    wait_for(
        lambda: [r["messages"] for r in seen(api)["seen"][-2:]] == [[{"role": "user", "content": "다시 해 줘"}]] * 2
    )
    tab.idle()
    assert len(tab.answers()) == 1
    assert tab.page.inner_text("[data-branch]") == "2/2"
    tab.send("그 다음")
    assert [m["role"] for m in seen(api)["seen"][-1]["messages"]] == ["user", "assistant", "user"]


def test_a_server_that_is_down_is_reported(browser, new_database):
    lonely = chat_page("http://127.0.0.1:9/v1", new_database())
    try:
        tab = browser.open(lonely.url, ready=False)
        tab.page.wait_for_selector(f"text={KO['down']}")
        tab.ready()
        tab.send("거기 있나요?")
        text = tab.text()
        assert KO["down_do"] in text
        assert "거기 있나요?" in text
    finally:
        lonely.stop()


@pytest.mark.parametrize("profile", ["good", "arena"])
def test_a_server_that_restarts_is_waited_for(browser, new_database, profile):
    server = stub("good", "other")
    page = chat_page(server.url.removesuffix("/models"), new_database())
    try:
        tab = browser.open(page.url)
        tab.profile(profile)
        time.sleep(MODEL_CACHE_SECONDS + 1)  # until the page forgets which models there are
        server.stop()
        tab.send("기다려 주세요", wait=False)
        tab.page.wait_for_selector(f"text={KO['down']} >> nth=0")
        server = stub("good", "other", port=int(server.url.split(":")[2].split("/")[0]))
        tab.page.wait_for_selector("[data-arena=vote]" if profile == "arena" else "text=good의 답: 기다려 주세요")
    finally:
        page.stop()
        server.stop()


def test_people_log_in_and_see_their_own_conversations_only(browser, api, tmp_path, new_database):
    for name in ("minji", "jun"):
        users.add(str(tmp_path / "users.txt"), name, f"{name} password")
    flags = ("--auth", "password", "--users_file", tmp_path / "users.txt")
    page = chat_page(api.url.removesuffix("/models"), new_database(), *flags, SLLM_API_KEY="secret-key")
    try:
        tabs = {}
        for name in ("minji", "jun"):
            tab = tabs[name] = browser.open(page.url, ready=False)
            for password in ("wrong password", f"{name} password"):
                tab.page.fill("#email", name)
                tab.page.fill("#password", password)
                tab.page.click("button[type=submit]")
                if password.startswith("wrong"):
                    tab.page.wait_for_selector("[role=alert], .alert")
            tab.ready()
            tab.send(f"{name}의 비밀")
            assert seen(api)["seen"][-1]["authorization"] == "Bearer secret-key"
            assert "secret-key" not in tab.page.content()
        assert next(iter(ChatStore(page.database).read().answers.values())).user_id == "minji"
        hidden = tabs["minji"].page.url
        tabs["jun"].page.goto(hidden)
        tabs["jun"].still(1000)
        assert "minji의 비밀" not in tabs["jun"].text()
    finally:
        page.stop()
