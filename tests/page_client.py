"""A tab of the chat page without a browser: it uses socket.io and HTTP as Chainlit's page does, and keeps what that
would show."""

import asyncio
import uuid

import httpx
import socketio


class Person:
    """One person with one tab.

    `messages`: what the page shows, in order, as Chainlit's steps; `elements` and `actions`: what goes with them.
    """

    def __init__(self, url: str, number: int = 0, profile: str = "good", *, client: httpx.AsyncClient | None = None):
        self.url, self.number, self.profile = url, number, profile
        self.client = client or httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
        self.thread: str | None = None
        self.loading = False
        self.toasts: list[str] = []
        self.errors: list[str] = []
        self._new_tab()

    def _new_tab(self) -> None:
        self.session = str(uuid.uuid4())
        self.steps: dict[str, dict] = {}
        self.elements: dict[str, dict] = {}
        self.actions: dict[str, dict] = {}
        self.live: dict[str, dict[str, str]] = {}  # of comparisons that are being written
        self.ended = 0  # how many task_end events arrived; one arrives when a tab connects
        self.changed = asyncio.Event()
        self.socket = socketio.AsyncClient(reconnection=False)
        for event in ("new_message", "update_message", "stream_start"):
            self.socket.on(event, self._step)
        for event in (
            "delete_message", "stream_token", "resume_thread", "element", "action", "remove_action", "toast",
            "first_interaction", "task_start", "task_end", "window_message", "resume_thread_error",
        ):  # fmt: skip
            self.socket.on(event, getattr(self, f"_{event}"))
        self.socket.on("*", self._other)

    # ── what the page is sent ──

    async def _other(self, event: str, *data) -> None: ...

    async def _step(self, step: dict) -> None:
        self.steps[step["id"]] = self.steps.get(step["id"], {}) | step
        self.changed.set()

    async def _delete_message(self, step: dict) -> None:
        self.steps.pop(step["id"], None)
        self.changed.set()

    async def _stream_token(self, data: dict) -> None:
        if step := self.steps.get(data["id"]):
            step["output"] = data["token"] if data["isSequence"] else step["output"] + data["token"]
        self.changed.set()

    async def _resume_thread(self, thread: dict) -> None:
        self.thread = thread["id"]
        self.steps = {step["id"]: step for step in thread["steps"]}
        self.elements = {element["id"]: element for element in thread["elements"]}
        self.changed.set()

    async def _resume_thread_error(self, error: str) -> None:
        self.errors.append(error)
        self.changed.set()

    async def _element(self, element: dict) -> None:
        self.elements[element["id"]] = element
        self.changed.set()

    async def _action(self, action: dict) -> None:
        assert action["id"] not in self.actions, "Chainlit's page would show this button twice"
        self.actions[action["id"]] = action
        self.changed.set()

    async def _remove_action(self, action: dict) -> None:
        self.actions.pop(action["id"], None)

    async def _toast(self, data: dict) -> None:
        self.toasts.append(data["message"])
        self.changed.set()

    async def _first_interaction(self, data: dict) -> None:
        self.thread = data["thread_id"]
        self.changed.set()

    async def _task_start(self, _) -> None:
        self.loading = True

    async def _task_end(self, _) -> None:
        self.loading = False
        self.ended += 1
        self.changed.set()

    async def _window_message(self, data: dict) -> None:
        if "arena" not in data:
            return
        sides = self.live.setdefault(data["arena"], {"left": "", "right": ""})
        for side in ("left", "right"):
            if change := data.get(side):
                sides[side] = sides[side][: change["at"]] + change["text"]
        self.changed.set()

    # ── what the page shows ──

    @property
    def messages(self) -> list[dict]:
        return [step for step in self.steps.values() if "message" in step["type"]]

    @property
    def texts(self) -> list[str]:
        """Of the answers and of the page's own messages."""
        return [step["output"] for step in self.messages if step["type"] == "assistant_message" and step["output"]]

    def props(self, name: str) -> dict:
        """Of the newest element of this name; {}: none is shown."""
        shown = {step["id"] for step in self.messages}
        props = [e["props"] for e in self.elements.values() if e["name"] == name and e["forId"] in shown]
        return props[-1] if props else {}

    # ── what a person does ──

    async def log_in(self, password: str | None = None, name: str = "") -> int:
        if password is None:
            return (await self.client.post("/auth/header")).status_code
        return (await self.client.post("/login", data={"username": name, "password": password})).status_code

    async def enter(self) -> None:
        if not self.client.cookies:
            assert await self.log_in() == 200
        cookie = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        auth = {"threadId": self.thread or "", "sessionId": self.session, "clientType": "webapp",
                "chatProfile": self.profile, "userEnv": "{}"}  # fmt: skip
        await self.socket.connect(
            self.url, socketio_path="/ws/socket.io", transports=["websocket"], auth=auth, headers={"Cookie": cookie},
            wait_timeout=60,
        )  # fmt: skip
        await self.socket.emit("connection_successful")
        await self.until(lambda: self.ended)

    async def reload(self) -> None:
        """The page once more: a new session, at the address of the conversation."""
        await self.socket.disconnect()
        self._new_tab()
        await self.enter()
        if self.thread:
            await self.until(lambda: self.steps)

    async def lose_network(self) -> None:
        await self.socket.disconnect()

    async def come_back(self) -> None:
        """The same page, which kept its session, under another socket."""
        old = self.__dict__.copy()
        self._new_tab()
        for name in ("session", "steps", "elements", "actions", "live"):
            setattr(self, name, old[name])
        await self.enter()

    async def settings(self, **values) -> None:
        await self.socket.emit("chat_settings_change", values)

    def message(self, text: str, **kwargs) -> dict:
        return {"id": str(uuid.uuid4()), "threadId": "", "name": "local", "type": "user_message", "output": text,
                "createdAt": "2026-11-21T00:00:00.000Z", "metadata": {}} | kwargs  # fmt: skip

    async def say(self, text: str, *, files: tuple[str, ...] = (), **kwargs) -> str:
        message = self.message(text, **kwargs)
        self.steps[message["id"]] = message
        await self.socket.emit(
            "client_message", {"message": message, "fileReferences": [{"id": file} for file in files]}
        )
        return message["id"]

    async def edit(self, id: str, text: str) -> None:
        """As Chainlit's page does, which cuts off what follows first."""
        kept = list(self.steps)[: list(self.steps).index(id) + 1]
        self.steps = {key: self.steps[key] for key in kept}
        await self.socket.emit("edit_message", {"message": self.steps[id] | {"output": text}})

    async def stop(self) -> None:
        await self.socket.emit("stop")

    async def act(self, name: str, **payload) -> dict:
        action = {"name": name, "payload": payload, "id": str(uuid.uuid4()), "label": "", "tooltip": ""}
        answer = await self.client.post("/project/action", json={"action": action, "sessionId": self.session})
        assert answer.status_code == 200, answer.text
        return answer.json()["response"] or {}

    async def again(self, id: str | None = None, name: str = "again") -> None:
        """The button under an answer; the newest one where `id` is not given."""

        def buttons() -> list[dict]:
            shown = {step["id"] for step in self.messages}
            found = [a for a in self.actions.values() if a["name"] == name and a["forId"] in shown]
            return [a for a in found if id in (None, a["forId"])]

        action = (await self.until(buttons))[-1]
        await self.act(name, **action["payload"])

    async def branch(self, step: int) -> None:
        await self.act("branch", message=self.props("Branches")["message"], step=step)

    async def vote(self, choice: str) -> None:
        assert (await self.act("vote", comparison=self.props("Arena")["comparison"], choice=choice)) == {"ok": True}

    async def thumb(self, run: str, value: int, comment: str | None = None) -> str:
        feedback = {"forId": run, "value": value, "threadId": self.thread} | ({"comment": comment} if comment else {})
        answer = await self.client.put("/feedback", json={"feedback": feedback, "sessionId": self.session})
        assert answer.status_code == 200, answer.text
        return answer.json()["feedbackId"]

    async def drop(self, name: str, data: bytes) -> httpx.Response:
        files = {"file": (name, data, "text/plain")}
        return await self.client.post(f"/project/file?session_id={self.session}", files=files)

    async def threads(self, search: str = "") -> list[dict]:
        body = {"pagination": {"first": 100}, "filter": {"search": search} if search else {}}
        return (await self.client.post("/project/threads", json=body)).json()["data"]

    async def until(self, condition, seconds: float = 60):
        async with asyncio.timeout(seconds):
            while not (value := condition()):
                self.changed.clear()
                await self.changed.wait()
        return value

    async def idle(self, seconds: float = 60) -> None:
        """Until the answer that was asked for has ended."""
        await self.until(lambda: not self.loading, seconds)

    async def answered(self, text: str, seconds: float = 60) -> str:
        """Until there is an answer with `text` that has ended; returns the id of its run, which thumbs refer to."""

        def found():
            return next((s for s in self.messages if text in s["output"] and s["type"] == "assistant_message"
                         and not s.get("streaming")), None)  # fmt: skip

        step = await self.until(found, seconds)
        await self.idle(seconds)
        return step["parentId"]

    async def leave(self) -> None:
        await self.socket.disconnect()
        await self.client.aclose()
