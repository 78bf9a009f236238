"""uvicorn's HTTP with bounds on size and time of a request's head, which is read before any API key can be checked.

It derives from uvicorn's parser because uvicorn has no limit for the time of a head, none for its size with httptools,
and closes connections of which the client has closed its half only.
"""

from __future__ import annotations

import secrets
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cutout.service.http.problems import Problem, answer

if TYPE_CHECKING:
    import asyncio

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "Protocol"]

HEAD_BYTES = 64 * 1024
"""Of the address and all headers of a request, or of what follows its last chunk."""

HEAD_SECONDS = 30.0
"""From the first byte of a request, or the start of the connection, until the last header is there."""

LOOK_SECONDS = 0.25
"""Between two checks whether a half-closed connection was closed entirely."""

_CLOSED = 7  # TCP_CLOSE: the other side has reset the connection


class Protocol(HttpToolsProtocol):
    """A connection whose requests have headers of a bounded size that arrive in a bounded time."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._silent = 0  # bytes since the last whole head, piece of a body, or end of a request
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
        if not self._in_body or self.cycle.response_complete:  # the rest of the body is read only to be dropped
            self._arm()
        while data and not self.transport.is_closing():
            room = HEAD_BYTES - self._silent
            self._silent += min(room, len(data))
            super().data_received(data[:room])
            data = data[room:]
            # headers, and what follows the last chunk, are kept until they are whole
            if self._silent >= HEAD_BYTES and not self.transport.is_closing():
                text = f"the headers of the request are longer than {HEAD_BYTES // 1024} KB"
                self._refuse(Problem(431, "too-long", text))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        self._refuse(Problem(400, "request", msg))

    def _refuse(self, problem: Problem) -> None:
        """An answer in the shape of all errors, for what never becomes a request."""
        request_id = secrets.token_hex(8)
        response = answer(problem, request_id)
        response.headers.update(
            {"x-content-type-options": "nosniff", "x-request-id": request_id, "connection": "close"}
        )
        head = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
        head += [b"%s: %s" % header for header in response.raw_headers]
        self.transport.write(b"\r\n".join([*head, b"", bytes(response.body)]))
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
        self._arm()
        super().on_message_begin()

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
