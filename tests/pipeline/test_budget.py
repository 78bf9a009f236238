"""What memory pictures may take: the machine's share, who waits, who is refused, and how well it is foretold."""

from __future__ import annotations

import json
import os
import runpy
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from served import quick, served, until
from small import brightness_model, half

import cutout as package
from cutout.enums import Strip
from cutout.errors import OutputError, UsageError
from cutout.formats import decode
from cutout.formats.picture import Header
from cutout.jobs.executors.threads import process_all
from cutout.jobs.plan import plan
from cutout.jobs.report import Status
from cutout.jobs.storage import read_input
from cutout.jobs.worker import process
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat, check_side
from cutout.pipeline.behind import behind
from cutout.pipeline.budget import Budget, MemoryBusyError, OverBudgetError, budget_of, parse_bytes, usable_memory
from cutout.pipeline.estimate import need_of
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cutout

GB = 10**9


def blank(path: Path, size: tuple[int, int]) -> Path:
    """A grey PNG without a row of pixels, but with as many bytes as they could be packed in."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", bytes(size[0] * size[1] // 1000)), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * GB),
        ("1500MB", 1500 * 10**6),
        ("1.5 GiB", 3 << 29),
        ("2g", 2 * GB),
        ("512m", 512 * 10**6),
        ("1000000", 10**6),
        (1000, 1000),
    ],
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "0", "-1GB", "2XB", "5i", "1e9", "nan", "2 GB GB", 0, -5])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(UsageError, match=r"memory_limit .* must be a size such as 2GB"):
        parse_bytes(text)


def test_the_command_refuses_what_is_no_size_before_any_work(cutout: Cutout, tmp_path: Path) -> None:
    picture = half(tmp_path / "a.png")
    for run in (
        cutout("remove", picture, "--memory-limit", "plenty"),
        cutout("remove", picture, CUTOUT_MEMORY_LIMIT="plenty"),
    ):
        assert run.code == 2
        assert "--memory-limit is 'plenty', but it must be a size such as 2GB or 1500MB" in run.err


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    """Version 2 and 1 of cgroups; the smallest on the way up, and never more than the machine has."""
    machine = usable_memory(tmp_path / "none")
    assert machine is not None
    assert machine > 10**8
    two, one, no = tmp_path / "two", tmp_path / "one", tmp_path / "no"
    write(two, "proc/self/cgroup", "0::/pods/a\n")
    write(two, "sys/fs/cgroup/memory.max", "max\n")
    write(two, "sys/fs/cgroup/pods/memory.max", "50000000\n")
    write(two, "sys/fs/cgroup/pods/a/memory.max", "90000000\n")
    assert usable_memory(two) == 50_000_000
    write(one, "proc/self/cgroup", "4:memory:/docker/b\n2:cpu:/elsewhere\n")
    write(one, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(one, "sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes", "70000000\n")
    assert usable_memory(one) == 70_000_000
    write(no, "sys/fs/cgroup/memory.max", "max\n")
    write(no, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert usable_memory(no) == machine


def test_a_budget_is_asked_for_by_size_by_environment_or_taken_from_the_machine() -> None:
    assert budget_of("2GB", {"CUTOUT_MEMORY_LIMIT": "3GB"}).limit == 2 * GB
    assert budget_of(None, {"CUTOUT_MEMORY_LIMIT": "3GB"}).limit == 3 * GB
    machine = usable_memory()
    assert machine is not None
    assert machine / 2 < budget_of(None, {}).limit < machine * 0.8
    assert budget_of("2GB", {}) is budget_of(2 * GB, {}), "all with one limit share it"


def _there(budget: Budget, number: int) -> bool:
    return budget.running + budget.waiting == number


def test_who_does_not_fit_waits_and_who_came_first_is_first() -> None:
    budget = Budget(100)
    begun: list[str] = []
    first, go = threading.Event(), threading.Event()

    def work(name: str, need: int, gate: threading.Event) -> None:
        with budget.hold(need):
            begun.append(name)
            assert gate.wait(60)

    with ThreadPoolExecutor(4) as pool:
        for waiting, (name, need, gate) in enumerate(
            [("small", 60, first), ("large", 90, go), ("late", 30, go), ("later", 10, go)]
        ):
            pool.submit(work, name, need, gate)
            until(partial(_there, budget, waiting + 1))
        assert begun == ["small"], "what came after the large one waits behind it, or it would wait for ever"
        first.set()
        until(lambda: len(begun) > 1)
        assert begun == ["small", "large"]
        go.set()
    assert sorted(begun) == ["large", "late", "later", "small"]
    assert (budget.running, budget.waiting) == (0, 0)


def test_many_pictures_of_all_sizes_never_take_more_than_there_is_and_all_end() -> None:
    budget, lock, now, most, done = Budget(100), threading.Lock(), [0], [0], count()

    def work(number: int) -> None:
        need = 1 + number * 37 % 100
        with budget.hold(need):
            with lock:
                now[0] += need
                most[0] = max(most[0], now[0])
            time.sleep(0.0005)
            with lock:
                now[0] -= need
        next(done)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert next(done) == 400
    assert 90 < most[0] <= 100


def test_who_would_wait_too_long_or_for_ever_is_told() -> None:
    budget = Budget(100, patience=0.05)
    with budget.hold(80):
        with pytest.raises(MemoryBusyError), budget.hold(30):
            pass
        with budget.hold(20):
            pass
    with pytest.raises(OverBudgetError, match=r"would take about 8\.3 GB of memory, more than the limit of 1 MB"):
        budget.check(8_300_000_000)
    assert (budget.running, budget.waiting) == (0, 0)


def remover(folder: Path, limit: Any = None) -> Remover:
    return Remover(brightness_model(folder), device="cpu", jobs=4, memory_limit=limit)


class Counted(Budget):
    """A budget that remembers how many pictures held memory at once."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.most = 0
        self.waited = 0
        self.gate = threading.Event()

    def _take(self, need: int) -> None:
        self.waited = max(self.waited, self.waiting)
        super()._take(need)
        self.most = max(self.most, self.running)


