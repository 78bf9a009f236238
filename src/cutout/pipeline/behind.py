"""A picture behind the subject, decoded once for all cut-outs that share their options, and brought to their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from cutout.formats.picture import Picture
    from cutout.options.backgrounds import BackgroundPicture

__all__ = ["behind"]

_WHITE = (255, 255, 255, 255)


def behind(
    picture: BackgroundPicture, fit: BackgroundFit = BackgroundFit.COVER, size: tuple[int, int] | None = None
) -> Image.Image:
    """The picture (mode RGB, sRGB), in its own size or brought to another (width, height).

    A file that was changed since is read again; of sizes the last one is kept: pictures of one size follow each other.

    Raises:
        UsageError: It cannot be read.
    """
    kept = picture.kept
    try:
        with picture.lock:
            changed = 0 if picture.path is None else picture.path.stat().st_mtime_ns
            if kept.get("changed") != changed:
                kept.clear()
                kept.update(rgb=_opaque(_decoded(picture)), changed=changed)
            rgb: Image.Image = kept["rgb"]
            if size is None:
                return rgb
            if kept.get("brought to") != (fit, size):
                kept.update({"fitted": fitted(rgb, size, fit), "brought to": (fit, size)})
            result: Image.Image = kept["fitted"]
            return result
    except (OSError, PictureError) as error:
        raise UsageError(
            f"the background picture {picture} cannot be used: {error}", options=("background",)
        ) from error


def _decoded(picture: BackgroundPicture) -> Picture:
    source = picture.source
    if picture.path is not None:
        source = read_file(picture.path, most_bytes(decode.DEFAULT_MAX_PIXELS))
    if isinstance(source, bytes | bytearray | memoryview):
        return decode.decode(bytes(source))
    return from_image(source) if isinstance(source, Image.Image) else from_array(source)


def _opaque(picture: Picture) -> Image.Image:
    rgb = to_srgb(picture.rgb, picture.metadata.icc)
    return rgb if picture.alpha is None else composite.compose(rgb, picture.alpha, _WHITE)[0]  # nothing lies behind it
