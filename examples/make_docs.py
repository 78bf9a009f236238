"""Make the pictures of docs/quality-eval.md from the examples, which are free to use.

Run it from the repository: python examples/make_docs.py [FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def compare(target: Path, *args: str | Path) -> None:
    """What `cutout compare` draws, as a small JPEG."""
    command = [sys.executable, "-m", "cutout", "compare", *args, "-o", target, "--device", "cpu", "--quiet"]
    subprocess.run(list(map(str, command)), check=True)
    with Image.open(target) as sheet:
        sheet.load()
    sheet.save(target, quality=78, optimize=True)
    print(target)


def fit(target: Path) -> None:
    """A wide picture cut out both ways."""
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "wide.png"
        with Image.open(EXAMPLES / "coffee.jpg") as coffee:
            coffee.crop((0, 110, 600, 310)).save(wide)
        for way in ("stretch", "pad"):
            made = Path(folder) / way / "wide.png"
            command = ["remove", wide, "-o", made, "--fit", way, "--device", "cpu", "--quiet"]
            subprocess.run([sys.executable, "-m", "cutout", *map(str, command)], check=True)
        compare(target, wide, "--results", Path(folder) / "stretch", "--results", Path(folder) / "pad", "--size", "200")


def main() -> None:
    """Write the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    compare(folder / "compare.jpg", EXAMPLES / "chelsea.jpg", "--detail", "--size", "200")
    fit(folder / "fit.jpg")


if __name__ == "__main__":
    main()
