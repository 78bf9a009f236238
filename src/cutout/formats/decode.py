"""Bytes to pixels and their metadata: the only `Image.open`."""

from __future__ import annotations

import contextlib
import io
import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, UnidentifiedImageError

from cutout.errors import CutoutError, OutOfMemoryError, PictureError
from cutout.formats.checks.preflight import CheckedFile, TooLargeError, allowing, check_format, check_size, too_large
from cutout.formats.input_formats import HEAD, INPUT_FORMATS, is_camera_raw, sniff
from cutout.formats.metadata import Metadata
from cutout.formats.picture import ONLY_FIRST, Header, Picture, orientation_of, read_image
from cutout.options import DEFAULT_MAX_FRAMES, DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cutout.formats.checks.tiff import Page


__all__ = [
    "DEFAULT_MAX_FRAMES",
    "DEFAULT_MAX_PIXELS",
    "CheckedFile",
    "Metadata",
    "Picture",
    "TooLargeError",
    "check",
    "decode",
    "film",
    "header",
]


# Pillow must know every one of them: HEIF joins when its decoder is registered.
_PILLOW = [name for row in INPUT_FORMATS for name in row.pillow if row.name != "HEIC"]


def decode(
    data: bytes | CheckedFile,
    *,
    max_size: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_frames: int = DEFAULT_MAX_FRAMES,
    alone: bool = False,
    deep: bool = False,
) -> Picture:
    """Read a picture of any supported format; of an animation or a file of many pages, the first.

    Args:
        data: The file's bytes, or what `check` gave for them.
        max_size: Longest side of the result in pixels; a larger picture is scaled down (JPEGs while they are decoded).
        max_pixels: A larger picture is refused before it is decoded.
        max_frames: Frames are counted up to this number and one more.
        alone: The first frame is all that is wanted: nothing behind it is looked at, and nothing said of it.
        deep: Also give colours of 16 bits, if there are any.

    Raises:
        PictureError: Empty, of no known format, truncated, broken, or too large. Foreign exceptions are translated
            here, and only here.
    """
    with _opened(data, max_pixels) as (image, checked):
        file = _File(image, checked, 1 if alone else max_frames + 1, max_size, max_pixels, deep=deep)
        picture, count = file.frame(file.frames.numbers[0]), len(file.frames.numbers)
        rgb = _detached(image) if picture.rgb is image else picture.rgb
        rgb.info = {}  # what still holds is in the metadata; encoders would take the rest from here
        if count == 1 or alone:
            return picture._replace(rgb=rgb)
        note = f"{ONLY_FIRST}{count if count <= max_frames else f'more than {max_frames}'} frames was taken"
        count = 1 if image.format == "HEIF" else count  # a HEIC file is an album, and not in order
        return picture._replace(rgb=rgb, frames=count, notes=(note, *picture.notes))


def film(
    data: bytes | CheckedFile,
    *,
    max_size: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_frames: int = DEFAULT_MAX_FRAMES,
    deep: bool = False,
) -> Iterator[Picture]:
    """Read an animation or a file of many pages, picture by picture; no more than one is in memory at once.

    Raises:
        PictureError: As in `decode`; also when frames are missing or broken, too many, or of different sizes.
    """
    with _opened(data, max_pixels) as (image, checked):
        file = _File(image, checked, max_frames + 1, max_size, max_pixels, deep=deep)
        count = len(file.frames.numbers)
        if count > max_frames:
            raise PictureError(
                f"it has at least {count} frames, more than the limit of {max_frames}",
                hint="first_frame takes the first alone; max_frames raises the limit",
                options=("first_frame", "max_frames"),
            )
        if image.format == "GIF":  # Pillow allocates a frame's place while it seeks
            from cutout.formats.checks.others import check_gif

            check_gif(checked.data, count + 1, max_pixels)
        size: tuple[int, int] | None = None
        first: Picture | None = None
        for place, number in enumerate(file.frames.numbers, 1):
            try:
                picture = file.frame(number, screen=size, before=first)
            except (OSError, EOFError, SyntaxError, ValueError) as error:
                raise PictureError(
                    f"frame {place} of {count} is broken or cut short: {error}",
                    hint="first_frame takes the first alone",
                    options=("first_frame",),
                ) from error
            size = size or image.size
            # the decoder paints the next frame over this one, by what its `info` says of this one's place and disposal
            rgb = image.copy() if picture.rgb is image else picture.rgb
            rgb.info = {}
            yield picture._replace(rgb=rgb, frames=count)
            if first is None and not picture.paged:
                first = picture._replace(rgb=_NO_PIXELS, alpha=None, deep=None)


