"""Starts chat pages, stand-in servers and a browser for the tests."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# CI installs what is needed, and may skip nothing
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no Chromium; apt-get install chromium fonts-nanum"
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Process:
    """A process with an address."""

    def __init__(self, *command: object, url: str, **env: str):
        self.url = url
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env={**os.environ, **env},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True).start()
        wait_for(self.answers, 90, lambda: "".join(self.lines))

    def answers(self) -> bool:
        assert self.process.poll() is None, "".join(self.lines)
        try:
            return httpx.get(self.url, timeout=5, trust_env=False).status_code < 500
        except httpx.TransportError:
            return False

    def stop(self, signal_number: int | None = None) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal_number or signal.SIGTERM)
        return self.process.wait(30)


def chat_page(api: str, database: str, *flags: object, port: int | None = None, **env: str) -> Process:
    port = port or free_port()
    started = Process(
        "chainlit_app.py", "--api_base_url", api, "--database_url", database, "--port", port, *flags,
        url=f"http://127.0.0.1:{port}", **env,
    )  # fmt: skip
    started.database = database
    return started


def stub(*models: str, port: int | None = None) -> Process:
    port = port or free_port()
    return Process("tests/stub_openai.py", port, *models, url=f"http://127.0.0.1:{port}/v1/models")


def wait_for(condition, seconds: float = 30, describe=lambda: ""):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"nothing within {seconds} s: {describe()}"
        time.sleep(0.05)
    return value


class Network:
    """A connection to a page that can be cut, as when a laptop leaves the Wi-Fi."""

    def __init__(self, url: str):
        self.target = int(url.rsplit(":", 1)[1])
        self.open = True
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        self.open = False
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.sockets.clear()

    def restore(self) -> None:
        self.open = True

    def close(self) -> None:
        self.listener.close()
        self.cut()


class Browser:
    """Chromium, and its tabs."""

    def __init__(self, playwright):
        self.chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        self.tabs: list[Tab] = []

    def open(self, url: str, *, locale: str = "ko-KR", width: int = 1200, height: int = 860, ready: bool = True):
        context = self.chromium.new_context(
            locale=locale, viewport={"width": width, "height": height},
            permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        tab = Tab(context.new_page(), url, ready)
        self.tabs.append(tab)
        return tab

    def close(self) -> None:
        self.chromium.close()


class Tab:
    def __init__(self, page, url: str, ready: bool = True):
        self.page, self.url = page, url
        self.outside: list[str] = []
        self.complaints: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: None if self.is_ours(request.url) else self.outside.append(request.url))
        page.set_default_timeout(30_000)
        page.goto(url)
        if ready:
            self.ready()

    def _console(self, message) -> None:
        """Errors and warnings, except Chainlit's own: it requests the user before the login and the accepted files
        before it has read its settings; and its dialogs have no description."""
        known = re.search(r"401|Unauthorized|Skipped \"application/\*\"|Missing `Description`", message.text)
        if message.type in ("error", "warning") and not known:
            self.complaints.append(message.text)

    def is_ours(self, url: str) -> bool:
        return url.startswith((self.url, self.url.replace("http", "ws", 1), "data:", "blob:"))

    def ready(self) -> None:
        """After a load, waits for the button that a session's start sends: a page without one forgets dropped files."""
        self.page.wait_for_selector("#chat-input")
        self.page.wait_for_selector("[id^=command-]")
        self.still()

    def still(self, milliseconds: int = 300) -> None:
        """Waits until nothing in the page has changed or scrolled for so long, at most ten seconds."""
        self.page.evaluate(
            """quiet => new Promise(resolve => {
                const latest = setTimeout(done, 10000)
                let timer = setTimeout(done, quiet)
                const changed = () => { clearTimeout(timer); timer = setTimeout(done, quiet) }
                const observer = new MutationObserver(changed)
                observer.observe(document, {subtree: true, childList: true, characterData: true})
                document.addEventListener('scroll', changed, true)
                function done() {
                    clearTimeout(timer)
                    clearTimeout(latest)
                    observer.disconnect()
                    document.removeEventListener('scroll', changed, true)
                    resolve()
                }
            })""",
            milliseconds,
        )

    def profile(self, name: str) -> None:
        self.page.click("#chat-profiles")
        item = self.page.locator(f'[data-test="select-item:{name}"]')
        item.scroll_into_view_if_needed()
        item.focus()
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector('[role="listbox"]', state="detached")
        self.page.wait_for_function("getComputedStyle(document.body).pointerEvents != 'none'")
        self.ready()

    def send(self, text: str, *, wait: bool = True) -> None:
        self.page.click("#chat-input")
        self.page.keyboard.insert_text(text)
        self.page.click("#chat-submit")
        if wait:
            self.still()
            self.idle()

    def idle(self, seconds: float = 60) -> None:
        """Waits until the server has taken what was sent and no answer is being written. A page that is loaded before
        the server has taken a message puts it back into the input."""
        self.page.wait_for_function(
            "sessionStorage.getItem('sllm-sent') === null && !document.querySelector('#stop-button')",
            timeout=seconds * 1000,
        )

    def text(self) -> str:
        return self.page.inner_text("body")

    def messages(self) -> list[str]:
        """Every question and answer that is shown, from top to bottom."""
        return [element.inner_text().strip() for element in self.page.query_selector_all(".message-content")]

    def wait(self, text: str) -> None:
        self.page.wait_for_selector(f"text={text} >> visible=true")

    def edit(self, number: int, text: str) -> None:
        """The pencil of a question; it shows under the mouse."""
        self.page.dispatch_event(f"button.edit-message >> nth={number}", "click")
        self.page.fill("#edit-chat-input", text)
        self.page.click(".confirm-edit")

    def answers(self) -> list[str]:
        return [element.inner_text() for element in self.page.query_selector_all(".ai-message .message-content")]

    def shot(self, path) -> None:
        self.still()
        self.page.screenshot(path=str(path))
