"""Thirty conversations by chance — questions, edits, regenerations, branches, stops, votes, thumbs — and then, row by
row: what build_preferences.py makes of them is what was on the screen. The expectation is kept here, from what a tab
showed, and knows nothing of the database."""

import asyncio
import json
import random
from collections import defaultdict

import pytest
from browser_helpers import chat_page, stub
from conftest import succeed
from page_client import Person

pytestmark = pytest.mark.page

CONVERSATIONS, STEPS = 30, 14


class Screen:
    """What one person saw and judged."""

    def __init__(self, person: Person, dice: random.Random):
        self.person, self.dice = person, dice
        self.thumbs: dict[str, tuple] = {}  # run → (prompt, text, value, cut)
        self.votes: dict[str, tuple] = {}  # comparison → (prompt, left, right, choice)
        self.liked: dict[str, str] = {}  # comparison → the text that the conversation goes on from
        self.stopped: set[str] = set()

    def arena_of(self, message: dict) -> dict | None:
        found = [e for e in self.person.elements.values() if e["name"] == "Arena" and e["forId"] == message["id"]]
        return found[0]["props"] if found else None

    def text_of(self, message: dict) -> str:
        if arena := self.arena_of(message):
            return self.liked.get(arena["comparison"], arena["left"])
        return message["output"]

    def prompt_of(self, message: dict) -> str:
        """The messages above an answer, as a model is sent them."""
        shown = self.person.messages
        above = [m for m in shown[: shown.index(message)] if not m.get("isError")]
        messages: list[dict] = []
        for m in above:
            role = "user" if m["type"] == "user_message" else "assistant"
            text = self.text_of(m)
            if messages and messages[-1]["role"] == role == "user":
                messages.pop()  # a question that got no answer
            if text:
                messages.append({"role": role, "content": text})
        return json.dumps(messages, ensure_ascii=False)

    @property
    def answers(self) -> list[dict]:
        return [m for m in self.person.messages if m["type"] == "assistant_message" and not m.get("isError")]

    async def run(self, work) -> None:
        """Something that is answered."""
        before = self.person.ended
        await work
        await self.person.until(lambda: self.person.ended > before and not self.person.loading)

    # ── what a person may do ──

    async def ask(self) -> None:
        await self.run(self.person.say(f"{self.person.number}번 사람의 {self.dice.randrange(10**6)} 질문"))

    async def edit(self) -> None:
        questions = [m for m in self.person.messages if m["type"] == "user_message"]
        text = f"고친 {self.dice.randrange(10**6)} 질문"
        await self.run(self.person.edit(self.dice.choice(questions)["id"], text))

    async def again(self) -> None:
        if self.answers:
            await self.run(self.person.again(self.dice.choice(self.answers)["id"]))

    async def branch(self) -> None:
        shown = {m["id"] for m in self.person.messages}
        found = [e["props"] for e in self.person.elements.values() if e["name"] == "Branches" and e["forId"] in shown]
        if found:
            message = self.dice.choice(found)["message"]
            await self.person.act("branch", message=message, step=self.dice.choice((-1, 1)))
            await self.person.until(lambda: message not in [m["id"] for m in self.person.messages])

    async def stop(self) -> None:
        """Of a model that takes its time; the others have ended before anybody can."""
        before = len(self.answers)
        await self.person.say(f"{self.dice.randrange(10**6)} 멈출 질문")
        await self.person.until(lambda: len(self.answers) > before and self.answers[-1]["output"])
        await self.run(self.person.stop())
        self.stopped.add(self.answers[-1]["parentId"])

    async def judge(self) -> None:
        if not self.answers:
            return
        message = self.dice.choice(self.answers)
        if arena := self.arena_of(message):
            id, choice = arena["comparison"], self.dice.choice(("left", "right", "tie", "both_bad"))
            prompt = self.prompt_of(message)
            await self.person.act("vote", comparison=id, choice=choice)
            self.votes.setdefault(id, (prompt, arena["left"], arena["right"], choice))
            self.liked[id] = arena["right" if choice == "right" else "left"]
            await self.person.until(lambda: choice in map(self.arena_of(message).get, ("choice", "changed")))
        else:
            run, value = message["parentId"], self.dice.choice((0, 1))
            await self.person.thumb(run, value)
            self.thumbs[run] = (self.prompt_of(message), message["output"], value, run in self.stopped)


