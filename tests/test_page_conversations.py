"""What the page keeps: every way in which a conversation, a file, an answer or a vote could be lost. Tabs speak
socket.io as Chainlit's page does; the server with the models is a stand-in, the page and its database are real."""

import asyncio
import json
import signal
import sqlite3

import httpx
import pytest
from browser_helpers import Process, chat_page, stub, wait_for
from conftest import ROOT
from page_client import Person

from sllm.chatstore import ChatStore

pytestmark = pytest.mark.page


@pytest.fixture(scope="module")
def api():
    server = stub("--tasks")
    yield server
    server.stop()


@pytest.fixture
def database(new_database) -> str:
    """For the tests that need a page of their own."""
    return new_database()


@pytest.fixture(scope="module")
def page(api, new_database):
    started = chat_page(base(api), new_database(), "--timeout", "20")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def arena(new_database):
    """A page with two models that answer."""
    server = stub("good", "counts")
    started = chat_page(base(server), new_database())
    yield started
    started.stop()
    server.stop()


def kept(page: Process, conversation: str) -> list:
    """The answers of a conversation in the chat store."""
    answers = ChatStore(page.database).read().answers.values()
    return [answer for answer in answers if answer.conversation == conversation]


def is_stored(database: str, text: str) -> bool:
    """Is `text` in the database, in an answer or a comparison that is being written?"""
    values: list = []
    with ChatStore(database).engine.connect() as connection:
        for query in ("SELECT output FROM steps", "SELECT props FROM elements"):
            values += connection.exec_driver_sql(query).scalars()
    escaped = json.dumps(text)[1:-1]  # as SQLite keeps JSON
    return any(text in str(value) or escaped in str(value) for value in values)


def base(api: Process) -> str:
    return api.url.removesuffix("/models")


def seen(api: Process) -> list[dict]:
    return httpx.get(api.url.replace("/v1/models", "/log"), trust_env=False).json()["seen"]


def contents(messages: list[dict]) -> list[str]:
    return [message["content"] for message in messages]


async def dialogue(url: str, *questions: str, model: str = "counts") -> Person:
    person = Person(url, profile=model)
    await person.enter()
    for question in questions:
        await person.say(question)
        await person.answered(f"{question}의")
    return person


def test_an_edit_after_a_lost_network_keeps_what_was_before(page, api):
    async def talk() -> None:
        first = await dialogue(page.url, "첫 질문", "둘째 질문")
        tab = Person(page.url, profile="counts", client=first.client)
        tab.thread = first.thread
        await tab.enter()  # the conversation is opened again,
        await tab.until(lambda: len(tab.messages) == 4)
        await tab.lose_network()  # and loses the network
        await tab.come_back()
        await tab.until(lambda: len(tab.messages) == 4)
        second = tab.messages[2]["id"]
        await tab.edit(second, "고친 질문")
        await tab.answered("고친 질문의")
        assert [m["output"] for m in tab.messages] == [
            "첫 질문",
            "첫 질문의 1번째 답",
            "고친 질문",
            "고친 질문의 1번째 답",
        ]
        assert contents(seen(api)[-1]["messages"]) == ["첫 질문", "첫 질문의 1번째 답", "고친 질문"]
        await tab.branch(-1)
        await tab.until(lambda: "둘째 질문" in [m["output"] for m in tab.messages])
        await tab.reload()  # what was shown last is shown again
        assert [m["output"] for m in tab.messages][2:] == ["둘째 질문", "둘째 질문의 1번째 답"]
        await first.socket.disconnect()
        await tab.leave()
        texts = {answer.text for answer in kept(page, first.thread)}
        assert texts == {"첫 질문의 1번째 답", "둘째 질문의 1번째 답", "고친 질문의 1번째 답"}

    asyncio.run(talk())


def test_only_questions_are_edited_in_place(page, api):
    async def talk() -> None:
        person = Person(page.url)
        await person.enter()
        await person.say("과제 고르기", command="과제")
        form = (await person.until(lambda: person.props("TaskForm")))["form"]
        assert (await person.act("task_run", form=form, task="task04_01", fields={"question": "물은?"}))[
            "state"
        ] == "sent"
        await person.answered("task04_01의 답")
        shown, asked = [m["output"] for m in person.messages], len(seen(api))
        for number in (0, 2):  # the command, and the task
            await person.edit(person.messages[number]["id"], "고쳐 본다")
            await person.until(lambda: [m["output"] for m in person.messages] == shown)
        await person.reload()
        assert [m["output"] for m in person.messages] == shown
        assert len(seen(api)) == asked
        await person.leave()

    asyncio.run(talk())


