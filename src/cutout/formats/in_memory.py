"""Pictures of other libraries as ours: images of Pillow, arrays of numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cutout.errors import CutoutError, PictureError
from cutout.formats.color import narrow
from cutout.formats.picture import Picture, read

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["from_array", "from_image"]


def from_image(image: Image.Image, *, max_size: int | None = None) -> Picture:
    """A Pillow image, in any mode, as a picture; the image itself is left as it is.

    Raises:
        PictureError: It has no pixels or cannot be loaded.
    """
    try:
        return read(image, max_size)
    except CutoutError:
        raise
    except Exception as error:  # the same boundary as in `decode`, for an image opened lazily by the caller
        raise PictureError(f"the picture is broken or cut short: {error}") from error


def from_array(array: npt.NDArray[Any], *, max_size: int | None = None) -> Picture:
    """An array as a picture.

    Args:
        array: (height, width) grey, or (height, width, 1|2|3|4) grey, grey + alpha, RGB, RGBA; uint8, uint16, bool,
            or floating point of range 0–1.
        max_size: As in `decode`.

    Raises:
        PictureError: Any other shape or type.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {2, 3, 4}):
        raise PictureError(f"an array of shape {array.shape} is no picture", hint="(H, W), (H, W, 3) and (H, W, 4) are")
    if np.issubdtype(array.dtype, np.uint16):  # of either byte order
        array = narrow(array)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array)
        if array.max() > 2:  # more than scaling with a sharp filter overshoots
            raise PictureError(f"an array of {array.dtype} up to {array.max():g} is no picture", hint=_ARRAYS)
        array = (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError(f"an array of {array.dtype} is no picture", hint=_ARRAYS)
    return from_image(Image.fromarray(np.ascontiguousarray(array)), max_size=max_size)


_ARRAYS = "uint8, uint16, bool, or floats from 0 to 1 are"
