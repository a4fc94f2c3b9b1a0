"""What must not be lost, as a person does it in Chromium; only the server with the models is a stand-in."""

import re

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_helpers import Network, chat_page, needs_browser, stub, wait_for

from sllm.chatstore import ChatStore
from sllm.page import users
from sllm.page.translations import CHAINLIT_TEXTS, EN, KO

pytestmark = [needs_browser, pytest.mark.page]


@pytest.fixture(scope="module")
def api():
    server = stub("--tasks", "counts", "good", "slow", "prices", "early-error")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def page(api, new_database):
    started = chat_page(base(api), new_database())
    yield started
    started.stop()


@pytest.fixture
def tab(browser, page):
    opened = browser.open(page.url)
    yield opened
    assert not opened.complaints
    opened.page.context.close()


def base(api) -> str:
    return api.url.removesuffix("/models")


def seen(api) -> list[dict]:
    return httpx.get(api.url.replace("/v1/models", "/log"), trust_env=False).json()["seen"]


def user_texts(api) -> list[str]:
    return [m["content"] for m in seen(api)[-1]["messages"] if m["role"] == "user"]


def test_an_edit_after_a_lost_network_keeps_what_was_before(browser, page, api):
    network = Network(page.url)
    tab = browser.open(network.url)
    try:
        tab.profile("counts")
        for question in ("하나", "둘", "셋"):
            tab.send(question)
        address = tab.page.url
        tab.page.goto(address)  # an old conversation is opened,
        tab.wait("셋의 1번째 답")
        network.cut()  # the network is lost,
        tab.page.wait_for_selector("#session-error")
        network.restore()  # and comes back
        tab.page.wait_for_selector("#session-error", state="detached", timeout=30_000)
        tab.page.wait_for_function("document.querySelectorAll('.message-content').length == 6")
        tab.edit(1, "고친 둘")
        tab.wait("고친 둘의 1번째 답")
        tab.idle()
        assert tab.messages() == ["하나", "하나의 1번째 답", "고친 둘", "고친 둘의 1번째 답"]
        assert user_texts(api) == ["하나", "고친 둘"]
        tab.page.click(f"button[aria-label='{KO['branch_before']}']")
        tab.wait("셋의 1번째 답")
        tab.page.reload()
        tab.wait("셋의 1번째 답")
        assert tab.messages()[2] == "둘"
    finally:
        tab.page.context.close()
        network.close()


def test_buttons_work_when_the_first_of_two_connections_is_late(tab):
    """A page that opens a conversation by its address connects twice. If the first cookie came right after the second,
    the page kept the connection of a session that its buttons do not name."""
    tab.profile("counts")
    tab.send("두 연결")
    tab.page.add_init_script("""
        const plain = window.fetch;
        let second;
        const secondCame = new Promise((resolve) => { second = resolve; setTimeout(resolve, 2000); });
        window.cookies = 0;
        window.fetch = async (...request) => {
            if (!String(request[0]).includes('/set-session-cookie')) return plain(...request);
            const number = ++window.cookies;
            const response = await plain(...request);
            if (number == 1) await secondCame;
            else setTimeout(second, 60);
            return response;
        };
    """)
    tab.page.wait_for_url("**/thread/*")
    tab.page.reload()
    tab.page.wait_for_function("window.cookies == 2")
    tab.wait("두 연결의 1번째 답")
    tab.page.click("button:has(svg.lucide-refresh-cw)")
    tab.wait("두 연결의 2번째 답")


def test_a_task_and_a_command_have_no_pencil(tab):
    tab.profile("counts")
    tab.page.click(f"text={KO['task_starter']}")
    tab.page.select_option("#task-picker", "task04_01")
    tab.page.click("#task-example")
    tab.page.dblclick("#task-send")  # which asks once
    tab.page.wait_for_selector("[data-verdict]")
    tab.idle()
    tab.send("이어서")
    for _ in range(2):
        shown = [bool(pencil.bounding_box()) for pencil in tab.page.query_selector_all("button.edit-message")]
        assert shown == [False, False, True]
        assert tab.text().count("task04_01의 답입니다.") == 1
        tab.page.reload()
        tab.wait("이어서의 1번째 답")
    tab.page.click("button[id$=-task_edit] >> nth=-1")  # a task is edited in its form
    tab.page.wait_for_selector(".task-form")
    assert tab.page.input_value("#task-picker") == "task04_01"
    assert tab.page.input_value("#field-question")