def test_regenerating_an_older_answer_loses_nothing(page, api):
    async def talk() -> None:
        person = await dialogue(page.url, "하나", "둘", "셋")
        whole = [m["output"] for m in person.messages]
        await person.again(person.messages[1]["id"])
        await person.answered("하나의 2번째 답")
        assert [m["output"] for m in person.messages] == ["하나", "하나의 2번째 답"]
        assert person.props("Branches")["count"] == 2
        await person.say("넷")
        await person.answered("넷의")
        assert contents(seen(api)[-1]["messages"]) == ["하나", "하나의 2번째 답", "넷"]
        await person.branch(-1)
        await person.until(lambda: [m["output"] for m in person.messages] == whole)
        await person.say("다섯")
        await person.answered("다섯의")
        assert contents(seen(api)[-1]["messages"]) == [*whole, "다섯"]
        assert len(kept(page, person.thread)) == 6
        await person.leave()

    asyncio.run(talk())


def test_a_regeneration_that_brings_nothing_shows_what_was_there(database):
    api = stub("flaky")
    page = chat_page(base(api), database)

    async def talk() -> None:
        person = Person(page.url, profile="flaky")
        await person.enter()
        for question in ("하나", "둘"):
            await person.say(question)
            await person.answered(f"{question}의")
        whole = [m["output"] for m in person.messages]
        await person.say("고장")  # from now on it fails
        await person.until(lambda: person.messages[-1].get("isError") and not person.loading)
        before = person.ended
        await person.again(person.messages[1]["id"])
        await person.until(lambda: person.ended > before and not person.loading)
        assert [m["output"] for m in person.messages][:4] == whole
        assert person.toasts
        await person.reload()
        assert [m["output"] for m in person.messages][:4] == whole
        await person.leave()

    try:
        asyncio.run(talk())
    finally:
        page.stop()
        api.stop()


def test_pressing_regenerate_three_times_asks_once(page, api):
    async def talk() -> None:
        person = Person(page.url, profile="slow")
        await person.enter()
        await person.say("느린 질문")
        await person.answered("대역 서버의 답입니다.")
        asked, message = len(seen(api)), person.messages[1]["id"]
        before = person.ended
        await asyncio.gather(*(person.act("again", message=message) for _ in range(3)))
        await person.until(lambda: person.ended > before and not person.loading)
        assert len(seen(api)) == asked + 1
        await person.leave()

    asyncio.run(talk())


def test_reloading_right_after_sending_breaks_nothing_off(page, api):
    async def one(number: int) -> None:
        person = Person(page.url, profile="counts")
        await person.enter()
        await person.say(f"먼저 {number}")
        await person.answered(f"먼저 {number}의")
        await person.say(f"급한 질문 {number}")
        await asyncio.sleep(0.002 * (number % 10))
        await person.reload()
        await person.until(lambda: any(f"급한 질문 {number}의" in text for text in person.texts))
        await person.idle()
        assert not any("⚠️" in text for text in person.texts)
        await person.leave()

    async def everybody() -> None:
        for number in range(20):
            await one(number)

    asyncio.run(everybody())


def test_every_file_and_every_instant_arena_round_is_stored_whole(page, arena):
    async def with_file(number: int) -> None:
        person = Person(page.url)
        await person.enter()
        file = (await person.drop("글.txt", f"{number}번 파일의 내용".encode())).json()["id"]
        await person.say(f"{number}번 파일 질문", files=(file,))
        await person.answered(f"{number}번 파일 질문")
        await person.reload()
        assert person.props("Files")["files"][0]["name"] == "글.txt"
        await person.say("이어지는 질문")
        await person.answered("이어지는 질문")
        await person.leave()

    async def round(number: int) -> None:
        person = Person(arena.url, profile="arena")
        await person.enter()
        await person.say(f"{number}번 비교")
        await person.until(lambda: person.props("Arena").get("state") not in (None, "writing"))
        await person.idle()
        await person.reload()
        assert person.props("Arena")["state"] == "vote"
        await person.vote("tie")
        await person.leave()

    async def everybody() -> None:
        await asyncio.gather(*map(with_file, range(30)))
        await asyncio.gather(*map(round, range(60)))

    asyncio.run(everybody())
    rounds = [c for c in ChatStore(arena.database).read().comparisons if "번 비교" in c.left.prompt[0]["content"]]
    assert len(rounds) == 60
    assert {c.choice for c in rounds} == {"tie"}
    prompts = [answer.prompt for answer in ChatStore(page.database).read().answers.values()]
    follow_ups = [prompt for prompt in prompts if prompt[-1]["content"] == "이어지는 질문"]
    assert len(follow_ups) == 30
    assert all("번 파일의 내용\n\n" in prompt[0]["content"] for prompt in follow_ups)


