"""The fields of remove.bg's interface: what each may hold, and what it is in ours; pure functions on texts.

After that interface's OpenAPI description of 2021 and its list of changes since.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from starlette.datastructures import UploadFile

from cutout.options.values import Length, parse_color, parse_length
from cutout.service.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FIELDS", "box_of", "invalid", "is_zip", "one_of", "options_of", "read", "region_of", "type_header"]

_MEGAPIXELS = {"preview": 0.25, "small": 0.25, "regular": 0.25, "medium": 1.5, "hd": 4.0}
_LENGTH, _SHARE = r"\d+(\.\d+)?(px|%)?", r"(100|\d{1,2}(\.\d+)?)%"
_TYPES = ("auto", "person", "product", "animal", "car", "graphic", "transportation")
_OLDER_TYPES = ("graphics", "car_interior", "car_part", "other")
_MOST_MARGIN = {True: 50, False: 500}
"""Of a `crop_margin` in percent, and in pixels."""
_SHADOW = "0,2%,4%,{}%"
"""The shape of our own, with another opacity."""


def _flag(about: str, *, default: bool = False) -> dict[str, Any]:
    return {"type": "boolean", "default": default, "description": about}


def _word(about: str, *words: str) -> dict[str, Any]:
    """One of some words, the first of which is the default."""
    return {"type": "string", "enum": list(words), "default": words[0], "description": about}


def _text(about: str, pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^({pattern})$", "maxLength": 100, "description": about, **more}


def _file(about: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": about}


_LONG = {"type": "string"}
_NOTHING = "Accepted, and changes nothing here."

FIELDS: dict[str, dict[str, Any]] = {
    "image_file": _file("The picture."),
    "image_file_b64": {**_LONG, "description": "The picture in base64."},
    "image_url": {**_LONG, "description": "Where the picture is, for a service that may fetch it."},
    "size": _word(
        "preview, small and regular bound the result to 0.25 megapixels, medium to 1.5, hd to 4; the others do not.",
        *(*_MEGAPIXELS, "full", "4k", "50MP", "auto"),
    ),
    "type": _word("Told back as X-Type; the same model finds all of them.", *_TYPES, *_OLDER_TYPES),
    "type_level": _word("none leaves X-Type out; nothing is classified here.", "1", "none", "2", "latest"),
    "format": _word("auto is png, or jpg over an opaque background.", "auto", "png", "jpg", "webp", "zip", "jpeg"),
    "roi": _text("Where the subject may be: x1 y1 x2 y2 in px or %.", rf"{_LENGTH}(\s+{_LENGTH}){{3}}"),
    "crop": _flag("Cut the result to the subject."),
    "crop_margin": _text(
        "Room around it with crop: one, two or four lengths, at most 50% or 500px.",
        rf"{_LENGTH}|{_LENGTH}(,?\s+|,){_LENGTH}|{_LENGTH}((,?\s+|,){_LENGTH}){{3}}",
        default="0",
    ),
    "scale": _text("Size of the subject in the picture, 10% to 100%.", r"original|[1-9]\d(\.\d+)?%|100(\.0+)?%"),
    "position": _text(
        "Place of the subject in the picture: across and down, or one for both.",
        rf"original|center|{_SHARE}|{_SHARE}(,?\s+|,){_SHARE}",
    ),
    "channels": _word("alpha gives the mask alone.", "rgba", "alpha"),
    "add_shadow": _flag("The same as shadow_type drop."),
    "shadow_type": _word("A soft shadow; all kinds but none are the same here.", "none", "auto", "drop", "3D", "car"),
    "shadow_opacity": _text("Of the shadow, 0 to 100 or auto.", r"auto|100|\d{1,2}", default="auto"),
    "shadow_method": {**_LONG, "maxLength": 100, "description": _NOTHING},
    "semitransparency": _flag(_NOTHING, default=True),
    "bg_color": {**_LONG, "maxLength": 100, "description": "A name or hex code, with alpha in the 4th or 7th place."},
    "bg_image_url": {**_LONG, "description": "Where a background is, for a service that may fetch it."},
    "bg_image_file": _file("A picture as background, scaled to cover."),
}
"""Their JSON schemas, by which `read` checks them."""


def invalid(name: str, text: str, hint: str | None = None) -> Problem:
    """What refuses the value of a field: `invalid_NAME` there."""
    return Problem(400, f"invalid-{name.replace('_', '-')}", text, hint=hint)


def read(given: Mapping[str, object]) -> dict[str, str]:
    """The texts of a form that are not empty, each checked and in lower case where it is a word; a file is `file`.

    Raises:
        Problem: An unknown field, or one that holds what it may not.
    """
    found = {}
    for name, value in given.items():
        schema = FIELDS.get(name)
        if schema is None:
            text = f"there is no parameter {name[:80]!r}"
            raise Problem(400, "unknown-parameter", text, hint=f"known: {', '.join(FIELDS)}")
        is_file = isinstance(value, UploadFile)
        if is_file:
            found[name] = "file"
        elif text := str(value).strip():
            found[name] = _checked(name, schema, text)
        if name in found and is_file != (schema.get("format") == "binary"):
            raise invalid(name, f"{name} {'takes no' if is_file else 'must be a'} file")
    return found


def _checked(name: str, schema: Mapping[str, Any], text: str) -> str:
    said = f"{name} is {text[:40]!r}, but it must be"
    if len(text) > schema.get("maxLength", math.inf):
        raise invalid(name, f"{name} is longer than {schema['maxLength']} characters")
    if schema["type"] == "boolean":
        words = {"true": "true", "1": "true", "yes": "true", "false": "false", "0": "false", "no": "false"}
        if text.lower() not in words:
            raise invalid(name, f"{said} true or false")
        return words[text.lower()]
    if "enum" in schema:
        if text.lower() not in {word.lower() for word in schema["enum"]}:
            raise invalid(name, f"{said} one of {', '.join(schema['enum'])}")
        return text.lower()
    if "pattern" in schema and re.fullmatch(schema["pattern"], text.lower()) is None:
        raise invalid(name, f"{said} {schema['description']}")
    return text.lower() if "pattern" in schema else text


def one_of(words: Mapping[str, str], names: Sequence[str], code: str) -> str | None:
    """The one field of several that is given, if any is.

    Raises:
        Problem: More than one is.
    """
    given = [name for name in names if name in words]
    if len(given) > 1:
        raise Problem(400, code, f"give one of these, not several: {', '.join(given)}")
    return given[0] if given else None


def is_zip(words: Mapping[str, str]) -> bool:
    """Whether colours and alpha are asked for as two files."""
    return words.get("format") == "zip"


def type_header(words: Mapping[str, str]) -> dict[str, str]:
    """`X-Type`: the type that the client has set, else `other`, for none is detected; nothing for type_level none."""
    named = words.get("type", "auto")
    return {} if words.get("type_level") == "none" else {"X-Type": "other" if named == "auto" else named}


def options_of(words: Mapping[str, str], size: tuple[int, int]) -> tuple[dict[str, str], list[str]]:
    """The fields of ours that do what the words ask for, and what of the words does nothing.

    Args:
        words: What `read` gave.
        size: Width and height of the picture.

    Raises:
        Problem: They do not go together.
    """
    placed, notes = _placing(words)
    values = {"output_format": _format(words), **placed}
    megapixels = _MEGAPIXELS.get(words.get("size", "preview"), math.inf)
    share = math.sqrt(megapixels * 1e6 / (size[0] * size[1]))
    if share < 1:
        values["max_size"] = str(max(1, int(max(size) * share + 1e-6)))
    notes += _idle(words)
    if words.get("channels") == "alpha" and not is_zip(words):  # which holds the mask anyway
        values["mask"] = "true"
        if not {"crop", "scale"} & set(values):
            values.pop("shadow", None)
        nothing = [name for name in ("bg_color", "bg_image_url", "bg_image_file") if name in words]
        notes += [f"{name} does nothing here: channels alpha has no colours" for name in nothing]
    elif "bg_color" in words:
        values["background"] = _background(words["bg_color"], values["output_format"])
    return values, notes


def _placing(words: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    values, notes = {}, []
    margin = words.get("crop_margin")
    if margin is not None and any(
        length.value > _MOST_MARGIN[length.percent] for length in map(_length, re.split(r"[\s,]+", margin))
    ):
        raise invalid("crop_margin", f"crop_margin is {margin!r}, but at most 50% or 500px are allowed")
    opacity = words.get("shadow_opacity", "auto")
    if _shadow(words) != "none":
        values["shadow"] = "default" if opacity == "auto" else _SHADOW.format(opacity)
    scale, position = (words.get(name, "original") for name in ("scale", "position"))
    if (scale, position) != ("original", "original"):
        values["scale"] = scale
        values["position"] = "center"
        if position not in {"center", "original"}:
            shares = re.split(r"[\s,]+", position)
            values["position"] = f"{shares[0]},{shares[-1]}"
        if "original" in words.get("position", ""):
            notes.append("position original does nothing here: scale sets the subject in the middle")
        if words.get("crop") == "true":
            notes.append("crop does nothing here: scale and position keep the picture's size")
    elif words.get("crop") == "true":
        values["crop"] = "true"
        if margin is not None:
            values["margin"] = ",".join(re.split(r"[\s,]+", margin))
    if margin is not None and "crop" not in values and any(sign in margin for sign in "123456789"):
        notes.append("crop_margin does nothing here: it goes with crop")
    return values, notes


def _shadow(words: Mapping[str, str]) -> str:
    return words.get("shadow_type", "drop" if words.get("add_shadow") == "true" else "none")


def _idle(words: Mapping[str, str]) -> list[str]:
    """What of the words changes nothing in the picture."""
    shadow = _shadow(words)
    rows = (
        ("type", words.get("type", "auto") != "auto", "one model finds all of them"),
        ("type_level", words.get("type_level", "none") != "none", "types are not detected"),
        ("semitransparency", words.get("semitransparency") == "false", "soft edges stay soft"),
        ("shadow_method", "shadow_method" in words, "there is one"),
        ("shadow_opacity", "shadow_opacity" in words and shadow == "none", "there is no shadow"),
        ("shadow_type", shadow in {"3d", "car"}, "the shadow is that of drop"),
    )
    return [f"{name} {words[name]} does nothing here: {why}" for name, is_idle, why in rows if is_idle]


def _format(words: Mapping[str, str]) -> str:
    asked = words.get("format", "auto")
    picture = any(name in words for name in ("bg_image_url", "bg_image_file"))
    opaque = picture or _alpha(words.get("bg_color", "transparent")) == 255
    return {"auto": "jpg" if opaque and words.get("channels") != "alpha" else "png", "zip": "png"}.get(asked, asked)


def _color(text: str) -> str:
    return f"#{text}" if re.fullmatch(r"[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8}", text) else text


def _alpha(text: str) -> int:
    """Of a background's colour, 0–255.

    Raises:
        Problem: It is no colour.
    """
    if text.lower() == "transparent":
        return 0
    color = parse_color(_color(text))
    if color is None:
        hint = "a name such as green, or a hex code such as 81d4fa, fff or 81d4fa77"
        raise invalid("bg_color", f"bg_color is {text[:40]!r}, which is no colour", hint)
    return color[3]


def _background(text: str, output_format: str) -> str:
    if _alpha(text) < 255 and output_format in {"jpg", "jpeg"}:
        raise invalid("bg_color", f"bg_color is {text[:40]!r}, but {output_format} holds no transparency", "format=png")
    return _color(text)


def _length(text: str) -> Length:
    return parse_length(float(text), text) if text[-1].isdigit() else parse_length(text, text, math.inf)


def region_of(words: Mapping[str, str]) -> list[Length] | None:
    """Left, top, right and bottom of the region of interest; None where it is the whole picture."""
    found = [_length(text) for text in words.get("roi", "0% 0% 100% 100%").split()]
    whole = [Length(100, percent=True)] * 2
    return None if found[2:] == whole and not any(length.value for length in found[:2]) else found


def box_of(region: Sequence[Length], size: tuple[int, int], reduced: float = 1.0) -> tuple[int, int, int, int]:
    """The same in pixels of a picture.

    Args:
        region: What `region_of` gave.
        size: Width and height of the picture.
        reduced: By how much it is smaller than the one that the region's pixels are of.

    Raises:
        Problem: It is empty, or reaches beyond the picture.
    """
    sides = (*size, *size)
    lengths = zip(region, sides, strict=True)
    edges = [length.of(side) if length.percent else length.value * reduced for length, side in lengths]
    rounded = 0 if reduced == 1 else 1  # pixels that the sides of a smaller picture may be off
    if any(edge > side + rounded for edge, side in zip(edges, sides, strict=True)):
        text = "roi reaches beyond the picture of {:.0f}×{:.0f} pixels".format(*(side / reduced for side in size))
        raise Problem(400, "roi-exceeds-bounds", text)
    left, top, right, bottom = (min(round(edge), side) for edge, side in zip(edges, sides, strict=True))
    if left >= right or top >= bottom:
        raise Problem(400, "roi-region-empty", "roi is empty")
    return left, top, right, bottom
