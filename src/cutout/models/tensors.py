"""Pixels to model input, model output to mask: pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from cutout.enums import Fit
from cutout.errors import ModelError
from cutout.imaging.resample import shrink
from cutout.models.registry import Activation

if TYPE_CHECKING:
    import numpy.typing as npt

    from cutout.models.registry import ModelSpec

__all__ = ["Placement", "input_size", "to_input", "to_mask"]


class Placement(NamedTuple):
    """Where the picture lies inside the model's input, in input pixels."""

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]
    """(height, width) of the whole input."""

    def crop(self, planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The picture's part of an output (C, H, W), which need not be as large as the input."""
        down, across = planes.shape[1] / self.size[0], planes.shape[2] / self.size[1]
        top, left = round(self.top * down), round(self.left * across)
        bottom = max(top + 1, round((self.top + self.height) * down))
        right = max(left + 1, round((self.left + self.width) * across))
        return planes[:, top:bottom, left:right]


def input_size(spec: ModelSpec, picture: tuple[int, int]) -> tuple[int, int]:
    """The model's input as (height, width) for a picture of (width, height)."""
    if spec.size is not None:
        return spec.size
    width, height = picture
    scale = spec.long_side / max(width, height)
    return _round_to(height * scale, spec.multiple), _round_to(width * scale, spec.multiple)


def _round_to(value: float, multiple: int) -> int:
    return max(1, round(value / multiple)) * multiple


def to_input(
    rgb: Image.Image, spec: ModelSpec, size: tuple[int, int], fit: Fit
) -> tuple[npt.NDArray[np.float32], Placement]:
    """A picture as the network wants it.

    Args:
        rgb: Mode RGB, any size.
        spec: Gives divisor, mean and std, and whether the resize is Pillow's own.
        size: (height, width) of the input.
        fit: Stretched, or scaled with its aspect ratio kept and centred on zeros (which is the mean colour).

    Returns:
        float32 of shape (1, 3, height, width), contiguous, and where the picture lies in it.
    """
    height, width = size
    place = Placement(0, 0, width, height, size)
    if fit is Fit.PAD:
        scale = min(width / rgb.width, height / rgb.height)
        inner_width = min(width, max(1, round(rgb.width * scale)))
        inner_height = min(height, max(1, round(rgb.height * scale)))
        place = Placement((width - inner_width) // 2, (height - inner_height) // 2, inner_width, inner_height, size)
    small = rgb
    if rgb.size != (place.width, place.height):
        inner = (place.width, place.height)
        small = rgb.resize(inner, Image.Resampling.LANCZOS) if spec.exact_resize else shrink(rgb, inner)
    pixels = np.asarray(small)
    divisor = spec.divisor if spec.divisor is not None else max(float(pixels.max()), 1e-6)
    batch = np.zeros((1, 3, height, width), np.float32)
    inside = batch[0, :, place.top : place.top + place.height, place.left : place.left + place.width]
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        # In double precision as rembg does it: models in int8 make the last bit of their input visible. There are but
        # 256 values, so looking them up is also faster.
        values = ((np.arange(256) / divisor - mean) / std).astype(np.float32)
        np.take(values, pixels[:, :, channel], out=inside[channel], mode="clip")
    return batch, place


def to_mask(
    output: npt.NDArray[np.floating], spec: ModelSpec, place: Placement, *, rescale: bool, wanted: str = "all"
) -> Image.Image:
    """The network's output as a mask at the network's resolution, padding cropped.

    Args:
        output: (1, C, H, W) or (1, H, W) or (H, W).
        spec: Gives the activation and the class names.
        place: What `to_input` gave.
        rescale: Stretch so that the extremes become 0 and 255, as rembg does.
        wanted: For class models: one class name, or `all` for their union.

    Returns:
        Mode L. Values are truncated, not rounded, as rembg does: masks of both tools agree.

    Raises:
        ModelError: The output is not a mask (shape, or values that are no numbers).
    """
    planes = np.asarray(output)
    if planes.dtype.kind not in "fiub" or not _is_picture(planes.shape, place.size):
        raise ModelError(
            f"the model {spec.name} gave an output of shape {planes.shape} and type {planes.dtype}, which is no mask",
            hint="output in model_config chooses another one",
            options=("model_config",),
        )
    planes = planes.astype(np.float32, copy=False).reshape((-1, *planes.shape[-2:])[-3:])
    planes = place.crop(planes)
    mask = _activate(planes, spec, wanted)
    low, high = mask.min(), mask.max()
    if not (np.isfinite(low) and np.isfinite(high)) or np.isnan(planes).any():
        raise ModelError(f"the model {spec.name} gave values that are no numbers")
    if rescale and high - low > 1e-6:  # a flat mask has nothing to stretch
        mask = (mask - low) / (high - low)
    return Image.fromarray((np.clip(mask, 0.0, 1.0) * 255).astype(np.uint8))


_STRETCH = 8
"""No network's mask is stretched so much against its input; a list of features is."""


def _is_picture(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an output is one picture, of about the proportions of the input (height, width)."""
    if not 2 <= len(shape) <= 4 or 0 in shape or (len(shape) == 4 and shape[0] != 1):
        return False
    down, across = (length / side for length, side in zip(shape[-2:], size, strict=True))
    return down <= _STRETCH * across and across <= _STRETCH * down


def _activate(planes: npt.NDArray[np.float32], spec: ModelSpec, wanted: str) -> npt.NDArray[np.float32]:
    match spec.activation:
        case Activation.SIGMOID:
            with np.errstate(over="ignore"):  # exp of a large negative logit overflows to the right answer, 0
                return np.asarray(1 / (1 + np.exp(-planes[0])), np.float32)
        case Activation.ARGMAX:
            winner = planes.argmax(axis=0)
            chosen = winner > 0 if wanted == "all" else winner == 1 + spec.classes.index(wanted)
            return np.asarray(chosen, np.float32)
        case Activation.NONE:
            return np.asarray(planes[0])
