"""Logging in to the page: passwords, the attack on them, logging out, TLS, the file that changes, closed routes."""

import asyncio
import time

import pytest
from browser_helpers import chat_page, stub, wait_for
from page_client import Person

from sllm.chatstore import ChatStore
from sllm.page import users

pytestmark = pytest.mark.page
NAMES = ("minji", "jun")


@pytest.fixture(scope="module")
def api():
    server = stub("good")
    yield server
    server.stop()


@pytest.fixture
def file(tmp_path):
    for name in NAMES:
        users.add(str(tmp_path / "users.txt"), name, f"{name} password")
    return tmp_path / "users.txt"


@pytest.fixture
def page(api, file, new_database):
    flags = ("--auth", "password", "--users_file", file)
    started = chat_page(api.url.removesuffix("/models"), new_database(), *flags, PYTHONASYNCIODEBUG="1")
    yield started
    started.stop()


async def logged_in(page, name: str) -> Person:
    person = Person(page.url)
    assert await person.log_in(f"{name} password", name) == 200
    await person.enter()
    return person


@pytest.mark.alone
def test_an_attack_on_a_password_holds_nobody_up(page):
    async def talk() -> None:
        minji = await logged_in(page, "minji")
        await minji.say("먼저")
        await minji.answered("먼저")
        mallory = Person(page.url)
        names = ["jun"] * 60 + [f"account{number}" for number in range(90)]
        attack = [asyncio.create_task(mallory.log_in("wrong password", name)) for name in names]
        await asyncio.sleep(0.05)
        slowest = 0.0
        for number in range(10):
            began = time.monotonic()
            await minji.say(f"{number}번 질문")
            await minji.answered(f"{number}번 질문")
            slowest = max(slowest, time.monotonic() - began)
        answers = await asyncio.gather(*attack)
        print(f"slowest turn during the attack: {slowest:.3f} s")
        # Ten of one name, and thirty of one address, are looked at within a minute.
        assert set(answers[:60]) == {401, 429}
        assert answers[:60].count(401) == 10
        assert answers.count(401) <= 30
        # Hashing is on a thread of its own: what would hold others up is asyncio's loop, or asyncio's own pool.
        assert not [line for line in page.lines if " took " in line]
        assert await mallory.log_in("jun password", "jun") == 429  # even the right one, for a minute
        elsewhere = {"X-Forwarded-For": "192.0.2.7"}  # as a proxy on this machine says
        data = {"username": "jun", "password": "jun password"}
        assert (await mallory.client.post("/login", data=data, headers=elsewhere)).status_code == 200
        await minji.leave()
        await mallory.client.aclose()

    asyncio.run(talk())


def test_a_login_ends_with_logging_out(page):
    async def talk() -> None:
        minji = await logged_in(page, "minji")
        stolen = dict(minji.client.cookies)
        other = await logged_in(page, "minji")
        await minji.client.post("/logout")
        assert (await minji.client.get("/user", cookies=stolen)).status_code == 401
        await asyncio.to_thread(wait_for, lambda: not minji.socket.connected, 5)
        assert other.socket.connected
        assert (await other.client.get("/user")).status_code == 200
        await other.leave()
        await minji.leave()

    asyncio.run(talk())


def test_logins_survive_a_restart_and_end_with_the_name_or_the_password(page, api, file):
    async def talk() -> None:
        nonlocal page
        minji, jun = await logged_in(page, "minji"), await logged_in(page, "jun")
        port = int(page.url.rsplit(":", 1)[1])
        await asyncio.to_thread(page.stop)
        flags = ("--auth", "password", "--users_file", file)
        page = chat_page(api.url.removesuffix("/models"), page.database, *flags, port=port)
        for person in (minji, jun):
            await person.reload()
            assert (await person.client.get("/user")).json()["identifier"] in NAMES
        users.add(str(file), "jun", "another password")
        assert (await jun.client.get("/user")).status_code == 401
        assert await jun.log_in("jun password", "jun") == 401
        assert await jun.log_in("another password", "jun") == 200
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("minji:")]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        await minji.say("아직 있나요?")  # in a tab that is open
        await asyncio.to_thread(wait_for, lambda: not minji.socket.connected, 5)
        assert (await minji.client.get("/user")).status_code == 401
        file.write_bytes("깨진 파일\n".encode("cp949"))
        assert (await jun.client.get("/user")).status_code == 200  # what it said last still holds
        await minji.leave()
        await jun.leave()

    try:
        asyncio.run(talk())
        assert not ChatStore(page.database).read().answers
    finally:
        page.stop()


