"""Cut-outs side by side as one HTML file: thumbnails inside, no script, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from cutout.evaluate.contact_sheet import View
from cutout.formats.encode import encode
from cutout.options import Encoding
from cutout.output_formats import OutputFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from cutout.evaluate.contact_sheet import Color, Result, SheetRow

__all__ = ["MARK", "gallery"]

MARK = '<meta name="generator" content="cutout compare">'
"""By this a file is known as one of ours, which may be replaced."""

_QUALITY = 82

_STYLE = """
:root { color-scheme: light dark; --paper: #f4f4f4; --ink: #222; --faint: #777; --light: #ebebeb; --dark: #bebebe }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1b1b; --ink: #ddd; --faint: #999 } }
body { margin: 1rem; background: var(--paper); color: var(--ink); font: 14px/1.4 system-ui, sans-serif }
h1 { font-size: 1.2rem } h2 { font-size: 1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere }
a { color: inherit } p { margin: .2rem 0; color: var(--faint) }
.row { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; margin: 0 0 .5rem }
@media (min-width: 60rem) { .row { grid-template-columns: repeat(6, minmax(0, 1fr)) } }
figure { margin: 0 } figcaption { color: var(--faint); font-size: .8rem }
.view { background: var(--image) 0 0/100% 100% no-repeat, var(--under, none); width: 100% }
.checkerboard { --under: repeating-conic-gradient(var(--dark) 0 25%, var(--light) 0 50%) 0 0/20px 20px }
.black { --under: linear-gradient(#000, #000) } .white { --under: linear-gradient(#fff, #fff) }
.mask { background: #000 }
.mask::before { content: ""; display: block; width: 100%; height: 100%; background: #fff;
  -webkit-mask: var(--image) 0 0/100% 100% no-repeat; mask: var(--image) 0 0/100% 100% no-repeat }
"""


def gallery(entries: Sequence[SheetRow], color: Color = (30, 150, 70)) -> str:
    """The page; each picture and each cut-out is in it once, whatever the number of views."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cut-outs</title>
<style>{_STYLE}.color {{ --under: linear-gradient(rgb{color}, rgb{color}) }}
</style>
</head>
<body>
<h1>Cut-outs</h1>
"""
    return "".join((head, *map(_entry, entries), "</body>\n</html>\n"))


def _entry(entry: SheetRow) -> str:
    name = escape(entry.name)
    title = f'<a href="{escape(entry.link)}">{name}</a>' if entry.link else name
    first = "<figure></figure>"
    if entry.picture is not None:
        first = _view(entry.picture, View.INPUT, name, f"--image: {_uri(entry.picture)}; ")
    rows = ""
    for result in entry.results:
        rows += _row(result, name, first)
        first = "<figure></figure>"
    return f"<section>\n<h2>{title}</h2>\n{rows}</section>\n"


def _row(result: Result, name: str, first: str) -> str:
    """The views of a cut-out, which share its bytes."""
    by = escape(result.by)
    line = f"<p>{by}: {escape(result.note)}</p>\n" if result.note else f"<p>{by}</p>\n"
    if result.cut is None:
        return f'{line}<div class="row">{first}</div>\n'
    views = "".join(_view(result.cut, view, f"{name} by {by}") for view in View if view is not View.INPUT)
    return f'{line}<div class="row" style="--image: {_uri(result.cut)}">{first}{views}</div>\n'


def _view(image: Image.Image, view: View, name: str, style: str = "") -> str:
    label = f"{name}: {view.value}"
    shape = f"{style}aspect-ratio: {image.width}/{image.height}; max-width: {image.width}px"
    return (
        f'<figure><div class="view {view.value}" role="img" aria-label="{label}" style="{shape}"></div>'
        f"<figcaption>{view.value}</figcaption></figure>"
    )


def _uri(image: Image.Image) -> str:
    rgb, alpha = image.convert("RGB"), image.getchannel("A") if image.mode == "RGBA" else None
    data = encode(rgb, alpha, OutputFormat.WEBP, encoding=Encoding(quality=_QUALITY))
    return f"url(data:image/webp;base64,{base64.b64encode(data).decode()})"