def header(data: bytes | CheckedFile, *, max_pixels: int = DEFAULT_MAX_PIXELS, max_frames: int = 1) -> Header:
    """What a file says of its picture; nothing is decoded.

    Args:
        data: As in `decode`.
        max_pixels: A larger picture is refused.
        max_frames: Frames or pages that are wanted at most; of pages, the largest is looked for among so many.

    Raises:
        PictureError: As in `decode`, as far as the header shows it.
    """
    file = data if isinstance(data, CheckedFile) else check(data, max_pixels=max_pixels)
    with _opened(file, max_pixels) as (image, _):
        frames = _frames(image, file.data, max(1, max_frames))
        found = [page.size for page in frames.pages.values()] if max_frames > 1 else []
        return Header(
            size=max((image.size, *found), key=lambda sides: sides[0] * sides[1]),
            turned=image.format in {"JPEG", "MPO"} and orientation_of(image) != 1,  # Pillow decodes PNGs to tell
            kind="JPEG" if image.format == "MPO" else image.format or "",
            mode="RGBA" if image.mode == "RGB" and image.has_transparency_data else image.mode,
            deep=any(_depth(image)),
            frames=min(len(frames.numbers), max(1, len(file.data) // _SMALLEST_FRAME)),
            progressive="progressive" in image.info,
        )


_SMALLEST_FRAME = 20
"""Bytes that no frame of any format goes below."""


def check(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> CheckedFile:
    """Examine a file before any decoder opens it; what it gives may be decoded as often as is asked for.

    Raises:
        PictureError: As in `decode`, as far as the file's structure shows it.
    """
    if not data:
        raise PictureError("the file is empty (0 bytes)", hint="copy it again from where it came from")
    if is_camera_raw(data):
        raise PictureError(
            "this is a camera raw file, of which only a preview could be read",
            hint="develop it first: export a TIFF or JPEG",
        )
    kind = sniff(data[:HEAD])
    if kind == "HEIC":
        from cutout.formats.pillow import register_heif

        register_heif("this is a HEIC picture, which", PictureError)
    return check_format(data, kind, max_pixels)


@contextlib.contextmanager
def _opened(data: bytes | CheckedFile, max_pixels: int) -> Iterator[tuple[Image.Image, CheckedFile]]:
    """Pillow's image of a file, every exception about it translated."""
    file = data if isinstance(data, CheckedFile) else check(data, max_pixels=max_pixels)
    kind = sniff(file.data[:HEAD])
    try:
        with allowing(max_pixels), _open(file.data, kind) as image:
            check_size(image.size, max_pixels)
            image.info.update(file.info)
            yield image, file
    except CutoutError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(kind) from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise too_large(f"{int(pixels[0]) / 1e6:.0f} megapixels" if pixels else "more", max_pixels) from error
    except MemoryError as error:
        raise OutOfMemoryError from error
    except Exception as error:  # decoders raise whatever a broken file leads them into: all of it means one thing
        raise PictureError(
            f"the {kind or 'picture'} file is broken or cut short: {error}",
            hint="open it in a viewer, or copy it again from where it came from",
        ) from error


def _open(data: bytes, kind: str | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["HEIF"] if kind == "HEIC" else _PILLOW)
    key, raw = image.info.get("transparency"), [tile.args for tile in getattr(image, "tile", [])][:1]
    if image.mode == "L" and isinstance(key, int) and raw:  # Pillow widens the pixels alone
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}.get(str(raw[0]), 1)
    if image.mode == "1" and key == 1:  # as Pillow before 12 has it
        image.info["transparency"] = 255
    return image


class _Frames(NamedTuple):
    """The frames of a file that are pictures to be seen."""

    numbers: Sequence[int]
    """By which the decoder knows them."""
    pages: Mapping[int, Page] = {}
    """Those of a TIFF file."""
    notes: tuple[str, ...] = ()


def _frames(image: Image.Image, data: bytes, most: int) -> _Frames:
    """The first `most` of them, by what is in the file; at least one."""
    match image.format:
        case "MPO":  # a phone's extra views
            return _Frames([image.tell()])
        case "GIF":
            from cutout.formats.checks.others import gif

            found = gif(data, most)
            return _Frames(range(max(1, min(most, found.frames + found.cut_short))))
        case "TIFF":
            from cutout.formats.checks.tiff import find_pages

            pages = find_pages(data, most)
            return _Frames(list(pages) or [0], pages)
        case "PNG":
            return _png_frames(image, data, most)
    announced = min(int(getattr(image, "n_frames", 1)), most)
    if image.format == "HEIF":
        others = [number for number in range(announced) if number != image.tell()]
        return _Frames([image.tell(), *others[: most - 1]])
    return _Frames(range(max(1, announced)))


def _png_frames(image: Image.Image, data: bytes, most: int) -> _Frames:
    """An animated PNG announces how many frames it has; one that has none or one is a picture, if it is whole."""
    hidden = int(bool(image.info.get("default_image")))  # a picture for those who do not understand animations
    announced = int(getattr(image, "n_frames", 1)) - hidden
    if announced < (1 if hidden else 2):
        return _Frames([0])
    from cutout.formats.checks.png import png_frames

    there, whole = png_frames(data, most)
    if there < min(2, announced, most) and whole:
        note = f"the PNG announces {announced} frames, but holds a single picture"
        return _Frames([hidden if there else 0], notes=(note,))
    return _Frames(range(hidden, hidden + min(announced, most)))


def _detached(image: Image.Image) -> Image.Image:
    """The same pixels without the decoder, which holds as many again."""
    plain = Image.Image()
    plain.im, plain._mode, plain._size = image.im, image.mode, image.size  # noqa: SLF001 - as its own copies are made
    return plain


class _File:
    """An opened file, whose frames are read one by one, in their order."""

    def __init__(
        self, image: Image.Image, checked: CheckedFile, most: int, max_size: int | None, max_pixels: int, *, deep: bool
    ) -> None:
        self._image, self._checked = image, checked
        self._max_size, self._max_pixels, self._deep = max_size, max_pixels, deep
        self._twin: Image.Image | None = None
        """The same file opened once more, whose frames are read beside these."""
        self.frames = _frames(image, checked.data, most)

    def frame(self, number: int, screen: tuple[int, int] | None = None, before: Picture | None = None) -> Picture:
        """One of them; its `rgb` may be the opened image itself."""
        image = self._image
        if number != image.tell():
            image.seek(number)
        check_size(image.size, self._max_pixels)
        if self._max_size is not None:
            image.draft(None, (self._max_size, self._max_size))
        wide, keyed = _depth(image)
        deep = None
        if (self._deep and wide) or keyed:
            from cutout.formats.sixteen_bit import read_deep

            deep = partial(read_deep, again=partial(self._again, number))
        page = self.frames.pages.get(number)
        tiff = None if page is None else (self._checked.data, page.at)
        picture = read_image(image, self._max_size, tiff=tiff, deep=deep, screen=screen, before=before)
        return picture._replace(
            paged=image.format == "TIFF",
            deep=picture.deep if self._deep else None,
            notes=(*self._checked.notes, *self.frames.notes, *picture.notes),
        )

    def _again(self, number: int) -> Image.Image:
        self._twin = self._twin or _open(self._checked.data, None)
        self._twin.seek(number)
        return self._twin


def _depth(image: Image.Image) -> tuple[bool, bool]:
    """Whether a picture has more than 8 bits, and whether one colour of 16 bits is transparent."""
    if image.format in {"JPEG", "MPO"}:
        return False, False
    from cutout.formats import sixteen_bit

    return sixteen_bit.is_deep(image), sixteen_bit.has_key(image)


_NO_PIXELS = Image.new("RGB", (1, 1))


def _unidentified(kind: str | None) -> PictureError:
    if kind is not None:
        return PictureError(
            f"the {kind} file is broken: its header cannot be read",
            hint="open it in a viewer, or copy it again from where it came from",
        )
    known = ", ".join(row.name for row in INPUT_FORMATS)
    return PictureError("this is not a picture of a known format", hint=f"known: {known}")
