"""Pictures that a client names by their address, without access to what only this machine can reach.

All of it runs on the event loop: a fetch that is late, or whose client has disconnected, is cancelled at whatever it
waits for, and no thread waits with it. Only names are looked up in threads, since the system's resolver cannot be
cancelled; these are daemons, so that none of them holds up the end of the process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import socket
import ssl
import threading
import zlib
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import httpx

from cutout.service.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    Resolve = Callable[[str, int], list[str]]

__all__ = ["fetch", "is_public"]

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = 3
_ADDRESSES = 3  # of one name that are tried
_CONNECT = 5.0  # seconds for each of them; `fetch` has the deadline of all else
_LOOKUPS = threading.BoundedSemaphore(256)  # threads, however slowly names are answered
_unpacker = zlib.decompressobj
_UNPACKED = {"gzip", "x-gzip", "deflate"}
_HEADERS = {"User-Agent": "cutout", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address behind a translator


async def fetch(
    url: str, *, max_bytes: int, seconds: float = 15.0, private: bool = False, resolve: Resolve | None = None
) -> bytes:
    """The bytes behind an address.

    Only http and https on their own ports, only hosts all of whose addresses are public; the connection goes to the
    very address that was checked, redirects are followed a few times under the same rules, size and time are bounded.

    Args:
        url: The address, as a client gave it.
        max_bytes: More are refused, counted after a compression that the server has applied.
        seconds: For all of it, names and redirects included.
        private: Let private addresses and other ports pass.
        resolve: Host and port to addresses, called in a thread; another one in tests.

    Raises:
        Problem: It is not allowed, cannot be reached, or is too large.
    """
    try:
        async with asyncio.timeout(seconds):
            for _ in range(_REDIRECTS + 1):
                found = await _answer(_checked(url, private=private), max_bytes, resolve or _resolve, private=private)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
    except (httpx.InvalidURL, ValueError):
        raise _refused("the address, or one that it leads to, is not valid") from None
    except TimeoutError:
        raise _refused("the address cannot be fetched: it takes too long") from None
    except (OSError, httpx.HTTPError) as error:
        raise _refused("the address cannot be fetched: it cannot be reached") from error
    raise _refused(f"the address leads on more than {_REDIRECTS} times")


def _refused(text: str) -> Problem:
    return Problem(400, "url", text, hint="send the picture itself")


def _checked(text: str, *, private: bool) -> httpx.URL:
    """An address that may be asked; raises as `httpx.URL` and `urlsplit` do where it is none."""
    urlsplit(text)
    url = httpx.URL(text.encode("utf-8", "replace").decode())
    if url.scheme not in _PORTS or not url.host or len(text) > 2000:
        raise _refused("the address must begin with http:// or https://")
    if url.userinfo:
        raise _refused("the address must not hold a password")
    if url.port not in {None, _PORTS[url.scheme]} and not private:
        raise _refused("the address must not name a port")
    if any(sign <= " " or sign == "\x7f" for sign in text):
        raise _refused("the address is not valid")
    return url


async def _answer(url: httpx.URL, max_bytes: int, resolve: Resolve, *, private: bool) -> bytes | str:
    """The body, or the address that a redirect names."""
    try:
        addresses = await _looked_up(resolve, url.raw_host.decode(), url.port or _PORTS[url.scheme])
    except (OSError, UnicodeError):
        raise _refused("the address names an unknown host") from None
    if not addresses or not (private or all(map(is_public, addresses))):
        raise _refused("the address names a host that is not on the public internet")
    *others, last = addresses[:_ADDRESSES]
    for address in others:
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await _get(url, address, max_bytes)
    return await _get(url, last, max_bytes)


async def _get(url: httpx.URL, address: str, max_bytes: int) -> bytes | str:
    """The same by one address.

    The request goes to the address; `Host`, and the name that the certificate must have, are those of the host. The
    transport is made for this one request: connections are kept by address, and another host may have the same.
    """
    request = httpx.Request(
        "GET",
        url.copy_with(host=address),
        headers={**_HEADERS, "Host": url.netloc.decode()},
        extensions={"sni_hostname": url.raw_host.decode(), "timeout": {"connect": _CONNECT}},
    )
    async with httpx.AsyncHTTPTransport(verify=_certificates(), trust_env=False) as transport:
        response = await transport.handle_async_request(request)
        try:
            if response.has_redirect_location:
                raw = next(value for name, value in response.headers.raw if name.lower() == b"location")
                return raw.decode("utf-8", "replace")
            if response.status_code != 200:
                raise _refused(f"the address answers with status {response.status_code}")
            return await _body(response, max_bytes)
        finally:
            await response.aclose()


def _resolve(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


async def _looked_up(resolve: Resolve, host: str, port: int) -> list[str]:
    busy = Problem(503, "overloaded", "too many names are being looked up", hint="try again later", retry_after=15)
    lookups = _LOOKUPS
    if not lookups.acquire(blocking=False):
        raise busy
    found: concurrent.futures.Future[list[str]] = concurrent.futures.Future()
    found.set_running_or_notify_cancel()

    def look() -> None:
        try:
            addresses = resolve(host, port)
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            lookups.release()
            found.set_exception(error)
        else:
            lookups.release()
            found.set_result(addresses)

    try:
        threading.Thread(target=look, name="cutout-lookup", daemon=True).start()
    except RuntimeError:  # the system has no room for another thread
        lookups.release()
        raise busy from None
    return await asyncio.wrap_future(found)


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


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    too_large = Problem(413, "too-large", f"the picture there is larger than {max_bytes / 1e6:.0f} MB")
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {*_UNPACKED, "identity"}:
        raise _refused("the address answers in a compression that was not asked for")
    unpacker = _unpacker(32 + zlib.MAX_WBITS) if coding in _UNPACKED else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        try:
            # no more than is allowed is ever unpacked
            body += unpacker.decompress(chunk, max_bytes + 1 - len(body)) if unpacker else chunk
        except zlib.error:
            raise _refused("the address answers with broken data") from None
        if len(body) > max_bytes:
            raise too_large
    if unpacker is not None and not unpacker.eof:
        raise _refused("the address answers with broken data")
    return bytes(body)


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()
