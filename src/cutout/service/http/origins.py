"""Which host a request is for and which page made a browser send it, by its headers; pure functions.

A browser lets any page send requests to any address that it can reach, this machine's own included. It says so in
headers that pages cannot set; other clients do not send them.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ANY", "LOCAL", "SAFE_METHODS", "default_hosts", "is_foreign", "is_known_host", "is_loopback"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing; their answers are kept from other pages by browsers."""

ANY = "*"
"""Among the allowed hosts: every name."""

LOCAL = "local"
"""Among the allowed hosts: names that cannot be registered on the internet."""

_LOCAL_ENDS = (".local", ".internal", ".home.arpa", ".localhost")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on that address."""
    return ipaddress.ip_address(host).is_loopback if _is_address(host) else host.lower() == "localhost"


def default_hosts(host: str, *, keys: bool) -> tuple[str, ...]:
    """The names that are allowed where the user names none, by the address that is listened on."""
    if is_loopback(host):
        return ()
    # a page that has no key gains nothing by another name
    return (ANY,) if keys else (LOCAL, socket.gethostname().lower(), host.lower())


def is_known_host(header: str, allowed: Sequence[str]) -> bool:
    """Whether a request's `Host` is one by which the service may be called.

    An attacker's name can be made to lead to this machine (DNS rebinding); an address, or `localhost`, is what it is.
    Among the allowed names, `*.example.com` stands for all below it, `*` for all, `local` for those without a dot and
    those below `.local`, `.internal`, `.home.arpa`. Clients of HTTP/1.0 send no `Host`.
    """
    name = _without_port(header).lower().rstrip(".")
    if not name or ANY in allowed or name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return True
    if LOCAL in allowed and ("." not in name or name.endswith(_LOCAL_ENDS)):
        return True
    return any(name == entry or (entry.startswith("*.") and name.endswith(entry[1:])) for entry in allowed)


def is_foreign(*, origin: str, site: str, host: str, allowed: Sequence[str]) -> bool:
    """Whether a request was sent by a page of another origin that is not allowed.

    `site` is `Sec-Fetch-Site`, which browsers leave out without TLS; headers that are missing are empty.
    """
    if origin in allowed:
        return False
    if site:
        return site not in {"same-origin", "none"}
    return bool(origin) and not _is_same(origin, host)


def _is_same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    end = f":{_DEFAULT_PORTS.get(parts.scheme, '')}"
    return bool(parts.netloc) and parts.netloc.removesuffix(end) == host.lower().removesuffix(end)


def _without_port(header: str) -> str:
    header = header.strip()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    name, colon, port = header.rpartition(":")
    return name if colon and (port.isdecimal() or not port) else header


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