def test_a_reload_during_an_answer_is_shown_the_rest_of_it(page, api):
    async def talk() -> None:
        person = Person(page.url, profile="slow")
        await person.enter()
        await person.say("천천히 답해 주세요")
        await person.until(lambda: any(len(text) > 3 for text in person.texts))
        before = len(person.texts[0])
        await person.reload()
        assert len(person.texts[0]) >= before
        await person.until(lambda: person.loading)
        await person.answered("대역 서버의 답입니다.")
        whole = person.texts[0]
        await person.say("그 다음")
        await person.until(lambda: len(seen(api)) and seen(api)[-1]["messages"][-1]["content"] == "그 다음")
        assert seen(api)[-1]["messages"][1] == {"role": "assistant", "content": whole}
        await person.stop()
        await person.idle()
        assert kept(page, person.thread)[0].text == whole
        await person.leave()

    asyncio.run(talk())


def test_two_tabs_of_one_conversation_show_the_same(page):
    async def talk() -> None:
        one = await dialogue(page.url, "두 탭의 하나")
        two = Person(page.url, profile="counts", client=one.client)
        two.thread = one.thread
        await two.enter()
        await two.until(lambda: len(two.messages) == 2)
        await asyncio.gather(one.say("왼쪽에서"), two.say("오른쪽에서"))
        for tab in (one, two):
            await tab.answered("왼쪽에서의")
            await tab.answered("오른쪽에서의")
        assert sorted(m["output"] for m in one.messages) == sorted(m["output"] for m in two.messages)
        await two.socket.disconnect()
        await one.leave()

    asyncio.run(talk())


@pytest.mark.parametrize("profile", ["slow", "arena"])
def test_a_page_that_is_killed_keeps_what_had_come(database, profile):
    models = ("slow",) if profile == "slow" else ("slow", "hangs")
    api = stub(*models)
    page = chat_page(base(api), database)
    port = int(page.url.rsplit(":", 1)[1])

    async def talk() -> None:
        nonlocal page
        person = Person(page.url, profile=profile)
        await person.enter()
        await person.say("죽기 전의 질문")
        if profile == "slow":
            await person.until(lambda: any(len(text) > 8 for text in person.texts))
        else:
            await person.until(lambda: any(len(text) > 8 for side in person.live.values() for text in side.values()))
        await asyncio.to_thread(wait_for, lambda: is_stored(database, "slow의 답"))
        page.process.send_signal(signal.SIGKILL)
        page.process.wait(10)
        page = chat_page(base(api), database, port=port)
        await person.reload()
        shown = person.texts[0] if profile == "slow" else str(person.props("Arena"))
        assert "slow의 답" in shown
        assert any("끊겼습니다" in text for text in person.texts)
        assert person.props("Arena").get("state") in (None, "stopped")
        await person.leave()

    try:
        asyncio.run(talk())
        if profile == "slow":
            kept = list(ChatStore(database).read().answers.values())
            assert [answer.finish_reason for answer in kept] == ["broken"]
            assert kept[0].text.startswith("slow의 답")
    finally:
        page.stop()
        api.stop()


def test_a_page_that_is_stopped_stores_what_had_come(database):
    api = stub("slow")
    page = chat_page(base(api), database)

    async def talk() -> None:
        person = Person(page.url, profile="slow")
        await person.enter()
        await person.say("멈추기 전의 질문")
        await person.until(lambda: any(len(text) > 8 for text in person.texts))
        assert await asyncio.to_thread(page.stop) == 0
        await person.client.aclose()

    try:
        asyncio.run(talk())
        assert [answer.finish_reason for answer in ChatStore(database).read().answers.values()] == ["broken"]
    finally:
        page.stop()
        api.stop()


