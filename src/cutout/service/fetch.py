"""Pictures from the internet at a client's word, without letting it reach what only this machine can reach."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from cutout.service.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["fetch", "is_public"]

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = 3
_REDIRECTING = {301, 302, 303, 307, 308}
_CHUNK = 1 << 16
_AS_IT_IS = "".join(map(chr, range(0x21, 0x7F)))  # what is quoted already, or needs not to be
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address behind a translator


def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float = 15.0,
    private: bool = False,
    resolve: Callable[[str, int], list[str]] | None = None,
) -> bytes:
    """The bytes behind an address.

    Only http and https on their own ports, only hosts all of whose addresses are public; the connection goes to the
    very address that was checked, redirects are followed a few times under the same rules, size and time are bounded.

    Args:
        url: The address, as a client gave it.
        max_bytes: More are refused.
        seconds: For all of it.
        private: Let private addresses and other ports pass.
        resolve: Host and port to addresses; another one in tests.

    Raises:
        Problem: It is not allowed, cannot be reached, or is too large.
    """
    deadline = time.monotonic() + seconds
    for _ in range(_REDIRECTS + 1):
        parts = _checked(url, private=private)
        host = parts.hostname or ""
        port = parts.port or _PORTS[parts.scheme]
        address = _address(host, port, resolve or _resolve, private=private)
        try:
            found = _get(parts, address, port, max_bytes, deadline)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            why = "it takes too long" if time.monotonic() >= deadline else "it cannot be reached"
            raise _refused(f"the address cannot be fetched: {why}") from error
        if isinstance(found, bytes):
            return found
        try:
            url = urljoin(url, found)
        except ValueError:
            raise _refused("the address leads to one that is not valid") from None
    raise _refused(f"the address leads on more than {_REDIRECTS} times")


def _refused(text: str) -> Problem:
    return Problem(400, "url", text, hint="send the picture itself")


def _checked(url: str, *, private: bool) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("the address is not valid") from None
    if parts.scheme not in _PORTS or not parts.hostname or len(url) > 2000:
        raise _refused("the address must begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise _refused("the address must not hold a password")
    if port not in {None, _PORTS[parts.scheme]} and not private:
        raise _refused("the address must not name a port")
    if any(sign <= " " or sign == "\x7f" for sign in url):
        raise _refused("the address is not valid")
    return parts


def _resolve(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _address(host: str, port: int, resolve: Callable[[str, int], list[str]], *, private: bool) -> str:
    try:
        found = resolve(host.encode("idna").decode("ascii"), port)
    except (OSError, UnicodeError):
        raise _refused("the address names an unknown host") from None
    if not found or not (private or all(map(is_public, found))):
        raise _refused("the address names a host that is not on the public internet")
    return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also after every translation that it may stand for."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if found in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if int(found) >> 32 == 0:  # IPv4-compatible, long abandoned
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever the name means by now."""

    def __init__(self, parts: SplitResult, address: str, port: int, timeout: float) -> None:
        super().__init__(parts.hostname or "", port, timeout=timeout)
        self._address = address
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None

    def connect(self) -> None:
        """Connect to the address; the certificate must be the name's."""
        self.sock: Any = socket.create_connection((self._address, self.port), self.timeout)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def _get(parts: SplitResult, address: str, port: int, max_bytes: int, deadline: float) -> bytes | str:
    """The body, or where it leads."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection = _Pinned(parts, address, port, left)
    # a server that sends a byte now and then would pass every timeout of a single read
    alarm = threading.Timer(left, lambda: connection.sock and connection.sock.shutdown(socket.SHUT_RDWR))
    alarm.daemon = True
    alarm.start()
    try:
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), _AS_IT_IS, errors="replace")
        connection.request(
            "GET", target, headers={"User-Agent": "cutout", "Accept": "image/*", "Accept-Encoding": "identity"}
        )
        response = connection.getresponse()
        if response.status in _REDIRECTING and (onward := response.getheader("Location")):
            return onward.encode("latin-1").decode("utf-8", "replace")  # undoes what http.client takes headers for
        if response.status != 200:
            raise _refused(f"the address answers with status {response.status}")
        body = bytearray()
        while chunk := response.read(_CHUNK):
            body += chunk
            if len(body) > max_bytes:
                raise Problem(413, "too-large", f"the picture there is larger than {max_bytes / 1e6:.0f} MB")
        if time.monotonic() >= deadline:  # what the alarm cut off looks complete
            raise TimeoutError
        return bytes(body)
    finally:
        alarm.cancel()
        connection.close()
