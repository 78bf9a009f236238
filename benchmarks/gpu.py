"""Check a device and measure it: prints Markdown.

usage: python benchmarks/gpu.py [--device cuda] [--models u2netp u2net] [--weights FOLDER] [--seconds S] [--out FILE]

What it does: names the card; checks by the runtime's own profile that the device computes (no heavy node falls back to
the processor); compares masks with the processor's; times the model alone at several sizes of batch in float32 and
float16, also with TensorRT and CUDA graphs where they load; times whole runs of `cutout remove` over pictures of 2 and
12 megapixels; and says what a run is bound by. Needs nothing but this package, numpy, Pillow and a runtime. With
`--device cpu` it is a dry run for any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cutout.engines.devices import Device, DeviceRequest, parse_device, provider_entry
from cutout.engines.environment import cards
from cutout.engines.graphs.device import free_batch, to_half
from cutout.engines.runtime import load_runtime
from cutout.enums import Fit
from cutout.evaluate.benchmark import synthetic_picture
from cutout.models.files import require
from cutout.models.registry import MODELS
from cutout.models.tensors import input_size, to_input, to_mask

ROOT = Path(__file__).parent.parent
HEAVY = {"Conv", "ConvTranspose", "FusedConv", "MatMul", "Gemm", "Resize", "BatchNormalization", "NhwcFusedConv"}


class Bench:
    """The device to measure, and where the tables go."""

    def __init__(self, device: Device, weights: Path | None, seconds: float) -> None:
        self.device = device
        self.weights = weights
        self.seconds = seconds
        self.request = DeviceRequest(devices=(device,), strict=True)
        self.here = load_runtime(self.request)
        self.lines: list[str] = []

    def say(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def table(self, *columns: str) -> None:
        self.say()
        self.row(*columns)
        self.row(*("---" for _ in columns))

    def row(self, *cells: Any) -> None:
        self.say("| " + " | ".join(str(cell) for cell in cells) + " |")

    def model(self, name: str) -> bytes | None:
        """The bytes of a model, from the folder of weights or from where it is on this machine."""
        path = self.weights / MODELS[name].file if self.weights else None
        try:
            return (path if path is not None and path.is_file() else require(MODELS[name])).read_bytes()
        except Exception as error:  # noqa: BLE001
            self.say(f"\n{name} is left out: {error}")
            return None

    def open(
        self, model: bytes, device: Device | None = None, options: dict[str, str] | None = None, profile: str = ""
    ) -> Any:
        device = device or self.device
        request = replace(self.request, devices=(device,), options=tuple((options or {}).items()))
        settings = self.here.settings(os.cpu_count() or 1 if device.provider.device == "cpu" else 1)
        if profile:
            settings.enable_profiling = True
            settings.profile_file_prefix = profile
        session = self.here.runtime.InferenceSession(
            model, sess_options=settings, providers=[provider_entry(device, request)], enable_fallback=0
        )
        if session.get_providers()[0] != device.provider.name:
            raise RuntimeError(f"{device} was passed over: {session.get_providers()}")
        return session


def machine(bench: Bench) -> None:
    runtime = bench.here.runtime
    bench.say(f"# {bench.device}")
    bench.say()
    for card in cards():
        bench.say(f"- card {card}")
    packages = ", ".join(f"{name} {version}" for name, version in bench.here.machine.packages.items())
    bench.say(f"- {packages or runtime.__version__}; {os.cpu_count()} processor cores; {time.strftime('%Y-%m-%d')}")


def profiled(bench: Bench, model: bytes, name: str, folder: Path) -> None:
    """Which provider computed the nodes, by the runtime's own profile."""
    session = bench.open(model, profile=str(folder / name))
    source = session.get_inputs()[0]
    session.run(None, {source.name: np.zeros((1, 3, *shape(name)), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    heavy: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for event in events:
        args = event.get("args", {})
        if provider := args.get("provider"):
            every[provider] += 1
            heavy[provider] += args.get("op_name") in HEAVY
    elsewhere = sum(count for provider, count in heavy.items() if provider != bench.device.provider.name)
    verdict = "**all heavy nodes on the device**" if not elsewhere else f"**{elsewhere} heavy nodes elsewhere**"
    bench.row(name, verdict, ", ".join(f"{provider} {count}" for provider, count in every.items()))


def shape(name: str) -> tuple[int, int]:
    return input_size(MODELS[name], (1024, 1024))


def run_once(session: Any, batch: Any) -> Any:
    return session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: batch})[0]


def masks(bench: Bench, model: bytes, half: bytes | None, name: str) -> None:
    """How far the device's masks lie from the processor's, in levels of 255."""
    spec = MODELS[name]
    sessions = {"float32": bench.open(model)}
    if half is not None:
        sessions["float16"] = bench.open(half)
    processor = bench.open(model, parse_device("cpu"))
    for kind, session in sessions.items():
        worst, mean = 0, 0.0
        paths = sorted((ROOT / "examples").glob("*.jpg"))
        for path in paths:
            batch, place = to_input(Image.open(path).convert("RGB"), spec, shape(name), Fit.STRETCH)
            one, other = (
                np.asarray(to_mask(run_once(which, batch), spec, place, rescale=spec.rescale)).astype(int)
                for which in (session, processor)
            )
            worst, mean = max(worst, int(np.abs(one - other).max())), mean + float(np.abs(one - other).mean())
        verdict = "yes" if worst <= 2 else "no"
        bench.row(name, kind, worst, f"{mean / max(1, len(paths)):.3f}", verdict)


def used_memory() -> int:
    return sum(card.used for card in cards())


def timed(bench: Bench, session: Any, size: int, hw: tuple[int, int]) -> tuple[float, float]:
    """Median seconds of one batch with bound buffers, and of the same with copies to and from the processor."""
    memory = bench.device.provider.memory
    batch = np.random.default_rng(0).normal(size=(size, 3, *hw)).astype(np.float32)
    run_once(session, batch)
    copied = repeat(lambda: run_once(session, batch), bench.seconds)
    if not memory:
        return copied, copied
    binding = session.io_binding()
    value = bench.here.runtime.OrtValue.ortvalue_from_numpy(batch, memory, bench.device.index or 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    binding.bind_output(session.get_outputs()[0].name, memory, bench.device.index or 0)
    session.run_with_iobinding(binding)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, binding.get_outputs()[0])

    def bound() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return repeat(bound, bench.seconds), copied


def repeat(work: Any, seconds: float) -> float:
    work()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 200):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def throughput(
    bench: Bench, name: str, variants: dict[str, tuple[bytes, Device, dict[str, str]]], sizes: list[int]
) -> None:
    for kind, (model, device, options) in variants.items():
        for size in sizes:
            before = used_memory()
            start = time.perf_counter()
            try:
                session = bench.open(model, device, options)
                opened = time.perf_counter() - start
                alone, copied = timed(bench, session, size, shape(name))
            except Exception as error:  # noqa: BLE001
                first = (str(error).splitlines() or [type(error).__name__])[0]
                bench.row(name, kind, size, "—", "—", "—", "—", first[:80].replace("|", "/"))
                break
            memory = f"{(used_memory() - before) / 2**20:.0f} MiB" if cards() else "—"
            share = f"{100 * (copied - alone) / copied:.0f}%"
            bench.row(
                name,
                kind,
                size,
                f"{size / alone:.1f}",
                f"{size / copied:.1f}",
                share,
                memory,
                f"{opened:.1f} s to open",
            )
            del session


