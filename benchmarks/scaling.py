"""How the pictures per second grow with cores and with the number of pictures: a Markdown table and an SVG plot.

usage: python benchmarks/scaling.py [--cores N ...] [--counts N ...] [--plot FILE]

Whole processes (`cutout remove FOLDER`), start included, on the small set of `benchmarks/run.py`, over and over.
Linux only: processes are bound to cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from run import CUTOUT, ROOT, picture_sets

COLORS = ("#9aa7b4", "#2f6fde", "#d9822b", "#3a9d5d")


def rate(cores: int, count: int, pictures: list[Path]) -> float:
    """Pictures per second of one process on so many cores."""
    with tempfile.TemporaryDirectory(prefix="cutout-scaling-") as folder:
        source = Path(folder, "in")
        source.mkdir()
        for number, picture in enumerate(islice(cycle(pictures), count)):
            shutil.copy(picture, source / f"{number:05d}{picture.suffix}")
        allowed = sorted(os.sched_getaffinity(0))[:cores]
        start = time.perf_counter()
        subprocess.run(
            [CUTOUT, "remove", source, "-o", Path(folder, "out"), "--quiet"],
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        return count / (time.perf_counter() - start)


def plot(rates: dict[int, dict[int, float]], target: Path) -> None:
    """A bar for each number of pictures and cores."""
    counts = sorted({count for row in rates.values() for count in row})
    most = max(value for row in rates.values() for value in row.values())
    wide, high, left, bottom = 640, 300, 50, 40
    slot = (wide - left - 10) / len(counts)
    bar = slot * 0.7 / len(rates)
    scale = (high - bottom - 40) / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="13">',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
        f'<text x="{left}" y="18">pictures per second, by pictures in the folder</text>',
    ]
    for place, count in enumerate(counts):
        for number, (_, row) in enumerate(sorted(rates.items())):
            if count not in row:
                continue
            x, size = left + place * slot + slot * 0.15 + number * bar, row[count] * scale
            y = high - bottom - size
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar - 4:.1f}" height="{size:.1f}" fill="{COLORS[number % 4]}"/>'
            )
            parts.append(
                f'<text x="{x + bar / 2 - 2:.1f}" y="{y - 4:.1f}" text-anchor="middle">{row[count]:.2f}</text>'
            )
        parts.append(
            f'<text x="{left + (place + 0.5) * slot:.1f}" y="{high - bottom + 18}" text-anchor="middle">{count}</text>'
        )
    for number, cores in enumerate(sorted(rates)):
        parts.append(f'<rect x="{left + number * 110}" y="28" width="12" height="12" fill="{COLORS[number % 4]}"/>')
        parts.append(f'<text x="{left + 18 + number * 110}" y="39">{cores} core{"s" * (cores > 1)}</text>')
    target.write_text("\n".join([*parts, "</svg>\n"]), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = len(os.sched_getaffinity(0))
    parser.add_argument("--cores", nargs="*", type=int, default=sorted({1, every}))
    parser.add_argument("--counts", nargs="*", type=int, default=[1, 10, 100, 1000])
    parser.add_argument("--longest", type=int, default=1000, help="pictures beyond which one core is not measured")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    _, small = picture_sets(ROOT / "build" / "pictures")
    pictures = sorted(small.iterdir())
    rates: dict[int, dict[int, float]] = {cores: {} for cores in asked.cores}
    print("| pictures | " + " | ".join(f"{cores} core{'s' * (cores > 1)}, pictures/s" for cores in asked.cores) + " |")
    print("| --- |" + " --- |" * len(asked.cores))
    for count in asked.counts:
        for cores in asked.cores:
            if cores > 1 or count <= asked.longest:
                rates[cores][count] = rate(cores, count, pictures)
        cells = (f"{rates[cores][count]:.2f}" if count in rates[cores] else "" for cores in asked.cores)
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)
    if asked.plot:
        plot(rates, asked.plot)


if __name__ == "__main__":
    main()
