"""Score what options do to cut-outs: pictures with true masks in, a Markdown table out.

usage: python benchmarks/quality.py FOLDER [OPTIONS ...] [--model NAME] [--longest N]

FOLDER holds images/ and masks/ (grey, same stems). Each OPTIONS is one quoted set, such as "refine" or "refine tiles=2"
(names of `RemoveOptions`); the plain mask comes first. MAE, GRAD and BMAE are means ×1000, lower is better:

MAE   mean |alpha - truth|
IoU   of both above one half
GRAD  mean difference of the gradients' magnitudes, Gaussian of sigma 1.4
BMAE  MAE within 1% of the longer side around the true contour and soft pixels
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from cutout.formats.decode import decode
from cutout.options import RemoveOptions
from cutout.pipeline.remover import Remover

Plane = npt.NDArray[np.floating]
METRICS = ("MAE", "IoU", "GRAD", "BMAE")


def slopes(plane: Plane) -> Plane:
    down, across = (ndimage.gaussian_filter(plane, 1.4, order=order) for order in ((1, 0), (0, 1)))
    return np.asarray(np.hypot(down, across))


def score(alpha: Plane, truth: Plane) -> tuple[float, float, float, float]:
    """MAE, IoU, GRAD, BMAE of an alpha; both 0-1."""
    error, inside, wanted = np.abs(alpha - truth), alpha > 0.5, truth > 0.5
    edge = (truth > 0.02) & (truth < 0.98) | (ndimage.binary_dilation(wanted) ^ ndimage.binary_erosion(wanted))
    reach = 2 * max(2, round(max(truth.shape) / 100)) + 1
    band = ndimage.maximum_filter(edge, reach)
    union = max(1, int((inside | wanted).sum()))
    gradient = np.abs(slopes(alpha) - slopes(truth)).mean() * 1e3
    bmae = float(error[band].mean()) * 1e3 if band.any() else 0.0
    return float(error.mean()) * 1e3, float((inside & wanted).sum() / union), float(gradient), bmae


def plane(image: Image.Image, size: tuple[int, int]) -> Plane:
    if image.size != size:
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image.convert("L"), np.float32) / 255


def parse(text: str) -> RemoveOptions:
    values: dict[str, Any] = {"mask": True}
    for word in text.split():
        key, sign, value = word.removeprefix("--").partition("=")
        values[key.replace("-", "_")] = json.loads(value) if sign else True
    return RemoveOptions.from_mapping(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("options", nargs="*", default=["refine"])
    parser.add_argument("--model", default="u2netp")
    parser.add_argument("--longest", type=int, default=2000, help="pixels of the long side that are scored")
    asked = parser.parse_args()
    remover = Remover(asked.model, device="cpu")
    sets = {"plain": RemoveOptions(mask=True), **{text: parse(text) for text in asked.options}}
    scores: dict[str, list[tuple[float, ...]]] = {name: [] for name in sets}
    for path in sorted((asked.folder / "images").iterdir()):
        truth = next((asked.folder / "masks").glob(path.stem + ".*"), None)
        if truth is None:
            print(f"{path.name} has no mask, left out", file=sys.stderr)
            continue
        picture = decode(path.read_bytes())
        scale = min(1.0, asked.longest / max(picture.rgb.size))
        size = (round(picture.rgb.width * scale), round(picture.rgb.height * scale))
        with Image.open(truth) as opened:
            wanted = plane(opened.convert("L"), size)
        for name, options in sets.items():
            alpha = remover.cut(picture, options).alpha
            assert alpha is not None
            scores[name].append(score(plane(alpha, size), wanted))
    if not scores["plain"]:
        sys.exit(f"{asked.folder} holds no picture with a mask")
    print(f"{len(scores['plain'])} pictures of {asked.folder.name}, {remover.model}\n")
    print("| options | " + " | ".join(METRICS) + " |\n| --- |" + " ---: |" * len(METRICS))
    plain = np.mean(scores["plain"], axis=0)
    for name, rows in scores.items():
        means = np.mean(rows, axis=0)
        cells = [f"{means[0]:.2f}", f"{means[1]:.4f}", f"{means[2]:.3f}", f"{means[3]:.2f}"]
        if name != "plain":
            for index in (0, 2, 3):
                cells[index] += f" ({(means[index] / plain[index] - 1) * 100:+.1f}%)"
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