async def converse(url: str, number: int) -> Screen:
    dice = random.Random(number)
    person = Person(url, number, ("counts", "arena", "slow")[number % 3])
    await person.enter()
    screen = Screen(person, dice)
    await screen.ask() if person.profile != "slow" else await screen.stop()
    for _ in range(STEPS):
        name = dice.choice(["ask", "edit", "again", "branch", "judge", "judge", "judge"])
        if person.profile == "slow" and name in ("ask", "edit", "again"):
            name = "stop"  # it would take its time to the end
        await getattr(screen, name)()
        if dice.random() < 0.15:
            await person.reload()
    await person.leave()
    return screen


def expected(screens: list[Screen]) -> tuple[set, set]:
    """(pairs, KTO rows) of one rater, from what was on the screens."""
    pairs: set = set()
    up, down = defaultdict(dict), defaultdict(dict)  # prompt → text → whether it was cut off
    labels: dict = defaultdict(set)
    cut: dict = {}
    for screen in screens:
        for prompt, left, right, choice in screen.votes.values():
            if choice in ("left", "right"):
                chosen, rejected = (left, right) if choice == "left" else (right, left)
                pairs.add((prompt, chosen, rejected))
                labels[prompt, chosen].add(True)
                labels[prompt, rejected].add(False)
            elif choice == "both_bad":
                labels[prompt, left].add(False)
                labels[prompt, right].add(False)
        for prompt, text, value, was_cut in screen.thumbs.values():
            (up if value else down)[prompt][text] = was_cut
            labels[prompt, text].add(bool(value))
            cut[prompt, text] = was_cut
    for prompt in up:
        both = set(up[prompt]) & set(down[prompt])
        for chosen, was_cut in up[prompt].items():
            for rejected in down[prompt]:
                if chosen not in both and rejected not in both and not was_cut:
                    pairs.add((prompt, chosen, rejected))
    pairs = {pair for pair in pairs if (pair[0], pair[2], pair[1]) not in pairs}
    rows = {(*key, True in good) for key, good in labels.items() if len(good) == 1}
    return pairs, {row for row in rows if not (row[2] and cut.get(row[:2]))}


def test_training_rows_are_what_was_on_the_screen(new_database, tmp_path):
    api = stub("counts", "good")  # for the arena; "slow" is asked for by name
    page = chat_page(api.url.removesuffix("/models"), new_database())

    async def everybody() -> list[Screen]:
        return await asyncio.gather(*(converse(page.url, number) for number in range(CONVERSATIONS)))

    try:
        screens = asyncio.run(everybody())
    finally:
        page.stop()
        api.stop()
    out = tmp_path / "out"
    file = page.database.removeprefix("sqlite:///")
    succeed("build_preferences.py", "--from_chat", file, "--output_dir", out, "--kto", "--max_pairs_per_prompt", 1000)

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]

    def text(messages: list[dict]) -> str:
        return messages[0]["content"]

    def prompt(row: dict) -> str:
        return json.dumps(row["prompt"], ensure_ascii=False)

    pairs = [(prompt(row), text(row["chosen"]), text(row["rejected"])) for row in rows("train.jsonl")]
    kto = [(prompt(row), text(row["completion"]), row["label"]) for row in rows("kto.jsonl")]
    wanted_pairs, wanted_kto = expected(screens)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == wanted_pairs
    assert len(kto) == len(set(kto))
    assert set(kto) == wanted_kto
    assert len(pairs) > 10
    assert len(kto) > 40
    assert any(screen.stopped for screen in screens)
    assert (out / "rejects.jsonl").read_text(encoding="utf-8") == ""
