"""What every request passes first: request id, host, key, size of its body; and the headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response

from cutout.service import logs
from cutout.service.http.answers import header_text
from cutout.service.http.origins import SAFE_METHODS, is_foreign, is_known_host
from cutout.service.http.problems import Problem, answer, problem_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from cutout.service.metrics import Metrics
    from cutout.service.settings import Settings

__all__ = ["Guard"]

_FETCHING = frozenset({"/api/remove"})  # even GET makes it fetch and work, so no page may send one unasked
_FORM_ROOM = 1 << 20  # of a request beside its files
_GIVEN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_UNLESS_GIVEN = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "cache-control": "no-store",
}
_CORS = {
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": "X-Api-Key, Authorization, Content-Type, X-Request-Id",
    "access-control-expose-headers": "X-Request-Id, X-Processing-Time, X-Width, X-Height, X-Warning, "
    "Content-Disposition, Retry-After, X-Max-Width, X-Max-Height, X-Foreground-Top, X-Foreground-Left, "
    "X-Foreground-Width, X-Foreground-Height, X-Type, X-Credits-Charged, X-RateLimit-Limit, X-RateLimit-Remaining, "
    "X-RateLimit-Reset",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
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
        headers = Headers(scope=scope)
        key = self._known(_key(headers))
        origin = headers.get("origin", "")
        state = {"request_id": _request_id(headers), "client": _client(scope, key)}
        # what answers GET answers HEAD; the server leaves the body out
        inner = {**scope, "state": state, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        status = 0

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._sign(MutableHeaders(scope=message), state["request_id"], origin)
            await send(message)

        try:
            self._check_origin(headers, safe=scope["method"] in SAFE_METHODS and scope["path"] not in _FETCHING)
            if not scope["path"]:  # the addresses in the page are relative
                await RedirectResponse(f"{self._settings.root_path}/")(scope, receive, answered)
                return
            if scope["method"] == "OPTIONS" and origin in self._settings.origins:
                await Response(status_code=204)(scope, receive, answered)
                return
            if self._keys and key is None and scope["path"] not in self._settings.open_paths:
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
                await answer(problem, state["request_id"], scope["path"])(scope, receive, answered)
        finally:
            self._count(inner, scope["method"], status, time.perf_counter() - started)

    def _below(self, scope: Scope) -> Scope:
        """The path without that of the service, which a proxy may have taken off already."""
        root, path = self._settings.root_path, scope["path"]
        return {**scope, "path": path.removeprefix(root)} if f"{path}/".startswith(f"{root}/") else scope

    def _check_origin(self, headers: Headers, *, safe: bool) -> None:
        """Refuse what a page of another origin makes a browser send; see `origins`."""
        if len(headers.getlist("host")) > 1:
            raise Problem(400, "host", "the request names more than one host")
        host, origin, site = (headers.get(name, "") for name in ("host", "origin", "sec-fetch-site"))
        if not is_known_host(host, self._settings.allowed_hosts):
            text = f"this service is not known as {header_text(host[:80])!r}"
            raise Problem(421, "host", text, hint="--allowed-host NAME, where it is started, allows a name")
        if not safe and is_foreign(origin=origin, site=site, host=host, allowed=self._settings.origins):
            text = "pages of other origins may not call this service"
            raise Problem(403, "origin", text, hint="--origin ORIGIN, where it is started, allows one")

    def _known(self, given: bytes) -> bytes | None:
        """The key that a request has, if it is one of the service's."""
        # all keys are compared, each in constant time: neither which fits nor how far one fits shows
        fits = [sum(hmac.compare_digest(given, form) for form in forms) > 0 for forms in self._keys]
        return self._keys[fits.index(True)][0] if True in fits else None

    def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """The request's body, refused as soon as it is larger than it may be."""
        files = self._settings.max_files if scope["path"] == "/batch-remove-background" else 1
        # base64 is a third longer, and remove.bg's clients may use it
        encoded = 4 if scope["path"].startswith("/v1.0/") else 3
        limit = self._settings.max_body * files * encoded // 3 + _FORM_ROOM
        announced = headers.get("content-length", "0")
        too_large = Problem(
            413,
            "too-large",
            f"the request is larger than {limit / 1e6:.0f} MB",
            hint=f"a picture may have {self._settings.max_body / 1e6:.0f} MB here",
        )
        if announced.isdecimal() and int(announced) > limit:
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

    def _sign(self, headers: MutableHeaders, request_id: str, origin: str) -> None:
        headers.update({**_ALWAYS, "x-request-id": request_id})
        for name, value in _UNLESS_GIVEN.items():
            headers.setdefault(name, value)
        if self._settings.origins:
            headers.add_vary_header("Origin")
        if origin in self._settings.origins:
            headers.update({"access-control-allow-origin": origin, **_CORS})
            del headers["cross-origin-resource-policy"]

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


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)


def _key(headers: Headers) -> bytes:
    given = headers.get("x-api-key")
    if not given:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else ""
    return given.encode("latin-1")


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
