"""A picture behind the subject, decoded once for all cut-outs that share their options, and brought to their size."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cutout.enums import BackgroundFit
from cutout.errors import PictureError, UsageError
from cutout.formats import decode
from cutout.formats.color import to_srgb
from cutout.formats.reading import most_bytes, read_file
from cutout.formats.sources import header_of, picture_of
from cutout.imaging import composite
from cutout.imaging.background import fitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from cutout.formats.picture import Picture
    from cutout.options.backgrounds import BackgroundPicture

__all__ = ["behind", "memory_of"]

_WHITE = (255, 255, 255, 255)


def memory_of(picture: BackgroundPicture) -> int:
    """Bytes that the picture takes in its own size; of one that is not decoded yet the header alone is read.

    Raises:
        UsageError: It cannot be read.
    """
    if (rgb := picture.found.get("rgb")) is None:
        with _current(picture) as found:
            rgb = found.get("rgb") or header_of(found["source"])
    return 4 * int(rgb.size[0] * rgb.size[1])


def behind(
    picture: BackgroundPicture, fit: BackgroundFit = BackgroundFit.COVER, size: tuple[int, int] | None = None
) -> Image.Image:
    """The picture (mode RGB, sRGB), in its own size or brought to another (width, height).

    A file that was changed since is read again; of sizes the last one is kept: pictures of one size follow each other.

    Raises:
        UsageError: It cannot be read.
    """
    with _current(picture) as found:
        if "rgb" not in found:
            found["rgb"] = _opaque(picture_of(found["source"]))
            del found["source"]
        if size is not None and found.get("brought to") != (fit, size):
            found.update({"fitted": fitted(found["rgb"], size, fit), "brought to": (fit, size)})
        result: Image.Image = found["rgb" if size is None else "fitted"]
        return result


@contextmanager
def _current(picture: BackgroundPicture) -> Iterator[dict[str, Any]]:
    """What is kept of a picture, for one thread at a time: `source`, or what was made of it."""
    path = picture.path
    try:
        with picture.lock:
            changed = 0 if path is None else path.stat().st_mtime_ns
            if picture.found.get("changed") != changed:
                source = picture.source if path is None else read_file(path, most_bytes(decode.DEFAULT_MAX_PIXELS))
                picture.found.clear()
                picture.found.update(source=source, changed=changed)
            yield picture.found
    except (OSError, PictureError) as error:
        raise UsageError(
            f"the background picture {picture} cannot be used: {error}", options=("background",)
        ) from error


def _opaque(picture: Picture) -> Image.Image:
    rgb = to_srgb(picture.rgb, picture.metadata.icc)
    return rgb if picture.alpha is None else composite.compose(rgb, picture.alpha, _WHITE)[0]  # nothing lies behind it
