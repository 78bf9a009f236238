"""What a batch is, and what a store of batches does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cutout.service.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Files = Sequence[tuple[str, Callable[[], bytes]]]
    """Names, and how to read the pictures."""

__all__ = ["MOST_ATTEMPTS", "Item", "Jobs", "Task", "Work", "too_many"]

MOST_ATTEMPTS = 3
"""A picture during which the process has died so often is reported failed instead of tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One picture of a batch, by its place from 0."""

    number: int
    name: str
    """What the client calls it; never used as a path."""
    state: str
    """`waiting`, `working`, `done` or `failed`."""
    error: Mapping[str, str] | None = None
    """Kind and message of a failure."""
    media: str = ""
    """Extension of the result, such as `png`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A batch; its id cannot be guessed."""

    id: str
    client: str
    expires: float | None
    """Seconds since 1970, once everything is finished."""
    items: Sequence[Item]

    @property
    def finished(self) -> bool:
        """Whether every picture is done or failed."""
        return all(item.state in {"done", "failed"} for item in self.items)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A picture that a worker has taken."""

    task: str
    number: int
    client: str
    fields: Mapping[str, str]


def too_many(most: int, retry_after: int = 5) -> Problem:
    """A client has as many unfinished batches as it may; `retry_after` is in seconds."""
    return Problem(429, "too-many-tasks", f"{most} of your batches are not finished", retry_after=retry_after)


class Jobs(Protocol):
    """Where batches are kept. Every method may block, and may be called from any thread."""

    def add(self, client: str, fields: Mapping[str, str], files: Files, *, most: int) -> str:
        """Keep a batch for good, and give its id; what was added is finished or reported failed.

        Args:
            client: Who gives it.
            fields: The options, as in a form.
            files: Its pictures.
            most: Unfinished batches that the client may have, this one included.

        Raises:
            Problem: There is no room for it, or the client has enough of them; nothing of it is kept.
        """

    def task(self, task: str) -> Task | None:
        """A batch; None when there is none of that id, or it has expired."""

    def source(self, work: Work) -> bytes:
        """The picture to be worked on."""

    def finish(self, work: Work, data: bytes, media: str) -> None:
        """Keep a result."""

    def fail(self, work: Work, error: Mapping[str, str]) -> None:
        """Keep the reason of a failure."""

    def result(self, task: str, number: int) -> bytes:
        """A result that is done."""

    def delete(self, task: str) -> bool:
        """Delete a batch and all its pictures; whether there was one."""

    def pending(self, client: str | None = None) -> int:
        """Pictures that are not finished; of one client: its unfinished batches."""

    def workers(self) -> int | None:
        """Living workers on this or other machines; None where the service itself works on batches."""
        return None

    def close(self) -> None:
        """Close the store; unfinished batches are kept."""
