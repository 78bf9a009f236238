"""Form fields to options: names, kinds and schema follow from `RemoveOptions` and `Encoding`."""

from __future__ import annotations

import math
import re
import types
import typing
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout.errors import UsageError
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import SUFFIXES, OutputFormat
from cutout.service.models import CutRequest, Models
from cutout.values import parse_color

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FORMATS", "SHORT", "cut_request", "schema"]

FORMATS = {suffix.removeprefix("."): kind for suffix, kind in SUFFIXES.items()}
SHORT = {
    "alpha_matting": "matting",
    "foreground_threshold": "matting_foreground",
    "background_threshold": "matting_background",
    "erode_size": "matting_erode",
    "format": "output_format",
}
"""Further names of fields."""

_OURS: dict[str, Any] = {
    "threads": 1,
    "max_frames": None,
    "first_frame": True,
}  # of `Encoding`: for the service to decide
_LARGEST = 10_000  # of any number: neither results of any size nor hours of work must be had by asking
_LARGEST_OF = {"erode": 100, "dilate": 100, "feather": 200, "matting_erode": 200, "margin": 2000, "shadow": 500}
_LARGEST_PERCENT = {"margin": 50.0}
_MARGIN_TAKES = 4  # times the picture's pixels, at that percentage
_LONGEST = 300
_NO_PATH = re.compile(r"[^/\\\x00-\x1f]*")
_NUMBER = re.compile(r"(?<![#\w])(\d+(?:\.\d+)?)\s*(%?)")
_BETWEEN = re.compile(r"[x×*]", re.IGNORECASE)  # width and height
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_FREE = {"max_size"}  # only ever makes a picture smaller
_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off"}
_NONE = {"", "none", "null"}


@dataclass(frozen=True, slots=True)
class _FormField:
    name: str
    kinds: tuple[Any, ...]
    """What the value may be, without None; the members of a union."""
    optional: bool
    default: Any

    def parse(self, text: str) -> Any:
        """The text of a form field as a value.

        Raises:
            UsageError: It is none of the kinds, or it may be a path.
        """
        if len(text) > _LONGEST:
            raise UsageError(f"{self.name} is longer than {_LONGEST} characters")
        text = text.strip()
        if text.lower() in _NONE and (self.optional or not text):
            return self.default if not text else None
        self._check_numbers(text)
        for kind in self.kinds:
            value = _as_kind(kind, text)
            if value is not None:
                if isinstance(value, int | float):
                    self._check_number(value, str(value))
                return value
        raise UsageError(f"{self.name} is {text[:80]!r}, but it must be {self._wanted()}")

    def _check_numbers(self, text: str) -> None:
        for number, percent in _NUMBER.findall(_BETWEEN.sub(" ", text) if self.name == "canvas" else text):
            self._check_number(float(number), number, percent)

    def _check_number(self, value: float, shown: str, percent: str = "") -> None:
        most = math.inf if self.name in _FREE else _LARGEST_OF.get(self.name, _LARGEST)
        limit = _LARGEST_PERCENT.get(self.name, most) if percent else most
        if abs(value) > limit:
            raise UsageError(f"{self.name} holds {shown}{percent}, but at most {limit:g}{percent} is allowed here")

    def _wanted(self) -> str:
        return " or ".join(_WORDS.get(kind) or _members(kind) for kind in self.kinds)

    def _bounds(self) -> dict[str, Any]:
        most = _MOST_OF.get(self.name, None if self.name in _FREE else _LARGEST_OF.get(self.name, _LARGEST))
        least = _LEAST_OF.get(self.name, 0)
        found = {"minimum": -most if least is None and most is not None else least, "maximum": most}
        return {word: value for word, value in found.items() if value is not None}

    def schema(self) -> dict[str, Any]:
        """JSON schema of the field."""
        found: list[dict[str, Any]] = []
        for kind in self.kinds:
            if kind in {int, float}:
                found.append(_SCHEMAS[kind] | self._bounds())
            elif isinstance(kind, type) and issubclass(kind, Enum):
                found.append({"type": "string", "enum": [str(entry.value) for entry in kind]})
            elif kind in _SCHEMAS:
                found.append(_SCHEMAS[kind])
        result: dict[str, Any] = (
            dict(found[0]) if len(found) == 1 else {"anyOf": found} if found else {"type": "string"}
        )
        if isinstance(self.default, bool | int | float | str) and not isinstance(self.default, Enum):
            result["default"] = self.default
        elif isinstance(self.default, Enum):
            result["default"] = self.default.value
        return result


# What the options themselves allow, where that is less than the service does.
_LEAST_OF = {"max_size": 1, "canvas": 1, "margin": None}
_MOST_OF = {"threshold": 255, "matting_foreground": 255, "matting_background": 255, "tiles": 8, "quality": 100}
_SCHEMAS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string", "maxLength": _LONGEST},
}
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text that is no path",
}


def _members(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(entry.value) for entry in kind)
    return "a value that it takes"


def _as_kind(kind: Any, text: str) -> Any:
    """The text as this kind of value, or None."""
    if kind is bool:
        word = text.lower()
        return True if word in _YES else False if word in _NO else None
    if kind in {int, float}:
        # not whatever Python reads, such as 1_000: the limits look for plain numbers
        if (_WHOLE if kind is int else _DECIMAL).fullmatch(text) is None:
            return None
        number = int(text) if kind is int else float(text)
        return number if abs(number) < math.inf else None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next((entry for entry in kind if str(entry.value) == text.lower()), None)
    if typing.get_origin(kind) is tuple:
        return _numbers(text) if set(typing.get_args(kind)) <= {int, ...} else None
    # A client names no files of this machine; nor does it learn which there are.
    return text if kind is str and _NO_PATH.fullmatch(text) else None


