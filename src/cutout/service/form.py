"""Form fields to options: names, kinds, bounds and schema follow from the tables of `RemoveOptions` and `Encoding`."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import TYPE_CHECKING, Any

from cutout.errors import UsageError
from cutout.options import Encoding, RemoveOptions
from cutout.options.backgrounds import parse_background, parse_paint
from cutout.options.idle import Asked, idle
from cutout.output_formats import SUFFIXES, OutputFormat
from cutout.service.models import CutRequest, Models

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cutout.options.backgrounds import Background
    from cutout.options.kinds import Option

__all__ = ["FORMATS", "SHORT", "as_flag", "cut_request", "schema"]

FORMATS = {suffix.removeprefix("."): kind for suffix, kind in SUFFIXES.items()}
SHORT = {
    "alpha_matting": "matting",
    "foreground_threshold": "matting_foreground",
    "background_threshold": "matting_background",
    "erode_size": "matting_erode",
    "format": "output_format",
}
"""Further names of fields."""

_LOOK = RemoveOptions.table
_OURS = {"max_pixels", "max_frames", "first_frame", "threads"}  # for the service to decide
_FILE = {name: row for name, row in Encoding.table.items() if name not in _OURS}
_FIELDS = {**_LOOK, **_FILE}
_MARGIN_TAKES = 4  # times the picture's pixels, at the largest percentage
_LONGEST = 300
_NO_PATH = re.compile(r"[^/\\\x00-\x1f]*")
_NUMBER = re.compile(r"(?<![#\w])(\d+(?:\.\d+)?)\s*(%?)")
_BETWEEN = re.compile(r"[x×*]", re.IGNORECASE)  # width and height
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off"}
_NONE = {"", "none", "null"}


def cut_request(
    values: Mapping[str, str],
    models: Models,
    *,
    max_pixels: int,
    background: bytes | None = None,
    canvas: tuple[int, int] | None = None,
    write: Callable[[str], str] = str,
) -> CutRequest:
    """What a form asks for.

    Args:
        values: Field names and texts.
        models: The opened ones.
        max_pixels: The service's limit.
        background: A picture that the client sent along, in place of a colour.
        canvas: A size of our own choice where the form names none: that of the picture.
        write: How warnings call an option.

    Raises:
        UsageError: An unknown field, a value that does not fit, a path.
    """
    given: dict[str, Any] = {}
    output_format, model = OutputFormat.PNG, None
    for said, text in values.items():
        name = SHORT.get(said, said)
        if name == "model":
            model = text.strip()
        elif name == "output_format":
            output_format = _format(text)
        elif name in _FIELDS:
            given[name] = _parsed(name, _FIELDS[name], text)
        else:
            known = ", ".join(sorted({*_FIELDS, *SHORT, "model", "output_format"}))
            raise UsageError(f"unknown field {said[:80]!r}", hint=f"known: {known}")
    _check_transparency(values.get("background", ""), output_format, given)
    if background is not None:
        given["background"] = background
    if canvas is not None:
        given.setdefault("canvas", canvas)
    options = RemoveOptions.from_mapping({name: value for name, value in given.items() if name in _LOOK})
    if options.canvas is not None and options.canvas[0] * options.canvas[1] > max_pixels:
        raise UsageError(f"canvas has more than {max_pixels / 1e6:.0f} megapixels")
    most = max_pixels // _MARGIN_TAKES if options.margin and options.canvas is None else max_pixels
    file = {name: value for name, value in given.items() if name in _FILE}
    encoding = Encoding(**file, first_frame=True, max_pixels=most)
    name = models.resolve(model)
    told = {each for each, value in given.items() if value not in (None, _FIELDS[each].default)} - {"background"}
    spec = models.spec(name)
    run = Asked(
        options=options,
        encoding=encoding,
        formats=frozenset({output_format}),
        rembg=not spec.file,
        classes=bool(spec.classes),
    )
    warnings = tuple(idle(run, told, write))
    return CutRequest(model=name, options=options, output_format=output_format, encoding=encoding, warnings=warnings)


def _check_transparency(text: str, output_format: OutputFormat, given: Mapping[str, Any]) -> None:
    """What was asked for by name is not replaced by white without a word."""
    if output_format.has_alpha or given.get("mask"):
        return
    color = given.get("background")
    if text.strip().lower() == "transparent" or (isinstance(color, tuple) and color[3] < 255):
        raise UsageError(
            f"background is {text[:80]!r}, but {output_format.value} holds no transparency",
            hint="another output_format, such as png or webp; or a background that is opaque",
        )


def _format(text: str) -> OutputFormat:
    try:
        return FORMATS[text.strip().lower()]
    except KeyError:
        raise UsageError(f"output_format is {text[:80]!r}, but it must be one of {', '.join(FORMATS)}") from None


def _parsed(name: str, row: Option, text: str) -> Any:
    """The text of a field as the option takes it.

    Raises:
        UsageError: It is of no kind that the option takes, larger than the service allows, or it may be a path.
    """
    if len(text) > _LONGEST:
        raise UsageError(f"{name} is longer than {_LONGEST} characters")
    text = text.strip()
    if not text:
        return row.default
    if text.lower() in _NONE and row.default is None:
        return None
    for number, percent in _NUMBER.findall(_BETWEEN.sub(" ", text) if name == "canvas" else text):
        most = row.service_percent if percent and row.service_percent else row.service_most
        if float(number) > most:
            raise UsageError(f"{name} holds {number}{percent}, but at most {most:g}{percent} is allowed here")
    if name == "background":
        return _background(text)
    for kind in row.takes:
        if (value := _as_kind(kind, text)) is not None:
            return value
    wanted = " or ".join(_WORDS.get(kind) or f"one of {', '.join(kind)}" for kind in row.takes)
    raise UsageError(f"{name} is {text[:80]!r}, but it must be {wanted}")


def _background(text: str) -> Background | None:
    """A client names no files of this machine, nor does it learn which there are: none is looked for."""
    numbers = text.split(",")
    try:
        if all(number.strip().isdecimal() for number in numbers):
            return parse_background([int(number) for number in numbers])
        if text.lower() == "transparent":
            return None
        if (paint := parse_paint(text)) is not None:
            return paint
    except ValueError as error:
        raise UsageError(f"background is {text[:80]!r}, but it must be {error}") from None
    raise UsageError(
        "background is no colour", hint="names (white), #rrggbb, #rrggbbaa, rgb(r,g,b), or a picture sent as a file"
    )


def as_flag(text: str) -> bool | None:
    """Yes or no, in one of the words for it; None for any other."""
    word = text.lower()
    return True if word in _YES else False if word in _NO else None


def _as_kind(kind: Any, text: str) -> Any:
    """The text as this kind of value, or None."""
    if kind is bool:
        return as_flag(text)
    if kind in {int, float}:
        # not whatever Python reads, such as 1_000: the limits look for plain numbers
        if (_WHOLE if kind is int else _DECIMAL).fullmatch(text) is None:
            return None
        number = kind(text)
        return number if abs(number) < math.inf else None
    if issubclass(kind, Enum):
        return next((entry for entry in kind if str(entry.value) == text.lower()), None)
    return text if _NO_PATH.fullmatch(text) else None


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text that is no path",
}


def schema(models: Sequence[str] = ()) -> dict[str, Any]:
    """JSON schema of all fields beside the file."""
    properties: dict[str, Any] = {
        "output_format": {"type": "string", "enum": list(FORMATS), "default": "png"},
        "model": {"type": "string", **({"enum": list(models)} if models else {})},
        **{name: _schema(row) for name, row in _FIELDS.items()},
    }
    properties["background"] = {
        "description": "A colour, or a picture as a file.",
        "anyOf": [{"type": "string", "maxLength": _LONGEST}, {"type": "string", "format": "binary"}],
    }
    for short, name in SHORT.items():
        properties[short] = {**properties[name], "description": f"The same as {name}."}
    return properties


def _schema(row: Option) -> dict[str, Any]:
    found = [_schema_of(kind, row) for kind in row.takes]
    shown = {"x-group": row.panel} | ({"x-unit": row.unit} if row.unit else {})
    result = {"description": row.help(), **shown} | (found[0] if len(found) == 1 else {"anyOf": found})
    return result if row.default is None else result | {"default": row.default}


def _schema_of(kind: Any, row: Option) -> dict[str, Any]:
    if kind in {int, float}:
        most = {} if row.service_most == math.inf else {"maximum": row.service_most}
        return {"type": "integer" if kind is int else "number", "minimum": row.service_least, **most}
    if kind is bool:
        return {"type": "boolean"}
    return {"type": "string", "maxLength": _LONGEST} if kind is str else {"type": "string", "enum": list(kind)}
