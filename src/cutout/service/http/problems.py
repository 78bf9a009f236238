"""Errors as HTTP answers: one JSON shape, remove.bg's under its own addresses, no stack traces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import Response

from cutout.errors import CutoutError, PictureError, UsageError
from cutout.formats.decode import TooLargeError
from cutout.pipeline.budget import MemoryBusyError, OverBudgetError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SHAPE", "Problem", "answer", "problem_of"]


class Problem(CutoutError):  # noqa: N818 - what RFC 9457 calls it
    """An answer other than the one that was asked for.

    Args:
        status: HTTP status.
        kind: A stable word for programs.
        message: What happened.
        hint: What to do next.
        retry_after: Seconds, for a client that should come again.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        hint: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.word = kind
        self.retry_after = retry_after
        self.headers = headers or {}

    @property
    def facts(self) -> dict[str, str]:
        """Kind, message and hint, as the outcome of a batch's picture."""
        return {"kind": self.word, "message": self.message} | ({"hint": self.hint} if self.hint else {})


SHAPE: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "message", "hint", "request_id"],
            "properties": {
                "kind": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": ["string", "null"]},
                "request_id": {"type": "string"},
            },
        }
    },
}
"""The JSON schema of all errors but those under remove.bg's addresses."""


def answer(problem: Problem, request_id: str, path: str = "") -> Response:
    """An error as JSON; under remove.bg's addresses as its clients know them."""
    headers = dict(problem.headers)
    if problem.retry_after is not None:
        headers["retry-after"] = str(problem.retry_after)
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    status, word, hint = problem.status, problem.word, problem.hint
    body: Any = {"error": {"kind": word, "message": problem.message, "hint": hint, "request_id": request_id}}
    if path.startswith("/v1.0/"):
        status, code = _AS_REMOVE_BG.get(word, (_STATUSES_THERE.get(status, status), word.replace("-", "_")))
        body = {"errors": [{"title": problem.message, "code": code} | ({"detail": hint} if hint else {})]}
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(data, status, headers, media_type="application/json")


_STATUSES_THERE = {413: 400, 415: 400, 422: 400}
_AS_REMOVE_BG = {
    "no-key": (403, "auth_failed"),
    "no-file": (400, "missing_source"),
    "not-a-picture": (400, "invalid_file_type"),
    "empty": (400, "failed_to_read_image"),
    "picture": (400, "failed_to_read_image"),
    "too-large": (400, "file_too_large"),
    "usage": (400, "invalid_parameter"),
    "overloaded": (429, "rate_limit_exceeded"),
}
"""Status and code there, by our kind."""


class _Row(NamedTuple):
    error: type[CutoutError]
    status: int
    kind: str
    retry_after: int | None = None
    hint: str | None = None
    """Instead of the error's own, which may speak of the command line."""


# The first row that fits is taken.
_ROWS = (
    _Row(MemoryBusyError, 503, "memory", 5),
    _Row(OverBudgetError, 413, "too-large", hint="send a smaller picture, or ask for PNG"),
    _Row(TooLargeError, 413, "too-large", hint="send a smaller picture"),
    _Row(PictureError, 422, "picture"),
    _Row(UsageError, 422, "usage"),
    _Row(CutoutError, 422, "failed"),
)


def problem_of(error: BaseException) -> Problem:
    """Any error as an answer; an unexpected one is a 500 without any detail."""
    if isinstance(error, Problem):
        return error
    if not isinstance(error, CutoutError):
        return Problem(500, "bug", "this is a bug of the service", hint="its log tells more under the request id")
    row = next(row for row in _ROWS if isinstance(error, row.error))
    return Problem(row.status, row.kind, error.message, hint=row.hint or error.hint, retry_after=row.retry_after)
