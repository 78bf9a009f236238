"""Measure `cutout serve` beside rembg's server and the bare runtime, under load; print Markdown and draw a plot.

usage: python benchmarks/service.py [--rembg PATH] [--levels 1 4 8 16 64] [--rounds N] [--plot FILE] [--only NAME ...]

The load comes from a process of its own that keeps so many connections busy (a closed loop over plain sockets). At
every level the servers and the bare runtime are measured in turn, several rounds, and medians are compared; a server
that is not asked for anything costs nothing meanwhile. Names: load, growth, overload, seed, processes, costs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parent.parent
CUTOUT = Path(sys.executable).with_name("cutout")
MODEL = ROOT / "src" / "cutout" / "models" / "weights" / "u2netp.onnx"
PATHS = {"cutout": "/remove-background", "rembg": "/api/remove"}
REMOVEBG = "/v1.0/removebg"
_EDGE = "cutout-benchmark-boundary"


@dataclass(frozen=True)
class Load:
    """What one stretch of load gave: pictures per second, seconds of single answers, other answers than 200."""

    rate: float
    seconds: list[float]
    refused: int = 0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds) or [float("nan")]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# ---- the load: a process of its own


def form(picture: bytes, path: str) -> bytes:
    file, name, value = ("image_file", "size", "full") if path == REMOVEBG else ("file", "model", "u2netp")
    parts: list[str | bytes] = [
        f'--{_EDGE}\r\nContent-Disposition: form-data; name="{file}"; filename="a.jpg"\r\n',
        "Content-Type: image/jpeg\r\n\r\n",
        picture,
        f'\r\n--{_EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--{_EDGE}--\r\n',
    ]
    return b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)


def client(port: int, path: str, picture: Path, connections: int, seconds: float, least: int) -> None:
    """So many connections, each with one request after the other; prints what it saw as JSON."""
    body = form(picture.read_bytes(), path)
    headers = {"Content-Type": f"multipart/form-data; boundary={_EDGE}"}
    lock, taken, ends, refused = threading.Lock(), list[float](), list[float](), [0]
    start = time.perf_counter()

    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            begun = time.perf_counter()
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            now = time.perf_counter()
            with lock:
                if answer.status == 200:
                    taken.append(now - begun)
                    ends.append(now)
                else:
                    refused[0] += 1
                if now - start >= seconds and len(taken) >= least:
                    return

    threads = [threading.Thread(target=one) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends.sort()
    print(json.dumps({"rate": len(ends) / (ends[-1] - start), "seconds": taken, "refused": refused[0]}))


def press(port: int, path: str, picture: Path, connections: int, seconds: float, least: int) -> Load:
    command = [sys.executable, __file__, "--client", str(port), path, str(picture)]
    command += [str(connections), str(seconds), str(least)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        sys.exit(f"the load failed: {said.stderr}")
    return Load(**json.loads(said.stdout))


# ---- the servers


class Server:
    """A server process, and the memory of it and its children."""

    def __init__(self, name: str, command: Sequence[str | Path], environ: dict[str, str], port: int) -> None:
        self.name, self.port = name, port
        self.process = subprocess.Popen(
            [str(part) for part in command], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.peak = 0.0
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)
        sys.exit(f"{name} does not listen")

    def memory(self) -> float:
        """Resident MB, now."""
        return sum(_resident(pid) for pid in _family(self.process.pid))

    def processor_time(self) -> float:
        """Seconds of all processors, since its start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._done.set()
        self.process.terminate()
        self.process.wait(60)

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.peak = max(self.peak, self.memory())


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in _family(int(child)))]


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ours(folder: Path, *options: str, processor: int | None = None) -> Iterator[Server]:
    """The service, on one processor or on all."""
    port = free_port()
    environ = {**os.environ, "CUTOUT_HOME": str(folder / "home")}
    command: list[str | Path] = [
        *([] if processor is None else ["taskset", "-c", str(processor)]),
        CUTOUT,
        "serve",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--folder",
        folder / f"jobs-{port}",
        *options,
    ]
    server = Server("cutout", command, environ, port)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def theirs(rembg: Path, folder: Path) -> Iterator[Server]:
    port, home = free_port(), folder / "u2net"
    home.mkdir(exist_ok=True)
    shutil.copy(MODEL, home)
    environ = {**os.environ, "U2NET_HOME": str(home)}
    server = Server("rembg", [rembg, "s", "--host", "127.0.0.1", "--port", str(port)], environ, port)
    try:
        yield server
    finally:
        server.stop()


