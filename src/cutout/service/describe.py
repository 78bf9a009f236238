"""Pieces of the OpenAPI description that several endpoints share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutout.service import form
from cutout.service.problems import SHAPE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PICTURE", "errors", "form_body", "task_schema"]

PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

_ERRORS = {
    400: "No file, or a broken form.",
    401: "An API key is needed.",
    404: "There is no such thing.",
    408: "The request came too slowly.",
    409: "Not ready yet.",
    413: "Too many bytes, pixels or files.",
    415: "No form, or no picture.",
    422: "A picture or a value that cannot be used.",
    429: "Too many unfinished batches.",
    503: "Busy, or out of time or memory; see Retry-After.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error answers of an endpoint."""
    content = {"application/json": {"schema": SHAPE}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def form_body(field: str, models: Sequence[str], *, several: bool = False) -> dict[str, Any]:
    """The form that takes a picture, or several, and every option."""
    binary: dict[str, Any] = {"type": "string", "format": "binary"}
    options = form.schema(models)
    if several:
        options["background"] = {"type": "string", "description": "A colour."}
    schema = {
        "type": "object",
        "required": [field],
        "additionalProperties": False,
        "properties": {field: {"type": "array", "items": binary, "minItems": 1} if several else binary, **options},
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def task_schema(*, short: bool = False) -> dict[str, Any]:
    """What is told of a batch."""
    count = {"type": "integer", "minimum": 0}
    known: dict[str, Any] = {"task_id": {"type": "string"}, "total": count}
    if not short:
        file = {
            "number": count,
            "name": {"type": "string"},
            "state": {"type": "string", "enum": ["waiting", "working", "done", "failed"]},
            "error": {"type": ["object", "null"]},
        }
        known |= {
            "state": {"type": "string", "enum": ["waiting", "working", "finished"]},
            "completed": count,
            "failed": count,
            "expires": {"type": ["number", "null"]},
            "files": {"type": "array", "items": {"type": "object", "required": list(file), "properties": file}},
        }
    return {"type": "object", "required": list(known), "properties": known}
