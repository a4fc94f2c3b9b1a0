"""The chat store and the history in a real PostgreSQL."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from paging import chat_page, free_port, stub
from test_page_load import Person

from sllm.chatstore import Answer, ChatStore

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = [
    pytest.mark.skipif(
        not FOLDERS and "CI" not in os.environ, reason="no PostgreSQL server; apt-get install postgresql"
    ),
    pytest.mark.page,
]


@pytest.fixture(scope="module")
def database():
    """PostgreSQL does not run as root, and its folder has to be its user's."""
    folder = Path(f"/tmp/sllm-postgres-{os.getpid()}")
    folder.mkdir()
    root = ["setpriv", "--reuid=nobody", "--clear-groups", "--"] if os.getuid() == 0 else []
    if root:
        shutil.chown(folder, "nobody")
    port = free_port()

    def command(name: str, *words: str) -> None:
        full = [*root, str(FOLDERS[-1] / name), *words]
        subprocess.run(
            full, check=True, capture_output=True, cwd=folder, env={"HOME": str(folder), "PATH": os.environ["PATH"]}
        )

    command("initdb", "-D", f"{folder}/data", "-U", "sllm", "-A", "trust", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    command("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    yield f"postgresql://sllm@127.0.0.1:{port}/postgres"
    command("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_the_store(database):
    store = ChatStore(database)
    pair = [Answer(f"1-{side}", "c", "민지", "sft", [{"role": "user", "content": "물은?"}], side) for side in "ab"]
    store.add_comparison("1", *pair)
    store.vote("1", "left")
    store.vote("1", "both_bad")
    store.set_thumb("1-a", 1, "좋다")
    assert store.comparisons()[0].choice == "both_bad" and store.thumbs()[0].comment == "좋다"
    store.forget("c")
    assert not store.answers() and not store.comparisons()
    store.close()


def test_the_page_and_its_history(database):
    api = stub("good", "other")
    page = chat_page(api.url.removesuffix("/models"), database)
    try:

        async def talk() -> None:
            person = Person(page.url, 1, "arena")
            await person.enter()
            await person.say("기억할 질문")
            await person.until(lambda: person.props.get("state") == "vote")
            await person.vote("right")
            await person.leave()

        asyncio.run(talk())
        assert [c.choice for c in ChatStore(database).comparisons()] == ["right"]
        page.stop()
        page = chat_page(api.url.removesuffix("/models"), database)

        async def look() -> list[dict]:
            person = Person(page.url, 2, "arena")
            await person.client.post("/auth/header")
            body = {"pagination": {"first": 10}, "filter": {"search": "기억할"}}
            answer = await person.client.post("/project/threads", json=body)
            thread = (await person.client.get(f"/project/thread/{answer.json()['data'][0]['id']}")).json()
            await person.client.aclose()
            return thread

        thread = asyncio.run(look())
        assert thread["name"] == "기억할 질문" and thread["elements"][0]["props"]["choice"] == "right"
    finally:
        page.stop()
        api.stop()
