"""Measure cutout against rembg and against the bare runtime; print Markdown.

usage: python benchmarks/run.py [-n PAIRS] [--rembg PATH] [--large FOLDER] [--small FOLDER] [--only NAME ...]

Whole processes are run in turn (A B A B ...), the first pair warms the caches and is not counted, medians are compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parent.parent
CUTOUT = Path(sys.executable).with_name("cutout")
MODEL = ROOT / "src" / "cutout" / "models" / "weights" / "u2netp.onnx"


@dataclass(frozen=True)
class Cost:
    """One process: seconds, processor seconds, peak memory in MB, output in MB."""

    wall: float
    cpu: float
    peak: float
    output: float


def spend(command: Sequence[str | Path], output: Path, environ: dict[str, str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{command[0]} failed: {said.decode()}")
    files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, size)


def pairs(
    ours: Callable[[Path], Sequence[str | Path]],
    theirs: Callable[[Path], Sequence[str | Path]],
    *,
    count: int,
    environ: dict[str, str],
    suffix: str = "",
) -> tuple[Cost, Cost]:
    """Medians of both tools over so many pairs of runs."""
    taken: tuple[list[Cost], list[Cost]] = ([], [])
    for number in range(count + 1):
        for costs, command in zip(taken, (ours, theirs), strict=True):
            folder = Path(tempfile.mkdtemp(prefix="cutout-bench-"))
            target = folder / f"out{suffix}"
            if not suffix:
                target.mkdir()
            cost = spend(command(target), target, environ)
            if number:
                costs.append(cost)
            shutil.rmtree(folder)
    first, second = (
        Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in Cost.__dataclass_fields__))
        for costs in taken
    )
    return first, second


def table(title: str, ours: Cost, theirs: Cost) -> None:
    print(
        f"| {title} | {theirs.wall:.2f} | {ours.wall:.2f} | **{theirs.wall / ours.wall:.2f}** "
        f"| {theirs.cpu / ours.cpu:.2f} | {ours.peak:.0f} / {theirs.peak:.0f} MB "
        f"| {100 * (ours.output / theirs.output - 1):+.1f}% |",
        flush=True,
    )


def picture_sets(folder: Path) -> tuple[Path, Path]:
    """Sets of 12-megapixel and of 0.2-1.5-megapixel JPEGs.

    Made by a process of their own: what this one held would count as the peak memory of those it starts.
    """
    large, small = folder / "large", folder / "small"
    maker = multiprocessing.get_context("spawn").Process(target=make_pictures, args=(large, small, folder / "one.jpg"))
    maker.start()
    maker.join()
    return large, small


def make_pictures(large: Path, small: Path, one: Path) -> None:
    """From the examples, with a camera's grain."""
    for target, sizes in ((large, [12.0] * 2), (small, list(np.linspace(0.2, 1.5, 8)))):
        if target.exists():
            continue
        target.mkdir(parents=True)
        for path in sorted((ROOT / "examples").glob("*.jpg")):
            for number, megapixels in enumerate(sizes):
                with Image.open(path) as opened:
                    scale = (megapixels * 1e6 / (opened.width * opened.height)) ** 0.5
                    size = (round(opened.width * scale), round(opened.height * scale))
                    pixels = np.asarray(opened.convert("RGB").resize(size, Image.Resampling.LANCZOS)).astype(np.int16)
                grain = np.random.default_rng(number).normal(0, 2.5, pixels.shape).astype(np.int16)
                made = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
                made.save(target / f"{path.stem}-{number}.jpg", quality=90)
    with Image.open(ROOT / "examples" / "astronaut.jpg") as image:
        image.resize((836, 836), Image.Resampling.LANCZOS).save(one, quality=92)


