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
    from collections.abc import Iterator, Sequence

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


def gallery(entries: Sequence[SheetRow], color: Color = (30, 150, 70), title: str = "Cut-outs") -> str:
    """The page; each picture and each cut-out is in it once, whatever the number of views."""
    return "".join(_page(entries, color, title))


def _page(entries: Sequence[SheetRow], color: Color, title: str) -> Iterator[str]:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    yield f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{escape(title)}</title>\n<style>{_STYLE}"
    yield f".color {{ --under: linear-gradient(rgb{color}, rgb{color}) }}\n</style>\n</head>\n<body>\n"
    yield f"<h1>{escape(title)}</h1>\n"
    for entry in entries:
        yield from _entry(entry)
    yield "</body>\n</html>\n"


def _entry(entry: SheetRow) -> Iterator[str]:
    name = escape(entry.name)
    title = f'<a href="{escape(entry.link)}">{name}</a>' if entry.link else name
    yield f"<section>\n<h2>{title}</h2>\n"
    first = "<figure></figure>"
    if entry.picture is not None:
        first = _view(entry.picture, View.INPUT, name, f"--image: {_uri(entry.picture)}; ")
    for side in entry.sides:
        yield from _side(side, name, first)
        first = "<figure></figure>"
    yield "</section>\n"


def _side(side: Result, name: str, first: str) -> Iterator[str]:
    """A row; the views of a cut-out share its bytes."""
    by = escape(side.by)
    yield f"<p>{by}: {escape(side.note)}</p>\n" if side.note else f"<p>{by}</p>\n"
    if side.cut is None:
        yield f'<div class="row">{first}</div>\n'
        return
    cut = side.cut
    views = "".join(_view(cut, view, f"{name} by {by}") for view in View if view is not View.INPUT)
    yield f'<div class="row" style="--image: {_uri(cut)}">{first}{views}</div>\n'


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
