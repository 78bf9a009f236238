"""Pictures as Python programs give them: the bytes of a file, an image of Pillow's, or an array of numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from cutout.errors import UsageError
from cutout.formats import decode
from cutout.formats.picture import Header, Picture, from_array, from_image

__all__ = ["header_of", "picture_of"]

_File = bytes | bytearray | memoryview | decode.CheckedFile


def header_of(source: Any) -> Header:
    """What a picture says of itself; nothing is decoded.

    Raises:
        UsageError: It is none of these kinds.
        PictureError: The file's header is broken, or says that it is too large.
    """
    if isinstance(source, _File):
        return decode.header(_whole(source))
    if isinstance(source, Image.Image):
        return Header(size=source.size, mode="RGBA")
    if hasattr(source, "__array_interface__"):
        height, width = (*np.shape(source), 1, 1)[:2]
        return Header(size=(width, height), mode="RGBA")
    raise UsageError(f"a {type(source).__name__} is no picture", hint="a path, bytes, a Pillow image and an array are")


def picture_of(source: Any, *, max_size: int | None = None, deep: bool = False) -> Picture:
    """The picture itself, no longer than `max_size`; `deep` as in `decode`.

    Raises:
        PictureError: It is broken, too large, or an array of another shape or type.
    """
    if isinstance(source, _File):
        return decode.decode(_whole(source), max_size=max_size, deep=deep)
    if isinstance(source, Image.Image):
        return from_image(source, max_size=max_size)
    return from_array(np.asarray(source), max_size=max_size)


def _whole(file: bytes | bytearray | memoryview | decode.CheckedFile) -> bytes | decode.CheckedFile:
    return file if isinstance(file, decode.CheckedFile) else bytes(file)