def outcomes(folder: Path, opened: Remover, **encoding: Any) -> dict[str, Any]:
    todo = plan([str(folder)], str(folder.parent / f"out {time.monotonic_ns()}"))
    told = Encoding(**encoding)
    return {
        outcome.job.source_name.rpartition("/")[2]: outcome
        for outcome in process_all(todo.jobs, opened, opened.options, told, workers=4)
    }


def test_large_files_are_read_one_at_a_time_before_their_pictures_have_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(6):
        Image.new("RGB", (1200, 800), (number, 0, 0)).save(tmp_path / f"in/{number}.bmp")
    size = (tmp_path / "in/0.bmp").stat().st_size
    lock, held, most = threading.Lock(), 0, 0

    def read(*args: Any) -> bytes:
        nonlocal held, most
        data = read_input(*args)
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.05)  # time for others to read, too
        return data

    def take(budget: Budget, need: int) -> None:
        nonlocal held
        taken(budget, need)
        with lock:
            held -= 1

    taken = Budget._take
    monkeypatch.setattr(Budget, "_take", take)
    monkeypatch.setattr("cutout.jobs.worker.read_input", read)
    model = brightness_model(tmp_path)
    for limit, at_once in ((size * 30, 1), (size * 100, 2)):
        most = 0
        with Remover(model, device="cpu", memory_limit=Budget(limit)) as opened:
            assert all(outcome.status is Status.DONE for outcome in outcomes(tmp_path / "in", opened).values())
        assert min(most, 2) == at_once


