"""Middleware between the web and the page: which requests are accepted, which logins are valid, and what a page may
load."""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from sllm.page.logins import Logins, client_address
from sllm.page.translations import texts_for

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
# Chainlit's routes that the page does not use. They would let a user overwrite other users' elements, share
# conversations, run commands (MCP) or upload any file (`files` has its own route), and describe the API to anyone.
CLOSED_ROUTES = (
    "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/mcp", "/copilot/{filename:path}",
    "/project/element", "/project/share/{thread_id}", "/project/thread/share", "/project/file",
    "/project/file/{file_id}", "/project/thread/{thread_id}/element/{element_id}", "/auth/jwt",
    "/auth/oauth/{provider_id}", "/auth/oauth/{provider_id}/callback", "/auth/oauth/azure-ad-hybrid/callback",
)  # fmt: skip


def close_routes(app) -> None:
    """Remove the routes that the page does not use from Chainlit's app."""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) not in CLOSED_ROUTES]


def longest_body(max_file_bytes: int) -> int:
    """Bytes of a request or a message: escaped as JSON, a text gets longer."""
    return 4 * max_file_bytes + 2**20


class Security:
    """ASGI middleware. Refuses requests from other sites and to unknown host names (DNS rebinding), ignores logins that
    have ended, answers 404 for a missing conversation, and lets pages run only their own scripts and load only their
    own files.

    Args:
        html: Chainlit's page, whose inline scripts are allowed by their hashes.
        hosts: that this page answers to; None: any, as behind a proxy.
        logins: None if no login is required.
        owns: whether a user has a conversation with this id.
        max_file_bytes: a request may be a few times as long; a longer one is dropped.
    """

    def __init__(
        self, app, html: str, hosts: tuple[str, ...] | None, logins: Logins | None,
        owns: Callable[[str, str], Awaitable[bool]], max_file_bytes: int,
    ):  # fmt: skip
        self.app, self.hosts, self.logins, self.owns = app, hosts, logins, owns
        self.max_file_bytes, self.longest_body = max_file_bytes, longest_body(max_file_bytes)
        scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
        self.policy = {
            "default-src": "'self'",
            # Custom elements are compiled in the browser, from files of this page.
            "script-src": " ".join(["'self'", "'unsafe-eval'", *(f"'sha256-{value}'" for value in hashes)]),
            "style-src": "'self' 'unsafe-inline'",
            "img-src": "'self' data: blob:",
            "object-src": "'none'",
            "base-uri": "'none'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
        }

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        connection, is_http = HTTPConnection(scope), scope["type"] == "http"
        if not self._is_own_site(connection):
            if not is_http:
                return await send({"type": "websocket.close", "code": 1008})
            refusal = PlainTextResponse("requests from another site or to another host name are refused", 403)
            return await refusal(scope, receive, send)
        client_address.set(scope["client"][0] if scope.get("client") else "")
        login = self.logins and self.logins.of(connection)
        if self.logins and not login:
            headers = [(name, value) for name, value in scope["headers"] if name not in (b"cookie", b"authorization")]
            scope = {**scope, "headers": headers}
        reply = self._with_headers(connection, send)
        if is_http:
            user = login.user if login else None if self.logins else "local"
            if refusal := await self._refusal(connection, user, receive):
                return await refusal(scope, receive, reply)
        await self.app(scope, self._bounded(receive) if is_http else receive, reply)
        if login and is_http and scope["method"] == "POST" and scope["path"] == "/logout":
            await self.logins.end(login)

    def _is_own_site(self, connection: HTTPConnection) -> bool:
        host = connection.headers.get("host", "").lower()
        origin = connection.headers.get("origin", "").lower()
        if (origin and origin.partition("://")[2] != host) or not re.fullmatch(r"[a-z0-9.:\-\[\]_]+", host):
            return False
        return self.hosts is None or re.sub(r":\d+$", "", host) in self.hosts

    async def _refusal(self, connection: HTTPConnection, user: str | None, receive) -> Response | None:
        """404 for a conversation that does not exist, 413 for a request that is too long."""
        text = texts_for(connection.headers.get("accept-language"))
        thread = re.fullmatch(r"/thread/([^/]*)/?", connection.scope["path"])
        if thread and user and not await self.owns(user, thread[1]):
            return HTMLResponse(_NOT_FOUND.format(title=text["conversation_missing"], home=text["home"]), 404)
        size = connection.headers.get("content-length", "")
        if not size.isdigit() or int(size) <= self.longest_body:
            return None
        while (await receive()).get("more_body"):  # read and drop it, so that the browser receives the reason
            pass
        limit = self.max_file_bytes / 2**20
        detail = text["file_too_large"].format(name="", size=int(size) / 2**20, limit=limit).removeprefix(": ")
        return JSONResponse({"detail": detail}, 413)

    def _bounded(self, receive):
        """Disconnects a request that is longer than it announced."""
        received = 0

        async def bounded():
            nonlocal received
            message = await receive()
            received += len(message.get("body") or b"")
            return message if received <= self.longest_body else {"type": "http.disconnect"}

        return bounded

    def _with_headers(self, connection: HTTPConnection, send):
        """Adds the security headers to a response."""
        secure = connection.scope["scheme"] in ("https", "wss")
        host = connection.headers.get("host", "").lower()
        policy = self.policy | {"connect-src": f"'self' {'wss' if secure else 'ws'}://{host}"}
        added = [
            (b"content-security-policy", "; ".join(f"{name} {value}" for name, value in policy.items()).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

        async def reply(message):
            if message["type"] == "http.response.start":
                headers = [
                    (name, value + b"; Secure" if secure and name == b"set-cookie" else value)
                    for name, value in message.get("headers", [])
                ]
                message["headers"] = [*headers, *added]
            await send(message)

        return reply


_NOT_FOUND = """<!doctype html>
<html lang="ko"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<link rel="stylesheet" href="/public/not_found.css"></head>
<body><main><h1>404</h1><p>{title}</p><p><a href="/">{home}</a></p></main></body></html>
"""