def test_regenerating_an_older_answer_loses_nothing(tab):
    tab.profile("counts")
    for question in ("가", "나", "다"):
        tab.send(question)
    whole = tab.messages()
    tab.page.click("button:has(svg.lucide-refresh-cw) >> nth=0")
    tab.wait("가의 2번째 답")
    tab.idle()
    assert tab.page.inner_text("[data-branch]") == "2/2"
    assert len(tab.page.query_selector_all(".ai-message")) == 1
    tab.page.click(f"button[aria-label='{KO['branch_before']}']")
    tab.wait("다의 1번째 답")
    assert [text.split("\n")[0] for text in tab.messages()] == whole


def test_choosing_another_model_keeps_the_draft_and_the_conversation(tab):
    tab.profile("counts")
    tab.send("남을 대화")
    tab.page.click("#chat-input")
    tab.page.keyboard.insert_text("쓰다 만 글")
    tab.page.click("#chat-profiles")
    tab.page.click('[data-test="select-item:good"]')
    tab.wait(CHAINLIT_TEXTS["ko"]["navigation.newChat.dialog.description"])
    tab.page.click("[role=dialog] button >> nth=-2")
    tab.ready()
    assert tab.page.input_value("#chat-input") == "쓰다 만 글"
    assert "good" in tab.page.inner_text("#chat-profiles")
    tab.page.click("#chat-submit")
    tab.wait("good의 답: 쓰다 만 글")
    tab.idle()
    tab.page.reload()
    tab.wait("good의 답: 쓰다 만 글")
    assert tab.page.input_value("#chat-input") == ""
    tab.page.click("a:has-text('남을 대화')")
    tab.wait("남을 대화의 1번째 답")


def test_a_refresh_while_an_answer_streams_shows_the_rest(tab, api):
    tab.profile("slow")
    tab.send("새로 고침", wait=False)
    tab.page.wait_for_selector("text=slow의 답")
    tab.page.reload()
    tab.page.wait_for_selector("text=slow의 답")
    tab.page.wait_for_selector("#stop-button")
    tab.wait("대역 서버의 답입니다.")
    tab.idle()
    tab.send("그 다음", wait=False)
    wait_for(lambda: user_texts(api) == ["새로 고침", "그 다음"])
    assert seen(api)[-1]["messages"][1]["content"].endswith("대역 서버의 답입니다.")
    tab.page.click("#stop-button")
    tab.idle()


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_deleted(tab, page, api):
    tab.profile("slow")
    tab.send("지울 대화", wait=False)
    tab.page.wait_for_selector("text=slow의 답")
    tab.page.hover("a:has-text('지울 대화')")
    tab.page.click("li:has(a:has-text('지울 대화')) #thread-options")
    tab.page.click("#delete-thread")
    tab.page.click("[role=alertdialog] button >> nth=-1")
    wait_for(lambda: httpx.get(api.url.replace("/v1/models", "/log"), trust_env=False).json()["running"] == 0, 5)
    tab.page.wait_for_url(lambda url: "/thread/" not in url)  # a reload of the deleted one is a 404
    tab.page.reload()
    tab.ready()
    assert "지울 대화" not in tab.text()
    assert not [a for a in ChatStore(page.database).read().answers.values() if a.prompt[-1]["content"] == "지울 대화"]


