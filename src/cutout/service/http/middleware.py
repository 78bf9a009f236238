"""What every request passes first: request id, host, key, size of its body; and the headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

from cutout.service import logs
from cutout.service.http.origins import SAFE_METHODS, is_foreign, is_known_host
from cutout.service.http.problems import Problem, answer, problem_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from cutout.service.metrics import Metrics
    from cutout.service.settings import Settings

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["OPEN", "Guard", "header_text"]

OPEN = frozenset({"/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/favicon.ico"})
"""Paths that need no key: they give nothing of pictures."""

_SITE = b"sec-fetch-site"
_FORM_ROOM = 1 << 20  # of a request beside its files
_GIVEN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_EXPOSED = b"X-Request-Id, X-Processing-Time, X-Width, X-Height, X-Warning, Content-Disposition, Retry-After"
_STRICT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox")


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        # clients send what is not ASCII as UTF-8 or, as HTTP libraries often do, as Latin-1
        self._keys = [(key.encode(), _as_latin_1(key)) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope = self._below(scope)
        headers = dict(scope["headers"])
        key = self._known(_key(headers))
        origin = headers.get(b"origin", b"").decode("latin-1")
        state = {"request_id": _request_id(headers), "client": _client(scope, key)}
        # what answers GET answers HEAD; the server leaves the body out
        inner = {**scope, "state": state, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        status = 0

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._signed(message.get("headers", []), state["request_id"], origin)
            await send(message)

        try:
            self._check_origin(scope, headers)
            if not scope["path"]:  # the addresses in the page are relative
                await _send(answered, 307, {"location": f"{self._settings.root_path}/"}, b"")
                return
            if scope["method"] == "OPTIONS" and origin in self._settings.origins:
                await _send(answered, 204, {}, b"")
                return
            if self._keys and key is None and scope["path"] not in OPEN:
                state["outcome"] = "401"
                hint = "send it as X-Api-Key or Authorization: Bearer"
                raise Problem(401, "no-key", "an API key is needed", hint=hint)
            await self._app(inner, self._bounded(scope, headers, receive), answered)
        except Exception as error:  # noqa: BLE001 - the one place for all of them: an answer, never a stack trace
            problem = problem_of(error)
            state.setdefault("outcome", problem.word)
            if problem.status == 500:
                logs.event("bug", level=logging.ERROR, error=error, request_id=state["request_id"])
            if not status:
                await _send(answered, *answer(problem, state["request_id"], scope["path"]))
        finally:
            self._count(inner, scope["method"], status, time.perf_counter() - started)

    def _below(self, scope: Scope) -> Scope:
        """The path without that of the service, which a proxy may have taken off already."""
        root, path = self._settings.root_path, scope["path"]
        return {**scope, "path": path.removeprefix(root)} if f"{path}/".startswith(f"{root}/") else scope

    def _check_origin(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuse what a page of another origin makes a browser send; see `origins`."""
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) > 1:
            raise Problem(400, "host", "the request names more than one host")
        host, origin, site = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin", _SITE))
        if not is_known_host(host, self._settings.allowed_hosts):
            text = f"this service is not known as {header_text(host[:80])!r}"
            raise Problem(421, "host", text, hint="--allowed-host NAME, where it is started, allows a name")
        if scope["method"] not in SAFE_METHODS and is_foreign(
            origin=origin, site=site, host=host, allowed=self._settings.origins
        ):
            text = "pages of other origins may not call this service"
            raise Problem(403, "origin", text, hint="--origin ORIGIN, where it is started, allows one")

    def _known(self, given: bytes) -> bytes | None:
        """The key that a request has, if it is one of the service's."""
        # all keys are compared, each in constant time: neither which fits nor how far one fits shows
        fits = [sum(hmac.compare_digest(given, form) for form in forms) > 0 for forms in self._keys]
        return self._keys[fits.index(True)][0] if True in fits else None

    def _bounded(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """The request's body, refused as soon as it is larger than it may be."""
        files = self._settings.max_files if scope["path"] == "/batch-remove-background" else 1
        # base64 is a third longer, and remove.bg's clients may use it
        encoded = 4 if scope["path"].startswith("/v1.0/") else 3
        limit = self._settings.max_body * files * encoded // 3 + _FORM_ROOM
        announced = headers.get(b"content-length", b"0")
        too_large = Problem(
            413,
            "too-large",
            f"the request is larger than {limit / 1e6:.0f} MB",
            hint=f"a picture may have {self._settings.max_body / 1e6:.0f} MB here",
        )
        if announced.isdigit() and int(announced) > limit:
            raise too_large
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise too_large
            return message

        return bounded

    def _signed(
        self, headers: Iterable[tuple[bytes, bytes]], request_id: str, origin: str
    ) -> list[tuple[bytes, bytes]]:
        result = [*headers, *_HEADERS, (b"x-request-id", request_id.encode())]
        names = {name.lower() for name, _ in result}
        if _STRICT[0] not in names:
            result.append(_STRICT)
        if b"cache-control" not in names:
            result.append((b"cache-control", b"no-store"))
        if self._settings.origins:
            result.append((b"vary", b"Origin"))
            if origin in self._settings.origins:
                result += [
                    (b"access-control-allow-origin", origin.encode()),
                    (b"access-control-allow-methods", b"GET, POST, DELETE"),
                    (b"access-control-allow-headers", b"X-Api-Key, Authorization, Content-Type, X-Request-Id"),
                    (b"access-control-expose-headers", _EXPOSED),
                ]
                result = [(name, value) for name, value in result if name != b"cross-origin-resource-policy"]
        return result

    def _count(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        state = scope["state"]
        endpoint = str(getattr(scope.get("route"), "path", "other"))
        outcome = state.get("outcome") or (str(status) if status else "gone")
        self._metrics.requests.labels(endpoint, outcome).inc()
        self._metrics.seconds.labels(endpoint).observe(seconds)
        quiet = scope["path"] in {"/health", "/ready", "/metrics"} and status < 500
        logs.event(
            "request",
            level=logging.DEBUG if quiet else logging.INFO,
            request_id=state["request_id"],
            client=state["client"],
            method=method,
            path=scope["path"],
            status=status,
            outcome=outcome,
            ms=round(seconds * 1e3, 1),
        )


def header_text(text: str) -> str:
    """A text as it may stand in a header: printable ASCII."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text)


async def _send(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    if body:
        lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)


def _key(headers: dict[bytes, bytes]) -> bytes:
    if given := headers.get(b"x-api-key"):
        return given
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _as_latin_1(key: str) -> bytes:
    try:
        return key.encode("latin-1")
    except UnicodeEncodeError:
        return key.encode()  # as UTF-8 alone


def _client(scope: Scope, key: bytes | None) -> str:
    """The client, for fairness and logs: a hash of its key, which must not appear itself, or its address."""
    if key is not None:
        return "key-" + hashlib.sha256(key).hexdigest()[:8]
    return str(scope["client"][0]) if scope.get("client") else "unknown"
