"""Whatever colours a picture has, as 8-bit RGB and alpha."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["grey_16", "is_srgb", "narrow", "to_rgb", "to_srgb"]


_HIDDEN, _SHOWN = np.uint8(0), np.uint8(255)


def to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, Image.Image | None, bytes | None]:
    """Any picture (of Pillow's modes, loaded) as RGB and alpha; `icc` is its profile.

    Returns:
        Mode RGB; mode L, or None where nothing is transparent; and the profile, if it still describes the values:
        one of another colour space is converted away.
    """
    alpha = None
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}:
        grey_values, key = grey_16(image), image.info.get("transparency")
        alpha = Image.fromarray(np.where(grey_values == key, _HIDDEN, _SHOWN)) if isinstance(key, int) else None
        rgb, icc = _managed(Image.fromarray(narrow(grey_values)), icc), None
    elif image.mode in {"1", "L", "LA", "La"}:
        grey, alpha = image.convert("LA").split()
        rgb = _managed(grey, icc)
    elif image.mode in {"CMYK", "LAB"}:
        rgb, icc = _managed(image, icc), None
    elif image.has_transparency_data:
        full = image if image.mode == "RGBA" else image.convert("RGBA")
        rgb, alpha = full.convert("RGB"), full.getchannel("A")
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    if icc is not None and icc[16:20] != b"RGB ":  # any other would make the output wrong
        icc = None
    return rgb, alpha, icc


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


def grey_16(image: Image.Image) -> npt.NDArray[np.uint16]:
    """More than 8 bits a pixel as 16: by the range the type promises, or that the values show."""
    values: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "F":
        values = np.clip(np.nan_to_num(values), 0, None)
        top = float(values.max())
        values = values * (65535 / (1.0 if top <= 1 else max(255.0, top)))
    elif image.mode == "I" and int(values.max()) > 65535:
        values = np.clip(values, 0, None) >> 15
    grey: npt.NDArray[np.uint16] = np.clip(values, 0, 65535).astype(np.uint16)
    return grey


def is_srgb(icc: bytes | None) -> bool:
    """Whether RGB values of this profile are sRGB to the eye; a broken profile is taken for none."""
    return icc is None or _transform(icc) is None


def to_srgb(rgb: Image.Image, icc: bytes | None, *, enough: int | None = None) -> Image.Image:
    """A picture (mode RGB, in the space of its profile) as a model is to see it: models were trained on sRGB.

    With `enough`, a picture whose longer side has at least twice as many pixels is scaled down by a whole number first,
    as the conversion would take longer than a small model.

    Returns:
        The picture itself where its profile is sRGB to the eye, or broken.
    """
    transform = None if icc is None else _transform(icc)
    if transform is None:
        return rgb
    from PIL import ImageCms

    times = max(1, max(rgb.size) // enough) if enough else 1
    if times > 1:
        smaller = (max(1, round(rgb.width / times)), max(1, round(rgb.height / times)))
        rgb = rgb.resize(smaller, Image.Resampling.BOX)
    return ImageCms.applyTransform(rgb, transform) or rgb


@lru_cache(maxsize=16)
def _transform(icc: bytes) -> Any:
    """From a profile's RGB to sRGB; None where that changes nothing that could be seen."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        probe = _probe()
        changed = ImageCms.applyTransform(probe, transform)
    except (ImageCms.PyCMSError, ValueError, OSError):
        return None
    assert changed is not None  # noqa: S101 - only a transform in place gives nothing
    difference = np.asarray(changed).astype(np.int16) - np.asarray(probe)
    return None if int(np.abs(difference).max()) <= _SAME else transform


_SAME = 3
"""Levels of 255 by which the many profiles called sRGB differ."""


def _probe() -> Image.Image:
    """9 × 9 × 9 colours from all over the cube."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3))


def narrow(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """16 bits to 8, rounded."""
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
