"""Colour decontamination: the colours of a cut-out's soft pixels without the background that shone through them.

A soft pixel shows I = αF + (1 − α)B. Foreground F and background B are first spread from where they are seen alone into
the soft band, by pull-push over a pyramid of small pictures (Gortler, Grzeszczuk, Szeliski, Cohen: The Lumigraph,
1996). Both are then fitted to the picture by the compositing equation, from coarse to fine, as in Germer, Uelwer,
Conrad, Harmeling: Fast Multi-Level Foreground Estimation, 2020, but on a small picture. The full picture's detail
comes back as in Forte: Approximate Fast Foreground Colour Estimation, 2021: with the smooth estimates F' and B', the
colour of a pixel is I + (1 − α)(F' − B'). Only this last step is done at full size, and only in tiles with soft pixels.

A network's mask is not quite the α of that equation. Where it says 60% and the picture shows plain foreground, the
equation overshoots; so α is corrected by what the picture shows, but smoothly: single pixels differ by their texture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops

from cutout.imaging.composite import cut, enlarged, grown

if TYPE_CHECKING:
    import numpy.typing as npt

    from cutout.imaging.composite import Box

    Plane = npt.NDArray[np.float32]

__all__ = ["decontaminate"]

# `python benchmarks/colors.py --constants` changes each of these alone; docs/quality-colors.md has the figures.
_WORK = 60_000
"""Pixels of the picture on which foreground and background are spread; what is seen of them is gathered from four times
as many."""
_TILE = 64
"""Side in pixels of the tiles that are looked at for soft pixels, roughly."""
_FIRST, _LAST = 8, 247
"""Where alpha is fainter or fuller than this in a whole tile, the tile is left alone: less than three levels are at
stake for colours that differ by 100."""
_STEEP = 6
"""A pixel is seen as foreground by α to this power, and as background by 1 − α to it."""
_LEAST = 6
"""Smaller weights (of 255) are none: pyramids hold colours multiplied by their weight, in 8 bits."""
_GAIN = 4
"""One sure pixel among four makes the pixel one level up sure."""
_LEVELS = 5
"""How often the small picture is halved: colours come from at most about 2 to this power of its pixels away."""
_PASSES = (3, 4, 6)
"""Rounds in which foreground and background are fitted to the small picture, to its half, to its quarter."""
_SMALLEST = 8
"""Pictures with a shorter side are not halved for it."""
_DOUBT = 0.05
"""How much of what foreground and background leave unexplained is taken for noise."""
_SMOOTH = 4
"""Side of the squares over which alpha is corrected, in pixels of the small picture."""
_NOISE = 100.0
"""Squared colour difference below which foreground and background are too alike to correct alpha by."""
_THIN = 1 / 16
"""Below this 1 − α, a correction of alpha is not scaled up any further."""


def decontaminate(rgb: Image.Image, alpha: Image.Image, *, in_place: bool = False) -> Image.Image:
    """The picture with the old background's colour taken out of its soft pixels.

    Args:
        rgb: Mode RGB.
        alpha: Mode L, same size, straight.
        in_place: Change `rgb` itself and give it back, which saves a copy.

    Returns:
        Mode RGB. Pixels whose alpha is 0 or 255 keep their colour exactly; a picture without soft pixels is given back
        as it is.
    """
    first = max(1, _factor(alpha.width, alpha.height) // 2)
    coarse = alpha.reduce(first)
    region = _soft_region(coarse, first, alpha.size)
    if region is None:
        return rgb
    left, top, right, bottom = region
    factor = _factor(right - left, bottom - top)
    fine = max(1, factor // 2)
    same = (left // fine, top // fine, -(-right // fine), -(-bottom // fine))
    opacity = coarse.crop(same) if fine == first else alpha.reduce(fine, region)
    tiles = _soft_tiles(opacity, region, fine)
    if not any(any(alpha.crop(box).histogram()[1:255]) for box in tiles):  # hard edges look soft where they are reduced
        return rgb
    change = _change(rgb.reduce(fine, region), opacity, factor // fine)
    result = rgb if in_place else rgb.copy()
    for box in tiles:
        _apply(result, alpha, box, _magnified(change, factor, [value - region[at % 2] for at, value in enumerate(box)]))
    return result


def _factor(width: int, height: int) -> int:
    """By how much a region is reduced: fine enough for its size, and no finer."""
    return 1 if width * height <= _WORK else 2 * math.ceil(math.sqrt(width * height / _WORK) / 2)


def _soft(opacity: Image.Image) -> Image.Image:
    return opacity.point([255 if _FIRST <= value <= _LAST else 0 for value in range(256)])


def _soft_region(coarse: Image.Image, factor: int, size: tuple[int, int]) -> Box | None:
    """The bounding box of the soft pixels, with room around it in which foreground and background are seen."""
    box = _soft(coarse).getbbox()
    if box is None:
        return None
    room = 4 + max(box[2] - box[0], box[3] - box[1]) // 16
    left, top, right, bottom = (factor * value for value in box)
    return grown((left, top, right, bottom), factor * room, size)


def _soft_tiles(opacity: Image.Image, region: Box, factor: int) -> list[Box]:
    """Boxes of the picture that hold its soft pixels, by its reduced alpha; neighbours in a row are one box."""
    cells = np.asarray(_soft(opacity)) > 0
    side = max(1, _TILE // factor)
    rows, columns = (-(-length // side) for length in cells.shape)
    padded = np.zeros((rows * side, columns * side), bool)
    padded[: cells.shape[0], : cells.shape[1]] = cells
    soft = padded.reshape(rows, side, columns, side).any((1, 3)).astype(np.int8)
    edges = np.diff(soft, axis=1, prepend=0, append=0)
    step = side * factor
    left, top, right, bottom = region
    return [
        (
            left + int(first) * step,
            top + row * step,
            min(left + int(end) * step, right),
            min(top + (row + 1) * step, bottom),
        )
        for row in range(rows)
        for first, end in zip(np.flatnonzero(edges[row] > 0), np.flatnonzero(edges[row] < 0), strict=True)
    ]


def _apply(result: Image.Image, alpha: Image.Image, box: Box, step: npt.NDArray[np.int16]) -> None:
    """Add (1 − α) of the change to a box of the result; a change of 128 is none, and its steps are of 2.

    Four bytes a pixel, as Pillow holds them: numpy is fast where the last axis is long, so rows are worked on flat.
    """
    size = box[2] - box[0], box[3] - box[1]
    opacity = np.asarray(alpha.crop(box))
    clear = 255 - opacity
    clear *= opacity != 0  # hidden colours stay as they are
    weight = (clear * np.uint32(0x01010101)).view(np.uint8)
    step -= 128
    step *= weight
    step += 64
    step >>= 7
    step += np.frombuffer(result.crop(box).tobytes("raw", "RGBX"), np.uint8).reshape(step.shape)
    np.clip(step, 0, 255, out=step)
    result.paste(Image.frombuffer("RGB", size, step.astype(np.uint8), "raw", "RGBX", 0, 1), box)


def _magnified(change: Image.Image, factor: int, box: list[int]) -> npt.NDArray[np.int16]:
    """What the change is at a box of its region, linearly between its pixels: int16 (height, 4 × width)."""
    left, top, right, bottom = box
    place = (np.arange(top, bottom) * 2 + 1 - factor) * 64 // (2 * factor)  # in pixels of the change, times 64
    np.clip(place, 0, 64 * (change.height - 1), out=place)
    row, between = place >> 6, (place & 63).astype(np.int16)
    first, end = int(row[0]), min(int(row[-1]) + 2, change.height)
    band = change.resize(
        (right - left, end - first), Image.Resampling.BILINEAR, box=(left / factor, first, right / factor, end)
    )
    rows = np.frombuffer(band.tobytes("raw", "RGBX"), np.uint8).reshape(end - first, -1).astype(np.int16)
    row -= first
    result: npt.NDArray[np.int16] = rows[np.minimum(row + 1, end - first - 1)]
    result -= rows[row]
    result *= between[:, None]
    result >>= 6
    result += rows[row]
    return result


def _change(colors: Image.Image, alpha: Image.Image, factor: int) -> Image.Image:
    """Foreground minus background, as half the difference around 128 (mode RGB), scaled where alpha is not right.

    Args:
        colors: Mode RGB.
        alpha: Mode L, same size.
        factor: By how much the result is smaller.
    """
    weights = [alpha.point(_weights(values)) for values in (range(256), range(255, -1, -1))]
    seen = [cut(colors, weight).reduce(factor) for weight in weights]
    colors, alpha = colors.reduce(factor), alpha.reduce(factor)
    (front, front_trust), (behind, behind_trust) = (_spread(image, colors) for image in seen)
    opacity = np.asarray(alpha).astype(np.float32)
    opacity /= 255
    clear = 1 - opacity
    image = _planes(colors)
    fore, back = _fuse(image, opacity, _planes(front), _planes(behind))
    fore -= back
    image -= back
    image -= opacity * fore
    image *= fore
    wrong = _smooth(image.sum(0)) / (_smooth((fore * fore).sum(0)) + np.float32(_NOISE))
    scale = np.clip(clear - wrong, 0, 1)
    scale /= np.maximum(clear, np.float32(_THIN))
    np.minimum(scale, 2, out=scale)
    scale *= np.asarray(ImageChops.darker(front_trust, behind_trust))
    scale *= np.float32(0.5 / 255)
    fore *= scale
    fore += np.float32(128.5)
    np.clip(fore, 0, 255, out=fore)
    return Image.merge("RGB", [Image.fromarray(plane) for plane in fore.astype(np.uint8)])


def _fuse(image: Plane, opacity: Plane, fore: Plane, back: Plane, level: int = 0) -> tuple[Plane, Plane]:
    """Foreground and background that explain the picture together and change little from pixel to pixel.

    From coarse to fine: what the two leave unexplained is shared out by alpha, then each is averaged with its
    neighbours by its own weight.

    Args:
        image: float32 (3, height, width), 0-255.
        opacity: float32 (height, width), 0-1.
        fore: First guess of the foreground, shaped as the image; it may be overwritten.
        back: That of the background.
        level: How often these were halved.
    """
    if level + 1 < len(_PASSES) and min(opacity.shape) > _SMALLEST:
        size = opacity.shape[1], opacity.shape[0]
        halves = [_halved(planes) for planes in (image, opacity[None], fore, back)]
        coarse = _fuse(halves[0], halves[1][0], halves[2], halves[3], level + 1)
        fore, back = (_doubled(planes, size) for planes in coarse)
    clear = 1 - opacity
    share = 1 / (opacity * opacity + clear * clear + np.float32(_DOUBT))
    weights = [part + np.float32(1e-4) for part in (opacity, clear)]
    parts = [(part * share, weight, _around(weight)) for part, weight in zip((opacity, clear), weights, strict=True)]
    guesses = [fore, back]
    for _ in range(_PASSES[level]):
        rest = image - guesses[0] * opacity
        rest -= guesses[1] * clear
        for index, (gain, weight, total) in enumerate(parts):
            guess = guesses[index]
            guess += rest * gain
            np.clip(guess, 0, 255, out=guess)
            guess *= weight
            guesses[index] = _around(guess) / total
    return guesses[0], guesses[1]


def _halved(planes: Plane) -> Plane:
    return np.stack([np.asarray(Image.fromarray(plane).reduce(2)) for plane in planes])


def _doubled(planes: Plane, size: tuple[int, int]) -> Plane:
    return np.stack([np.asarray(enlarged(Image.fromarray(plane), size, 2)) for plane in planes])


def _around(plane: Plane) -> Plane:
    """Sums of 3 × 3 pixels, the border repeated."""
    rows = plane.copy()
    rows[..., 1:, :] += plane[..., :-1, :]
    rows[..., 0, :] += plane[..., 0, :]
    rows[..., :-1, :] += plane[..., 1:, :]
    rows[..., -1, :] += plane[..., -1, :]
    result = rows.copy()
    result[..., 1:] += rows[..., :-1]
    result[..., 0] += rows[..., 0]
    result[..., :-1] += rows[..., 1:]
    result[..., -1] += rows[..., -1]
    return result


def _planes(image: Image.Image) -> Plane:
    """Mode RGB as float32 (3, height, width)."""
    return np.stack([np.asarray(band) for band in image.split()]).astype(np.float32)


def _weights(values: range) -> list[int]:
    weights = [round(255 * (value / 255) ** _STEEP) for value in values]
    return [weight if weight >= _LEAST else 0 for weight in weights]


def _smooth(plane: Plane) -> Plane:
    """Means of squares, and in between them linearly."""
    image = Image.fromarray(plane)
    return np.asarray(enlarged(image.reduce(_SMOOTH), image.size, _SMOOTH))


def _spread(level: Image.Image, plain: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Pull-push: where the weight is low, colours come from the surroundings with a higher one.

    Args:
        level: Colours and their weight (mode RGBA).
        plain: What stays where nothing with a weight is near (mode RGB).

    Returns:
        Colours (mode RGB), and how far they can be trusted (mode L).
    """
    levels: list[Image.Image] = []
    gained = [min(255, _GAIN * value) for value in range(256)]
    while len(levels) < _LEVELS and max(plain.size) > 1:
        levels.append(level)
        level, plain = level.reduce(2), plain.reduce(2)
        level.putalpha(level.getchannel("A").point(gained))
    trust = level.getchannel("A")
    colors = Image.composite(level.convert("RGB"), plain, trust)
    for level in reversed(levels):
        weight = level.getchannel("A")
        colors = enlarged(colors, level.size, 2)
        colors.paste(level.convert("RGB"), None, weight)
        trust = ImageChops.lighter(enlarged(trust, level.size, 2), weight)
    return colors, trust