def _numbers(text: str) -> tuple[int, ...] | None:
    parts = re.split(r"\s*[,x×]\s*", text)
    return tuple(map(int, parts)) if len(parts) > 1 and all(part.isdecimal() for part in parts) else None


def _entries(owner: type[Any]) -> dict[str, _FormField]:
    hints = typing.get_type_hints(owner)
    return {
        field.name: _FormField(field.name, *_kinds(hints[field.name]), _default(field))
        for field in fields(owner)
        if field.name not in _OURS and field.name != "max_pixels"
    }


def _kinds(hint: Any) -> tuple[tuple[Any, ...], bool]:
    members = typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, types.UnionType} else (hint,)
    kinds = [kind for kind in members if kind is not types.NoneType and kind is not Path]
    # a text fits everything, so it comes last; 1 is a number before it is a yes
    kinds.sort(key=lambda kind: (kind is str, kind not in {int, float}))
    return tuple(kinds), types.NoneType in members


def _default(field: Field[Any]) -> Any:
    return None if field.default is MISSING else field.default


_LOOK = _entries(RemoveOptions)
_FILE = _entries(Encoding)
_ENCODING = {field.name for field in fields(Encoding)}


def cut_request(
    values: Mapping[str, str],
    models: Models,
    *,
    max_pixels: int,
    background: Path | None = None,
    canvas: tuple[int, int] | None = None,
) -> CutRequest:
    """What a form asks for.

    Args:
        values: Field names and texts.
        models: The opened ones.
        max_pixels: The service's limit.
        background: A picture that the client sent along, in place of a colour.
        canvas: A size of our own choice where the form names none: that of the picture.

    Raises:
        UsageError: An unknown field, a value that does not fit, a path.
    """
    look: dict[str, Any] = {}
    file: dict[str, Any] = {}
    output_format, model = OutputFormat.PNG, None
    for given, text in values.items():
        name = SHORT.get(given, given)
        if name == "model":
            model = text.strip()
        elif name == "output_format":
            output_format = _format(text)
        elif name in _LOOK:
            look[name] = _LOOK[name].parse(text)
        elif name in _FILE:
            file[name] = _FILE[name].parse(text)
        else:
            known = ", ".join(sorted({*_LOOK, *_FILE, *SHORT, "model", "output_format"}))
            raise UsageError(f"unknown field {given[:80]!r}", hint=f"known: {known}")
    _check_transparency(values.get("background", ""), output_format, look)
    if background is not None:
        look["background"] = background
    if canvas is not None:
        look.setdefault("canvas", canvas)
    options = _options(look, background)
    if not 0 <= (file.get("quality") or 0) <= 100:
        raise UsageError(f"quality is {file['quality']}, but it must lie between 0 and 100")
    fixed = {name: value for name, value in _OURS.items() if name in _ENCODING and value is not None}
    most = max_pixels // _MARGIN_TAKES if look.get("margin") and not look.get("canvas") else max_pixels
    encoding = Encoding(**file, **fixed, max_pixels=most)
    _check_canvas(values.get("canvas", ""), max_pixels)
    return CutRequest(model=models.resolve(model), options=options, output_format=output_format, encoding=encoding)


def _options(look: dict[str, Any], background: Path | None) -> RemoveOptions:
    no_color = UsageError(
        "background is no colour", hint="names (white), #rrggbb, #rrggbbaa, rgb(r,g,b), or a picture sent as a file"
    )
    try:
        options = RemoveOptions.from_mapping(look)
    except UsageError as error:
        # the same words whether or not there is a file of that name here
        raise (
            no_color if isinstance(look.get("background"), str) and "picture file" in error.message else error
        ) from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"the options do not go together: {error}") from error
    if options.background_picture != background:
        raise no_color
    return options


def _check_transparency(text: str, output_format: OutputFormat, look: Mapping[str, Any]) -> None:
    """What was asked for by name is not replaced by white without a word."""
    if output_format.has_alpha or look.get("mask"):
        return
    color = parse_color(text) if text.strip() else None
    if text.strip().lower() == "transparent" or (color is not None and color[3] < 255):
        raise UsageError(
            f"background is {text[:80]!r}, but {output_format.value} holds no transparency",
            hint="another output_format, such as png or webp; or a background that is opaque",
        )


def _check_canvas(text: str, max_pixels: int) -> None:
    sides = [float(number) for number, _ in _NUMBER.findall(_BETWEEN.sub(" ", text))][:2]
    if sides and sides[0] * sides[-1] > max_pixels:
        raise UsageError(f"canvas has more than {max_pixels / 1e6:.0f} megapixels")


def _format(text: str) -> OutputFormat:
    try:
        return FORMATS[text.strip().lower()]
    except KeyError:
        raise UsageError(f"output_format is {text[:80]!r}, but it must be one of {', '.join(FORMATS)}") from None


def schema(models: typing.Sequence[str] = ()) -> dict[str, Any]:
    """JSON schema of all fields beside the file."""
    properties: dict[str, Any] = {
        "output_format": {"type": "string", "enum": list(FORMATS), "default": "png"},
        "model": {"type": "string", **({"enum": list(models)} if models else {})},
        **{name: entry.schema() for name, entry in (_LOOK | _FILE).items()},
    }
    properties["background"] = {
        "description": "A colour, or a picture as a file.",
        "anyOf": [{"type": "string", "maxLength": _LONGEST}, {"type": "string", "format": "binary"}],
    }
    for short, name in SHORT.items():
        properties[short] = {**properties[name], "description": f"The same as {name}."}
    return properties
