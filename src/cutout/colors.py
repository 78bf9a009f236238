"""Whatever colours a picture has, as 8-bit RGB and alpha."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["narrow", "to_rgb"]


def to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, Image.Image | None, bytes | None]:
    """Any picture as RGB and alpha.

    Args:
        image: Any of Pillow's modes, loaded.
        icc: Its ICC profile.

    Returns:
        Mode RGB; mode L, or None where nothing is transparent; and the profile, if it still describes the values:
        one of another colour space is converted away.
    """
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}:
        return _grey(image).convert("RGB"), None, None
    if image.mode in {"1", "L", "LA", "La"}:
        grey, alpha = image.convert("LA").split()
        return _opaque(_managed(grey, icc), alpha, None)
    if image.mode in {"CMYK", "LAB"}:
        return _managed(image, icc), None, None
    if image.has_transparency_data:
        full = image if image.mode == "RGBA" else image.convert("RGBA")
        return _opaque(full.convert("RGB"), full.getchannel("A"), icc)
    return image if image.mode == "RGB" else image.convert("RGB"), None, _rgb_profile(icc)


def _opaque(
    rgb: Image.Image, alpha: Image.Image | None, icc: bytes | None
) -> tuple[Image.Image, Image.Image | None, bytes | None]:
    """Drop an alpha that is 255 everywhere."""
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    return rgb, alpha, _rgb_profile(icc)


def _rgb_profile(icc: bytes | None) -> bytes | None:
    """Keep a profile only if it describes RGB values; any other would make the output wrong."""
    if icc is not None and icc[16:20] != b"RGB ":
        return None
    return icc


def _managed(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Grey, CMYK or Lab to sRGB through the picture's own profile; by formula where it has none or a broken one."""
    from PIL import ImageCms

    space = {"L": b"GRAY", "CMYK": b"CMYK", "LAB": b"Lab "}.get(image.mode)
    try:
        if image.mode == "LAB":
            source: Any = ImageCms.createProfile("LAB")
        elif icc is not None and icc[16:20] == space:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        else:
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ValueError, OSError):
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """More than 8 bits a pixel to mode L: by the range the type promises, or that the values show."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.clip(np.nan_to_num(values), 0, None)
        top = float(values.max())
        return Image.fromarray((values * (255 / (1.0 if top <= 1 else max(255.0, top)))).astype(np.uint8))
    if image.mode == "I" and int(values.max()) > 65535:
        return Image.fromarray((np.clip(values, 0, None) >> 23).astype(np.uint8))
    return Image.fromarray(narrow(np.clip(values, 0, 65535).astype(np.uint16)))


def narrow(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """16 bits to 8, rounded."""
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
