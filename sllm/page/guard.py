"""What stands between the web and the page: which requests are taken, and what a page may load."""

import base64
import hashlib
import re

_ELSEWHERE = re.compile(r"<link[^>]*https://[^>]*>")
CALLED_BY_NAME = ("localhost", "127.0.0.1", "[::1]")


def only_ours(html: str) -> str:
    """Chainlit's page without the fonts and style sheets that it asks other hosts for."""
    return _ELSEWHERE.sub("", html)


class Guard:
    """ASGI middleware. A request from another site is refused, and so is one that calls this machine by a name which
    somebody else chose (DNS rebinding); pages run only the scripts that they came with, and load nothing from
    elsewhere, so that neither an answer nor a closed network gets in the way.

    Args:
        html: Chainlit's page, whose inline scripts are allowed by their hashes.
        names: hosts that this page answers to; None: any, as behind a proxy.
    """

    def __init__(self, app, html: str, names: tuple[str, ...] | None):
        self.app, self.names = app, names
        scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
        policy = {
            "default-src": "'self'",
            # Custom elements are compiled in the browser, from files of this page.
            "script-src": " ".join(["'self'", "'unsafe-eval'", *(f"'sha256-{value}'" for value in hashes)]),
            "style-src": "'self' 'unsafe-inline'",
            "img-src": "'self' data: blob:",
            "connect-src": "'self' ws: wss:",
            "object-src": "'none'",
            "base-uri": "'none'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
        }
        self.headers = [
            (b"content-security-policy", "; ".join(f"{name} {value}" for name, value in policy.items()).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        foreign = origin and origin.partition("://")[2] != host
        unknown = self.names is not None and re.sub(r":\d+$", "", host) not in self.names
        if foreign or unknown:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            text = b"this page does not answer to another site or name"
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            return await send({"type": "http.response.body", "body": text})

        async def reply(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        await self.app(scope, receive, reply)
