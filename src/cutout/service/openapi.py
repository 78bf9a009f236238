"""Pieces of the OpenAPI description that several endpoints share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutout.service import form
from cutout.service.http.problems import SHAPE

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

__all__ = ["PICTURE", "errors", "form_body", "secured", "task_schema"]

PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

_ERRORS = {
    400: "No file, or a broken form.",
    401: "An API key is needed.",
    403: "A page of another origin has sent it.",
    404: "There is no such thing.",
    408: "The request came too slowly.",
    409: "Not ready yet.",
    413: "Too many bytes, pixels or files.",
    415: "No form, or no picture.",
    421: "It is for a name that is not the service's.",
    422: "A picture or a value that cannot be used.",
    429: "Too many unfinished batches.",
    503: "Busy, or out of time or memory; see Retry-After.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error answers of an endpoint."""
    return {
        status: {"description": _ERRORS[status], "content": _CONTENT, **(_AGAIN if status in _LATER else {})}
        for status in statuses
    }


_CONTENT: dict[str, Any] = {"application/json": {"schema": SHAPE}}
_LATER = {409, 429, 503}
_AGAIN: dict[str, Any] = {
    "headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
}
_SCHEMES: dict[str, Any] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


def secured(schema: dict[str, Any], free: Container[str], *, required: bool) -> dict[str, Any]:
    """A description of the interface, with what the guard does before every endpoint; done twice it is the same.

    Args:
        schema: The description, which is changed.
        free: Paths that need no key.
        required: Whether the others do.
    """
    schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
    keys: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
    for path, methods in schema.get("paths", {}).items():
        for method, operation in methods.items():
            operation["security"] = [] if path in free else keys if required else [{}, *keys]
            added = (421,) if method == "get" else (403, 421)
            for status, answer in errors(*added).items():
                operation["responses"].setdefault(str(status), answer)
    return schema


def form_body(field: str, models: Sequence[str], *, several: int = 0) -> dict[str, Any]:
    """The form that takes a picture, or up to that many, and every option."""
    binary: dict[str, Any] = {"type": "string", "format": "binary"}
    options = form.schema(models)
    if several:
        options["background"] = {"type": "string", "description": "A colour."}
    schema = {
        "type": "object",
        "required": [field],
        "additionalProperties": False,
        "properties": {
            field: {"type": "array", "items": binary, "minItems": 1, "maxItems": several} if several else binary,
            **options,
        },
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def task_schema(*, short: bool = False) -> dict[str, Any]:
    """What is told of a batch."""
    count = {"type": "integer", "minimum": 0}
    known: dict[str, Any] = {"task_id": {"type": "string"}, "total": count}
    further: dict[str, Any] = {}
    if short:
        warning = {"number": count, "name": {"type": "string"}, "warning": {"type": "string"}}
        items = {"type": "object", "required": list(warning), "properties": warning}
        text = "Pictures of which something will be missing, such as further frames."
        further = {"warnings": {"type": "array", "items": items, "description": text}}
    else:
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
    return {"type": "object", "required": list(known), "properties": known | further}
