"""What travels from the input to the output beside the pixels: profile, resolution, EXIF and XMP."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from cutout.enums import Strip

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutout.formats.metadata.exif import Exif
    from cutout.output_formats import OutputFormat

__all__ = ["NO_METADATA", "Metadata", "read_dpi", "read_exif", "read_xmp"]

_NAMES = {"EXIF": 6, "XMP": 29}
"""Bytes that a block's own name takes in a file."""


class Metadata(NamedTuple):
    """What travels from the input to the output beside the pixels."""

    icc: bytes | None = None
    """ICC profile that describes the RGB values, or None for sRGB."""
    dpi: tuple[float, float] | None = None
    """Resolution in dots per inch (horizontal, vertical), or None."""
    exif: bytes | None = None
    """EXIF block from its byte order on, of an upright picture and without thumbnail, or None."""
    xmp: bytes | None = None
    """XMP packet that says no orientation, or None."""

    def stripped(self, strip: Strip) -> tuple[Metadata, tuple[str, ...]]:
        """What is left of it, and warnings: places alone go, or all but profile and resolution.

        What cannot be read well enough to be sure that it holds no place goes with them.
        """
        if strip is Strip.NONE:
            return self, ()
        if strip is Strip.ALL:
            return self._replace(exif=None, xmp=None), ()
        exif, xmp = self.exif, self.xmp
        notes: tuple[str, ...] = ()
        if exif is not None:
            from cutout.formats.metadata import exif as blocks

            kept, notes = blocks.parse(exif).without_place()
            exif = blocks.build(kept) if kept else None
        if xmp is not None:
            from cutout.formats.metadata.xmp import strip as strip_xmp

            try:
                xmp = strip_xmp(xmp, place=False)
            except ValueError as error:
                xmp, notes = None, (*notes, f"the XMP packet may hold a place and was left out: {error}")
        return self._replace(exif=exif, xmp=xmp), notes

    def sized(self, size: tuple[int, int]) -> Metadata:
        """The same for a picture of this width and height."""
        return self._changed(lambda block: block.sized(*size))

    def _changed(self, change: Callable[[Exif], Exif]) -> Metadata:
        if self.exif is None:
            return self
        from cutout.formats.metadata import exif as blocks

        return self._replace(exif=blocks.build(change(blocks.parse(self.exif))))

    def fitting(self, output_format: OutputFormat) -> tuple[Metadata, tuple[str, ...]]:
        """What the format can hold, and warnings about what it cannot."""
        row = output_format.row
        if not row.orientation:
            return self._changed(lambda block: block.without_orientation()), ()
        if row.block is None:
            return self, ()
        notes, left = [], {"EXIF": self.exif, "XMP": self.xmp}
        for name, value in left.items():
            if value is not None and len(value) > row.block - _NAMES[name]:
                left[name] = None
                notes.append(
                    f"the {name} block of {len(value) // 1000} kB was left out: "
                    f"a {row.title} holds {row.block + 3 >> 10} kB"
                )
        return self._replace(exif=left["EXIF"], xmp=left["XMP"]), tuple(notes)


NO_METADATA = Metadata()
"""Nothing but pixels, in sRGB."""


def read_exif(info: dict[Any, Any], tiff: tuple[bytes, int] | None) -> tuple[bytes | None, tuple[str, ...]]:
    """The EXIF block of a picture as it is kept, and warnings.

    `info` is what the decoder found; of a page of a TIFF file, `tiff` is the file and where the page's directory
    starts.
    """
    block: Any = info.get("exif") or _raw_profile(info.get("Raw profile type exif"))
    if tiff is None and (not isinstance(block, bytes) or block in {b"Exif\0\0", b""}):
        return None, ()
    from cutout.formats.metadata import exif as blocks

    try:
        found = blocks.parse(block) if tiff is None else blocks.parse(tiff[0], directory=tiff[1])
        if not found.tells:
            return None, ()
        kept = blocks.build(found.upright())
        _check(kept)
    except Exception as error:  # noqa: BLE001 - whatever a broken block leads to, the picture itself is whole
        return None, () if tiff is not None else (f"the EXIF block is broken and was left out: {error}",)
    return kept, ("parts of the EXIF block are broken and were left out",) if found.damaged else ()


def _check(block: bytes) -> None:
    """Encoders read the block once more with Pillow's parser: what that one cannot read must not reach them."""
    from PIL import Image

    exif = Image.Exif()
    exif.load(block)
    exif.tobytes()


def _raw_profile(text: object) -> bytes | None:
    """How PNGs held EXIF before they had a chunk for it: three lines of head, then hexadecimal digits."""
    if not isinstance(text, str | bytes):
        return None
    words = (text if isinstance(text, str) else text.decode("latin-1")).split()
    try:
        return bytes.fromhex("".join(words[2:]))
    except ValueError:
        return None


def read_xmp(packet: object) -> tuple[bytes | None, tuple[str, ...]]:
    """The XMP packet of a picture as it is kept, and warnings."""
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "surrogateescape")
    if not isinstance(packet, bytes) or not packet.strip(b"\0 \r\n\t"):
        return None, ()
    from cutout.formats.metadata.xmp import strip as strip_xmp

    try:
        return strip_xmp(packet), ()
    except ValueError as error:
        return None, (f"the XMP packet is broken and was left out: {error}",)


def read_dpi(value: object) -> tuple[float, float] | None:
    """Dots per inch, if they make sense."""
    try:
        across, down = (float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # 1 is what Pillow says of a TIFF that says nothing
    usable = all(math.isfinite(part) and 1 < part <= 1e5 for part in (across, down))
    return (across, down) if usable else None
