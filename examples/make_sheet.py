"""Make docs/examples.jpg, the sheet in the README: each example on a checkerboard, on black and on a colour.

Run it from the repository: python examples/make_sheet.py [OUTPUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from cutout import Remover, remove
from cutout.evaluate.contact_sheet import View, shown

ROOT = Path(__file__).parent.parent
WIDTH = 300


def row(path: Path, remover: Remover) -> Image.Image:
    """The picture and its cut-out on three backgrounds, side by side."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
    cut = remove(picture, session=remover)
    sheet = Image.new("RGB", (WIDTH * 4, picture.height))
    for number, view in enumerate((View.INPUT, View.CHECKERBOARD, View.BLACK, View.COLOR)):
        sheet.paste(shown(cut, view, picture=picture), (number * WIDTH, 0))
    return sheet


def main() -> None:
    """Write the sheet."""
    remover = Remover(device="cpu")
    rows = [row(path, remover) for path in sorted((ROOT / "examples").glob("*.jpg"))]
    sheet = Image.new("RGB", (WIDTH * 4, sum(part.height for part in rows)))
    top = 0
    for part in rows:
        sheet.paste(part, (0, top))
        top += part.height
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "examples.jpg"
    sheet.save(target, quality=85, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
