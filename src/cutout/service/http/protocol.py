"""uvicorn's HTTP with bounds on size and time of a request's head, which is read before any API key can be checked.

It derives from uvicorn's parser because uvicorn has no limit for the time of a head, none for its size with httptools,
and closes connections of which the client has closed its half only.
"""

from __future__ import annotations

import json
import secrets
import socket
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "Protocol"]

HEAD_BYTES = 64 * 1024
"""Of the address and all headers of a request."""

HEAD_SECONDS = 30.0
"""From the first byte of a request, or the start of the connection, until the last header is there."""

LOOK_SECONDS = 0.25
"""Between two checks whether a half-closed connection was closed entirely."""

_CLOSED = 7  # TCP_CLOSE: the other side has reset the connection


def _refusal(status: str, kind: str, message: str) -> bytes:
    """An answer in the shape of all errors, for what never becomes a request."""
    request_id = secrets.token_hex(8)
    error = {"kind": kind, "message": message, "hint": None, "request_id": request_id}
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n"
        f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class _TooLongError(Exception):
    """Raised inside the parser, which reports it as a broken request."""


class Protocol(HttpToolsProtocol):
    """A connection whose requests have headers of a bounded size that arrive in a bounded time."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._silent = 0  # bytes since the parser last reported a whole part
        self._head = 0  # bytes of this request's address and headers
        self._too_long = False
        self._in_body = False
        self._alarm: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._too_long:
            return
        if not self._in_body or self.cycle.response_complete:  # the rest of the body is read only to be dropped
            self._arm()
        self._silent += len(data)
        super().data_received(data)
        # a header, or what follows the last chunk, is kept by the parser until it is whole
        if self._silent > HEAD_BYTES and not self.transport.is_closing():
            self._too_long = True
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or one that is too long."""
        if self._too_long:
            text = f"the headers of the request are longer than {HEAD_BYTES // 1024} KB"
            self.transport.write(_refusal("431 Request Header Fields Too Large", "too-long", text))
        else:
            self.transport.write(_refusal("400 Bad Request", "request", msg or "this is not an HTTP request"))
        self.transport.close()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client has closed its half of the connection; it may have closed the whole of it, or wait for its answer.

        The two differ once something is sent: a closed connection is reset by the other side. So a provisional answer
        is sent, which every client of HTTP/1.1 passes over, and the state of the connection is watched until the
        answer has been sent.
        """
        cycle: Any = self.cycle
        waits = cycle is not None and not cycle.response_complete and not self._in_body
        if not waits or self.pipeline or self.scope["http_version"] != "1.1" or _state(self.transport) is None:
            return None  # there is nothing to answer, or no way to tell: the connection is closed
        cycle.keep_alive = False
        if not cycle.response_started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._watch()
        return True

    def _watch(self) -> None:
        if _state(self.transport) == _CLOSED:
            self.transport.abort()
        elif not self.transport.is_closing():
            self._look = self.loop.call_later(LOOK_SECONDS, self._watch)

    def on_message_begin(self) -> None:
        self._head = 0
        self._arm()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, before the body or after it."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._silent = 0
        self._in_body = True
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent = 0
        self._in_body = False
        self._disarm()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            self._too_long = True
            raise _TooLongError

    def _arm(self) -> None:
        if self._alarm is None:
            self._alarm = self.loop.call_later(HEAD_SECONDS, self._late)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _late(self) -> None:
        self._alarm = None
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self._arm()  # an earlier request of this connection is still being answered
        elif not self.transport.is_closing():
            self.transport.close()


def _state(transport: asyncio.Transport) -> int | None:
    """The state of a TCP connection, where the system tells; Linux does."""
    connection = transport.get_extra_info("socket")
    try:
        return int(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    except (AttributeError, OSError):
        return None