def rembg_at(asked: str | None, build: Path) -> Path:
    if asked:
        return Path(asked)
    binary = build / "rembg" / "bin" / "rembg"
    if not binary.exists():
        print("installing rembg in an environment of its own", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", build / "rembg"], check=True)
        subprocess.run([binary.with_name("pip"), "install", "-q", "rembg[cpu,cli]"], check=True)
    return binary


def bare(threads: int, side_by_side: int, runs: int) -> float:
    """Calls of `session.run` per second, nothing else."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(MODEL), settings, providers=["CPUExecutionProvider"])
    batch = {session.get_inputs()[0].name: np.random.default_rng(0).random((1, 3, 320, 320), np.float32)}
    names = [session.get_outputs()[0].name]
    with ThreadPoolExecutor(side_by_side) as pool:
        list(pool.map(lambda _: session.run(names, batch), range(side_by_side)))
        start = time.perf_counter()
        list(pool.map(lambda _: session.run(names, batch), range(runs)))
        return runs / (time.perf_counter() - start)


def steady(folder: Path, workers: int, rounds: int) -> float:
    """Pictures per second of the whole pipeline, model open and caches warm."""
    from cutout.enums import Existing
    from cutout.jobs.executors.threads import process_all
    from cutout.jobs.plan import plan
    from cutout.options import Encoding, RemoveOptions
    from cutout.pipeline.remover import Remover
    from cutout.system import keep_for_the_next, keep_small

    keep_small()  # as the command does
    keep_for_the_next()
    remover = Remover(device="cpu", jobs=workers)
    options, encoding = RemoveOptions(), Encoding()
    with tempfile.TemporaryDirectory(prefix="cutout-bench-") as out:
        jobs = plan([str(folder)], out, existing=Existing.OVERWRITE).jobs
        list(process_all(jobs[:2], remover, options, encoding, workers=workers))
        start = time.perf_counter()
        list(process_all(list(jobs) * rounds, remover, options, encoding, workers=workers))
        return rounds * len(jobs) / (time.perf_counter() - start)


def first_seconds(command: Sequence[str | Path], environ: dict[str, str], count: int) -> float:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, capture_output=True, env=environ)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3, help="pairs of runs")
    parser.add_argument("--rembg", help="the rembg command of an environment of its own")
    parser.add_argument("--large", type=Path, help="a folder of 12-megapixel pictures")
    parser.add_argument("--small", type=Path, help="a folder of 0.2-1.5-megapixel pictures")
    parser.add_argument("--only", nargs="*", default=["start", "small", "large", "bare", "import"])
    asked = parser.parse_args()
    build = ROOT / "build"
    rembg = rembg_at(asked.rembg, build)
    made_large, made_small = picture_sets(build / "pictures")
    large, small = asked.large or made_large, asked.small or made_small
    home = build / "u2net"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(MODEL, home)
    environ = {**os.environ, "U2NET_HOME": str(home)}

    def ours(source: Path) -> Callable[[Path], Sequence[str | Path]]:
        return lambda target: [CUTOUT, "remove", source, "-o", target]

    def theirs(source: Path, word: str) -> Callable[[Path], Sequence[str | Path]]:
        return lambda target: [rembg, word, "-m", "u2netp", source, target]

    print("| what | rembg s | cutout s | times as fast | processor time | peak memory, ours / theirs | output size |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    if "start" in asked.only:
        one = build / "pictures" / "one.jpg"
        measured = pairs(ours(one), theirs(one, "i"), count=2 * asked.n + 1, environ=environ, suffix=".png")
        table("one picture of 0.7 MP, new process", *measured)
    for name, folder in (("small", small), ("large", large)):
        if name in asked.only:
            count = len(list(folder.iterdir()))
            measured = pairs(ours(folder), theirs(folder, "p"), count=asked.n, environ=environ)
            table(f"folder, {count} pictures, {name}", *measured)
    if "bare" in asked.only:
        cores = len(os.sched_getaffinity(0))
        print(
            "\n| pictures/s over bare `session.run`/s | pipeline | bare, side by side | bare, one at a time | ratio |"
        )
        print("| --- | --- | --- | --- | --- |")
        for name, folder in (("small", small), ("large", large)):
            rates = [
                (steady(folder, cores, 1 if name == "small" else 3), bare(1, cores, 12 * cores), bare(cores, 1, 12))
                for _ in range(asked.n)
            ]
            pipeline, side, single = (statistics.median(column) for column in zip(*rates, strict=True))
            print(
                f"| {name} | {pipeline:.2f} | {side:.2f} | {single:.2f} | **{pipeline / max(side, single):.2f}** |",
                flush=True,
            )
    if "import" in asked.only:
        python = [sys.executable, "-c"]
        idle, loaded = (first_seconds([*python, code], environ, 15) for code in ("pass", "import cutout"))
        print(
            f"\n`import cutout` beyond the interpreter: {1e3 * (loaded - idle):.1f} ms; "
            f"`cutout --help`: {1e3 * first_seconds([CUTOUT, '--help'], environ, 9):.0f} ms"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\n{cores_text()}, largest process {peak:.0f} MB", file=sys.stderr)


def cores_text() -> str:
    return f"{len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
