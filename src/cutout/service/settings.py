"""What a service is started with: one frozen object that validates itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cutout.errors import UsageError
from cutout.models.files import data_home
from cutout.models.registry import DEFAULT_MODEL
from cutout.pipeline.budget import parse_bytes
from cutout.system import usable_cpus

__all__ = ["CLOSABLE", "Settings", "read_keys"]

CLOSABLE = {
    "metrics": frozenset({"/metrics"}),
    "pages": frozenset({"/", "/docs", "/openapi.json"}),
    "ready": frozenset({"/ready"}),
}
"""Paths that give nothing of pictures, and need a key only where `Settings.closed` says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that a service is started with.

    Attributes:
        models: Names that requests may ask for; the first is taken where none is named.
        device: As in `Remover`.
        workers: Pictures worked on side by side.
        memory_limit: Memory that all pictures at work may take, as in `Remover`.
        queue: Requests that are admitted at once, those being worked on included.
        timeout: Seconds after which a request that has no result is answered with 503.
        max_body: Bytes of one request, or of one file of a batch.
        max_pixels: Larger pictures are refused.
        max_files: Files of one batch.
        max_tasks: Unfinished batches of one client.
        expiry: Seconds that a finished batch can be fetched.
        api_keys: Who may use the service; empty lets everybody.
        closed: What asks for a key too, of `CLOSABLE`.
        origins: Web origins whose pages may call the service.
        allowed_hosts: Names by which requests may call it, beside `localhost` and addresses; see `origins`.
        root_path: Path below which a proxy shows the service, such as `/cutout`; empty where it shows it at the top.
        image_url: Whether the service may fetch pictures from the network.
        fetch_private: Whether it may fetch them from private addresses too.
        folder: Where batches are kept.
        broker: `redis://…` where batches go through Celery to workers elsewhere.
        redelivery: Seconds after which a picture whose worker has died is given to another.

    Raises:
        UsageError: A value is out of range.
    """

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    device: str | None = None
    workers: int = field(default_factory=usable_cpus)
    memory_limit: str | int | None = None
    queue: int = 128
    timeout: float = 120.0
    max_body: int = 10_000_000
    max_pixels: int = 40_000_000
    max_files: int = 50
    max_tasks: int = 16
    expiry: float = 300.0
    api_keys: tuple[str, ...] = ()
    closed: frozenset[str] = frozenset()
    origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    root_path: str = ""
    image_url: bool = False
    fetch_private: bool = False
    folder: Path = field(default_factory=lambda: data_home() / "service")
    broker: str | None = None
    redelivery: float = 60.0

    def __post_init__(self) -> None:
        for name in ("workers", "queue", "max_body", "max_pixels", "max_files", "max_tasks"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but it must be at least 1", options=(name,))
        for name in ("timeout", "expiry", "redelivery"):
            if not 0 < getattr(self, name) < 1e9:
                raise UsageError(
                    f"{name} is {getattr(self, name)}, but it must be a positive number of seconds", options=(name,)
                )
        if self.root_path and not _PREFIX.fullmatch(self.root_path):
            raise UsageError(
                f"root_path is {self.root_path!r}, but it must be a path such as /cutout", options=("root_path",)
            )
        if self.memory_limit is not None:
            parse_bytes(self.memory_limit)
        if not self.models:
            raise UsageError("a service needs at least one --model")
        if self.broker is not None and not self.broker.startswith(("redis://", "rediss://", "redis+socket://")):
            raise UsageError(f"--broker {self.broker!r} is not of the form redis://host:port/number")
        self._check_keys()

    def _check_keys(self) -> None:
        if self.closed and not self.api_keys:
            raise UsageError("there is no API key that --closed could ask for", hint="name some with --api-key")
        if any(len(key) < _SHORTEST_KEY for key in self.api_keys):
            raise UsageError(f"an API key has fewer than {_SHORTEST_KEY} characters", hint="openssl rand -hex 20")
        if not all(key.isprintable() and key == key.strip() for key in self.api_keys):
            raise UsageError(
                "an API key has spaces around it or signs that no header holds", hint="openssl rand -hex 20"
            )

    @property
    def open_paths(self) -> frozenset[str]:
        """Paths that need no key."""
        paths = [paths for name, paths in CLOSABLE.items() if name not in self.closed]
        return frozenset({"/health", "/favicon.ico"}).union(*paths)

    @property
    def model_names(self) -> tuple[str, ...]:
        """How requests name the models: never by a path."""
        return tuple(Path(name).stem if name.lower().endswith(".onnx") else name for name in self.models)


_SHORTEST_KEY = 8
_PREFIX = re.compile(r"(/[\w.~-]+)+", re.ASCII)


def read_keys(path: Path) -> tuple[str, ...]:
    """API keys from a file: one a line; empty lines and those that begin with # are passed over.

    Raises:
        UsageError: The file cannot be read or holds no key.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"the file of API keys {path} cannot be read: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise UsageError(f"the file of API keys {path} holds no key", hint="one a line; openssl rand -hex 20 makes one")
    return keys