def test_large_pictures_run_alone_and_results_are_the_same(tmp_path: Path) -> None:
    for number in range(6):
        half(tmp_path / f"in/{number}.png", (600, 400 + number))
    data = (tmp_path / "in/5.png").read_bytes()
    need = need_of(decode.header(data), RemoveOptions(), OutputFormat.PNG, data=len(data)).memory
    tight, wide = Counted(need * 3 // 2), Counted(need * 100)
    results = []
    for budget in (tight, wide):
        found = outcomes(tmp_path / "in", remover(tmp_path, budget))
        assert {outcome.status for outcome in found.values()} == {Status.DONE}
        results.append({name: outcome.job.target.read_bytes() for name, outcome in found.items()})
    assert tight.most == 1
    assert results[0] == results[1]


def test_a_folder_of_usual_pictures_never_waits_on_a_usual_machine(tmp_path: Path) -> None:
    """16 photos of 24 megapixels at once, on 24 GB."""
    need = need_of(Header(size=(6000, 4000)), RemoveOptions(), OutputFormat.PNG, data=12_000_000).memory
    assert 16 * need < 0.6 * 24 * GB
    for number in range(30):
        half(tmp_path / f"in/{number}.png", (300, 200))
    budget = Counted(24 * GB * 6 // 10)
    found = outcomes(tmp_path / "in", remover(tmp_path, budget))
    assert {outcome.status for outcome in found.values()} == {Status.DONE}
    assert budget.waited == 0


def test_a_picture_beyond_the_budget_fails_with_the_figure_and_the_others_are_done(
    cutout: Cutout, tmp_path: Path
) -> None:
    half(tmp_path / "in/a.png")
    blank(tmp_path / "in/large.png", (12_000, 10_000))
    half(tmp_path / "in/z.png")
    model = brightness_model(tmp_path)
    run = cutout("remove", tmp_path / "in", "-m", model, "--memory-limit", "500MB", "-f", "webp", "-j", "2")
    assert run.code == 1
    assert "large.png" in run.err
    assert "a picture of 120 megapixels as WebP would take about 4." in run.err
    assert "more than the limit of 500 MB" in run.err
    assert "write PNG or TIFF instead, a smaller --max-size, or a higher --memory-limit" in run.err.replace("\n", " ")
    assert sorted(path.name for path in (tmp_path / "in-cutout").iterdir()) == ["a.webp", "z.webp"]
    # the way out is one: the header passes, and the decoder finds that there is nothing in it
    run = cutout(
        "remove", tmp_path / "in/large.png", "-m", model, "-f", "png", "--memory-limit", "3GB", "--max-size", "99"
    )
    assert "broken or cut short" in run.err


def test_the_python_interface_has_the_same_limit(tmp_path: Path) -> None:
    model, large = brightness_model(tmp_path), blank(tmp_path / "large.png", (12_000, 10_000))
    told: dict[str, Any] = {"model": model, "device": "cpu", "memory_limit": "300MB"}
    for data in (
        large,
        large.read_bytes(),
        Image.new("L", (6000, 6000)),
        Image.new("RGB", (1, 1)).resize((6000, 6000)),
    ):
        with pytest.raises(OverBudgetError, match="more than the limit of 300 MB"):
            package.remove(data, **told)
    assert package.remove(half(tmp_path / "a.png").read_bytes(), **told)
    assert Remover(model, device="cpu", memory_limit="2GB").budget.limit == 2 * GB


def test_pages_count_by_the_largest(tmp_path: Path) -> None:
    pages = [Image.new("L", size) for size in ((20, 30), (300, 200), (10, 10))]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    data = (tmp_path / "pages.tif").read_bytes()
    assert decode.header(data).size == (20, 30)
    assert decode.header(data, max_frames=2).size == (300, 200)


def test_the_frames_of_an_animation_count(tmp_path: Path) -> None:
    """With their bytes in the result, where all are taken; a count that the file cannot hold is not believed."""
    frames = [Image.new("RGB", (200, 100), (number, 0, 0)) for number in range(0, 100, 5)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    data = (tmp_path / "a.png").read_bytes()
    assert decode.header(data).frames == 1
    moving = decode.header(data, max_frames=1000)
    assert moving.frames == 20
    needs = [need_of(header, RemoveOptions(), OutputFormat.PNG).memory for header in (decode.header(data), moving)]
    assert needs[1] > needs[0] + 20 * 200 * 100 // 4
    assert need_of(moving, RemoveOptions(), OutputFormat.JPEG) == need_of(
        decode.header(data), RemoveOptions(), OutputFormat.JPEG
    )
    place = data.index(b"acTL")
    lie = b"acTL" + struct.pack(">II", 2**31 - 1, 0)
    lying = data[:place] + lie + struct.pack(">I", zlib.crc32(lie)) + data[place + 16 :]
    assert decode.header(lying, max_frames=10**9).frames < len(lying)


@pytest.mark.parametrize("form", ["file", "bytes", "image", "array"])
def test_a_background_picture_counts_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    path = tmp_path / "sea.png"
    image = Image.new("RGB", (3000, 2000))
    image.save(path)
    given: Any = {"file": path, "bytes": path.read_bytes(), "image": image, "array": np.asarray(image)}[form]
    options, small = RemoveOptions(background=given), Image.new("RGB", (1, 1))

    def need(options: RemoveOptions) -> int:
        return need_of(Header(size=(64, 64)), options, OutputFormat.PNG).memory

    with monkeypatch.context() as patched:
        patched.setattr(decode, "decode", pytest.fail)
        assert need(options) == need(RemoveOptions(background=small)) + 4 * (3000 * 2000 - 1)
    assert options.background_picture is not None
    behind(options.background_picture)
    path.unlink()
    assert need(options) == need(RemoveOptions(background=small)) + 4 * (3000 * 2000 - 1), "what is decoded tells"


def test_a_cut_out_over_a_background_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sea.png"
    Image.new("RGB", (3000, 2000)).save(path)
    remover = Remover(brightness_model(tmp_path), device="cpu", memory_limit="40MB")
    picture = half(tmp_path / "a.png").read_bytes()
    assert package.remove(picture, session=remover)
    with pytest.raises(OverBudgetError, match="more than the limit of 40 MB"):
        package.remove(picture, session=remover, background=path)


def test_a_header_is_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "avif": "AVIF", "bmp": "BMP"}
    for suffix in kinds:
        Image.new("RGB", (40, 30)).save(tmp_path / f"a.{suffix}")

    def loaded(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", loaded)
    for suffix, kind in kinds.items():
        found = decode.header((tmp_path / f"a.{suffix}").read_bytes())
        assert (found.size, found.kind) == ((40, 30), kind)


@pytest.mark.parametrize(("output_format", "side"), [("avif", 32768), ("jpg", 65500), ("webp", 16383), ("heic", 65535)])
def test_a_side_beyond_the_format_is_refused_before_any_work(output_format: str, side: int) -> None:
    written = OutputFormat(output_format)
    assert written.row.side == side
    check_side(written, (side, 1))
    long = Header(size=(8, side + 1))
    with pytest.raises(OutputError, match=f"holds at most {side} pixels a side, this picture has") as told:
        need_of(long, RemoveOptions(), written)
    assert told.value.hint is not None
    assert "max_size" in told.value.hint
    with pytest.raises(OutputError, match="holds at most") as told:
        need_of(long, RemoveOptions(canvas=f"{side + 1}x9"), written)
    assert f"a canvas of at most {side}" in str(told.value.hint)  # a smaller picture would not make it smaller
    # the finished size counts, not that of the input
    need_of(long, RemoveOptions(max_size=side), written)
    need_of(long, RemoveOptions(canvas="800x600"), written)
    need_of(long, RemoveOptions(crop=True), written)  # what a crop leaves is seen later
    with pytest.raises(OutputError, match="holds at most"):
        need_of(Header(size=(8, 8)), RemoveOptions(canvas=f"{side + 1}x9"), written)


@pytest.mark.parametrize(("output_format", "side"), [("avif", 32768), ("jpg", 65500), ("webp", 16383)])
def test_a_long_picture_is_refused_before_the_model_runs(
    output_format: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = remover(tmp_path)

    def ran(*_args: object, **_named: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(opened, "cut", ran)
    half(tmp_path / "in/long.png", (side + 1, 8))
    todo = plan([str(tmp_path / "in/long.png")], str(tmp_path / f"long.{output_format}"))
    outcome = process(todo.jobs[0], opened, opened.options, Encoding())
    assert isinstance(outcome.error, OutputError)
    assert f"holds at most {side} pixels a side" in outcome.error.message
    assert not (tmp_path / f"long.{output_format}").exists()


def test_a_crop_that_stays_too_long_is_refused_before_it_is_encoded(tmp_path: Path) -> None:
    opened = remover(tmp_path)
    Image.new("RGB", (33_000, 8), "white").save(tmp_path / "long.png")
    todo = plan([str(tmp_path / "long.png")], str(tmp_path / "long.avif"))
    outcome = process(todo.jobs[0], opened, RemoveOptions(crop=True), Encoding(strip=Strip.ALL))
    assert outcome.error is not None
    assert "AVIF holds at most 32768 pixels a side" in outcome.error.message


def test_the_service_has_one_budget_and_refuses_what_is_beyond_it(tmp_path: Path) -> None:
    settings, engine = quick(tmp_path, memory_limit="200MB")
    large, small = blank(tmp_path / "large.png", (5000, 5000)), half(tmp_path / "small.png")
    with served(settings, engine) as client:
        said = client.post("/remove-background", files={"file": large.read_bytes()})
        assert said.status_code == 413
        assert said.json()["error"]["kind"] == "too-large"
        assert "more than the limit of 200 MB" in said.json()["error"]["message"]
        assert client.post("/remove-background", files={"file": small.read_bytes()}).status_code == 200


def test_the_service_says_503_when_others_hold_the_memory_for_too_long(tmp_path: Path) -> None:
    settings, engine = quick(tmp_path, memory_limit="200MB")
    engine.budget._patience = 0.1
    with served(settings, engine) as client, engine.budget.hold(199_000_000):
        said = client.post("/remove-background", files={"file": half(tmp_path / "a.png").read_bytes()})
        assert said.status_code == 503
        assert said.json()["error"]["kind"] == "memory"
        assert int(said.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("address", "fields", "name"),
    [
        ("/v1.0/removebg", {"roi": "0% 0% 50% 50%"}, "image_file"),
        ("/v1.0/removebg", {"scale": "50%", "position": "center"}, "image_file"),
        ("/v1.0/removebg", {}, "bg_image_file"),
        ("/remove-background", {}, "background"),
    ],
)
def test_what_the_service_decodes_beside_the_picture_waits_for_memory_too(
    address: str, fields: dict[str, str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regions, sizes and backgrounds: none of them is decoded while others hold the memory."""
    settings, engine = quick(tmp_path, memory_limit="200MB")
    engine.budget._patience = 0.1
    decoded: list[bytes] = []
    real = decode.decode

    def noted(data: bytes, **settings: Any) -> Any:
        decoded.append(data)
        return real(data, **settings)

    picture = half(tmp_path / "a.png").read_bytes()
    main = "image_file" if address.startswith("/v1.0") else "file"
    files = {main: ("a.png", picture), name: ("a.png", picture)}
    with served(settings, engine) as client:
        assert client.post(address, data=fields, files=files).status_code == 200
        monkeypatch.setattr(decode, "decode", noted)
        with engine.budget.hold(199_000_000):
            refused = client.post(address, data=fields, files=files)
    assert refused.status_code == 503
    assert decoded == []


def test_a_service_is_not_started_with_what_is_no_size(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="memory_limit"):
        quick(tmp_path, memory_limit="plenty")


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The large picture of a case, and a small one beside it, as the benchmark makes them."""
    folder, benchmark = tmp_path_factory.mktemp("pictures"), runpy.run_path(str(BENCHMARK))

    def made(case: str) -> Path:
        kind = benchmark["CASES"][case][0]
        path = folder / f"{kind}.picture"
        if not path.exists():
            benchmark["make"](kind, (5000, 3300), path)
            benchmark["make"](kind, benchmark["SMALL"], path.with_suffix(".small"))
        return path

    return made


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="it is Linux that tells the largest size")
@pytest.mark.parametrize(
    "case",
    [
        *("jpg to png", "jpg to jpg", "jpg to tiff", "jpg to webp", "jpg to avif", "png 16 to png", "rgba png to png"),
        *("jpg to png, shadow=default", "tall png to png, shadow=default"),
    ],
)
def test_what_is_foretold_is_what_is_taken(case: str, pictures: Callable[[str], Path]) -> None:
    """Within a factor of two and a half, and never much less than what is taken."""
    command = [sys.executable, str(BENCHMARK), "--one", case, str(pictures(case))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    found = json.loads(done.stdout)
    assert found["told"] / 2.5 < found["grown"] + 30_000_000
    assert found["grown"] < found["told"] * 1.15