def bare(seconds: float) -> float:
    """Calls of `session.run` per second on all cores, in a process of its own: the better of two ways to use them."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from run import bare; import os;"
        "n = len(os.sched_getaffinity(0)); m = int(sys.argv[2]); print(max(bare(1, n, m * n), bare(n, 1, m)))"
    )
    command = [sys.executable, "-c", code, str(ROOT / "benchmarks"), str(max(3, round(seconds * 2)))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# ---- what is measured


def load(asked: argparse.Namespace, picture: Path, folder: Path) -> list[dict[str, Any]]:
    """Throughput, percentiles and peak memory at every level; one pair of fresh servers a level."""
    heads = ["connections", "pictures/s, cutout", "rembg", "times", "over bare `session.run`", "p50 / p95, cutout"]
    heads += ["rembg", "p95 ÷ (clients ÷ rate)", "peak MB, cutout", "rembg"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)
    rows = []
    for level in asked.levels:
        with ours(folder) as first, theirs(asked.rembg, folder) as second:
            servers = [first] if asked.rembg_up_to < level else [first, second]
            for server in servers:
                press(server.port, PATHS[server.name], picture, 1, 0, 2)
            found: dict[str, list[Load]] = {"cutout": [], "rembg": []}
            alone: list[float] = []
            for _ in range(asked.rounds):
                for server in servers:
                    found[server.name].append(
                        press(server.port, PATHS[server.name], picture, level, asked.seconds, 2 * level)
                    )
                alone.append(bare(asked.seconds / 3))
            row = {"connections": level, "peak": {server.name: server.peak for server in servers}}
            row |= {name: _summary(loads) for name, loads in found.items() if loads}
            row["bare"] = statistics.median(alone)
            rows.append(row)
            _print(row)
    return rows


def _summary(loads: list[Load]) -> dict[str, float]:
    middle = sorted(loads, key=lambda entry: entry.rate)[len(loads) // 2]
    return {
        "rate": middle.rate,
        "p50": middle.percentile(0.5),
        "p95": middle.percentile(0.95),
        "refused": sum(entry.refused for entry in loads),
    }


def _print(row: dict[str, Any]) -> None:
    mine, other, level = row["cutout"], row.get("rembg"), row["connections"]
    print(
        f"| {level} | {mine['rate']:.2f} | {other['rate']:.2f} | **{mine['rate'] / other['rate']:.2f}** "
        if other
        else f"| {level} | {mine['rate']:.2f} | – | – ",
        f"| {mine['rate'] / row['bare']:.2f} | {mine['p50']:.2f} / {mine['p95']:.2f} s ",
        f"| {other['p50']:.2f} / {other['p95']:.2f} s " if other else "| – ",
        f"| {mine['p95'] * mine['rate'] / level:.2f} | {row['peak']['cutout']:.0f} ",
        f"| {row['peak']['rembg']:.0f} |" if other else "| – |",
        sep="",
        flush=True,
    )
    if mine["refused"]:
        print(f"{mine['refused']} requests refused", file=sys.stderr)


def growth(asked: argparse.Namespace, picture: Path, folder: Path) -> None:
    """Memory after every so many requests."""
    with ours(folder) as server:
        marks, step = [], max(1, asked.requests // 8)
        for _ in range(8):
            press(server.port, PATHS["cutout"], picture, 8, 0, step)
            marks.append(f"{server.memory():.0f}")
        print(f"\nMemory after every {step} requests, 8 connections: {', '.join(marks)} MB; peak {server.peak:.0f} MB")


def overload(picture: Path, folder: Path) -> None:
    """How fast a full queue says no."""
    with ours(folder, "--queue", "8") as server:
        busy = threading.Thread(target=press, args=(server.port, PATHS["cutout"], picture, 8, 12, 8))
        busy.start()
        time.sleep(3)
        body, said = form(picture.read_bytes(), PATHS["cutout"]), []
        for _ in range(50):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            begun = time.perf_counter()
            connection.request(
                "POST", PATHS["cutout"], body, {"Content-Type": f"multipart/form-data; boundary={_EDGE}"}
            )
            answer = connection.getresponse()
            answer.read()
            if answer.status == 503:
                said.append(1e3 * (time.perf_counter() - begun))
            connection.close()
        busy.join()
        said.sort()
        if said:
            times = f"median {statistics.median(said):.1f} ms, longest {said[-1]:.1f} ms"
            print(f"\nA full queue: {len(said)} of 50 refused, {times}")


def seed(picture: Path, folder: Path) -> list[dict[str, float]]:
    """So many requests at once, to one worker and to four: seconds until the last is answered, and the mean."""
    print("\n| requests at once | one worker: all / mean | four workers: all / mean |")
    print("| --- | --- | --- |")
    rows = []
    with ours(folder, "--jobs", "1") as one, ours(folder, "--jobs", "4") as four:
        for count in (1, 3, 5, 8):
            row: dict[str, float] = {"count": count}
            for name, server in (("one", one), ("four", four)):
                press(server.port, PATHS["cutout"], picture, count, 0, 1)
                loads = [press(server.port, PATHS["cutout"], picture, count, 0, 0) for _ in range(3)]
                middle = sorted(loads, key=lambda entry: entry.rate)[1]
                row[name], row[f"{name}-mean"] = max(middle.seconds), statistics.mean(middle.seconds)
            rows.append(row)
            cells = [f"{row[name]:.2f} / {row[f'{name}-mean']:.2f} s" for name in ("one", "four")]
            print(f"| {count} | {' | '.join(cells)} |", flush=True)
    return rows


def processes(asked: argparse.Namespace, picture: Path, folder: Path) -> None:
    """One service on all processors, against one on each: the same connections, divided among them."""
    count = len(os.sched_getaffinity(0))
    print(f"\n| services | pictures/s | processor seconds a picture | peak MB |\n|{' --- |' * 4}")
    with ExitStack() as stack:
        one = [stack.enter_context(ours(folder))]
        each = [stack.enter_context(ours(folder, processor=number)) for number in sorted(os.sched_getaffinity(0))]
        found: dict[int, list[tuple[float, float]]] = {1: [], count: []}
        for _ in range(asked.rounds):
            for servers in (one, each):
                found[len(servers)].append(_together(servers, picture, 8 * count // len(servers), asked.seconds))
        for servers in (one, each):
            rate, cost = map(statistics.median, zip(*found[len(servers)], strict=True))
            print(f"| {len(servers)} | {rate:.2f} | {cost:.3f} | {sum(server.peak for server in servers):.0f} |")


def _together(servers: list[Server], picture: Path, connections: int, seconds: float) -> tuple[float, float]:
    """Pictures a second, and seconds of processors that one takes."""
    before = sum(server.processor_time() for server in servers)
    with ThreadPoolExecutor(len(servers)) as pool:
        loads = list(pool.map(lambda server: press(server.port, REMOVEBG, picture, connections, seconds, 1), servers))
    used = sum(server.processor_time() for server in servers) - before
    return sum(load.rate for load in loads), used / sum(len(load.seconds) for load in loads)


def costs(asked: argparse.Namespace, folder: Path) -> None:
    """What a picture of remove.bg's interface takes, by model and size."""
    print("\n| model | megapixels | pictures/s | processor seconds a picture | an hour on these processors | peak MB |")
    print(f"|{' --- |' * 6}")
    for model in asked.models:
        for megapixels in (0.25, 1.5, 4, 12):
            make_picture(picture := folder / "cost.jpg", megapixels)
            with ours(folder, "--model", model, "--max-body", "50") as server:
                press(server.port, REMOVEBG, picture, 1, 0, 2)
                rate, cost = _together([server], picture, 4, asked.seconds)
                hourly = 3600 * len(os.sched_getaffinity(0)) / cost
                row = f"{rate:.2f} | {cost:.3f} | {hourly:,.0f} | {server.peak:.0f}"
                print(f"| {Path(model).stem} | {megapixels} | {row} |", flush=True)