def test_cookies_are_secure_behind_tls(page):
    async def talk() -> None:
        person = Person(page.url)
        data = {"username": "minji", "password": "minji password"}
        plain = await person.client.post("/login", data=data)
        proxied = await person.client.post("/login", data=data, headers={"X-Forwarded-Proto": "https"})
        assert "Secure" not in plain.headers["set-cookie"]
        assert "HttpOnly" in plain.headers["set-cookie"]
        assert "; Secure" in proxied.headers["set-cookie"]
        host = page.url.removeprefix("http://")
        assert f"connect-src 'self' ws://{host}" in plain.headers["content-security-policy"]
        assert f"connect-src 'self' wss://{host}" in proxied.headers["content-security-policy"]
        await person.client.aclose()

    asyncio.run(talk())


OPEN_WITHOUT_LOGIN = {  # what a browser needs before somebody logs in
    ("GET", "/assets/{filename:path}"), ("GET", "/auth/config"), ("GET", "/avatars/{avatar_id:str}"),
    ("GET", "/favicon"), ("GET", "/health"), ("GET", "/logo"), ("GET", "/project/translations"),
    ("GET", "/public/{filename:path}"),
    ("GET", "/{full_path:path}"), ("HEAD", "/"), ("POST", "/auth/header"), ("POST", "/login"), ("POST", "/logout"),
    ("POST", "/set-session-cookie"),
}  # fmt: skip
WITH_LOGIN = {
    ("DELETE", "/feedback"), ("DELETE", "/project/thread"), ("GET", "/project/settings"),
    ("GET", "/project/thread/{thread_id}"), ("GET", "/user"), ("POST", "/project/action"),
    ("POST", "/project/file"), ("POST", "/project/threads"),
    ("PUT", "/feedback"), ("PUT", "/project/thread"),
}  # fmt: skip


def test_every_route_is_known_and_asks_for_a_login_where_it_should(page, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINLIT_APP_ROOT", str(tmp_path))  # it writes there when it is imported
    from chainlit import server as chainlit

    from sllm.page import files, security

    security.close_routes(chainlit.app)
    files.install_upload(chainlit.app, 2**20)
    routes = [route for route in chainlit.app.router.routes if getattr(route, "methods", None)]
    found = {(method, route.path) for route in routes for method in route.methods}
    assert found == OPEN_WITHOUT_LOGIN | WITH_LOGIN

    async def talk() -> None:
        person = Person(page.url)
        for method, path in WITH_LOGIN:
            path = path.replace("{thread_id}", "e2b2c9f2-6f0e-4c39-9d4c-000000000000")
            body = {"threadId": "x", "feedbackId": "x", "sessionId": "x", "pagination": {"first": 1}, "filter": {},
                    "feedback": {"forId": "x", "value": 1}, "action": {}, "name": "x"}  # fmt: skip
            json = None if method == "GET" else body
            answer = await person.client.request(method, path, json=json, params={"session_id": "x"})
            assert answer.status_code == 401, (method, path, answer.text)
        for path in ("/docs", "/openapi.json", "/redoc", "/mcp"):
            answer = await person.client.get(path)
            assert "swagger" not in answer.text
            assert "/project/threads" not in answer.text
        await person.client.aclose()

    asyncio.run(talk())