def test_a_file_that_is_refused_leaves_nothing_and_one_that_is_taken_stays(tab, api, tmp_path):
    tab.profile("good")
    (tmp_path / "그림.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "글.txt").write_bytes("한라산은 1,947m이다.".encode("cp949"))
    (tmp_path / "큰.txt").write_bytes("가".encode() * 400_000)
    for name in ("그림.png", "큰.txt", "글.txt"):
        tab.page.set_input_files("#upload-button-input, input[type=file]", str(tmp_path / name))
        if name == "글.txt":
            tab.page.wait_for_selector("#message-composer >> text=글.txt")
        else:
            tab.page.wait_for_selector(f"[data-sonner-toast]:has-text('{name}')")
            assert name not in tab.page.inner_text("#message-composer")
    assert all(re.search("40[0-9]|413", said) for said in tab.complaints)  # of the browser, about what was refused
    tab.complaints.clear()
    asked = len(seen(api))
    tab.send("높이는?")
    assert len(seen(api)) == asked + 1
    assert user_texts(api) == ["한라산은 1,947m이다.\n\n높이는?"]
    for _ in range(2):
        tab.page.wait_for_selector(".files .file:has-text('글.txt')")
        tab.page.reload()
        tab.ready()


def test_prices_stay_prices_and_formulas_are_formulas(tab):
    tab.profile("prices")
    tab.send("$3과 $4를 그대로")
    tab.idle()
    assert "원가는 $5이고 판매가는 $10입니다." in tab.text()
    assert "$HOME" in tab.text()
    assert "$3과 $4를 그대로" in tab.text()
    assert len(tab.page.query_selector_all(".ai-message math")) == 2


def test_an_error_before_the_first_word_is_not_a_server_that_is_down(tab):
    tab.profile("early-error")
    tab.send("바로 죽는 질문")
    tab.wait(KO["bug"])
    assert KO["down"] not in tab.text()


def test_a_comparison_shows_the_first_vote_and_the_change_apart(browser, new_database):
    server = stub("cut", "good")
    page = chat_page(base(server), new_database())
    tab = browser.open(page.url)
    try:
        tab.profile("arena")
        tab.send("비교")
        tab.page.wait_for_selector("[data-arena=vote]")
        assert tab.page.inner_text(".arena-cut") == KO["arena_cut_length"]
        assert "good" not in tab.page.inner_html("[data-arena]").replace("good의 답", "").replace("both", "")
        tab.page.click("[data-vote=left]")
        tab.page.wait_for_selector("[data-arena=voted]")
        tab.page.click("[data-vote=right]")
        tab.wait(KO["arena_changed"].format(choice=KO["vote_right"]))
        tab.page.reload()
        tab.wait(KO["arena_changed"].format(choice=KO["vote_right"]))
        kept = ChatStore(page.database).read().comparisons[0]
        assert (kept.choice, kept.changed) == ("left", "right")
        tab.page.click("#search-chats-button")
        tab.page.fill("[role=dialog] input", "good의 답")  # the text of an answer, which no message has
        tab.page.wait_for_selector("[role=dialog] [role=option]:has-text('비교')")
    finally:
        tab.page.context.close()
        page.stop()
        server.stop()


def test_a_page_server_that_stopped_is_reported_and_the_draft_stays(browser, api, new_database):
    page = chat_page(base(api), new_database())
    port = int(page.url.rsplit(":", 1)[1])
    tab = browser.open(page.url)
    try:
        tab.profile("counts")
        tab.send("먼저")
        tab.page.click("#chat-input")
        tab.page.keyboard.insert_text("아직 안 보낸 글")
        page.process.kill()
        tab.wait(CHAINLIT_TEXTS["ko"]["common.status.error.serverConnection"])
        page = chat_page(base(api), page.database, port=port)
        tab.page.wait_for_selector("#session-error", state="detached", timeout=30_000)
        assert tab.page.input_value("#chat-input") == "아직 안 보낸 글"
        tab.page.wait_for_selector("#chat-submit:not([disabled])")
        tab.page.click("#chat-submit")
        tab.wait("아직 안 보낸 글의 1번째 답")
        assert user_texts(api) == ["먼저", "아직 안 보낸 글"]
    finally:
        tab.page.context.close()
        page.stop()


def test_a_conversation_that_is_not_there_is_a_404(browser, page):
    for path in ("abc", "e2b2c9f2-6f0e-4c39-9d4c-000000000000"):
        tab = browser.open(f"{page.url}/thread/{path}", ready=False)
        assert KO["conversation_missing"] in tab.text()
        assert httpx.get(f"{page.url}/thread/{path}", trust_env=False).status_code == 404
        tab.page.click("a")
        tab.ready()
        tab.page.context.close()


def test_logging_in_asks_for_a_name_and_logging_out_ends_it(browser, api, tmp_path, new_database):
    users.add(str(tmp_path / "users.txt"), "minji", "minji password")
    flags = ("--auth", "password", "--users_file", tmp_path / "users.txt")
    # conda's compilers export HOST, PORT and more: only names with SLLM_ are read
    page = chat_page(base(api), new_database(), *flags, HOST="x86_64-conda-linux-gnu", TIMEOUT="long", AUTH="none")
    tab = browser.open(page.url, ready=False)
    try:
        assert tab.page.inner_text("label[for=email]") == "이름"
        assert tab.page.get_attribute("#email", "placeholder") == ""
        serious(tab)
        for password in ("wrong password", "minji password"):
            tab.page.fill("#email", "minji")
            tab.page.fill("#password", password)
            tab.page.click("button[type=submit]")
            if password.startswith("wrong"):
                tab.wait(CHAINLIT_TEXTS["ko"]["auth.login.errors.unauthorized"])
        tab.ready()
        cookies = {cookie["name"]: cookie["value"] for cookie in tab.page.context.cookies()}
        tab.page.click("#user-nav-button")
        tab.page.click("[role=menuitem] >> nth=-1")
        tab.page.wait_for_selector("#email")
        assert httpx.get(f"{page.url}/user", cookies=cookies, trust_env=False).status_code == 401
    finally:
        tab.page.context.close()
        page.stop()


def test_the_vote_comes_into_view_for_who_is_at_the_end(browser, new_database):
    server = stub("slow", "long")
    page = chat_page(base(server), new_database())
    tab = browser.open(page.url, width=1280, height=850)
    try:
        tab.profile("arena")
        tab.send("자전거의 장점은?", wait=False)
        tab.page.wait_for_selector("[data-arena=vote]", timeout=60_000)
        wait_for(lambda: at_end(tab), 5)
        wait_for(lambda: votes_in_view(tab) == [True], 5)
        tab.send("단점은? " * 9, wait=False)  # the slow one repeats it, at 0.2 s a character
        tab.page.wait_for_selector("[data-arena=writing]")
        tab.page.hover("[data-arena=writing]")
        tab.page.mouse.wheel(0, -1500)  # to read something above
        top = scroll_position(tab)
        tab.page.wait_for_selector("[data-arena=vote] >> nth=1", timeout=60_000)
        tab.still(1000)
        assert abs(tab.page.evaluate(f"{SCROLLER}.scrollTop") - top) < 5
        assert votes_in_view(tab) == [False, False]
        tab.page.reload()  # a conversation opens at its end
        tab.page.wait_for_selector("[data-arena=vote] >> nth=1")
        wait_for(lambda: at_end(tab) and votes_in_view(tab) == [False, True], 5)
        assert not tab.complaints
    finally:
        tab.page.context.close()
        page.stop()
        server.stop()


def test_nothing_is_below_the_end_of_a_task(browser, page):
    tab = browser.open(page.url, width=1280, height=850)
    try:
        tab.profile("counts")
        tab.page.click(f"text={KO['task_starter']}")
        tab.page.wait_for_selector("#task-example")
        tab.still(1500)  # Chainlit looks half a second later
        assert (arrow(tab), overflow(tab)) == (False, 0)
        tab.page.select_option("#task-picker", "task04_01")
        tab.page.click("#task-example")
        tab.page.click("#task-send")
        tab.page.wait_for_selector("[data-verdict]")
        tab.wait("얼음이 물에")  # the list on the left calls it by its task
        assert "생성형 단답" in tab.page.inner_text("[data-sidebar=sidebar]")
        for _ in range(2):
            tab.still(1500)
            assert at_end(tab)
            assert not arrow(tab)
            assert tab.page.locator("button[id$=-task_edit]").bounding_box()["y"] < 700
            tab.page.reload()
            tab.page.wait_for_selector("[data-verdict]")
        assert not tab.complaints
    finally:
        tab.page.context.close()


def test_a_short_comparison_has_nothing_below(browser, new_database):
    server = stub("cut", "good")
    page = chat_page(base(server), new_database())
    tab = browser.open(page.url, width=1280, height=850)
    try:
        tab.profile("arena")
        tab.send("비교")
        tab.page.wait_for_selector("[data-arena=vote]")
        for _ in range(2):
            tab.still(1500)
            assert (arrow(tab), overflow(tab)) == (False, 0)
            tab.page.reload()
            tab.page.wait_for_selector("[data-arena=vote]")
        assert not tab.complaints
    finally:
        tab.page.context.close()
        page.stop()
        server.stop()


def test_a_thumb_is_kept_whether_a_comment_follows_or_not(tab, page):
    def thumbs() -> list[tuple]:
        found = ChatStore(page.database).read().thumbs
        return [(thumb.value, thumb.comment) for thumb in found if thumb.answer.prompt[-1]["content"] == "엄지"]

    tab.profile("counts")
    tab.send("엄지")
    for close in ("Escape", "X"):
        tab.page.click(".positive-feedback-off")
        wait_for(lambda: thumbs() == [(1, None)], 5)  # before the box is closed
        if close == "X":
            tab.page.click("[role=dialog] > button >> nth=-1")
        else:
            tab.page.keyboard.press("Escape")
        tab.page.wait_for_selector("[role=dialog]", state="detached")
        tab.page.wait_for_selector(".positive-feedback-on")
        tab.page.reload()
        tab.page.click(".positive-feedback-on")  # takes it back
        tab.page.wait_for_selector(".positive-feedback-off")
        assert thumbs() == []
    tab.page.click(".negative-feedback-off")
    tab.page.fill("[role=dialog] textarea", "틀렸다")
    tab.page.click("#submit-feedback")
    wait_for(lambda: thumbs() == [(0, "틀렸다")], 5)
    tab.page.wait_for_selector(".negative-feedback-on")


def test_the_send_button_is_named_by_what_it_does(tab):
    tab.profile("slow")
    tab.send("이름", wait=False)
    tab.page.wait_for_selector("#stop-button[aria-label=멈추기]")
    tab.page.click("#stop-button")
    tab.page.wait_for_selector("#chat-submit[aria-label=보내기]")


def test_a_korean_page_says_nothing_in_english(tab):
    tab.profile("counts")
    tab.send("찾을 대화")
    tab.page.click("#search-chats-button")
    tab.page.wait_for_selector("[role=dialog] [role=option]")
    assert re.fullmatch(r"\d{4}년 \d+월", tab.page.inner_text("[cmdk-group-heading]:visible"))
    assert english(tab) == []
    tab.page.keyboard.press("Escape")
    tab.page.click("#chat-settings-open-modal")
    tab.page.wait_for_selector("#confirm")
    assert english(tab) == []


def test_a_page_without_users_has_no_logout(tab):
    assert not tab.page.is_visible("#user-nav-button")


@pytest.mark.parametrize(
    ("locale", "said"), [("ko-KR", "하나를 고릅니다: one, two."), ("en-US", "at the top: one, two.")]
)
def test_the_help_names_the_models(browser, new_database, locale, said):
    server = stub("one", "two")
    page = chat_page(base(server), new_database())
    tab = browser.open(page.url, locale=locale)
    try:
        tab.page.click("#readme-button")
        tab.page.wait_for_selector("[role=dialog] li")
        assert said in tab.page.inner_text("[role=dialog]")
    finally:
        tab.page.context.close()
        page.stop()
        server.stop()


def test_the_first_page_says_and_offers_what_it_is_told(browser, api, tmp_path):
    (tmp_path / "starters.txt").write_text("수박은 무엇입니까?\n\n가람은 몇 시에 옵니까?\n", encoding="utf-8")
    server = chat_page(
        base(api), f"sqlite:///{tmp_path}/chat.db", "--starters_path",
        tmp_path / "starters.txt", "--welcome", "작은 세계만 압니다.",
    )  # fmt: skip
    tab = browser.open(server.url)
    try:
        tab.page.wait_for_selector("text=작은 세계만 압니다.")
        assert [button.inner_text() for button in tab.page.query_selector_all("#starters button")] == [
            KO["task_starter"], "수박은 무엇입니까?", "가람은 몇 시에 옵니까?",
        ]  # fmt: skip
        tab.page.click("text=수박은 무엇입니까?")
        tab.wait("수박은 무엇입니까?의 1번째 답")
    finally:
        tab.page.context.close()
        server.stop()


@pytest.mark.parametrize("locale", ["ko-KR", "en-US"])
def test_axe_finds_nothing_serious(browser, page, locale):
    words = KO if locale == "ko-KR" else EN
    tab = browser.open(page.url, locale=locale)
    try:
        serious(tab)
        tab.page.click("#chat-settings-open-modal")
        tab.page.wait_for_selector("#confirm")
        serious(tab)
        tab.page.keyboard.press("Escape")
        tab.page.wait_for_selector("#confirm", state="detached")
        tab.page.click(f"text={words['task_starter']}")
        tab.page.wait_for_selector(".task-form")
        serious(tab)
        tab.page.select_option("#task-picker", "task04_01")
        tab.page.click("#task-example")
        tab.page.click("#task-send")
        tab.page.wait_for_selector("[data-verdict]")
        tab.idle()
        tab.page.click("button:has(svg.lucide-refresh-cw) >> nth=-1")
        tab.page.wait_for_selector("[data-branch]")
        tab.idle()
        serious(tab)
        assert not tab.complaints
    finally:
        tab.page.context.close()


def test_axe_finds_nothing_serious_in_the_arena(browser, new_database):
    server = stub("cut", "good")
    page = chat_page(base(server), new_database())
    tab = browser.open(page.url)
    try:
        tab.profile("arena")
        tab.send("비교")
        tab.page.wait_for_selector("[data-arena=vote]")
        serious(tab)
        tab.page.click("#theme-toggle")
        tab.page.click("[role=menuitem] >> nth=1")
        tab.page.click("[data-vote=left]")
        tab.page.wait_for_selector("[data-arena=voted]")
        serious(tab)
        assert not tab.complaints
    finally:
        tab.page.context.close()
        page.stop()
        server.stop()


def serious(tab) -> None:
    """Nothing that axe calls serious or critical, once colours have changed and dialogs have come."""
    tab.still()
    tab.page.wait_for_function(
        "document.getAnimations().every((one) => one.effect.getTiming().iterations === Infinity)"
    )
    found = [v for v in Axe().run(tab.page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not found, "\n".join(
        f"{v['id']}: {node['html'][:200]} {node['any'][:1]}" for v in found for node in v["nodes"]
    )


SCROLLER = "document.querySelector('main .overflow-y-auto > .overflow-y-auto')"


def overflow(tab) -> int:
    """Pixels that can be scrolled away."""
    return tab.page.evaluate(f"{SCROLLER}.scrollHeight - {SCROLLER}.clientHeight")


def at_end(tab) -> bool:
    return abs(tab.page.evaluate(f"{SCROLLER}.scrollTop") - overflow(tab)) < 2


def arrow(tab) -> bool:
    return tab.page.is_visible("button:has(> .lucide-arrow-down)")


def votes_in_view(tab) -> list[bool]:
    """Of each comparison, whether its buttons can be seen above the input."""
    composer = tab.page.locator("#message-composer").bounding_box()["y"]
    boxes = [votes.bounding_box() for votes in tab.page.query_selector_all(".arena-votes")]  # None: not drawn yet
    return [box is not None and box["y"] >= 60 and box["y"] + box["height"] <= composer for box in boxes]


def scroll_position(tab) -> float:
    """Where the conversation stands once it no longer moves."""
    return tab.page.evaluate(
        f"""() => new Promise(resolve => {{
            let last = null
            const timer = setInterval(() => {{
                const top = {SCROLLER}.scrollTop
                if (top === last) {{ clearInterval(timer); resolve(top) }}
                last = top
            }}, 100)
        }})"""
    )


def english(tab) -> list[str]:
    """What the page says to those who do not see it, without a Korean letter in it; models and settings have names."""
    names = {"counts", *(value for value in KO.values() if isinstance(value, str))}
    said = tab.page.evaluate(
        """[...document.querySelectorAll('.sr-only, [aria-label], [title], [alt]')].flatMap((element) => [
            element.matches('.sr-only') ? element.textContent : '',
            ...['aria-label', 'title', 'alt'].map((name) => element.getAttribute(name) || '')])"""
    )
    latin = [text for text in said if re.search("[A-Za-z]", text) and not re.search("[가-힣]", text)]
    return [text for text in latin if text.split("\n")[0] not in names]  # a slider's name has its value below