def rows(database: str) -> dict[str, int]:
    from sqlalchemy import inspect, text

    with ChatStore(database).engine.connect() as connection:
        tables = [name for name in inspect(connection).get_table_names() if name not in ("users", "sllm_logins")]
        return {name: connection.execute(text(f'SELECT COUNT(*) FROM "{name}"')).scalar() for name in tables}


def test_deleting_leaves_no_trace_even_while_an_answer_is_written(database, api):
    page = chat_page(base(api), database)

    async def talk() -> None:
        person = Person(page.url, profile="slow")
        await person.enter()
        await person.say("지울 질문")
        await person.until(lambda: any(len(text) > 8 for text in person.texts))
        request = {"threadId": person.thread}
        assert (await person.client.request("DELETE", "/project/thread", json=request)).status_code == 200
        await asyncio.to_thread(wait_for, lambda: running(api) == 0, 5)
        await person.say("지운 뒤의 질문")  # from a tab that has not noticed
        await person.answered("지운 뒤의 질문")
        assert next(m["output"] for m in person.messages) == "지운 뒤의 질문"
        await person.client.request("DELETE", "/project/thread", json=request)
        await person.lose_network()  # Chainlit would make the conversation again here
        await person.client.aclose()

    try:
        asyncio.run(talk())
    finally:
        page.stop()  # with what it still writes
    assert set(rows(database).values()) == {0}, rows(database)


def running(api: Process) -> int:
    return httpx.get(api.url.replace("/v1/models", "/log"), trust_env=False).json()["running"]


def test_the_first_vote_is_what_counts(arena):
    async def talk() -> None:
        person = Person(arena.url, profile="arena")
        await person.enter()
        await person.say("누가 나은가요?")
        await person.until(lambda: person.props("Arena").get("state") == "vote")
        await person.vote("left")
        await person.until(lambda: person.props("Arena").get("choice") == "left")
        await person.vote("right")
        await person.until(lambda: person.props("Arena").get("changed") == "right")
        assert person.props("Arena")["choice"] == "left"
        votes = [c for c in ChatStore(arena.database).read().comparisons if c.left.conversation == person.thread]
        assert [(c.choice, c.changed) for c in votes] == [("left", "right")]
        await person.leave()

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("models", "state", "cut"),
    [(("same", "identical"), "same", set()), (("cut", "good"), "vote", {"길이 한도에서 끊김"})],
)
def test_what_is_to_know_before_a_vote_is_said_before_it(database, models, state, cut):
    api = stub(*models)
    page = chat_page(base(api), database)

    async def talk() -> None:
        person = Person(page.url, profile="arena")
        await person.enter()
        await person.say("비교해 줘")
        props = await person.until(lambda: p if (p := person.props("Arena")).get("state") == state else None)
        assert set(props["cut"]) - {""} == cut
        assert "names" not in props
        await person.leave()

    try:
        asyncio.run(talk())
    finally:
        page.stop()
        api.stop()


def test_an_arena_sends_what_is_new_only(database):
    api = stub("long", "rich")
    page = chat_page(base(api), database)

    async def talk() -> int:
        person = Person(page.url, profile="arena")
        received = 0
        await person.enter()
        eio = person.socket.eio
        handle = eio._receive_packet

        async def counted(packet):
            nonlocal received
            received += len(packet.encode())
            return await handle(packet)

        eio._receive_packet = counted
        await person.say("길게")
        await person.until(lambda: person.props("Arena").get("state") == "vote")
        assert max(len(text) for side in person.live.values() for text in side.values()) > 3000
        await person.leave()
        return received

    try:
        assert asyncio.run(talk()) < 200_000
    finally:
        page.stop()
        api.stop()


@pytest.mark.parametrize("model", ["early-error", "early-close"])
def test_an_error_before_the_first_word_is_not_a_server_that_is_down(page, model):
    from sllm.page.translations import KO

    async def talk() -> None:
        person = Person(page.url, profile=model)
        await person.enter()
        await person.say("바로 죽는 질문")
        word = KO["bug"] if model == "early-error" else KO["closed"]
        await person.until(lambda: any(word in text and "⚠️" in text for text in person.texts))
        assert not any(KO["down"] in text for text in person.texts)
        await person.leave()

    asyncio.run(talk())


