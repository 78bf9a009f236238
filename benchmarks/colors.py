"""Measure the colours of soft edges where the true foreground is known; print Markdown.

usage: python benchmarks/colors.py [--cutouts FOLDER] [--photos FOLDER] [--pick N] [--speed] [--constants]

Cut-outs with a true alpha are put over photographs; every method gets the composite and the true alpha, and gives
colours back. Without --cutouts the cut-outs are made from examples/ with mattes of hair that this script draws; with it
they are the RGBA pictures of a folder that have soft edges. The error is the mean absolute difference (0-255) over the
soft pixels between the cut-out on a new background and the true one on it.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from cutout.formats.picture import from_image
from cutout.imaging import decontaminate as module
from cutout.imaging.decontaminate import decontaminate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Method = Callable[[Image.Image, Image.Image], Image.Image]

EXAMPLES = Path(__file__).parent.parent / "examples"
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "magenta": (255, 0, 255)}


def hair(size: tuple[int, int], seed: int) -> Image.Image:
    """A matte: a blurred blob with curved strands around it, drawn at four times its size."""
    random = np.random.default_rng(seed)
    width, height = (4 * side for side in size)
    matte = Image.new("L", (width, height))
    draw = ImageDraw.Draw(matte)
    center, radius = np.array([width / 2, height * 0.55]), 0.3 * min(width, height)
    draw.ellipse((*(center - radius), *(center + radius)), fill=255)
    for angle in random.uniform(0, 2 * np.pi, 700):
        point, direction = center + 0.95 * radius * np.array([np.cos(angle), np.sin(angle)]), angle
        for _ in range(int(random.integers(8, 22))):
            following = point + radius / 25 * np.array([np.cos(direction), np.sin(direction)])
            draw.line((*point, *following), fill=int(random.integers(120, 256)), width=int(random.integers(2, 7)))
            point, direction = following, direction + random.normal(0, 0.25)
    return matte.filter(ImageFilter.GaussianBlur(float(random.uniform(1, 5)))).reduce(4)


def drawn() -> Iterator[Image.Image]:
    """Parts of the examples, cut out by drawn hair; mode RGBA."""
    for number in range(12):
        with Image.open(sorted(EXAMPLES.glob("*.jpg"))[number % 3]) as photo:
            image = ImageOps.fit(photo.convert("RGB"), (400, 400), centering=(number / 11, 0.5))
        image.putalpha(hair(image.size, number))
        yield image


def taken(folder: Path, count: int) -> Iterator[Image.Image]:
    """So many RGBA pictures of a folder whose edges are soft, evenly over it."""
    found = []
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            if "A" not in image.getbands() or min(image.size) < 200:
                continue
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
        middle = float(((alpha > 40) & (alpha < 215)).mean())
        if 0.01 < middle < 0.09 and (alpha == 255).mean() > 0.1:
            found.append(path)
    for index in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int):
        with Image.open(found[index]) as image:
            yield image.convert("RGBA")


def composite(cutout: Image.Image, photo: Image.Image) -> Image.Image:
    """Over a photograph that covers its size."""
    ground = ImageOps.fit(photo, cutout.size, Image.Resampling.LANCZOS)
    return Image.composite(cutout.convert("RGB"), ground, cutout.getchannel("A"))


def over(colors: Image.Image, alpha: Floats, background: tuple[int, int, int]) -> Floats:
    return alpha * np.asarray(colors, np.float64) + (1 - alpha) * np.array(background, np.float64)


def error(found: Image.Image, true: Image.Image, background: tuple[int, int, int]) -> float:
    alpha = np.asarray(true.getchannel("A"))
    soft = (alpha > 0) & (alpha < 255)
    share = alpha[..., None] / 255.0
    difference = over(found, share, background) - over(true.convert("RGB"), share, background)
    return float(np.abs(difference[soft]).mean())


def straight(rgb: Image.Image, _alpha: Image.Image) -> Image.Image:
    return rgb


def darkened(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """rembg's default: composed over transparent black, so that alpha counts twice."""
    return Image.composite(rgb, Image.new("RGB", rgb.size), alpha)


def mean(values: Floats, side: int) -> Floats:
    """Means of squares, the border repeated."""
    for axis in (0, 1):
        before, after = side // 2, side - 1 - side // 2
        padding = [(before + 1, after) if index == axis else (0, 0) for index in range(values.ndim)]
        sums = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis)
        length = values.shape[axis]
        values = (np.take(sums, range(side, side + length), axis) - np.take(sums, range(length), axis)) / side
    return values