def whole_runs(bench: Bench, folder: Path, name: str, count: int) -> None:
    """Complete runs of the command: pictures per second, stage times, and what they are bound by."""
    for megapixels in (2, 12):
        source = folder / f"in-{megapixels}"
        source.mkdir(exist_ok=True)
        picture = synthetic_picture(megapixels)
        for number in range(count):
            (source / f"{number:04}.jpg").write_bytes(picture)
        for batch in ("1", "auto"):
            command = [sys.executable, "-m", "cutout", "remove", str(source), "-o", str(folder / "out"), "--json"]
            command += ["--existing", "overwrite", "--quiet", "-m", name, "-d", str(bench.device), "--batch", batch]
            rates, stages = [], Counter[str]()
            for _ in range(3):  # the first one measures the size of batch and warms the caches
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    bench.row(name, megapixels, batch, "—", "—", done.stderr.strip().splitlines()[-1][:80])
                    return
                lines = [json.loads(line) for line in done.stdout.splitlines()]
                rates.append(lines[-1]["done"] / lines[-1]["seconds"])
                stages = Counter[str]()
                for line in lines[:-1]:
                    stages.update(line.get("ms", {}))
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            own = sum(ms for stage, ms in stages.items() if stage != "inference") / count
            possible = 1000 * cores / max(own, 1e-9)
            bound = "the processor (decode, encode)" if max(rates[1:]) > 0.7 * possible else "the device, or its copies"
            if bench.device.provider.device == "cpu":
                bound = "the processor"
            biggest = ", ".join(f"{stage} {ms / count:.0f}" for stage, ms in stages.most_common(4))
            size = f"{batch} ({lines[-1].get('batch', 1)})"
            bench.row(name, megapixels, size, f"{statistics.median(rates[1:]):.1f}", biggest, bound)


