"""A hundred people at once over socket.io, and a page that is killed while they vote. The server is a stand-in."""

import asyncio
import signal
import sqlite3
import uuid

import httpx
import pytest
import socketio
from paging import chat_page, stub, wait_for

from sllm.chatstore import ChatStore

pytestmark = pytest.mark.page
PEOPLE = 100


@pytest.fixture(scope="module")
def api():
    server = stub("good", "other")
    yield server
    server.stop()


class Person:
    """One browser tab, without the browser."""

    def __init__(self, url: str, number: int, profile: str):
        self.url, self.number, self.profile = url, number, profile
        self.client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
        self.socket = socketio.AsyncClient(reconnection=False)
        self.session, self.thread, self.props = str(uuid.uuid4()), None, {}
        self.changed, self.texts = asyncio.Event(), []
        self.socket.on("element", self.element)
        self.socket.on("new_message", self.message)
        self.socket.on("update_message", self.message)

    async def element(self, data) -> None:
        if data["name"] == "Arena":
            self.props = data["props"]
            self.changed.set()

    async def message(self, data) -> None:
        if data["type"] == "assistant_message" and data["output"]:
            self.texts.append(data["output"])
            self.changed.set()

    async def enter(self) -> None:
        await self.client.post("/auth/header")
        cookie = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        auth = {
            "threadId": self.thread,
            "sessionId": self.session,
            "clientType": "webapp",
            "chatProfile": self.profile,
            "userEnv": "{}",
        }
        await self.socket.connect(
            self.url,
            socketio_path="/ws/socket.io",
            transports=["websocket"],
            auth=auth,
            headers={"Cookie": cookie},
            wait_timeout=60,
        )
        await self.socket.emit("connection_successful")

    async def say(self, text: str) -> None:
        message = {
            "id": str(uuid.uuid4()), "threadId": "", "name": "local", "type": "user_message", "output": text,
            "createdAt": "2026-11-21T00:00:00.000Z", "metadata": {},
        }  # fmt: skip
        await self.socket.emit("client_message", {"message": message, "fileReferences": []})

    async def until(self, what) -> None:
        async with asyncio.timeout(120):
            while not what():
                self.changed.clear()
                await self.changed.wait()

    async def vote(self, choice: str) -> None:
        payload = {"comparison": self.props["comparison"], "choice": choice}
        action = {"name": "vote", "payload": payload, "id": str(uuid.uuid4()), "label": "", "tooltip": ""}
        answer = await self.client.post("/project/action", json={"action": action, "sessionId": self.session})
        assert answer.status_code == 200 and answer.json()["response"] == {"ok": True}, answer.text

    async def leave(self) -> None:
        await self.socket.disconnect()
        await self.client.aclose()


def test_a_hundred_people_are_answered_and_their_votes_are_kept(api, tmp_path):
    """asyncio itself reports, in its debug mode, what held the page's event loop for over 100 ms."""
    database = f"sqlite:///{tmp_path}/chat.db"
    page = chat_page(api.url.removesuffix("/models"), database, PYTHONASYNCIODEBUG="1")

    async def one(number: int) -> None:
        person = Person(page.url, number, "arena" if number % 2 else "good")
        await person.enter()
        body = {"pagination": {"first": 20}, "filter": {}}  # what every page asks for as it opens
        assert (await person.client.post("/project/threads", json=body)).status_code == 200
        assert (await person.client.get("/project/settings?language=ko-KR")).status_code == 200
        await person.say(f"{number}번 질문")
        if number % 2:
            await person.until(lambda: person.props.get("state") == "vote")
            await person.vote("left")
            voted.append(person.props["comparison"])
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
        wait_for(lambda: len(kept.answers()) == PEOPLE // 2 + 1 + PEOPLE + 2)
        assert {c.id for c in kept.comparisons() if c.choice == "left"} == set(voted) and len(voted) == PEOPLE // 2 + 1
        slow = [line for line in page.lines if " took " in line]
        assert not slow, slow[:5]
    finally:
        page.stop()


def test_a_page_that_is_killed_while_people_vote_loses_one_vote_at_most(api, tmp_path):
    database = f"sqlite:///{tmp_path}/chat.db"
    page = chat_page(api.url.removesuffix("/models"), database)
    said: dict[str, list[str]] = {}
    votes = 0

    async def one(number: int) -> None:
        nonlocal votes
        person = Person(page.url, number, "arena")
        await person.enter()
        await person.say(f"{number}번 질문")
        await person.until(lambda: person.props.get("state") == "vote")
        comparison = person.props["comparison"]
        for choice in ("left", "right", "tie", "both_bad") * 25:
            said.setdefault(comparison, ["", ""])[1] = choice  # on its way
            try:
                await person.vote(choice)
            except httpx.HTTPError:
                return
            said[comparison][0] = choice  # confirmed
            votes += 1
            if votes == 20:
                page.process.send_signal(signal.SIGKILL)

    async def everybody() -> None:
        await asyncio.gather(*(one(number) for number in range(8)), return_exceptions=True)

    asyncio.run(everybody())
    assert page.process.wait(10) == -signal.SIGKILL and votes >= 20
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept = {c.id: c.choice or "" for c in ChatStore(database, must_exist=True).comparisons()}
    assert said and all(kept[comparison] in choices for comparison, choices in said.items()), (said, kept)
    again = chat_page(api.url.removesuffix("/models"), database)
    assert again.stop() == 0


def test_ids_of_conversations_are_not_sql(api, tmp_path):
    """Browsers name their conversations, and Chainlit writes the names into its queries."""
    page = chat_page(api.url.removesuffix("/models"), f"sqlite:///{tmp_path}/chat.db")

    async def attack() -> None:
        person = Person(page.url, 0, "good")
        person.thread = "x') OR json(CASE WHEN 1=1 THEN '1' ELSE 'bad' END)='2' --"
        with pytest.raises(socketio.exceptions.ConnectionError):
            await person.enter()
        await person.client.aclose()

    try:
        asyncio.run(attack())
        with sqlite3.connect(tmp_path / "chat.db") as connection:
            assert connection.execute("SELECT COUNT(*) FROM threads").fetchone() == (0,)
    finally:
        page.stop()


def test_a_task_is_no_path(api, tmp_path):
    page = chat_page(api.url.removesuffix("/models"), f"sqlite:///{tmp_path}/chat.db")

    async def attack() -> None:
        person = Person(page.url, 0, "good")
        await person.enter()
        payload = {"task": "../chat/completions", "fields": {"messages": [{"role": "user", "content": "몰래"}]}}
        action = {"name": "task_run", "payload": payload, "id": str(uuid.uuid4()), "label": "", "tooltip": ""}
        await person.client.post("/project/action", json={"action": action, "sessionId": person.session})
        await person.until(lambda: any("task" in text for text in person.texts))
        await person.leave()

    try:
        asyncio.run(attack())
        log = httpx.get(api.url.replace("/v1/models", "/log"), trust_env=False).json()
        assert not [body for body in log["seen"] if body["messages"][0]["content"] == "몰래"]
    finally:
        page.stop()
