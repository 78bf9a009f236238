"""Models in batches: the real runtime on the processor, and for faults a runtime that fails as real ones do."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from small import brightness_model, half

from cutout.engines.batching import BatchedEngine, BoundRun
from cutout.engines.environment import Card
from cutout.engines.graphs.device import free_batch, to_half
from cutout.engines.graphs.onnx_bytes import UnknownGraphError
from cutout.enums import Fit
from cutout.errors import CutoutError, DeviceError, UsageError
from cutout.formats.decode import Picture, decode
from cutout.models.files import require
from cutout.models.registry import MODELS
from cutout.models.tensors import to_input, to_mask
from cutout.options import DeviceOptions, RemoveOptions, parse_batch
from cutout.pipeline.remover import Remover
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cutout

MASK = RemoveOptions(mask=True)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
STARVED = "Status Message: bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 2830172160"


def masks(remover: Remover, pictures: list[Picture], threads: int = 4) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return [np.asarray(done.image).astype(int) for done in pool.map(lambda p: remover.cut(p, MASK), pictures)]


def crops(examples: Path, count: int) -> list[Picture]:
    rgb = decode((examples / "astronaut.jpg").read_bytes()).rgb
    return [Picture(rgb=rgb.crop((16 * i, 12 * i, 300 + 16 * i, 280 + 12 * i))) for i in range(count)]


def strips(count: int) -> list[Picture]:
    """Small pictures, each of its own brightness."""
    from PIL import Image

    grey = [Image.new("RGB", (40, 40), (20 * i + 10,) * 3) for i in range(count)]
    for image in grey:
        image.paste((255, 255, 255), (0, 0, 4, 40))
        image.paste((0, 0, 0), (36, 0, 40, 40))
    return [Picture(rgb=image) for image in grey]


# --- the real model ---


def test_the_real_model_gives_in_a_batch_what_it_gives_alone(remover: Remover, examples: Path) -> None:
    """It is published for one picture; three make two batches, the second of which is not full."""
    batched = Remover(device="cpu", device_options=DeviceOptions(batch=2))
    assert isinstance(batched.session, BatchedEngine)
    assert (batched.device, batched.batch, batched.in_flight) == ("cpu", 2, 2)
    pictures = crops(examples, 3)
    for together, alone in zip(masks(batched, pictures), masks(remover, pictures), strict=True):
        assert np.abs(together - alone).max() <= 2, "of 255"


def test_a_batch_on_the_processor_takes_at_most_half_of_the_memory_limit(tmp_path: Path) -> None:
    texts: list[str] = []
    options = DeviceOptions(batch=64)
    model, limit = brightness_model(tmp_path), 400_000_000
    with Remover(model, device="cpu", device_options=options, memory_limit=limit, warn=texts.append) as bounded:
        assert 1 <= bounded.batch < 64
        batch = bounded.batch
    assert texts == [f"batches hold {batch} pictures, not 64: more would take over half of the memory limit"]
    with Remover(model, device="cpu", device_options=options, memory_limit=limit * 2, warn=texts.append) as wider:
        assert wider.batch > batch
    with Remover(model, device="cpu", device_options=options, memory_limit="900GB") as free:
        assert free.batch == 64


def test_the_processor_alone_is_left_as_it_was() -> None:
    for options in (None, DeviceOptions(), DeviceOptions(batch=1), DeviceOptions(cpu_fallback=True)):
        remover = Remover(device="cpu", device_options=options)
        assert not isinstance(remover.session, BatchedEngine)
        assert (remover.batch, remover.in_flight) == (1, 0)


def test_the_freed_graph_is_sound_and_takes_any_number() -> None:
    freed = free_batch(require(MODELS["u2netp"]).read_bytes())
    model = onnx.load_from_string(freed)
    onnx.checker.check_model(model)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "cutout_batch"
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:] == [3, 320, 320]
    assert {output.type.tensor_type.shape.dim[0].dim_param for output in model.graph.output} == {"cutout_batch"}


@pytest.mark.parametrize("content", [b"", b"hello, I am no model", b"\x08\x08\x12\x00"])
def test_what_is_no_model_cannot_be_freed(content: bytes) -> None:
    with pytest.raises(UnknownGraphError):
        free_batch(content)


def test_half_precision_hardly_moves_the_real_models_masks(remover: Remover, examples: Path) -> None:
    """On single pixels of an edge it does; least where the nodes that need float32 keep it."""
    model = require(MODELS["u2netp"]).read_bytes()
    (picture,) = crops(examples, 1)
    batch, place = to_input(picture.rgb, MODELS["u2netp"], (320, 320), Fit.STRETCH)
    wanted = np.asarray(remover.session.predict(picture.rgb, fit=None, rescale=None, stages=StageTimes())).astype(int)

    def moved(precise: frozenset[str]) -> Any:
        halved = to_half(model, precise)
        onnx.checker.check_model(onnx.load_from_string(halved))
        assert len(halved) < 0.6 * len(model)
        inner = onnxruntime.InferenceSession(halved, providers=[CPU])
        output = inner.run([inner.get_outputs()[0].name], {inner.get_inputs()[0].name: batch})[0]
        assert output.dtype == np.float32
        return np.abs(np.asarray(to_mask(output, MODELS["u2netp"], place, rescale=True)).astype(int) - wanted)

    careful, careless = moved(MODELS["u2netp"].exact_nodes), moved(frozenset())
    assert 0 < careful.mean() < careless.mean() < 0.5
    assert careful.max() <= 16


def test_half_precision_is_used_where_it_was_asked_for_and_is_right(
    card: Callable[..., Card13], tmp_path: Path
) -> None:
    path = brightness_model(tmp_path)
    runtime = card()
    wanted = masks(Remover(path, device="cpu"), strips(4))
    remover = Remover(path, device="cuda", device_options=DeviceOptions(batch=2, half=True))
    assert b"picture:half" in runtime.models[-1]
    for together, alone in zip(masks(remover, strips(4)), wanted, strict=True):
        assert np.abs(together - alone).max() <= 2
    Remover(path, device="cuda", device_options=DeviceOptions(batch=2))
    assert b"picture:half" not in runtime.models[-1]


def test_half_precision_that_cannot_be_had_is_said_with_its_reason(
    card: Callable[..., Card13], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = brightness_model(tmp_path), list[str]()
    card()

    def opened(**options: Any) -> list[str]:
        said.clear()
        Remover(path, device="cuda", device_options=DeviceOptions(half=True, **options), warn=said.append)
        return said

    assert opened(batch=2) == []
    (line,) = opened(batch=1)
    assert "--half was left out: it goes with batches" in line
    (line,) = opened(pictures=3)
    assert "from 8 pictures on" in line

    def fails(*_: object) -> bytes:
        raise ValueError("no such cast")

    monkeypatch.setattr("cutout.engines.batching.to_half", fails)
    (line,) = opened(batch=2)
    assert line == "--half was left out on cuda, which computes in full precision: no such cast"
    monkeypatch.setattr("cutout.engines.batching.to_half", lambda model, _: model)
    monkeypatch.setattr("cutout.engines.batching._HALF_SHARE", -1.0)
    (line,) = opened(batch=2)
    assert line.endswith("its masks differ too much from those in full precision")


# --- models that cannot be batched ---


def model_of(path: Path, nodes: list[Any], constants: list[Any] = []) -> Path:  # noqa: B006
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [value("picture", TensorProto.FLOAT, [1, 3, 32, 32])],
        [value("mask", TensorProto.FLOAT, [1, 1, 32, 32])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def one_in_a_constant(path: Path) -> Path:
    """Its batch of 1 is written into a Reshape."""
    return model_of(
        path,
        [
            helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Reshape", ["mean", "shape"], ["mask"]),
        ],
        [helper.make_tensor("shape", TensorProto.INT64, [4], [1, 1, 32, 32])],
    )


def scale_of_all(path: Path) -> Path:
    """It divides by the largest value of the whole batch, as quantised models do: no error, but wrong."""
    return model_of(
        path,
        [
            helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("ReduceMax", ["picture"], ["most"], axes=[0, 1, 2, 3], keepdims=1),
            helper.make_node("Div", ["mean", "most"], ["mask"]),
        ],
    )


@pytest.mark.parametrize("make", [one_in_a_constant, scale_of_all])
def test_a_model_that_cannot_be_batched_runs_one_by_one_and_says_so(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path, said = make(tmp_path / "mine.onnx"), list[str]()
    batched = Remover(path, device="cpu", device_options=DeviceOptions(batch=4), warn=said.append)
    assert batched.batch == 1
    assert said == ["mine cannot take several pictures at once: they run one by one"]
    for together, alone in zip(masks(batched, strips(6)), masks(Remover(path, device="cpu"), strips(6)), strict=True):
        assert (together == alone).all()


def test_a_model_whose_size_is_free_gets_batches_of_equal_sizes(tmp_path: Path) -> None:
    path = brightness_model(tmp_path)
    model = onnx.load(path)
    for place in (2, 3):
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[place].dim_param = "hw"[place - 2]
    onnx.save(model, tmp_path / "modnet.onnx")
    batched = Remover(tmp_path / "modnet.onnx", device="cpu", device_options=DeviceOptions(batch=3))
    single = Remover(tmp_path / "modnet.onnx", device="cpu")
    assert batched.batch == 3
    pictures = [Picture(rgb=p.rgb.resize((40 + 20 * (i % 2), 40))) for i, p in enumerate(strips(8))]
    for together, alone in zip(masks(batched, pictures), masks(single, pictures), strict=True):
        assert np.abs(together - alone).max() <= 1


# --- buffers that stay bound ---


def test_bound_buffers_give_what_a_plain_run_gives_and_keep_nothing_of_the_last(tmp_path: Path) -> None:
    freed = free_batch(brightness_model(tmp_path).read_bytes())
    inner = onnxruntime.InferenceSession(freed, providers=[CPU])
    run = BoundRun(onnxruntime, inner, "picture", "mask", memory="cpu")
    random = np.random.default_rng(0)
    kept = []
    for count in (2, 2, 3, 3, 2):
        batch = random.random((count, 3, 32, 32), np.float32)
        kept.append((run(batch), batch.mean(axis=1, keepdims=True)))
    for got, wanted in kept:
        assert got == pytest.approx(wanted, abs=1e-6), "a later batch does not write into an earlier one's result"


# --- a card that fails, from outside ---


class Card13:
    """A runtime with a CUDA card of so much room: batches that are larger fail as they do for want of memory."""

    def __init__(self, room: int, said: str = STARVED) -> None:
        self.room, self.said = room, said
        self.__file__ = ""
        self.asked: list[dict[str, Any]] = []
        self.provider = CUDA
        self.sizes: list[int] = []
        self.models: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [self.provider, CPU]

    def preload_dlls(self) -> None:
        pass

    def InferenceSession(self, model: Any, *, sess_options: Any, providers: Any, **_: Any) -> Any:  # noqa: N802
        inner = onnxruntime.InferenceSession(model, sess_options, providers=[CPU])
        self.models.append(model if isinstance(model, bytes) else b"")
        return inner if CPU in providers[0] else Session13(self, inner, providers)


class Session13:
    def __init__(self, card: Card13, inner: Any, providers: Any) -> None:
        self._card, self._inner = card, inner
        card.asked.append(providers[0][1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_providers(self) -> list[str]:
        return [self._card.provider, CPU]

    def run(self, names: Any, feeds: dict[str, Any]) -> Any:
        size = len(next(iter(feeds.values())))
        self._card.sizes.append(size)
        if size > self._card.room:
            raise RuntimeError(self._card.said)
        return self._inner.run(names, feeds)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Card13]:
    """Puts a card of some room into this machine, and so many into what the driver shows."""

    def make(room: int = 1000, *, smi: tuple[Card, ...] = (), said: str = STARVED) -> Card13:
        runtime = Card13(room, said)

        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        monkeypatch.setattr("cutout.system.distributions", lambda: {"onnxruntime-gpu": "1.31.1"})
        monkeypatch.setattr("cutout.engines.batching.BoundRun.__init__", plain)
        monkeypatch.setattr("cutout.engines.batching.cards", lambda: list(smi))
        return runtime

    return make


def plain(self: BoundRun, runtime: Any, inner: Any, source: str, output: str, **_: Any) -> None:
    """There is no memory of a card to bind here."""
    self._inner, self._names, self._place, self._bound = inner, (source, output), ("", 0), None


def gib(used: float, total: float = 24, index: int = 0) -> Card:
    return Card(
        index=index,
        uuid=f"GPU-{index}",
        name="RTX 3090",
        used=int(used * 2**30),
        total=int(total * 2**30),
        driver="580",
    )


def test_a_card_works_in_batches_of_the_measured_size(
    card: Callable[..., Card13], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = brightness_model(tmp_path)
    runtime, said = card(), list[str]()
    first = Remover(path, warn=said.append)
    assert (first.device, said) == ("cuda", [])
    assert first.batch in {1, 2, 4, 8, 16, 32}
    assert max(runtime.sizes) >= first.batch
    monkeypatch.setattr("cutout.engines.batching.fastest_size", lambda _run, _picture, most: most)
    assert Remover(path).batch == 32
    assert Remover(path, device_options=DeviceOptions(pictures=20)).batch == 10, "no more than half of what there is"


def test_a_device_that_compiles_is_not_measured(card: Callable[..., Card13], tmp_path: Path) -> None:
    """Every size of batch would take it minutes."""
    runtime = card()
    runtime.provider = "TensorrtExecutionProvider"
    path = brightness_model(tmp_path)
    assert Remover(path, device="tensorrt").batch == 1
    assert set(runtime.sizes) == {1}
    assert Remover(path, device="tensorrt", device_options=DeviceOptions(batch=4)).batch == 4


def test_a_few_pictures_are_done_one_by_one_without_measuring(card: Callable[..., Card13], tmp_path: Path) -> None:
    runtime = card()
    remover = Remover(brightness_model(tmp_path), device_options=DeviceOptions(pictures=3))
    assert (remover.device, remover.batch) == ("cuda", 1)
    assert runtime.sizes == [1], "it is warmed up"


def test_a_card_that_opens_models_and_cannot_run_them_is_found_out(card: Callable[..., Card13], tmp_path: Path) -> None:
    path = brightness_model(tmp_path)
    card(0, said="CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available for execution on the device")
    said: list[str] = []
    remover = Remover(path, warn=said.append)
    assert remover.device == "cpu"
    assert remover.cut(strips(1)[0], MASK).size == (40, 40)
    (line,) = said
    assert "onnxruntime-gpu 1.31.1 holds no code for this card" in line
    with pytest.raises(DeviceError, match=r"^device cuda cannot be used: .*holds no code for this card") as caught:
        Remover(path, device="cuda")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("room", [1, 2, 5])
def test_no_picture_is_lost_when_the_card_is_full(card: Callable[..., Card13], tmp_path: Path, room: int) -> None:
    path = brightness_model(tmp_path)
    wanted = masks(Remover(path, device="cpu"), strips(10))
    runtime, said = card(), list[str]()
    remover = Remover(path, device="cuda", device_options=DeviceOptions(batch=8), warn=said.append)
    assert remover.batch == 8
    runtime.room = room
    for together, alone in zip(masks(remover, strips(10), threads=10), wanted, strict=True):
        assert np.abs(together - alone).max() <= 1
    assert [line for line in said if "memory" in line] == [
        "cuda: the memory of the device is full: going on with batches of 4"
    ]


def test_without_room_for_one_the_processor_goes_on_only_when_it_may(
    card: Callable[..., Card13], tmp_path: Path
) -> None:
    path = brightness_model(tmp_path)
    wanted = masks(Remover(path, device="cpu"), strips(4))
    runtime, said = card(), list[str]()
    remover = Remover(path, device="cuda", device_options=DeviceOptions(batch=2, cpu_fallback=True), warn=said.append)
    strict = Remover(path, device="cuda", device_options=DeviceOptions(batch=2))
    runtime.room = 0
    for together, alone in zip(masks(remover, strips(4)), wanted, strict=True):
        assert (together == alone).all()
    assert len([line for line in said if "processor" in line]) == 1, "said once"
    with pytest.raises(CutoutError, match="failed on cuda: the memory of the device is full") as caught:
        strict.cut(strips(1)[0], MASK)
    assert "--cpu-fallback" in (caught.value.hint or "")


def test_several_cards_are_opened_and_named(card: Callable[..., Card13], tmp_path: Path) -> None:
    path = brightness_model(tmp_path)
    runtime = card(smi=(gib(1), gib(1, index=1), gib(1, index=2)))
    named = Remover(path, device="cuda:0,2", device_options=DeviceOptions(batch=2))
    assert (named.device, named.in_flight) == ("cuda:0,2", 4)
    assert {options.get("device_id") for options in runtime.asked} == {0, 2}
    assert Remover(path, device="cuda:all", device_options=DeviceOptions(batch=2)).device == "cuda:0,1,2"
    wanted = masks(Remover(path, device="cpu"), strips(9))
    for together, alone in zip(masks(named, strips(9), threads=9), wanted, strict=True):
        assert np.abs(together - alone).max() <= 1


def test_a_card_that_others_fill_is_passed_over_by_auto_alone(card: Callable[..., Card13], tmp_path: Path) -> None:
    path = brightness_model(tmp_path)
    card(smi=(gib(22),))
    said: list[str] = []
    assert Remover(path, warn=said.append).device == "cpu"
    (line,) = said
    assert line.startswith("92% of the memory of RTX 3090 is in use (limit 80%): running on cpu")
    assert "--gpu-memory-limit 100" in line
    assert Remover(path, device_options=DeviceOptions(gpu_memory_limit=95)).device == "cuda"
    said.clear()
    assert Remover(path, device="cuda", warn=said.append).device == "cuda"
    assert said == ["92% of the memory of RTX 3090 is in use (limit 80%): it may run out"]


def test_the_card_is_told_how_much_memory_it_may_take(card: Callable[..., Card13], tmp_path: Path) -> None:
    runtime = card(smi=(gib(4),))
    Remover(brightness_model(tmp_path), device="cuda")
    assert {options["gpu_mem_limit"] for options in runtime.asked} == {str(int(20 * 2**30 * 0.9))}


def test_what_the_user_tells_the_provider_counts(card: Callable[..., Card13], tmp_path: Path) -> None:
    runtime = card(smi=(gib(4),))
    options = DeviceOptions(provider_options={"gpu_mem_limit": 1 << 30, "cudnn_conv_algo_search": "EXHAUSTIVE"})
    Remover(brightness_model(tmp_path), device="cuda:0", device_options=options)
    assert {(asked["gpu_mem_limit"], asked["cudnn_conv_algo_search"]) for asked in runtime.asked} == {
        (str(1 << 30), "EXHAUSTIVE")
    }


# --- options ---


@pytest.mark.parametrize(("text", "size"), [(None, None), ("auto", None), (" AUTO ", None), ("", None), ("8", 8)])
def test_a_batch_is_a_number_or_auto(text: str | None, size: int | None) -> None:
    assert parse_batch(text) == size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"batch": 5000}, "batch is 5000"),
        ({"gpu_memory_limit": 101.0}, "gpu_memory_limit is 101"),
        ({"gpu_memory_limit": float("nan")}, "gpu_memory_limit is nan"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DeviceOptions(**values)


def test_the_command_says_what_it_really_used(cutout: Cutout, tmp_path: Path) -> None:
    model = brightness_model(tmp_path)
    for number in range(5):
        half(tmp_path / "in" / f"{number}.png")
    run = cutout("remove", tmp_path / "in", "-o", tmp_path / "out", "-m", model, "-d", "cpu", "--batch", "2", "--json")
    assert run.code == 0, run.err
    summary = run.lines[-1]
    assert (summary["device"], summary["batch"], summary["done"]) == ("cpu", 2, 5)
    alone = cutout("remove", tmp_path / "in", "-o", tmp_path / "alone", "-m", model, "-d", "cpu", "--json")
    assert "batch" not in alone.lines[-1]
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--batch", "many"), "--batch is 'many'"),
        (("--provider-option", "x=1"), "--provider-option belongs to a device"),
        (("--provider-option", "x", "--device", "cuda"), "--provider-option 'x' is not of the form key=value"),
        (("--device", "gpu"), "did you mean cuda?"),
        (("--gpu-memory-limit", "200"), "--gpu-memory-limit is 200"),
    ],
)
def test_wrong_usage_ends_with_2(cutout: Cutout, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    run = cutout("remove", half(tmp_path / "in.png"), "-o", tmp_path / "out.png", *args)
    assert run.code == 2
    assert message in run.err
    assert not (tmp_path / "out.png").exists()


def test_a_device_that_compiles_says_so_before_the_first_time_only(
    card: Callable[..., Card13], tmp_path: Path, home: Path
) -> None:
    runtime, said = card(), list[str]()
    runtime.provider = "TensorrtExecutionProvider"
    path = brightness_model(tmp_path)
    Remover(path, device="tensorrt", device_options=DeviceOptions(batch=1), warn=said.append)
    (line,) = said
    assert "compiles each model once" in line
    (folder,) = [path for path in home.rglob("tensorrt") if path.is_dir()]
    assert {options["trt_engine_cache_path"] for options in runtime.asked} == {str(folder)}
    (folder / "engine").write_bytes(b"compiled")
    said.clear()
    Remover(path, device="tensorrt", device_options=DeviceOptions(batch=1), warn=said.append)
    assert said == []
