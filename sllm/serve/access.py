"""Access control: which hosts and web pages a request may name, API keys, and how often each caller may ask."""

import hashlib
import hmac
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sllm import checkpoint, cli, network
from sllm.cli import InputError
from sllm.serve.access_log import log
from sllm.serve.errors import ApiError

PROBE_PATHS = ("/health", "/ready")  # of supervisors and load balancers, which have no key
UNAUTHENTICATED_PATHS = ("/docs", "/openapi.json")  # the page that describes the API
UNAUTHENTICATED_PREFIXES = "/static-offline-docs/"
ADMIN = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
MAX_HEADERS = 256
FAILED_LOGINS = 60  # a minute for each address; then 429
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
CALLERS = 10_000  # that a rate limit remembers


class ApiKeys:
    """API keys, kept as digests, so that a comparison takes as long for a wrong key as for a right one.

    Args:
        keys: `NAME:KEY`, or a bare key, which is called key1, key2, … by its number. Names go to the log.
        file: a file with one of them a line; `#` starts a comment.
    """

    def __init__(self, keys: list[str], file: str | None = None):
        self._keys, self._file = keys, file
        self.read()

    def read(self) -> None:
        """Read the file again. InputError where it cannot be used; the keys then stay as they were."""
        lines = read_lines(self._file) if self._file else []
        if self._file and not lines:
            raise InputError(f"--api_keys_file {self._file} has no keys")
        digests: list[tuple[str, bytes]] = []
        for number, text in enumerate([*self._keys, *lines], 1):
            name, colon, key = text.partition(":")
            name, key = (name.strip(), key.strip()) if colon else (f"key{number}", text.strip())
            if not name or not key or not key.isascii():
                raise InputError(f"API key {number} is empty or not ASCII; use KEY or NAME:KEY")
            digests.append((name, _digest(key)))
        if len({name for name, _ in digests}) < len(digests):
            raise InputError("two API keys have the same name")
        self._digests = digests

    def reload(self) -> None:
        """`read`, for a server that runs."""
        try:
            self.read()
            log.info("API keys read again", extra={"fields": {"keys": self.names}})
        except InputError as error:
            log.error(f"API keys stay as they are: {error}")

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self._digests]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, key: str) -> str | None:
        """Name of a key, or None."""
        digest = _digest(key)
        matches = [name for name, known in self._digests if hmac.compare_digest(digest, known)]  # with every key
        return matches[-1] if matches else None


