"""Options of `cutout remove` for how a cut-out looks: edges, clean-up, framing, background."""

from __future__ import annotations

from typing import Annotated

from cutout.cli.options import option
from cutout.enums import BackgroundFit as _BackgroundFit
from cutout.enums import EdgeColors as _EdgeColors

__all__ = [
    "LOOK",
    "Background",
    "BackgroundFit",
    "Canvas",
    "Crop",
    "Dilate",
    "EdgeColors",
    "Erode",
    "Feather",
    "FillHoles",
    "Invert",
    "Largest",
    "Margin",
    "Matting",
    "MattingBackground",
    "MattingErode",
    "MattingForeground",
    "MinArea",
    "Position",
    "Refine",
    "Scale",
    "Shadow",
    "Threshold",
    "Tiles",
]

LOOK, _EDGE, _CLEAN, _FRAME = "Look", "Matting", "Mask clean-up, in this order", "Framing"

Background = Annotated[
    str | None,
    option(
        "--background",
        "-b",
        text="A colour (white, #ff8800, ...), a picture file, blur:RADIUS for the picture's own background blurred, "
        "gradient:COLOR,COLOR[,ANGLE], or transparent.",
        panel=LOOK,
    ),
]
BackgroundFit = Annotated[
    _BackgroundFit,
    option(
        "--background-fit",
        text="How a background picture is brought to size: cover, contain, tile or stretch.",
        metavar="FIT",
        panel=LOOK,
    ),
]
Shadow = Annotated[
    str | None,
    option(
        "--shadow",
        text="A soft shadow: default, or DX,DY,BLUR,OPACITY[,COLOR] in pixels or percent of the subject, such as "
        "0,20,40,50% or 1%,2%,4%,0.5,navy.",
        metavar="SHADOW",
        panel=LOOK,
    ),
]

Threshold = Annotated[
    int | None,
    option(
        "--threshold",
        text="Make the edge hard: alpha from this value on is opaque, below it transparent.",
        min=0,
        max=255,
        metavar="N",
        panel=_CLEAN,
    ),
]
MinArea = Annotated[
    str | None,
    option(
        "--min-area",
        text="Remove objects smaller than this: pixels, or percent of the picture, such as 0.1%.",
        metavar="AREA",
        panel=_CLEAN,
    ),
]
Largest = Annotated[bool, option("--largest", text="Keep the largest object alone, with its soft edge.", panel=_CLEAN)]
FillHoles = Annotated[
    str | None,
    option(
        "--fill-holes",
        text="Make enclosed holes opaque: all, or those up to an area in pixels or percent.",
        metavar="AREA",
        panel=_CLEAN,
    ),
]
Erode = Annotated[
    int, option("--erode", text="Pixels by which the edge moves inwards.", min=0, metavar="N", panel=_CLEAN)
]
Dilate = Annotated[
    int, option("--dilate", text="Pixels by which it then moves outwards.", min=0, metavar="N", panel=_CLEAN)
]
Feather = Annotated[
    int, option("--feather", text="Pixels over which the edge fades, on either side.", min=0, metavar="N", panel=_CLEAN)
]
Invert = Annotated[bool, option("--invert", text="Keep what would have been removed.", panel=_CLEAN)]

Crop = Annotated[bool, option("--crop", text="Cut the result to the subject.", panel=_FRAME)]
Margin = Annotated[
    str | None,
    option(
        "--margin",
        text="Room around the subject: 20, 5%, or up to four of them as in CSS, such as 10,20. "
        "Percent are of the subject with --crop, of the canvas with --canvas.",
        metavar="LENGTHS",
        panel=_FRAME,
    ),
]
Canvas = Annotated[
    str | None,
    option("--canvas", text="Size of the result; the subject is set on it.", metavar="WxH", panel=_FRAME),
]
Scale = Annotated[
    str,
    option(
        "--scale",
        text="Size of the subject on the canvas: fit, original, or a share such as 80%.",
        metavar="SCALE",
        panel=_FRAME,
    ),
]
Position = Annotated[
    str,
    option(
        "--position",
        text="Place of the subject on the canvas: center, bottom, top-left, ..., or shares such as 50%,80%.",
        metavar="PLACE",
        panel=_FRAME,
    ),
]

Refine = Annotated[
    bool,
    option(
        "--refine",
        text="Look again at the undistorted picture and at the subject, and move the mask onto the picture's edges.",
        panel=LOOK,
    ),
]
Tiles = Annotated[
    int,
    option(
        "--tiles",
        text="Look again at those tiles of an N×N grid that the contour runs through; for pictures that are several "
        "times as large as the model's input: there are never smaller tiles.",
        min=0,
        max=8,
        metavar="N",
        panel=LOOK,
    ),
]
EdgeColors = Annotated[
    _EdgeColors,
    option(
        "--edge-colors",
        text="clean: take the old background's colour out of soft edges; keep: leave colours as they are.",
        panel=LOOK,
    ),
]
Matting = Annotated[
    bool, option("--matting", "-a", text="Refine the edge by alpha matting: hair, fur, soft edges.", panel=_EDGE)
]
MattingForeground = Annotated[
    int,
    option(
        "--matting-foreground",
        text="Mask values above it are surely foreground.",
        min=0,
        max=255,
        metavar="N",
        panel=_EDGE,
    ),
]
MattingBackground = Annotated[
    int,
    option(
        "--matting-background",
        text="Mask values below it are surely background.",
        min=0,
        max=255,
        metavar="N",
        panel=_EDGE,
    ),
]
MattingErode = Annotated[
    int,
    option("--matting-erode", text="Pixels by which both sure regions shrink.", min=0, metavar="N", panel=_EDGE),
]
