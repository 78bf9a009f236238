"""What answers say beside their picture: figures, warnings, a file name that is safe to save under."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response

if TYPE_CHECKING:
    from cutout.service.models import Done

__all__ = ["disposition", "header_text", "label", "picture_answer", "picture_headers"]

_LONGEST = 120
_NOT_IN_NAMES = re.compile(r'[<>:"|?*]')
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+-]")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # on Windows, with any ending


def header_text(text: str) -> str:
    """A text as it may stand in a header: printable ASCII."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text)


def picture_headers(done: Done, seconds: float) -> dict[str, str]:
    """What an answer says beside the picture; `seconds` since the request began."""
    timing = ", ".join(f"{stage};dur={milliseconds}" for stage, milliseconds in done.ms.items())
    headers = {
        "X-Processing-Time": f"{seconds:.4f}",
        "X-Model-Version": header_text(done.model),
        "X-Device": header_text(done.device),
        "X-Width": str(done.size[0]),
        "X-Height": str(done.size[1]),
        "Server-Timing": timing,
    }
    if done.placed:
        headers["X-Original-Box"] = " ".join(f"{edge:.2f}" for edge in done.placed)
    if done.warnings:
        headers["X-Warning"] = header_text("; ".join(done.warnings))
    return headers


def picture_answer(done: Done, given: str | None, seconds: float) -> Response:
    """A picture with all that is said beside it; `given` is the name of the client's file or address."""
    headers = picture_headers(done, seconds)
    headers["Content-Disposition"] = disposition(given, done.output_format.value)
    return Response(done.data, media_type=done.output_format.row.media_type, headers=headers)


def label(given: str | None, otherwise: str) -> str:
    """A client's file name without folders, special signs and invisible ones; `otherwise` where nothing is left."""
    last = re.split(r"[/\\]", (given or "").encode("utf-8", "replace").decode())[-1]
    seen = "".join(sign if sign.isprintable() else "_" for sign in last)
    name = _NOT_IN_NAMES.sub("_", seen).strip(". ")[:_LONGEST].strip(". ")
    return ("_" + name if _DEVICES.match(name) else name) or otherwise


def disposition(given: str | None, extension: str) -> str:
    """`Content-Disposition` of a result: the name of the client's picture, `-cutout`, and the result's extension."""
    stem = PurePosixPath(label(given, "picture")).stem
    name = f"{stem}-cutout.{extension}"
    plain = _NOT_PLAIN.sub("_", name)
    # the second is for those who know it (RFC 6266), and names the same file to all of them
    return f'attachment; filename="{plain}"' + (f"; filename*=UTF-8''{quote(name, safe='')}" if plain != name else "")
