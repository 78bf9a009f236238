"""HTTP as uvicorn speaks it, with bounds on what comes before a body: no key is checked until the headers are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "Protocol"]

HEAD_BYTES = 64 * 1024
"""Of the address and all headers of a request."""

HEAD_SECONDS = 30.0
"""From the first byte of a request, or the start of the connection, until the last header is there."""

_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 39\r\n\r\nthe headers of the request are too long"
)


class _TooLongError(Exception):
    """Goes through the parser, which calls it a broken request."""


class Protocol(HttpToolsProtocol):
    """A connection whose requests have headers of a bounded size that arrive in a bounded time."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._silent = 0  # bytes since the parser last told of something whole
        self._head = 0  # bytes of this request's address and headers
        self._too_long = False
        self._in_body = False
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._too_long:
            return
        if not self._in_body or self.cycle.response_complete:  # nobody waits for the rest of a body any more
            self._arm()
        self._silent += len(data)
        super().data_received(data)
        # a header, or what follows the last chunk, is kept by the parser until it is whole
        if self._silent > HEAD_BYTES and not self.transport.is_closing():
            self._too_long = True
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or one that is too long."""
        if not self._too_long:
            super().send_400_response(msg)
            return
        self.transport.write(_TOO_LONG)
        self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = 0
        self._arm()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, before the body or after it."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request can be looked at."""
        self._silent = 0
        self._in_body = True
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
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