def read_lines(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api_keys_file {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class RateLimit:
    """A token bucket for each caller: `rpm` requests at once, and `rpm` a minute after that. None: no limit."""

    def __init__(self, rpm: int | None):
        self.rpm = rpm
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller → (requests left, when)

    def wait(self, caller: str) -> float:
        """0, and one request is counted; or the seconds until the next is allowed."""
        if self.rpm is None:
            return 0.0
        now = time.monotonic()
        left, last = self._buckets.pop(caller, (float(self.rpm), now))
        left = min(self.rpm, left + (now - last) * self.rpm / 60)
        allowed = left >= 1
        self._buckets[caller] = (left - allowed, now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)  # idle for longest
        return 0.0 if allowed else (1 - left) * 60 / self.rpm


def check_origin(origin: str) -> str:
    """An origin as browsers send it; InputError for what no browser sends."""
    parts = urlsplit(origin)
    complete = parts.scheme in ("http", "https") and parts.hostname and not parts.path.strip("/") and not parts.query
    if origin != "*" and not complete:
        raise InputError(f"--allowed_origins {origin} is not an origin such as https://chat.example.com")
    return origin.rstrip("/")


@dataclass(frozen=True)
class AccessSettings:
    """Who may use the server."""

    hosts: set[str] | None  # names that the Host header may have, without the port; None: any
    origins: list[str]  # that CORS allows; `*`: all. Pages of the hosts themselves are always allowed
    keys: ApiKeys  # none: authentication disabled
    admin: ApiKeys  # of the endpoints that change what is served; without one they are closed
    rate: RateLimit  # of requests, for each key or address


def of_command_line(args) -> AccessSettings:
    """From the flags and the environment; InputError with all that is wrong with them."""
    keys, admin, *origins = cli.collect_errors(
        lambda: ApiKeys(_with_environment(args.api_key, "SLLM_API_KEYS"), args.api_keys_file),
        lambda: ApiKeys(_with_environment(args.admin_key, "SLLM_ADMIN_KEY")),
        *(lambda origin=origin: check_origin(origin) for origin in args.allowed_origins),
    )
    problems = []
    loopback = network.is_loopback(args.host)
    if not keys and not args.allow_anonymous and not loopback:
        problems.append(
            f"--host {args.host} is reachable by other machines; require a key (SLLM_API_KEYS, --api_keys_file or "
            "--api_key), or allow any with --allow_anonymous"
        )
    if args.max_loras and not (args.lora_modules or admin or checkpoint.is_adapter(args.model_id)):
        problems.append("--max_loras: without --lora_modules or an --admin_key there are no adapters")
    if problems:
        raise InputError(problems)
    hosts = {host.lower() for host in args.allowed_hosts} or None
    if loopback:
        hosts = (hosts or set()) | {*LOOPBACK, args.host.lower()}
    return AccessSettings(hosts, origins, keys, admin, RateLimit(args.rate_limit_rpm))


def _with_environment(keys: list[str], name: str) -> list[str]:
    return [*keys, *(key.strip() for key in os.environ.get(name, "").split(",") if key.strip())]


class AccessControl:
    """Middleware: Host, Origin, keys, rates. Raises ApiError for what is not allowed."""

    def __init__(self, app, settings: AccessSettings):
        self.app, self.settings, self._failed_logins = app, settings, RateLimit(FAILED_LOGINS)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self._check(scope, dict(scope["headers"]), scope["state"]["record"])
        await self.app(scope, receive, send)

    def _check(self, scope, headers: dict, record) -> None:
        path, address = scope["path"], scope["client"][0] if scope.get("client") else "unknown"
        if len(scope["headers"]) > MAX_HEADERS:
            raise ApiError(431, f"more than {MAX_HEADERS} headers")
        if path in PROBE_PATHS:  # asked by the address of a container, which no list knows
            return
        self._check_host(headers)
        if path in UNAUTHENTICATED_PATHS or path.startswith(UNAUTHENTICATED_PREFIXES):
            return
        keys = self.settings.admin if path in ADMIN else self.settings.keys
        if path in ADMIN and not keys:
            raise ApiError(403, "loading adapters is disabled: the server has no --admin_key", code="no_admin_key")
        if keys:
            record.key = self._key(keys, headers, address)
        rate = self.settings.rate
        if scope["method"] == "POST" and (seconds := rate.wait(record.key or address)):
            raise _too_many(f"more than {rate.rpm} requests a minute", seconds)

    def _check_host(self, headers: dict) -> None:
        """A web page can have its own name resolve to a loopback address (DNS rebinding): then its requests reach this
        server from the browser of whoever looks at it, and only the Host header tells."""
        settings, host, origin = self.settings, _text(headers, b"host"), _text(headers, b"origin")
        name = (host if host.endswith("]") else host.rsplit(":", 1)[0]).lower()
        if settings.hosts is not None and name not in settings.hosts:
            raise ApiError(403, f"host {name[:100]!r} is not allowed here (--allowed_hosts)", code="host_not_allowed")
        if not origin or settings.keys or "*" in settings.origins or origin in settings.origins:
            return
        if (urlsplit(origin).netloc or "?") != host:
            message = f"web pages of {origin[:100]!r} are not allowed here (--allowed_origins)"
            raise ApiError(403, message, code="origin_not_allowed")

    def _key(self, keys: ApiKeys, headers: dict, address: str) -> str:
        scheme, _, token = _text(headers, b"authorization").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else _text(headers, b"x-api-key")
        if (name := keys.name_of(key)) is None:
            if seconds := self._failed_logins.wait(address):
                raise _too_many("too many requests without a valid API key", seconds)
            message = "wrong API key" if key else "an API key is required: Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return name


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")


def _too_many(reason: str, seconds: float) -> ApiError:
    wait = str(int(seconds) + 1)
    message = f"{reason}; try again in {wait} s"
    return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": wait})
