"""What stands between the web and the page: which requests are taken, whose logins count, and what a page may load."""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse

from sllm.page.logins import Logins, client_address
from sllm.page.translations import words

_ELSEWHERE = re.compile(r"<link[^>]*https://[^>]*>")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
# Chainlit's routes that the page does not use. They would let a user overwrite other users' elements, share
# conversations or run commands (MCP), and describe the API to anyone.
CLOSED_ROUTES = (
    "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/mcp", "/copilot/{filename:path}",
    "/project/element", "/project/share/{thread_id}", "/project/thread/share", "/project/file/{file_id}",
    "/project/thread/{thread_id}/element/{element_id}", "/auth/jwt", "/auth/oauth/{provider_id}",
    "/auth/oauth/{provider_id}/callback", "/auth/oauth/azure-ad-hybrid/callback",
)  # fmt: skip


def close_routes(app) -> None:
    """Take the routes that the page does not use out of Chainlit's app."""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) not in CLOSED_ROUTES]


def longest_body(max_file_bytes: int) -> int:
    """Bytes of a request or a message: as JSON a text may be longer than it is."""
    return 4 * max_file_bytes + 2**20


def strip_external_links(html: str) -> str:
    """Chainlit's page without the fonts and style sheets that it asks other hosts for."""
    return _ELSEWHERE.sub("", html)


class Security:
    """ASGI middleware. A request from another site is refused, and so is one that calls this machine by a name which
    somebody else chose (DNS rebinding); a login that has ended counts for nothing; a conversation that is not there is
    a 404; pages run only the scripts that they came with, and load nothing from elsewhere.

    Args:
        html: Chainlit's page, whose inline scripts are allowed by their hashes.
        names: hosts that this page answers to; None: any, as behind a proxy.
        logins: None where nobody has to log in.
        owns: whether somebody, named by their login, has a conversation of this id.
        max_file_bytes: a request may be a few times as long; of a longer one nothing is kept.
    """

    def __init__(
        self, app, html: str, names: tuple[str, ...] | None, logins: Logins | None,
        owns: Callable[[str, str], Awaitable[bool]], max_file_bytes: int,
    ):  # fmt: skip
        self.app, self.names, self.logins, self.owns = app, names, logins, owns
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
        connection = HTTPConnection(scope)
        host = connection.headers.get("host", "").lower()
        origin = connection.headers.get("origin", "").lower()
        secure = scope["scheme"] in ("https", "wss")
        foreign = origin and origin.partition("://")[2] != host
        unknown = self.names is not None and re.sub(r":\d+$", "", host) not in self.names
        if foreign or unknown or not re.fullmatch(r"[a-z0-9.:\-\[\]_]+", host):
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            refusal = PlainTextResponse("this page does not answer to another site or name", 403)
            return await refusal(scope, receive, send)
        client_address.set(scope["client"][0] if scope.get("client") else "")
        login = self.logins and self.logins.of(connection)
        if self.logins and not login:
            kept = [(name, value) for name, value in scope["headers"] if name not in (b"cookie", b"authorization")]
            scope = {**scope, "headers": kept}
        headers = self._headers(host, secure)

        async def reply(message):
            if message["type"] == "http.response.start":
                own = [
                    (name, value + b"; Secure" if secure and name == b"set-cookie" else value)
                    for name, value in message.get("headers", [])
                ]
                message["headers"] = [*own, *headers]
            await send(message)

        user = login.user if login else None if self.logins else "local"
        thread = re.fullmatch(r"/thread/([^/]*)/?", scope["path"])
        if scope["type"] == "http" and thread and user and not await self.owns(user, thread[1]):
            text = words(connection.headers.get("accept-language"))
            page = _NOT_FOUND.format(title=text["conversation_missing"], home=text["home"])
            return await HTMLResponse(page, 404)(scope, receive, reply)
        text = words(connection.headers.get("accept-language"))
        size = connection.headers.get("content-length", "")
        if scope["type"] == "http" and size.isdigit() and int(size) > self.longest_body:
            while (await receive()).get("more_body"):  # read away, so that the browser hears why
                pass
            limit = self.max_file_bytes / 2**20
            detail = text["file_too_large"].format(name="", size=int(size) / 2**20, limit=limit).removeprefix(": ")
            return await JSONResponse({"detail": detail}, 413)(scope, receive, reply)
        taken = 0

        async def bounded():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body") or b"")
            return message if taken <= self.longest_body else {"type": "http.disconnect"}

        await self.app(scope, bounded if scope["type"] == "http" else receive, reply)
        if login and scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == "/logout":
            await self.logins.end(login)

    def _headers(self, host: str, secure: bool) -> list[tuple[bytes, bytes]]:
        policy = self.policy | {"connect-src": f"'self' {'wss' if secure else 'ws'}://{host}"}
        return [
            (b"content-security-policy", "; ".join(f"{name} {value}" for name, value in policy.items()).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]


_NOT_FOUND = """<!doctype html>
<html lang="ko"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<link rel="stylesheet" href="/public/not_found.css"></head>
<body><main><h1>404</h1><p>{title}</p><p><a href="/">{home}</a></p></main></body></html>
"""
