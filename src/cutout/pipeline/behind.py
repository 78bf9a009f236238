"""A picture behind the subject, decoded once for all cut-outs that share their options, and brought to their size."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from cutout.enums import BackgroundFit
from cutout.errors import PictureError, UsageError
from cutout.formats import decode
from cutout.formats.color import to_srgb
from cutout.formats.picture import from_array, from_image
from cutout.formats.reading import most_bytes, read_file
from cutout.imaging import composite
from cutout.imaging.background import fitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutout.formats.picture import Picture
    from cutout.options.backgrounds import BackgroundPicture

__all__ = ["behind", "memory_of"]

_WHITE = (255, 255, 255, 255)


def memory_of(picture: BackgroundPicture) -> int:
    """Bytes that the picture takes in its own size; of one that is not decoded yet the header alone is read.

    Raises:
        UsageError: It cannot be read.
    """
    with _told(picture), picture.lock:
        if "rgb" not in picture.kept:  # so that the file is read once
            picture.kept["source"] = _changed(picture), _source(picture)
        width, height = picture.kept["rgb"].size if "rgb" in picture.kept else _size(picture.kept["source"][1])
    return 4 * width * height


def behind(
    picture: BackgroundPicture, fit: BackgroundFit = BackgroundFit.COVER, size: tuple[int, int] | None = None
) -> Image.Image:
    """The picture (mode RGB, sRGB), in its own size or brought to another (width, height).

    A file that was changed since is read again; of sizes the last one is kept: pictures of one size follow each other.

    Raises:
        UsageError: It cannot be read.
    """
    kept = picture.kept
    with _told(picture), picture.lock:
        changed = _changed(picture)
        if kept.get("changed") != changed:
            when, source = kept.pop("source", (None, None))
            kept.clear()
            kept.update(rgb=_opaque(_decoded(source if when == changed else _source(picture))), changed=changed)
        rgb: Image.Image = kept["rgb"]
        if size is None:
            return rgb
        if kept.get("brought to") != (fit, size):
            kept.update({"fitted": fitted(rgb, size, fit), "brought to": (fit, size)})
        result: Image.Image = kept["fitted"]
        return result


@contextmanager
def _told(picture: BackgroundPicture) -> Iterator[None]:
    try:
        yield
    except (OSError, PictureError) as error:
        raise UsageError(
            f"the background picture {picture} cannot be used: {error}", options=("background",)
        ) from error


def _changed(picture: BackgroundPicture) -> int:
    return 0 if picture.path is None else picture.path.stat().st_mtime_ns


def _size(source: Any) -> tuple[int, int]:
    if isinstance(source, bytes | bytearray | memoryview):
        return decode.header(bytes(source)).size
    if isinstance(source, Image.Image):
        return source.size
    height, width = (*source.__array_interface__["shape"], 1, 1)[:2]
    return width, height


def _source(picture: BackgroundPicture) -> Any:
    """What was given, or the content of the file that was."""
    return picture.source if picture.path is None else read_file(picture.path, most_bytes(decode.DEFAULT_MAX_PIXELS))


def _decoded(source: Any) -> Picture:
    if isinstance(source, bytes | bytearray | memoryview):
        return decode.decode(bytes(source))
    return from_image(source) if isinstance(source, Image.Image) else from_array(source)


def _opaque(picture: Picture) -> Image.Image:
    rgb = to_srgb(picture.rgb, picture.metadata.icc)
    return rgb if picture.alpha is None else composite.compose(rgb, picture.alpha, _WHITE)[0]  # nothing lies behind it