def test_an_error_in_the_arena_names_no_model(database):
    api = stub("early-error", "good")
    page = chat_page(base(api), database)

    async def talk() -> None:
        person = Person(page.url, profile="arena")
        await person.enter()
        await person.say("누가 죽나요?")
        await person.until(lambda: any("⚠️" in text for text in person.texts))
        assert "early-error" not in str(person.steps) + str(person.elements)
        await person.leave()

    try:
        asyncio.run(talk())
    finally:
        page.stop()
        api.stop()


def test_stop_ends_everything_that_runs(page, api):
    async def talk() -> None:
        one = Person(page.url, profile="slow")
        await one.enter()
        await one.say("첫 번째")
        await one.until(lambda: one.texts)
        two = Person(page.url, profile="slow", client=one.client)
        two.thread = one.thread
        await two.enter()
        await two.until(lambda: two.messages)
        await two.say("두 번째")  # waits for its turn
        await one.until(lambda: any(m["output"] == "두 번째" for m in one.messages))
        await one.stop()
        await one.stop()
        await one.idle(5)
        await asyncio.to_thread(wait_for, lambda: running(api) == 0, 5)
        await one.reload()
        assert [m["output"] for m in one.messages if m["type"] == "user_message"] == ["첫 번째", "두 번째"]
        assert "아직 답변이 없습니다" in one.messages[-1]["output"]  # and can be asked for
        assert [answer.finish_reason for answer in kept(page, one.thread)] == ["stopped"]
        await two.socket.disconnect()
        await one.leave()

    asyncio.run(talk())


def test_a_form_asks_once_however_often_it_is_pressed(page, api):
    async def talk() -> None:
        person = Person(page.url)
        await person.enter()
        await person.say("", command="과제")
        form = (await person.until(lambda: person.props("TaskForm")))["form"]
        asked = len(seen(api))
        press = [person.act("task_run", form=form, task="task04_01", fields={"question": "물은?"}) for _ in range(3)]
        states = [answer["state"] for answer in await asyncio.gather(*press)]
        assert sorted(states) == ["again", "again", "sent"]
        await person.answered("task04_01의 답")
        assert len(seen(api)) == asked + 1
        await person.leave()

    asyncio.run(talk())


def test_search_finds_names_and_arena_answers(arena):
    async def talk() -> None:
        person = Person(arena.url, profile="arena")
        await person.enter()
        await person.say("찾을 것")
        await person.until(lambda: person.props("Arena").get("state") == "vote")
        for answer in ("찾을 것의 1번째 답", "good의 답: 찾을 것"):
            assert [thread["id"] for thread in await person.threads(answer)] == [person.thread]
        named = {"threadId": person.thread, "name": "특별한 이름"}
        assert (await person.client.put("/project/thread", json=named)).status_code == 200
        assert [thread["name"] for thread in await person.threads("특별한")] == ["특별한 이름"]
        assert await person.threads("100%_없는") == []
        await person.leave()

    asyncio.run(talk())


def test_a_file_that_cannot_be_read_is_refused_while_it_is_dropped(page):
    async def talk() -> None:
        person = Person(page.url, profile="rich")
        await person.enter()
        for name, data, word in (
            ("그림.png", b"\x89PNG\r\n\x1a\n\0\0", ".txt"), ("큰.txt", "가".encode() * 600_000, "MB"),
            ("빈.txt", b" \n", "빈 파일"), ("깨진.txt", b"\xff\xfe\xff", "UTF-8"),
            ("아주 큰.txt", b"x" * 5_000_000, "MB"), ("너무 큰.txt", b"x" * 40_000_000, "MB"),
            ("꼭 맞는.txt", b"x" * 2**20, None),
        ):  # fmt: skip
            answer = await person.drop(name, data)
            assert (answer.status_code == 200) == (word is None), (name, answer.text)
            assert word is None or word in answer.json()["detail"]
        stranger = Person(page.url)
        stranger.session = "nobody"
        await stranger.log_in()
        assert (await stranger.drop("a.txt", b"x")).status_code == 401
        await stranger.client.aclose()
        await person.say("가" * 500_000)  # as long as a file may not be
        await person.until(lambda: person.toasts)
        assert "너무 길어서" in person.toasts[-1]
        await person.say("가" * 300_000)
        await person.answered("끝.")
        await person.leave()

    asyncio.run(talk())


