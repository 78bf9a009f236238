"""The words that options are made of: enumerations, each member with its meaning."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "BackgroundFit",
    "BitDepth",
    "EdgeColors",
    "EngineName",
    "Existing",
    "Fit",
    "OnCollision",
    "PngLevel",
    "Precision",
    "Strip",
]


class Fit(StrEnum):
    """How a picture is brought to the model's input size."""

    STRETCH = "stretch"
    """Both sides scaled to the input; the aspect ratio changes."""
    PAD = "pad"
    """The long side scaled, the rest filled (letterbox); the filling is cropped from the mask again."""


class EdgeColors(StrEnum):
    """What becomes of the colours of soft pixels, in which the old background shines through."""

    KEEP = "keep"
    """They stay the picture's own."""
    CLEAN = "clean"
    """The old background's share is taken out of them."""


class Strip(StrEnum):
    """Which metadata is left out."""

    NONE = "none"
    GPS = "gps"
    """Where the picture was taken and what places it names, in EXIF, IPTC and XMP."""
    ALL = "all"
    """All but the colour profile and the resolution."""


class BitDepth(StrEnum):
    """Bits a channel of the output."""

    AUTO = "auto"
    """16 where the input has more than 8 and the format can hold them, else 8."""
    EIGHT = "8"
    SIXTEEN = "16"


class PngLevel(StrEnum):
    """How hard a PNG is compressed."""

    FASTEST = "fastest"
    """igzip: half the time of `fast`, files about 10% larger."""
    FAST = "fast"
    """zlib-ng level 4; from 4 megapixels on igzip for some rows: files as large as Pillow's by default, in
    a tenth of its time."""
    SMALL = "small"
    """zlib-ng level 9."""


class Existing(StrEnum):
    """What to do with an output that is already there."""

    SKIP = "skip"
    NEWER = "newer"
    """It is made again where its picture has changed since."""
    OVERWRITE = "overwrite"
    FAIL = "fail"


class OnCollision(StrEnum):
    """What to do when two inputs would write one output."""

    REFUSE = "refuse"
    SUFFIX = "suffix"


class Precision(StrEnum):
    """What a model computes in."""

    FULL = "full"
    """float32."""
    REDUCED = "reduced"
    """bfloat16 wherever that was measured to do no harm."""


class EngineName(StrEnum):
    """What runs a model on the processor."""

    AUTO = "auto"
    """MNN where a trial found it faster and as good, else ONNX Runtime."""
    MNN = "mnn"
    ONNXRUNTIME = "onnxruntime"


class BackgroundFit(StrEnum):
    """How a background picture is brought to the size of the result."""

    COVER = "cover"
    """Scaled to cover all of it, the overhang cropped evenly."""
    CONTAIN = "contain"
    """Scaled to lie wholly inside, in the middle; the rest is white."""
    TILE = "tile"
    """Repeated at its own size, from the upper left corner."""
    STRETCH = "stretch"
    """Both sides scaled; the aspect ratio changes."""