def rmbg_shaped() -> bytes:
    """Weights cannot be had here: a graph of its size of input and about its work, of convolutions, made in code."""
    from cutout.engines.graphs.onnx_bytes import field

    generator = np.random.default_rng(0)
    nodes, weights, source, channels = b"", b"", b"pixel_values", 3
    for number, (wide, stride) in enumerate([(64, 4), (128, 2), (256, 2), (512, 2), (512, 1), (512, 1), (1, 1)]):
        name = f"w{number}".encode()
        values = (generator.normal(size=(wide, channels, 3, 3)) / np.sqrt(9 * channels)).astype("<f4").tobytes()
        dims = b"".join(field(1, size) for size in (wide, channels, 3, 3))
        weights += field(5, dims + field(2, 1) + field(8, name) + field(9, values))
        ints = [(b"strides", (stride, stride)), (b"pads", (1, 1, 1, 1))]
        attributes = b"".join(
            field(5, field(1, key) + b"".join(field(8, size) for size in sizes) + field(20, 7)) for key, sizes in ints
        )
        output = b"alphas" if wide == 1 else f"x{number}".encode()
        nodes += field(1, field(1, source) + field(1, name) + field(2, output) + field(4, b"Conv") + attributes)
        source, channels = output, wide

    def value(name: bytes, sizes: tuple[int, ...]) -> bytes:
        dims = field(1, field(2, b"batch")) + b"".join(field(1, field(1, size)) for size in sizes)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))

    graph = nodes + field(2, b"shaped") + weights
    graph += field(11, value(b"pixel_values", (3, 1024, 1024))) + field(12, value(b"alphas", (1, 32, 32)))
    return field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 17))


def measure_models(bench: Bench, free: dict[str, bytes], halves: dict[str, bytes], sizes: list[int]) -> None:
    """The model alone, in every way that this device may know."""
    device, use_half = bench.device, bench.device.provider.half_graph
    bench.table("model", "what", "batch", "pictures/s, bound", "pictures/s, copied", "copies", "memory", "note")
    for name, model in free.items():
        variants: dict[str, tuple[bytes, Device, dict[str, str]]] = {"float32": (model, device, {})}
        if use_half:
            variants["float16"] = halves[name], device, {}
        if device.provider.device == "cuda":
            variants["float32, TF32"] = model, device, {"use_tf32": "1"}
            variants["float32, EXHAUSTIVE"] = model, device, {"cudnn_conv_algo_search": "EXHAUSTIVE"}
            variants["float16, CUDA graph"] = halves[name], device, {"enable_cuda_graph": "1"}
            tensorrt = Device(parse_device("tensorrt").provider, device.index)
            variants["TensorRT float32"] = model, tensorrt, {}
            variants["TensorRT float16"] = model, tensorrt, {"trt_fp16_enable": "1"}
        throughput(bench, name, variants, sizes)
    if device.provider.device == "cpu":
        return
    MODELS["rmbg-shaped"] = replace(MODELS["rmbg-2.0"], name="rmbg-shaped")
    shaped = rmbg_shaped()
    kinds: dict[str, tuple[bytes, Device, dict[str, str]]] = {"float32": (shaped, device, {})}
    if use_half:
        kinds["float16"] = to_half(shaped), device, {}
    throughput(bench, "rmbg-shaped", kinds, [1, 4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["u2netp", "u2net"])
    parser.add_argument("--weights", type=Path, help="folder of further models")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--pictures", type=int, default=200, help="in a whole run")
    parser.add_argument("--skip-runs", action="store_true", help="leave out the whole runs")
    parser.add_argument("--out", type=Path, help="also write the Markdown to this file")
    args = parser.parse_args()
    device = parse_device(args.device)
    bench = Bench(device, args.weights, args.seconds)
    machine(bench)
    models = {name: model for name in args.models if (model := bench.model(name)) is not None}
    free = {name: free_batch(model) for name, model in models.items()}
    halves = {name: to_half(model, MODELS[name].exact_nodes) for name, model in free.items()}
    use_half = device.provider.half_graph
    with tempfile.TemporaryDirectory(prefix="cutout-gpu-") as temporary:
        folder = Path(temporary)
        bench.table("model", "who computes", "nodes by provider")
        for name, model in models.items():
            profiled(bench, model, name, folder)
        bench.table("model", "precision", "largest difference /255", "mean", "within 2")
        for name, model in free.items():
            masks(bench, model, halves[name] if use_half else None, name)
        measure_models(bench, free, halves, args.sizes)
        if not args.skip_runs:
            bench.table("model", "megapixels", "batch", "pictures/s", "ms of a picture by stage", "bound by")
            for name in models:
                whole_runs(bench, folder, name, args.pictures)
    if args.out:
        args.out.write_text("\n".join(bench.lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
