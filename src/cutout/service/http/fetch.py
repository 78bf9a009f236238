"""Pictures from the internet at a client's word, without letting it reach what only this machine can reach.

All of it runs on the event loop: a fetch that is late, or whose client has disconnected, is cancelled at whatever it
waits for, and no thread waits with it. Only names are looked up in threads, since the system's resolver cannot be
cancelled; these are daemons, so that none of them holds up the end of the process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
import zlib
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpx

from cutout.service.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["fetch", "is_public"]

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = 3
_REDIRECTING = {301, 302, 303, 307, 308}
_ADDRESSES = 3  # of one name that are tried
_CONNECT = 5.0  # seconds for each of them
_LOOKUPS = threading.BoundedSemaphore(256)  # threads, however slowly names are answered
_unpacker = zlib.decompressobj
_UNPACKED = {"gzip", "x-gzip", "deflate"}
_HEADERS = {"User-Agent": "cutout", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
_AS_IT_IS = "".join(map(chr, range(0x21, 0x7F)))  # what is quoted already, or needs not to be
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address behind a translator


async def fetch(
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
        max_bytes: More are refused, counted after a compression that the server has applied.
        seconds: For all of it, names and redirects included.
        private: Let private addresses and other ports pass.
        resolve: Host and port to addresses, called in a thread; another one in tests.

    Raises:
        Problem: It is not allowed, cannot be reached, or is too large.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _followed(url, max_bytes, resolve or _resolve, private=private)
    except TimeoutError:
        raise _refused("the address cannot be fetched: it takes too long") from None


async def _followed(url: str, max_bytes: int, resolve: Callable[[str, int], list[str]], *, private: bool) -> bytes:
    for _ in range(_REDIRECTS + 1):
        parts = _checked(url, private=private)
        addresses = await _addresses(parts, resolve, private=private)
        try:
            found = await _first_answer(parts, addresses, max_bytes)
        except (OSError, httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise _refused("the address cannot be fetched: it cannot be reached") from error
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


async def _addresses(parts: SplitResult, resolve: Callable[[str, int], list[str]], *, private: bool) -> list[str]:
    """The addresses of a host, each of which may be connected to."""
    try:
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port or _PORTS[parts.scheme]
        found = await _looked_up(resolve, host, port)
    except (OSError, UnicodeError):
        raise _refused("the address names an unknown host") from None
    if not found or not (private or all(map(is_public, found))):
        raise _refused("the address names a host that is not on the public internet")
    return found[:_ADDRESSES]


async def _looked_up(resolve: Callable[[str, int], list[str]], host: str, port: int) -> list[str]:
    if not _LOOKUPS.acquire(blocking=False):
        raise _busy()
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def tell(addresses: list[str], error: Exception | None) -> None:
        if found.done():  # it was cancelled
            return
        if error is None:
            found.set_result(addresses)
        else:
            found.set_exception(error)

    def look() -> None:
        addresses: list[str] = []
        failure: Exception | None = None
        try:
            addresses = resolve(host, port)
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            failure = error
        finally:
            _LOOKUPS.release()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, addresses, failure)

    try:
        threading.Thread(target=look, name="cutout-lookup", daemon=True).start()
    except RuntimeError:  # the system has no room for another thread
        _LOOKUPS.release()
        raise _busy() from None
    return await found


def _busy() -> Problem:
    return Problem(503, "overloaded", "too many names are being looked up", hint="try again later", retry_after=15)


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


async def _first_answer(parts: SplitResult, addresses: list[str], max_bytes: int) -> bytes | str:
    for address in addresses[:-1]:
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await _get(parts, address, max_bytes)
    return await _get(parts, addresses[-1], max_bytes)


async def _get(parts: SplitResult, address: str, max_bytes: int) -> bytes | str:
    """The body, or where it leads.

    The request goes to the address; `Host`, and the name that the certificate must have, are those of the host. The
    client is made for this one request: connections are kept by address, and another host may have the same.
    """
    host = (parts.hostname or "").encode("idna").decode("ascii")
    named = f"[{host}]" if ":" in host else host
    if parts.port not in {None, _PORTS[parts.scheme]}:
        named += f":{parts.port}"
    target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), _AS_IT_IS, errors="replace")
    url = httpx.URL(scheme=parts.scheme, host=address, port=parts.port, raw_path=target.encode("ascii"))
    transport = httpx.AsyncHTTPTransport(verify=_certificates(), trust_env=False)
    limit = httpx.Timeout(None, connect=_CONNECT)  # `fetch` has the deadline
    async with (
        httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=limit) as client,
        client.stream("GET", url, headers={**_HEADERS, "Host": named}, extensions={"sni_hostname": host}) as response,
    ):
        if response.status_code in _REDIRECTING:
            onward = next((value for name, value in response.headers.raw if name.lower() == b"location"), b"")
            if onward:
                return onward.decode("utf-8", "replace")
        if response.status_code != 200:
            raise _refused(f"the address answers with status {response.status_code}")
        return await _body(response, max_bytes)


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
