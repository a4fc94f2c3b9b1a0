"""The chat store and the page in a real PostgreSQL; PAGE_DATABASE=postgresql runs all of the page's tests on it."""

import asyncio

import pytest
from browser_helpers import chat_page, stub
from page_client import Person
from postgres import create_database, needs_postgresql

from sllm.chatstore import ChatStore, StoredAnswer

pytestmark = [needs_postgresql, pytest.mark.page]


def test_the_store_works_on_postgresql(postgresql):
    store = ChatStore(create_database(postgresql, "store"))
    prompt = [{"role": "user", "content": "물은?"}]
    pair = [StoredAnswer(f"1-{side}", "c", "민지", "sft", prompt, side) for side in "ab"]
    store.add_comparison("1", *pair)
    store.vote("1", "left")
    store.vote("1", "both_bad")
    store.set_thumb("1-a", 1, "좋다")
    assert (store.read().comparisons[0].choice, store.read().comparisons[0].changed) == ("left", "both_bad")
    assert store.read().thumbs[0].comment == "좋다"
    store.delete_conversation("c")
    assert not store.read().answers
    assert not store.read().comparisons
    store.close()


def test_the_page_and_its_history(postgresql):
    database = create_database(postgresql, "page")
    api = stub("good", "other")
    page = chat_page(api.url.removesuffix("/models"), database)

    async def talk() -> None:
        nonlocal page
        person = Person(page.url, 1, "arena")
        await person.enter()
        await person.say("기억할 질문")
        await person.until(lambda: person.props("Arena").get("state") == "vote")
        await person.vote("right")
        assert [c.choice for c in ChatStore(database).read().comparisons] == ["right"]
        port = int(page.url.rsplit(":", 1)[1])
        await asyncio.to_thread(page.stop)
        page = chat_page(api.url.removesuffix("/models"), database, port=port)
        await person.reload()
        assert person.props("Arena")["choice"] == "right"
        assert [thread["name"] for thread in await person.threads("기억할")] == ["기억할 질문"]
        body = {"threadId": person.thread}
        assert (await person.client.request("DELETE", "/project/thread", json=body)).status_code == 200
        assert await person.threads() == []
        assert not ChatStore(database).read().answers
        await person.leave()

    try:
        asyncio.run(talk())
    finally:
        page.stop()
        api.stop()
