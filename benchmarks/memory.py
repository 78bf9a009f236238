"""The memory that one picture takes while it is worked on, by format and option, in bytes a pixel: a Markdown table.

usage: python benchmarks/memory.py [--megapixels N ...] [--only WORD] [--limit GB]

Each case runs in a process of its own: a small picture first, so that libraries and the model are loaded, then the
large one. Shown is by how much the largest resident size grew, and what `pipeline.estimate` says beforehand, whose
constants were fitted to this table. Linux only. No process takes more than the limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from cutout.enums import BitDepth, PngLevel
from cutout.formats import decode
from cutout.formats.pillow import register_heif
from cutout.formats.png import encode_png
from cutout.formats.sixteen_bit import widen
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.convert import convert
from cutout.pipeline.estimate import need_of
from cutout.pipeline.remover import Remover
from cutout.system import keep_small
from cutout.timing import StageTimes

ROOT = Path(__file__).parent.parent
SMALL = (600, 400)
# name: (kind of input, output format, options, encoding)
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    **{f"jpg to {name}": ("jpg", name, {}, {}) for name in ("png", "jpg", "tiff", "webp", "avif", "heic")},
    "jpg to png, mask": ("jpg", "png", {"mask": True}, {}),
    "jpg to webp, lossless": ("jpg", "webp", {}, {"lossless": True}),
    "jpg to avif, lossless": ("jpg", "avif", {}, {"lossless": True}),
    "jpg to png, 16 bits asked": ("jpg", "png", {}, {"bit_depth": "16"}),
    "jpg to tiff, 16 bits asked": ("jpg", "tiff", {}, {"bit_depth": "16"}),
    **{
        f"jpg to png, {' '.join(f'{key}={value}' for key, value in options.items())}": ("jpg", "png", options, {})
        for options in (
            {"background": "#336699"},
            {"background": "#33669980"},
            {"background": "blur:2%"},
            {"background": "gradient:red,blue"},
            {"shadow": "default"},
            {"shadow": "default", "background": "white"},
            {"matting": True},
            {"refine": True},
            {"tiles": 4},
            {"post_process": True},
            {"largest": True},
            {"fill_holes": "all"},
            {"erode": 5},
            {"dilate": 5},
            {"feather": 20},
            {"crop": True},
            {"edge_colors": "keep"},
        )
    },
    **{f"{kind} to png": (kind, "png", {}, {}) for kind in ("png", "rgba png", "palette png", "grey png", "png 16")},
    "tall png to png, shadow=default": ("tall png", "png", {"shadow": "default"}, {}),
    "png 16 to tiff": ("png 16", "tiff", {}, {}),
    "png 16 to png, 8 bits": ("png 16", "png", {}, {"bit_depth": "8"}),
    "grey png 16 to png": ("grey png 16", "png", {}, {}),
    **{f"{kind} to png": (kind, "png", {}, {}) for kind in ("progressive jpg", "cmyk jpg", "turned jpg")},
    **{f"{kind} to png": (kind, "png", {}, {}) for kind in ("webp", "avif", "tiff", "jp2", "bmp", "gif", "heic")},
}

SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 90}),
    "progressive jpg": ("JPEG", {"quality": 90, "progressive": True}),
    "cmyk jpg": ("JPEG", {"quality": 90}),
    "turned jpg": ("JPEG", {"quality": 90}),
    "png": ("PNG", {"compress_level": 1}),
    "tall png": ("PNG", {"compress_level": 1}),
    "rgba png": ("PNG", {"compress_level": 1}),
    "palette png": ("PNG", {"compress_level": 1}),
    "grey png": ("PNG", {"compress_level": 1}),
    "webp": ("WEBP", {"quality": 80, "method": 0}),
    "avif": ("AVIF", {"quality": 70, "speed": 10}),
    "tiff": ("TIFF", {}),
    "jp2": ("JPEG2000", {}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "heic": ("HEIF", {"quality": 60}),
}
MODES = {"cmyk jpg": "CMYK", "grey png": "L", "grey png 16": "L"}


def make(kind: str, size: tuple[int, int], path: Path) -> None:
    """A picture of that kind and size, a tall one of as many pixels."""
    if kind.startswith("tall"):
        size = (8, size[0] * size[1] // 8)
    image = Image.open(ROOT / "examples" / "chelsea.jpg").convert("RGB").resize(size, Image.Resampling.BICUBIC)
    image = image.convert(MODES.get(kind, "RGB"))
    if kind.endswith("png 16"):
        path.write_bytes(encode_png(None, None, wide=widen(image), level=PngLevel.FASTEST))
        return
    if kind in {"palette png", "gif"}:
        image = image.quantize(64)
    if kind == "rgba png":
        image.putalpha(200)
    if kind == "heic":
        register_heif("this benchmark")
    name, settings = SAVED[kind]
    if kind == "turned jpg":
        settings = {**settings, "exif": Image.Exif()}
        settings["exif"][0x0112] = 6
    image.save(path, name, **settings)


def highest() -> int:
    """Bytes that were resident at most; `ru_maxrss` would begin with what the parent process had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure(name: str, path: Path) -> dict[str, int]:
    """The growth by one case, in this process."""
    keep_small()
    _, output_format, look, how = CASES[name]
    if "bit_depth" in how:
        how = {**how, "bit_depth": BitDepth(how["bit_depth"])}
    options, encoding, written = RemoveOptions(**look), Encoding(**how), OutputFormat(output_format)
    remover = Remover(device="cpu", memory_limit="1TB")
    convert(path.with_suffix(".small").read_bytes(), written, remover, options, encoding, StageTimes())
    before, data = highest(), path.read_bytes()
    header = decode.header(data)
    convert(data, written, remover, options, encoding, StageTimes())
    grown = highest() - before
    if not written.has_alpha and options.background is None:
        options = RemoveOptions(**look, background="white")
    told = need_of(header, options, written, data=len(data), lossless=encoding.lossless, bit_depth=encoding.bit_depth)
    return {"grown": grown, "told": told.memory, "pixels": header.size[0] * header.size[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", nargs="*", type=float, default=[24, 96])
    parser.add_argument("--only", default="", help="cases whose name has this word in it")
    parser.add_argument("--limit", type=float, default=12, help="gigabytes of address space")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    if asked.one:
        resource.setrlimit(resource.RLIMIT_AS, (int(asked.limit * 1e9),) * 2)
        print(json.dumps(measure(asked.one[0], Path(asked.one[1]))))
        return
    print("| case | megapixels | measured, bytes a pixel | estimated | measured / estimated |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="cutout-memory-") as folder:
        for megapixels in asked.megapixels:
            height = int((megapixels * 1e6 / 1.5) ** 0.5)
            for name, (kind, *_) in CASES.items():
                if asked.only not in name:
                    continue
                path = Path(folder, f"{kind.replace(' ', '-')}-{megapixels:g}.picture")
                if not path.exists():
                    make(kind, (height * 3 // 2, height), path)
                    make(kind, SMALL, path.with_suffix(".small"))
                command = [sys.executable, __file__, "--limit", str(asked.limit), "--one", name, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"| {name} | {megapixels:g} | {done.stderr.strip().splitlines()[-1]} | | |", flush=True)
                    continue
                found = json.loads(done.stdout)
                each, told = found["grown"] / found["pixels"], found["told"] / found["pixels"]
                print(f"| {name} | {megapixels:g} | {each:.1f} | {told:.1f} | {each / told:.2f} |", flush=True)


if __name__ == "__main__":
    main()
