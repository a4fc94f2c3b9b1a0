"""Logins: passwords are in a file, logins in the database."""

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

from chainlit.auth import get_token_from_cookies
from chainlit.auth.jwt import decode_jwt
from chainlit.config import config
from chainlit.server import sio
from chainlit.session import ws_sessions_id
from fastapi import HTTPException
from starlette.requests import HTTPConnection

from sllm.cli import InputError
from sllm.page import users
from sllm.page.accounts import Login
from sllm.page.chat_session import Page

WRONG_SECONDS = 1.0  # delay after a wrong password
WINDOW_SECONDS = 60.0
# Attempts in that window; a successful login does not count. The limit for one name from one address is low and the
# limit for the name from all addresses is high: an attacker at another address does not lock the user out.
PER_NAME_AND_ADDRESS, PER_ADDRESS, PER_NAME = 10, 30, 100
MAX_NAME_LENGTH = 200  # characters, as in the database
client_address: ContextVar[str] = ContextVar("client_address", default="")
log = logging.getLogger(__name__)


class Attempts:
    """Counts by key in a sliding window."""

    def __init__(self, limit: int, seconds: float = WINDOW_SECONDS):
        self.limit, self.seconds = limit, seconds
        self._times: dict[str, deque[float]] = defaultdict(deque)

    def take(self, key: str) -> bool:
        """False: there were too many."""
        now = time.monotonic()
        if len(self._times) > 10_000:
            self._times = defaultdict(deque, {k: t for k, t in self._times.items() if t and t[-1] > now - self.seconds})
        times = self._times[key]
        while times and times[0] < now - self.seconds:
            times.popleft()
        if len(times) >= self.limit:
            return False
        times.append(now)
        return True

    def give_back(self, key: str) -> None:
        if times := self._times.get(key):
            times.pop()


class Logins:
    """
    Args:
        path: of the file with names and hashes; it is read again when it changes.
        page: logins are stored in its database, so that a restart ends none.
    """

    def __init__(self, path: str, page: Page):
        self.path, self.page = path, page
        self._users: dict[str, str] = {}
        self._stamp: tuple | None = ()  # of the file when it was last read
        self._active = {login.id: login for login in page.accounts.logins()}
        self._addresses, self._pairs, self._names = map(Attempts, (PER_ADDRESS, PER_NAME_AND_ADDRESS, PER_NAME))
        # A thread of its own: argon2 is slow on purpose, and conversations must not wait for it.
        self._pool = ThreadPoolExecutor(1, "password")

    async def check(self, name: str, password: str) -> str | None:
        """The id of a new login, or None. An unknown name takes as long as a wrong password.

        Raises:
            HTTPException: 429, before anything is hashed."""
        if len(name) > MAX_NAME_LENGTH:
            return None
        address = client_address.get()
        counts = ((self._addresses, address), (self._pairs, f"{address} {name}"), (self._names, name))
        if not all(attempts.take(key) for attempts, key in counts):
            raise HTTPException(429, "tooManyAttempts", headers={"Retry-After": str(int(WINDOW_SECONDS))})
        hashed = self._hashes().get(name)
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._pool, users.verify, hashed, password):
            await asyncio.sleep(WRONG_SECONDS)
            return None
        for attempts, key in counts:
            attempts.give_back(key)
        expires = datetime.now(UTC) + timedelta(seconds=config.project.user_session_timeout)
        login = Login(secrets.token_urlsafe(24), name, _credential(hashed), expires)
        await self.page.write(self.page.accounts.add_login, login)
        self._active[login.id] = login
        return login.id

    def of(self, connection: HTTPConnection) -> Login | None:
        """The login of a request, unless it has ended: by logging out, a new password, a removed name, or time."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        bearer = token if scheme.lower() == "bearer" else None
        return self.of_token(get_token_from_cookies(connection.cookies) or bearer)

    def of_token(self, token: str | None) -> Login | None:
        login = self._active.get(_login_id(token)) if token else None
        if login is None or login.expires < datetime.now(UTC):
            return None
        hashed = self._hashes().get(login.user)
        return login if hashed and _credential(hashed) == login.credential else None

    async def end(self, login: Login) -> None:
        """Ends the login and disconnects its tabs."""
        self._active.pop(login.id, None)
        await self.page.write(self.page.accounts.end_login, login.id)
        for session in list(ws_sessions_id.values()):
            if session.token and _login_id(session.token) == login.id:
                await sio.disconnect(session.socket_id)

    def _hashes(self) -> dict[str, str]:
        """{name: hash}: the file, read again when it has changed."""
        try:
            status = os.stat(self.path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            stamp = None
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._users = users.read(self.path)
            except InputError as error:
                log.error("%s; the users read before can still log in", "; ".join(error.problems))
        return self._users


def _credential(hashed: str) -> str:
    return hashlib.sha256(hashed.encode()).hexdigest()


def _login_id(token: str) -> str | None:
    try:
        return decode_jwt(token).metadata.get("login")
    except Exception:  # of PyJWT, or of a token that is signed but is not a user
        return None