def blur_fusion(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Forte 2021, both passes (90 and 6 pixels)."""
    image, share = np.asarray(rgb, np.float64), np.asarray(alpha)[..., None] / 255.0
    fore = back = image
    for side in (90, 6):
        around = mean(share, side)
        smooth = mean(fore * share, side) / (around + 1e-5)
        back = mean(back * (1 - share), side) / (1 - around + 1e-5)
        fore = np.clip(smooth + share * (image - share * smooth - (1 - share) * back), 0, 255)
    return Image.fromarray(fore.round().astype(np.uint8))


def multi_level(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Germer et al. 2020, by pymatting."""
    from pymatting import estimate_foreground_ml

    found = estimate_foreground_ml(np.asarray(rgb) / 255.0, np.asarray(alpha) / 255.0)
    return Image.fromarray((np.clip(found, 0, 1) * 255).round().astype(np.uint8))


METHODS: dict[str, Method] = {
    "rembg's default": darkened,
    "straight alpha (`keep`)": straight,
    "blur fusion ×2": blur_fusion,
    "pymatting, multi-level": multi_level,
    "cutout (`clean`)": decontaminate,
}


def spent(call: Callable[[], object], times: int = 7) -> float:
    """Least processor time of several calls, in milliseconds."""
    call()
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best * 1e3


def speed() -> None:
    """What it costs at 12 megapixels with the embedded model's own masks, against the whole way of a picture."""
    from cutout.formats import decode
    from cutout.formats.encode import encode
    from cutout.options import RemoveOptions
    from cutout.output_formats import OutputFormat
    from cutout.pipeline.remover import Remover

    remover = Remover(device="cpu")
    print("\n| 12-MP picture | processor ms, whole | of this `clean` | share | PNG bytes, clean / keep |")
    print("| --- | --- | --- | --- | --- |")
    for path in sorted(EXAMPLES.glob("*.jpg")):
        with Image.open(path) as small:
            scale = (12e6 / (small.width * small.height)) ** 0.5
            size = round(small.width * scale), round(small.height * scale)
            picture = from_image(small.resize(size, Image.Resampling.LANCZOS))
        jpeg = encode(picture.rgb, None, OutputFormat.JPEG, picture.metadata)

        def way(colors: str, data: bytes = jpeg) -> int:
            made = remover.cut(decode.decode(data), RemoveOptions.from_mapping({"edge_colors": colors}), consume=True)
            return len(encode(made.rgb, made.alpha, OutputFormat.PNG, made.metadata))

        alpha = remover.cut(picture, RemoveOptions(mask=True)).alpha
        assert alpha is not None
        whole = spent(lambda: way("clean"), 3)
        own = spent(
            partial(decontaminate, picture.rgb, alpha, in_place=True)
        )  # the same work on colours that are clean
        sizes = way("clean") / way("keep")
        print(f"| {path.stem} | {whole:.0f} | {own:.0f} | {own / whole:.1%} | {sizes:.3f} |", flush=True)


CONSTANTS: dict[str, tuple[object, object]] = {
    "_WORK": (30_000, 120_000),
    "_TILE": (32, 128),
    "_FIRST": (4, 16),
    "_LAST": (239, 251),
    "_STEEP": (3, 12),
    "_LEAST": (3, 12),
    "_GAIN": (2, 8),
    "_LEVELS": (4, 6),
    "_PASSES": ((2, 2, 3), (6, 8, 12)),
    "_SMALLEST": (4, 16),
    "_DOUBT": (0.025, 0.1),
    "_SMOOTH": (2, 8),
    "_NOISE": (50.0, 200.0),
    "_THIN": (1 / 32, 1 / 8),
}
"""Those of `imaging.decontaminate`, at about half and twice their value."""


def constants(composites: list[tuple[Image.Image, Image.Image]]) -> None:
    """The error, and the processor time of all cut-outs, with each constant changed alone."""

    def measured() -> str:
        start = time.process_time()
        found = [decontaminate(shown, true.getchannel("A")) for shown, true in composites]
        spent_ms = (time.process_time() - start) * 1e3
        errors = [error(colors, true, (0, 0, 0)) for colors, (_, true) in zip(found, composites, strict=True)]
        return f"{np.mean(errors):.2f} ({spent_ms:.0f} ms)"

    measured()
    print(f"\n| constant | as it is: {measured()} | half | twice |\n| --- | --- | --- | --- |")
    for name, values in CONSTANTS.items():
        kept = getattr(module, name)
        cells = []
        for value in values:
            setattr(module, name, value)
            cells.append(measured())
        setattr(module, name, kept)
        print(f"| `{name}` | {kept} | {values[0]}: {cells[0]} | {values[1]}: {cells[1]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cutouts", type=Path, help="a folder of RGBA pictures instead of drawn ones")
    parser.add_argument("--photos", type=Path, default=EXAMPLES, help="a folder of JPEG photographs for backgrounds")
    parser.add_argument("--pick", type=int, default=20, help="how many of the folder's cut-outs")
    parser.add_argument("--speed", action="store_true", help="also measure time and file size at 12 megapixels")
    parser.add_argument("--constants", action="store_true", help="also measure with each constant halved and doubled")
    asked = parser.parse_args()
    photos = [Image.open(path).convert("RGB") for path in sorted(asked.photos.glob("*.jpg"))]
    cutouts = list(taken(asked.cutouts, asked.pick) if asked.cutouts else drawn())
    print(f"{len(cutouts)} cut-outs over {len(photos)} photographs\n")
    print(f"| method | {' | '.join(f'on {name}' for name in BACKGROUNDS)} | mean |")
    print(f"| --- |{' --- |' * (len(BACKGROUNDS) + 1)}")
    for name, method in METHODS.items():
        rows = []
        for number, true in enumerate(cutouts):
            # not the photograph that a drawn cut-out is made of
            shown = composite(true, photos[(number + 1) % len(photos)])
            found = method(shown, true.getchannel("A"))
            rows.append([error(found, true, background) for background in BACKGROUNDS.values()])
        means = np.mean(rows, axis=0)
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in means)} | **{means.mean():.2f}** |", flush=True)
    if asked.constants:
        constants([(composite(true, photos[(at + 1) % len(photos)]), true) for at, true in enumerate(cutouts)])
    if asked.speed:
        speed()


if __name__ == "__main__":
    main()
