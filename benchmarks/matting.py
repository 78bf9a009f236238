"""Measure `--matting` against `rembg -a`: seconds in one interleaved run, scores against true alphas; print Markdown.

usage: python benchmarks/matting.py [FOLDER ...] [--rembg PATH] [-n PAIRS] [--step]

Each FOLDER holds images/ and masks/ (true alphas, same stems); without one, the time is taken with pictures of 0.2 to
1.5 megapixels made from examples/. Whole runs over the folder are made in turn (A B A B ...); the first pair warms the
caches (rembg compiles) and gives the cut-outs that are scored. `--step` times the matting step alone, which needs rembg
in this environment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter
from run import CUTOUT, ROOT, Cost, picture_sets, rembg_at, spend

from cutout.formats.decode import decode
from cutout.imaging import matting
from cutout.options import RemoveOptions
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

LARGEST = 2000  # longest side that is scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--rembg", help="the command; installed into build/rembg where it is not given")
    parser.add_argument("-n", type=int, default=3, help="pairs of runs that are timed")
    parser.add_argument("--step", action="store_true", help="time the matting step alone too")
    asked = parser.parse_args()
    build = ROOT / "build"
    rembg = rembg_at(asked.rembg, build)
    print("| pictures | run | seconds | times as fast | processor time | MAE | gradient | boundary MAE |")
    print("| --- " * 8 + "|")
    sets = [(folder.name, folder / "images", folder / "masks") for folder in asked.folders]
    for name, images, masks in sets or [("made of examples/", picture_sets(build / "pictures")[1], None)]:
        compare(name, images, masks, rembg, asked.n)
        if asked.step:
            step(name, images)


def compare(name: str, images: Path, masks: Path | None, rembg: Path, count: int) -> None:
    """Whole runs of both, and of cutout without matting."""
    with tempfile.TemporaryDirectory(prefix="cutout-matting-") as temporary:
        commands: dict[str, list[str | Path]] = {
            "`rembg p -a`": [rembg, "p", "-m", "u2netp", "-a", images],
            "`cutout remove --matting`": [CUTOUT, "remove", images, "--quiet", "--matting", "-o"],
            "`cutout remove`": [CUTOUT, "remove", images, "--quiet", "-o"],
        }
        taken: dict[str, list[Cost]] = {tool: [] for tool in commands}
        for number in range(count + 1):
            for index, (tool, command) in enumerate(commands.items()):
                target = Path(temporary) / str(index)
                if number:
                    target = target.with_name("timed")
                target.mkdir()
                cost = spend([*command, target], target, dict(os.environ))
                if number:
                    taken[tool].append(cost)
                    shutil.rmtree(target)
        theirs = median(taken["`rembg p -a`"])
        for index, (tool, costs) in enumerate(taken.items()):
            scores = score(Path(temporary) / str(index), masks) if masks else ("–",) * 3
            wall, cpu = median(costs)
            ratios = f"{wall:.2f} | {theirs[0] / wall:.1f} | {theirs[1] / cpu:.1f}"
            print(f"| {name} | {tool} | {ratios} | {' | '.join(scores)} |", flush=True)


def median(costs: list[Cost]) -> tuple[float, float]:
    """Seconds and processor seconds."""
    return statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs)


def step(name: str, images: Path) -> None:
    """The matting step of each picture by both, turn by turn, on one thread."""
    from rembg.bg import alpha_matting_cutout

    remover, options = Remover(device="cpu"), RemoveOptions(matting=True)
    taken: list[tuple[float, float]] = []
    for path in sorted(images.iterdir()):
        picture = decode(path.read_bytes())
        mask = remover.cut(picture, RemoveOptions(mask=True)).image
        start = time.process_time()
        try:
            alpha_matting_cutout(picture.rgb, mask, 240, 10, 10)
        except ValueError:  # no convergence, or nothing to solve
            continue
        between = time.process_time()
        matting.matte(picture.rgb, mask, options)
        taken.append((between - start, time.process_time() - between))
    theirs, ours = np.mean(taken, axis=0)
    ratio = statistics.median(one / other for one, other in taken)
    print(
        f"| {name} | the step alone: rembg, cutout | {theirs:.3f}, {ours:.3f} | – | {ratio:.1f} | – | – | – |",
        flush=True,
    )


def score(results: Path, masks: Path) -> tuple[str, ...]:
    """Means over all pictures, times 1000: absolute error, that of gradients, and the first near true edges."""
    rows = []
    for path in sorted(masks.iterdir()):
        with Image.open(path) as opened, Image.open(results / f"{path.stem}.png") as result:
            scale = min(1.0, LARGEST / max(opened.size))
            size = (round(opened.width * scale), round(opened.height * scale))
            true, found = alpha_of(opened.convert("L"), size), alpha_of(result.getchannel("A"), size)
        away = np.abs(true - found)
        slopes = np.abs(slope(true) - slope(found))
        rows.append((away.mean(), slopes.mean(), away[edge(true)].mean()))
    return tuple(f"{1000 * float(value):.2f}" for value in np.mean(rows, axis=0))


def alpha_of(image: Image.Image, size: tuple[int, int]) -> Floats:
    return np.asarray(image.resize(size, Image.Resampling.BOX), np.float32) / np.float32(255)


def slope(alpha: Floats) -> Floats:
    """Length of the gradient by derivatives of a Gaussian of sigma 1.4, as is usual for mattes."""
    reach = np.arange(-6, 7, dtype=np.float32)
    bell = np.exp(-(reach**2) / (2 * 1.4**2))
    bell /= bell.sum()
    lean = reach / 1.4**2 * bell

    def along(values: Floats, weights: Floats, axis: int) -> Floats:
        padded = np.pad(values, [(6, 6) if way == axis else (0, 0) for way in (0, 1)], mode="symmetric")
        views = np.lib.stride_tricks.sliding_window_view(padded, 13, axis=axis)
        result: Floats = views @ weights
        return result

    result: Floats = np.hypot(along(along(alpha, lean, 0), bell, 1), along(along(alpha, bell, 0), lean, 1))
    return result


def edge(true: Floats) -> npt.NDArray[np.bool_]:
    """Soft pixels and the line where alpha passes one half, grown by 1% of the longer side."""
    inside = Image.fromarray(np.uint8((true > 0.5) * 255))
    outline = np.asarray(inside.filter(ImageFilter.MaxFilter(3))) != np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    band = Image.fromarray(np.uint8((((true > 0.02) & (true < 0.98)) | outline) * 255))
    reach = max(2, round(max(true.shape) * 0.01))
    return np.asarray(band.filter(ImageFilter.BoxBlur(reach)).point([0] + [255] * 255)) > 0


if __name__ == "__main__":
    main()