def test_a_database_that_refuses_is_said_and_loses_nothing_when_it_comes_back(database, api):
    if not database.startswith("sqlite"):
        pytest.skip("the fault is made with a trigger of SQLite's")  # nothing is skipped in the SQLite run
    file = database.removeprefix("sqlite:///")
    page = chat_page(base(api), database)

    async def talk() -> None:
        person = await dialogue(page.url, "먼저")
        with sqlite3.connect(file) as other:
            other.execute("CREATE TRIGGER full BEFORE INSERT ON steps BEGIN SELECT RAISE(FAIL, 'disk full'); END")
        await person.say("가득")
        await person.answered("가득의")
        assert any("disk full" in toast for toast in person.toasts)
        with sqlite3.connect(file) as other:
            other.execute("DROP TRIGGER full")
        await person.say("나중")
        await person.answered("나중의")
        shown = [m["output"] for m in person.messages]
        await person.reload()
        assert [m["output"] for m in person.messages] == shown
        assert shown[::2] == ["먼저", "가득", "나중"]
        assert len(shown) == 6
        for run in {m["parentId"] for m in person.messages if m["parentId"]}:
            await person.thumb(run, 1)  # what could not be stored at once has its answer in the chat store
        await person.leave()

    try:
        asyncio.run(talk())
    finally:
        page.stop()


def test_messages_and_elements_of_others_are_not_overwritten(page):
    async def talk() -> None:
        one = await dialogue(page.url, "내 질문")
        two = Person(page.url, profile="counts")
        await two.enter()
        stolen = two.message("남의 것을 바꾼다") | {"id": one.messages[0]["id"]}
        await two.socket.emit("client_message", {"message": stolen, "fileReferences": []})
        await two.until(lambda: two.toasts)
        element = {"id": "x", "type": "custom", "name": "Arena", "forId": one.messages[1]["id"], "display": "inline"}
        for method in ("PUT", "DELETE"):
            body = {"element": element, "sessionId": two.session}
            answer = await two.client.request(method, "/project/element", json=body)
            assert answer.status_code in (404, 405)
        await one.reload()
        assert one.messages[0]["output"] == "내 질문"
        await two.leave()
        await one.leave()

    asyncio.run(talk())


def test_a_message_that_is_sent_twice_is_asked_once(page, api):
    async def talk() -> None:
        person = await dialogue(page.url, "한 번만")
        sent = person.message("한 번만") | {"id": person.messages[0]["id"]}
        asked = len(seen(api))
        await person.socket.emit("client_message", {"message": sent, "fileReferences": []})
        await person.say("또 다른 질문")
        await person.answered("또 다른 질문의")
        assert len(seen(api)) == asked + 1
        await person.leave()

    asyncio.run(talk())


def test_conversations_of_an_older_page_open_as_they_were_and_go_on(tmp_path):
    """Its messages do not say what they follow; its tasks keep their fields beside their answers."""
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        connection.executescript((ROOT / "tests" / "chat_of_an_older_page.sql").read_text(encoding="utf-8"))
    api = stub("--tasks", "good", "other")
    page = chat_page(base(api), f"sqlite:///{tmp_path}/chat.db")

    async def talk() -> None:
        person = Person(page.url)
        await person.log_in()
        found = {thread["name"]: thread["id"] for thread in await person.threads()}
        for name, shown in (("하나", 4), ("비교", 2), ("단답형 (개조식): 옛 과제의 질문", 4)):
            person.thread = next(id for title, id in found.items() if title.endswith(name.split(": ")[-1]))
            await person.reload()
            assert len(person.messages) == shown, name
            before = [m["output"] for m in person.messages]
            await person.again()
            await person.until(lambda: person.props("Branches"))
            await person.until(lambda: person.ended > 1 and not person.loading)
            await person.branch(-1)
            await person.until(lambda before=before: [m["output"] for m in person.messages] == before)
            await person.reload()
            assert [m["output"] for m in person.messages] == before
            if name == "하나":
                await person.edit(person.messages[2]["id"], "고친 둘")
                await person.answered("good의 답: 고친 둘")
                assert contents(seen(api)[-1]["messages"])[::2] == ["하나", "고친 둘"]
            elif name == "비교":
                assert "texts" in person.props("Arena")  # stored as "words"
                await person.vote("right")
                await person.until(lambda: person.props("Arena").get("changed") == "right")
            else:
                assert seen(api)[-1]["question"] == "옛 과제의 질문"
        await person.leave()

    try:
        asyncio.run(talk())
        vote = ChatStore(page.database).read().comparisons[0]
        assert (vote.choice, vote.changed) == ("left", "right")
    finally:
        page.stop()
        api.stop()
