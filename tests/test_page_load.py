"""A hundred people at once over socket.io, and a page that is killed while they vote. The server is a stand-in."""

import asyncio
import http.client
import select
import signal
import sqlite3

import httpx
import pytest
from browser_helpers import chat_page, stub, wait_for
from page_client import Person

from sllm.chatstore import ChatStore
from sllm.page.threads import ThreadStore

pytestmark = [pytest.mark.page, pytest.mark.alone]
PEOPLE = 100


@pytest.fixture(scope="module")
def api():
    server = stub("--tasks", "good", "other")
    yield server
    server.stop()


def test_a_hundred_people_are_answered_and_their_votes_are_kept(api, new_database):
    """asyncio itself reports, in its debug mode, what held the page's event loop for over 100 ms."""
    database = new_database()
    page = chat_page(api.url.removesuffix("/models"), database, PYTHONASYNCIODEBUG="1")

    async def one(number: int) -> None:
        person = Person(page.url, number, "arena" if number % 2 else "good")
        await person.enter()
        body = {"pagination": {"first": 20}, "filter": {}}  # what every page asks for as it opens
        assert (await person.client.post("/project/threads", json=body)).status_code == 200
        assert (await person.client.get("/project/settings?language=ko-KR")).status_code == 200
        await person.say(f"{number}번 질문")
        if number % 2:
            await person.until(lambda: person.props("Arena").get("state") == "vote")
            await person.vote("left")
            voted.append(person.props("Arena")["comparison"])
        else:
            await person.until(lambda: any(f"{number}번 질문" in text for text in person.texts))
            answered.append(number)
        await person.leave()

    voted: list[str] = []
    answered: list[int] = []

    async def everybody() -> None:
        await one(PEOPLE)  # what is loaded on first use is loaded
        await one(PEOPLE + 1)
        del page.lines[:]
        await asyncio.gather(*(one(number) for number in range(PEOPLE)))

    try:
        asyncio.run(everybody())
        kept = ChatStore(database)
        assert len(answered) == PEOPLE // 2 + 1
        wait_for(lambda: len(kept.read().answers) == PEOPLE // 2 + 1 + PEOPLE + 2)
        assert {c.id for c in kept.read().comparisons if c.choice == "left"} == set(voted)
        assert len(voted) == PEOPLE // 2 + 1
        slow = [line for line in page.lines if " took " in line]
        assert not slow, slow[:5]
    finally:
        page.stop()


def test_an_idle_connection_is_kept(api, new_database):
    """A proxy keeps one for a minute, and would send a request into one that the page is closing."""
    page = chat_page(api.url.removesuffix("/models"), new_database())
    try:
        connection = http.client.HTTPConnection(page.url.removeprefix("http://"))
        connection.request("GET", "/favicon")
        assert connection.getresponse().read()
        closed, _, _ = select.select([connection.sock], [], [], 7)  # uvicorn's own limit is 5 s
        assert not closed
        connection.close()
    finally:
        page.stop()


def test_a_page_that_is_killed_while_people_vote_loses_one_vote_at_most(api, new_database):
    database = new_database()
    page = chat_page(api.url.removesuffix("/models"), database)
    said: dict[str, str] = {}  # the vote that was confirmed first
    votes = 0

    async def one(number: int) -> None:
        nonlocal votes
        person = Person(page.url, number, "arena")
        await person.enter()
        await person.say(f"{number}번 질문")
        await person.until(lambda: person.props("Arena").get("state") == "vote")
        comparison = person.props("Arena")["comparison"]
        for choice in ("left", "right", "tie", "both_bad") * 25:
            try:
                await person.vote(choice)
            except httpx.HTTPError:
                return
            said.setdefault(comparison, choice)
            votes += 1
            if votes == 20:
                page.process.send_signal(signal.SIGKILL)

    async def everybody() -> None:
        await asyncio.gather(*(one(number) for number in range(8)), return_exceptions=True)

    asyncio.run(everybody())
    assert page.process.wait(10) == -signal.SIGKILL
    assert votes >= 20
    if database.startswith("sqlite"):
        with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept = {c.id: c.choice for c in ChatStore(database, must_exist=True).read().comparisons}
    assert said, (said, kept)
    assert all(kept[comparison] == choice for comparison, choice in said.items()), (said, kept)
    again = chat_page(api.url.removesuffix("/models"), database)
    assert again.stop() == 0


def test_ids_of_conversations_are_not_sql(api, new_database):
    """Browsers name their conversations, and Chainlit writes the names into its queries."""
    page = chat_page(api.url.removesuffix("/models"), new_database())

    async def attack() -> None:
        person = Person(page.url, 0, "good")
        person.thread = "x') OR json(CASE WHEN 1=1 THEN '1' ELSE 'bad' END)='2' --"
        await person.enter()
        await person.until(lambda: person.errors)
        await person.leave()

    try:
        asyncio.run(attack())
        assert not ThreadStore(ChatStore(page.database)).list("local", "", first=10, start=0)[0]
    finally:
        page.stop()


def test_a_task_id_cannot_be_a_path(api, new_database):
    page = chat_page(api.url.removesuffix("/models"), new_database())

    async def attack() -> None:
        person = Person(page.url, 0, "good")
        await person.enter()
        await person.say("", command="과제")
        await person.until(lambda: person.props("TaskForm"))
        form = person.props("TaskForm")["form"]
        fields = {"messages": [{"role": "user", "content": "몰래"}]}
        assert (await person.act("task_run", form=form, task="../chat/completions", fields=fields))[
            "state"
        ] == "refused"
        await person.until(lambda: any("task" in text for text in person.texts))
        await person.leave()

    try:
        asyncio.run(attack())
        log = httpx.get(api.url.replace("/v1/models", "/log"), trust_env=False).json()
        assert not [body for body in log["seen"] if body["messages"][0]["content"] == "몰래"]
    finally:
        page.stop()