# ---- the plot


def plot(rows: list[dict[str, Any]], seeds: list[dict[str, float]], path: Path) -> None:
    """Throughput, 95th percentile and memory over connections, and the seed table, as an SVG file."""
    panels: list[tuple[str, list[float], dict[str, list[float]]]] = []
    levels = [float(row["connections"]) for row in rows]
    if rows:
        for title, read in (
            ("pictures per second", "rate"),
            ("95th percentile, s", "p95"),
            ("peak memory, MB", "peak"),
        ):
            series = {
                name: [row["peak"][name] if read == "peak" else row[name][read] for row in rows if name in row]
                for name in ("cutout", "rembg")
            }
            panels.append((f"{title}, by connections", levels, series))
    if seeds:
        both = {"one worker": [row["one"] for row in seeds], "four workers": [row["four"] for row in seeds]}
        panels.append(("seconds for so many at once", [row["count"] for row in seeds], both))
    width, height = 340, 240
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * len(panels)}" height="{height}" ',
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, (title, across, series) in enumerate(panels):
        parts.append(f'<g transform="translate({number * width} 0)">{_panel(title, across, series)}</g>')
    path.write_text("".join([*parts, "</svg>\n"]))
    print(f"\nplot: {path}", file=sys.stderr)


def _panel(title: str, across: list[float], series: dict[str, list[float]]) -> str:
    left, top, wide, high = 50, 30, 270, 160
    most = max((value for values in series.values() for value in values), default=1.0) * 1.1
    x = {value: left + wide * number / max(1, len(across) - 1) for number, value in enumerate(across)}
    parts = [f'<text x="{left}" y="18" font-weight="bold">{title}</text>']
    for share in (0, 0.5, 1):
        y = top + high * (1 - share)
        parts.append(f'<path d="M{left} {y}h{wide}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{_short(most * share)}</text>')
    parts += [
        f'<text x="{place}" y="{top + high + 16}" text-anchor="middle">{value:g}</text>' for value, place in x.items()
    ]
    for number, ((name, values), color) in enumerate(zip(series.items(), ("#1f63c6", "#c2571a"), strict=True)):
        points = " ".join(
            f"{x[place]:.1f},{top + high * (1 - value / most):.1f}"
            for place, value in zip(across, values, strict=False)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 90 * number}" y="{top + high + 36}" fill="{color}">{name}</text>')
    return "".join(parts)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def make_picture(path: Path, megapixels: float) -> None:
    with Image.open(ROOT / "examples" / "astronaut.jpg") as image:
        side = round((megapixels * 1e6) ** 0.5)
        buffer = BytesIO()
        image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
    path.write_bytes(buffer.getvalue())


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        port, path, source, connections, seconds, least = sys.argv[2:]
        client(int(port), path, Path(source), int(connections), float(seconds), int(least))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rembg", help="the rembg command of an environment of its own, with its server")
    parser.add_argument(
        "--rembg-up-to", type=int, default=64, help="connections beyond which rembg is left out: it takes gigabytes"
    )
    parser.add_argument("--levels", type=int, nargs="*", default=[1, 4, 8, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of one stretch of load")
    parser.add_argument("--requests", type=int, default=2000, help="of the look at memory")
    parser.add_argument("--models", nargs="*", default=["u2netp"], help="of the look at costs: names or files")
    parser.add_argument("--plot", type=Path, help="an SVG file")
    parser.add_argument("--only", nargs="*", default=["load", "growth", "overload", "seed"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cutout-bench-") as name:
        folder = Path(name)
        picture = folder / "picture.jpg"
        make_picture(picture, 0.67)
        if "load" in asked.only:
            asked.rembg = _rembg(asked.rembg)
        rows = load(asked, picture, folder) if "load" in asked.only else []
        if "overload" in asked.only:
            overload(picture, folder)
        seeds = seed(picture, folder) if "seed" in asked.only else []
        if "growth" in asked.only:
            growth(asked, picture, folder)
        if "processes" in asked.only:
            processes(asked, picture, folder)
        if "costs" in asked.only:
            costs(asked, folder)
        if asked.plot:
            plot(rows, seeds, asked.plot)
    print(f"\n{len(os.sched_getaffinity(0))} cores", file=sys.stderr)


def _rembg(asked: str | None) -> Path:
    if asked:
        return Path(asked)
    binary = ROOT / "build" / "rembg" / "bin" / "rembg"
    if not binary.exists():
        subprocess.run([sys.executable, "-m", "venv", binary.parent.parent], check=True)
        subprocess.run([binary.with_name("pip"), "install", "-q", "rembg[cpu,cli]"], check=True)
    return binary


if __name__ == "__main__":
    main()
