"""chainlit_app.py with fifty people for ten minutes, while the page or the server behind it is killed every 90 seconds.

Most people are tabs that speak socket.io as Chainlit's page does; five are Chromium. Each asks, sometimes asks the same
again, edits a question or starts a new conversation, and comes back after every crash: what was not stored is sent once
more, an answer that broke off is asked for again. Then every turn that a person had seen as finished is looked up in
the database. The server is the real one, with the shipped tiny model. Resident memory is compared at the same age of
the page's processes.

    python benchmarks/page_soak.py --minutes 10
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model_id", default=str(ROOT / "sample_data" / "tiny_base"))
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--people", type=int, default=50, help="with those in browsers")
    p.add_argument("--browsers", type=int, default=5)
    p.add_argument(
        "--kill_seconds", type=float, default=90, help="between two crashes, of the page and the server in turn"
    )
    return p


class Site:
    """The two processes, and what is known of their crashes."""

    def __init__(self, model: str, database: str):
        from browser_helpers import chat_page, free_port
        from server_process import Running

        self.start_page = lambda port: chat_page(f"{self.api.url}/v1", database, "--timeout", 60, port=port)
        self.start_api = lambda port: Running("--model_id", model, "--served_model_name", "tiny", "--port", port,
                                              "--max_seq_length", 2048, "--max_num_seqs", 64)  # fmt: skip
        self.api = self.start_api(free_port())
        self.page = self.start_page(free_port())
        self.url, self.born = self.page.url, time.monotonic()
        self.memory: list[dict[int, float]] = [{}]  # for each life of the page: age in seconds → MiB
        self.kills: Counter = Counter()

    async def crash(self, seconds: float, until: float) -> None:
        while time.monotonic() + seconds < until:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._crash_page if not sum(self.kills.values()) % 2 else self._crash_api)

    def _crash_page(self) -> None:
        self.kills["page"] += 1
        self.page.process.kill()
        self.page.process.wait()
        self.page = self.start_page(int(self.url.rsplit(":", 1)[1]))
        self.born = time.monotonic()
        self.memory.append({})

    def _crash_api(self) -> None:
        import os

        self.kills["API"] += 1
        engines = self.api.engine_pids()
        self.api.process.kill()
        self.api.process.wait()
        for pid in engines:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.api = self.start_api(self.api.port)

    async def watch_memory(self) -> None:
        from serve_soak import resident

        while True:
            await asyncio.sleep(1)
            with contextlib.suppress(OSError):
                self.memory[-1][int(time.monotonic() - self.born)] = resident([self.page.process.pid])


class Visitor:
    """One person at socket.io. `seen`: conversation → question → the answer that was shown as finished."""

    def __init__(self, site: Site, number: int, counts: Counter):
        self.site, self.number, self.counts = site, number, counts
        self.dice = random.Random(number)
        self.seen: dict[str, dict[str, str]] = {}
        self.asked = 0

    async def live(self, until: float) -> None:
        from page_client import Person

        client = None
        while time.monotonic() < until:
            person = Person(self.site.url, profile="tiny", client=client)
            client = person.client
            try:
                await self._come_back(person)
                await person.settings(max_tokens=64)
                for _ in range(self.dice.randint(2, 6)):
                    if time.monotonic() > until:
                        break
                    await self._turn(person)
                    await asyncio.sleep(self.dice.uniform(0.5, 4))
            finally:
                await person.socket.disconnect()

    async def _come_back(self, person) -> None:
        while True:
            try:
                return await (person.reload() if person.thread else person.enter())
            except Exception:
                self.counts["tried to connect to a page that was down"] += 1
                await asyncio.sleep(1)
                person._new_tab()

    async def _turn(self, person) -> None:
        self.asked += 1
        question = f"{self.number}번 사람의 {self.asked}번째 질문"
        kind = self.dice.choices(["ask", "again", "edit"], [8, 1, 1])[0] if len(person.messages) > 1 else "ask"
        if kind == "again":
            try:
                ended = person.ended
                await asyncio.wait_for(person.again(), 20)
                await self._until(person, lambda: person.ended > ended and not person.loading)
                self.counts["regenerated"] += 1
            except Exception:
                self.counts["interrupted"] += 1
                await self._come_back(person)
            return
        with contextlib.suppress(Exception):  # it is looked for below
            if kind == "edit":
                first = next(m for m in person.messages if m["type"] == "user_message")
                await person.edit(first["id"], question)
            else:
                await person.say(question)
        while True:
            try:
                await self._await_answer(person, question)
                self.counts["turns"] += 1
                return
            except Exception:
                self.counts["interrupted"] += 1
                await asyncio.sleep(0.5)
                await self._come_back(person)
                if person.messages and "한도보다" in person.messages[-1]["output"]:
                    return  # the conversation is as long as the model takes
                with contextlib.suppress(Exception):  # the page may be gone again
                    await self._once_more(person, question)

    async def _once_more(self, person, question: str) -> None:
        if question not in [m["output"] for m in person.messages]:  # it was not stored
            self.counts["sent once more"] += 1
            await person.say(question)
        elif person.messages[-1].get("isError"):
            self.counts["retried"] += 1
            await asyncio.wait_for(person.again(name="retry"), 20)

    async def _until(self, person, what):
        """The first true value; an error where the page is gone, or three minutes are."""
        async with asyncio.timeout(180):
            while not (value := what()):
                if not person.socket.connected:
                    raise ConnectionError
                person.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(person.changed.wait(), 1)
        return value

    async def _await_answer(self, person, question: str) -> None:
        def answer() -> dict | None:
            shown = person.messages
            at = next((i for i, m in enumerate(shown) if m["output"] == question and m["type"] == "user_message"), None)
            after = shown[at + 1 :] if at is not None else []
            if any(m.get("isError") for m in after):
                raise ConnectionError
            return next((m for m in after if not m.get("streaming") and m["output"] and not person.loading), None)

        found = await self._until(person, answer)
        self.seen.setdefault(person.thread, {})[question] = found["output"]


def in_browsers(url: str, number: int, until: float, counts: Counter) -> None:
    """People in Chromium, one tab each, one after another."""
    from browser_helpers import Browser
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        browser = Browser(playwright)
        tabs = [browser.open(url) for _ in range(number)]
        asked = 0
        while time.monotonic() < until:
            for tab in tabs:
                asked += 1
                try:
                    if asked % (4 * number) < number:
                        tab.page.click("#new-chat-button")
                        tab.ready()
                    tab.send(f"브라우저의 {asked}번째 질문", wait=False)
                    tab.idle(60)
                    counts["turns in browsers"] += 1
                except Error:
                    counts["interrupted in browsers"] += 1
                    try:
                        tab.page.goto(url)
                        tab.ready()
                    except Error:
                        time.sleep(1)
        counts["complaints in browsers"] = sum(
            not any(known in said for known in ("ERR_CONNECTION", "WebSocket", "Failed to", "fetch", "Network"))
            for tab in tabs for said in tab.complaints
        )  # fmt: skip
        browser.close()


def check(database: str, visitors: list[Visitor]) -> Counter:
    """Every turn that was seen as finished is in the database, once."""
    from sllm.chatstore import ChatStore
    from sllm.page.threads import ThreadStore

    store = ChatStore(database)
    threads, result = ThreadStore(store), Counter()
    for visitor in visitors:
        for conversation, turns in visitor.seen.items():
            thread = threads.load(conversation)
            messages = list(thread.messages.values()) if thread else []
            for question, answer in turns.items():
                found = [m for m in messages if m.content == question and m.role == "question"]
                answers = [m.content for m in messages if m.parent in [q.id for q in found] and m.role == "answer"]
                result["lost"] += answer not in answers
                result["doubled"] += len(found) > 1
                result["finished turns looked up"] += 1
    records = store.read()
    result["rejects in the chat store"] = len(records.rejects)
    result["answers in the chat store"] = len(records.answers)
    return result


def main(args) -> None:
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/chat.db"
        site = Site(args.model_id, database)
        until = time.monotonic() + args.minutes * 60
        visitors = [Visitor(site, number, counts) for number in range(args.people - args.browsers)]

        async def everybody() -> None:
            others = [
                asyncio.create_task(site.crash(args.kill_seconds, until)),
                asyncio.create_task(site.watch_memory()),
            ]
            browsers = asyncio.to_thread(in_browsers, site.url, args.browsers, until, counts)
            lives = [asyncio.create_task(visitor.live(until)) for visitor in visitors]
            await asyncio.wait_for(asyncio.gather(browsers, *lives), args.minutes * 60 + 400)
            for task in others:
                task.cancel()

        try:
            asyncio.run(everybody())
        finally:
            site.page.stop()
            site.api.stop()
        checked = check(database, visitors)
    ages = [max(life) for life in site.memory if life]
    age = min([a for a in ages if a > 60] or ages)
    memory = [round(next(life[a] for a in sorted(life, reverse=True) if a <= age), 1) for life in site.memory if life]
    print(json.dumps({
        "people": args.people, "minutes": args.minutes, "kills": dict(site.kills), **counts, **checked,
        "memory at the same age, MiB": memory, "age, s": age,
    }, ensure_ascii=False))  # fmt: skip
    sys.exit(1 if checked["lost"] or checked["doubled"] or not checked["finished turns looked up"] else 0)


if __name__ == "__main__":
    main(build_parser().parse_args())
