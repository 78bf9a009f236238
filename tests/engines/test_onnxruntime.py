"""An opened model: real ones, small ones made here, files that do not fit, and devices that do not come up."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from cutout.engines.devices import DeviceRequest, parse_device, request_device
from cutout.engines.environment import Place
from cutout.engines.onnxruntime import open_file
from cutout.engines.runtime import load_runtime, machine, quiet
from cutout.engines.selftest import prove
from cutout.enums import Fit
from cutout.errors import CutoutError, DeviceError, ExitCode, ModelError, UsageError
from cutout.formats.decode import Picture, decode
from cutout.models.files import require
from cutout.models.registry import MODELS
from cutout.options import RemoveOptions
from cutout.pipeline.remover import Remover
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Dim = int | str
MASK = RemoveOptions(mask=True)
EMBEDDED = MODELS["u2netp"]


def network(
    path: Path,
    shape: tuple[Dim, ...] = (1, 3, 320, 320),
    *,
    name: str = "input.1",
    kind: int = TensorProto.FLOAT,
    outputs: Mapping[str, tuple[float, float]] = {"mask": (1.0, 0.0)},
    more_inputs: tuple[str, ...] = (),
    channel: int | None = None,
) -> Path:
    """A model whose outputs are gain × brightness + offset, the brightness being the mean over the channels.

    With `channel`, the single output has one channel per class: the picture's own three before a background of 0.
    """
    number = helper.np_dtype_to_tensor_dtype(np.dtype("float32")) if kind == TensorProto.FLOAT else kind
    nodes, weights = [helper.make_node("ReduceMean", [name], ["brightness"], axes=[1], keepdims=1)], []
    for output, values in outputs.items():
        for label, value in zip(("gain", "offset"), values, strict=True):
            weights.append(helper.make_tensor(f"{output}.{label}", number, [1], [value]))
        nodes.append(helper.make_node("Mul", ["brightness", f"{output}.gain"], [f"{output}.scaled"]))
        nodes.append(helper.make_node("Add", [f"{output}.scaled", f"{output}.offset"], [output]))
    if channel is not None:
        weights = [helper.make_tensor("nothing", number, [1], [0.0])]
        nodes.insert(1, helper.make_node("Mul", ["brightness", "nothing"], ["background"]))
        nodes[2:] = [helper.make_node("Concat", ["background", name], ["mask"], axis=channel)]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(entry, kind, shape) for entry in (name, *more_inputs)],
        [helper.make_tensor_value_info(output, kind, None) for output in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def halves(size: tuple[int, int] = (64, 64)) -> Picture:
    """Black on the left, white on the right."""
    image = Image.new("RGB", size, "black")
    image.paste("white", (size[0] // 2, 0, size[0], size[1]))
    return Picture(rgb=image)


def ends(image: Image.Image) -> tuple[int, int]:
    """What became of the black and of the white half."""
    assert image.mode == "L"
    values = np.asarray(image)
    return int(values[values.shape[0] // 2, 2]), int(values[values.shape[0] // 2, -3])


def brightness(value: float, row: str, divisor: float = 255.0) -> float:
    """The mean over the channels of a grey value, as the network of a row gets it."""
    spec = MODELS[row]
    return float(np.mean([(value / divisor - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]))


def opened(path: Path, *, warn: Callable[[str], None] = lambda _text: None, **settings: Any) -> Remover:
    return Remover(path, device="cpu", warn=warn, **settings)


# --- the real runtime and the real model ---


def test_the_embedded_model_runs_on_the_cpu_and_says_so(remover: Remover, examples: Path) -> None:
    assert (remover.model, remover.device) == ("u2netp", "cpu")
    stages = StageTimes()
    picture = decode((examples / "astronaut.jpg").read_bytes())
    mask = remover.session.predict(picture.rgb, fit=None, rescale=None, stages=stages)
    assert (mask.mode, mask.size, mask.getextrema()) == ("L", (320, 320), (0, 255))
    assert set(stages.ms) == {"preprocess", "inference", "postprocess"}


def test_fit_and_rescale_of_a_call_count_before_the_models_own(remover: Remover, examples: Path) -> None:
    rgb = decode((examples / "coffee.jpg").read_bytes()).rgb.crop((0, 0, 400, 200))
    padded = remover.session.predict(rgb, fit=Fit.PAD, rescale=None, stages=StageTimes())
    assert padded.size == (320, 160), "the padding is cropped"
    raw = remover.session.predict(rgb, fit=None, rescale=False, stages=StageTimes())
    assert raw.getextrema() != (0, 255)


def test_many_threads_get_what_one_after_the_other_gets(remover: Remover, examples: Path) -> None:
    rgb = decode((examples / "astronaut.jpg").read_bytes()).rgb
    pictures = [Picture(rgb=rgb.crop((16 * i, 12 * i, 300 + 16 * i, 280 + 12 * i))) for i in range(8)]
    serial = [remover.cut(picture, MASK).image.tobytes() for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        side_by_side = list(pool.map(lambda picture: remover.cut(picture, MASK).image.tobytes(), pictures))
    assert len(set(serial)) == 8
    assert side_by_side == serial


def test_the_machine_is_what_the_runtime_says_it_is() -> None:
    here = machine()
    assert here.available == tuple(onnxruntime.get_available_providers())
    assert here.packages["onnxruntime"] == metadata.version("onnxruntime")
    assert not here.clash
    assert not here.load_errors


# --- models like the ones that cannot be had here ---


def test_a_file_shaped_like_rmbg_2_runs_by_its_row(tmp_path: Path) -> None:
    """N×3×1024×1024 `pixel_values` in, `alphas` of 0–1 out, divided by 255, and not stretched."""
    path = network(
        tmp_path / "bria-rmbg-2.0.onnx", ("batch", 3, 1024, 1024), name="pixel_values", outputs={"alphas": (0.2, 0.5)}
    )
    expected = [int((0.2 * brightness(value, "rmbg-2.0") + 0.5) * 255) for value in (0, 255)]
    assert expected == [26, 251]
    assert ends(opened(path).cut(halves(), MASK).image) == pytest.approx(expected, abs=1)
    assert ends(opened(path).cut(halves(), RemoveOptions(mask=True, rescale=True)).image) == (0, 255)


def test_a_file_of_another_name_runs_by_its_configuration(tmp_path: Path) -> None:
    path = network(
        tmp_path / "mine.onnx", ("batch", 3, 1024, 1024), name="pixel_values", outputs={"alphas": (0.2, 0.5)}
    )
    config = {"size": [1024, 1024], "divisor": 255, "rescale": False}
    assert ends(opened(path, model_config=config).cut(halves(), MASK).image) == pytest.approx((26, 251), abs=1)
    assert ends(opened(path).cut(halves(), MASK).image) == (0, 255), "u2net's row stretches"


def test_a_file_shaped_like_birefnet_runs_by_its_row(tmp_path: Path) -> None:
    """Several outputs, the last of which holds the logits."""
    path = network(
        tmp_path / "BiRefNet-general-epoch_244.onnx",
        (1, 3, 1024, 1024),
        name="input_image",
        outputs={"side_4": (0.0, -9.0), "side_3": (0.0, 9.0), "output_image": (1.0, 0.0)},
    )
    logits = [brightness(value, "birefnet-general") for value in (0, 255)]
    expected = [int(255 / (1 + np.exp(-logit))) for logit in logits]
    assert expected == [30, 234]
    assert ends(opened(path).cut(halves(), MASK).image) == pytest.approx(expected, abs=1)


def test_a_file_shaped_like_birefnet_runs_by_its_configuration(tmp_path: Path) -> None:
    path = network(tmp_path / "mine.onnx", (1, 3, 256, 256), outputs={"side": (0.0, -9.0), "logits": (1.0, 0.0)})
    config = {"size": 256, "divisor": 255, "output": -1, "activation": "sigmoid", "rescale": False}
    assert ends(opened(path, model_config=config).cut(halves(), MASK).image) == pytest.approx((30, 234), abs=1)


@pytest.mark.parametrize(("size", "runs_at"), [((640, 320), (512, 256)), ((300, 400), (384, 512))])
def test_a_file_shaped_like_modnet_takes_the_pictures_aspect(
    tmp_path: Path, size: tuple[int, int], runs_at: tuple[int, int]
) -> None:
    path = network(
        tmp_path / "modnet.onnx", ("batch", 3, "height", "width"), name="input", outputs={"output": (0.4, 0.5)}
    )
    remover = opened(path)
    picture = halves(size)
    assert remover.session.predict(picture.rgb, fit=None, rescale=None, stages=StageTimes()).size == runs_at
    assert ends(remover.cut(picture, MASK).image) == pytest.approx((int(0.1 * 255), int(0.9 * 255)), abs=1)


def test_a_half_precision_model_gets_half_precision(tmp_path: Path) -> None:
    path = network(tmp_path / "half.onnx", kind=TensorProto.FLOAT16, outputs={"mask": (0.2, 0.5)})
    config = {"divisor": 255, "rescale": False}
    assert ends(opened(path, model_config=config).cut(halves(), MASK).image) == pytest.approx((26, 251), abs=1)


@pytest.mark.parametrize(("wanted", "found"), [("upper", (0, 255)), ("lower", (0, 0)), ("all", (0, 255))])
def test_a_class_model_gives_one_class_or_their_union(tmp_path: Path, wanted: str, found: tuple[int, int]) -> None:
    """Where the picture is white, red is the largest channel after the normalisation below; where black, none."""
    path = network(tmp_path / "u2net_cloth_seg.onnx", (1, 3, 768, 768), channel=1)
    config = {"mean": [0.4, 0.5, 0.6]}
    remover = opened(path, model_config=config, model_options={"class": wanted})
    assert ends(remover.cut(halves(), MASK).image) == found


@pytest.mark.parametrize(
    ("model", "options", "hint"),
    [
        ("u2net_cloth_seg.onnx", {"class": "shoes"}, "class=all|upper|lower|full"),
        ("u2net_cloth_seg.onnx", {"colour": "red"}, "class=all|upper|lower|full"),
        ("u2net.onnx", {"class": "upper"}, "u2net has none"),
        ("u2net.onnx", {"prompt": "cat"}, "u2net has none"),
    ],
)
def test_an_unknown_model_option_lists_the_known_ones(
    tmp_path: Path, model: str, options: dict[str, Any], hint: str
) -> None:
    path = network(tmp_path / model, (1, 3, "h", "w"))
    with pytest.raises(UsageError, match=r"^unknown model_option") as caught:
        opened(path, model_options=options)
    assert hint in (caught.value.hint or "")


def test_a_users_own_file_tells_its_size_itself(tmp_path: Path) -> None:
    remover = opened(network(tmp_path / "mine.onnx", (1, 3, 96, 160)))
    assert remover.session.spec.size == (96, 160)
    assert remover.session.predict(halves().rgb, fit=None, rescale=None, stages=StageTimes()).size == (160, 96)


# --- files that do not fit ---


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"shape": (1, 1, 320, 320)}, "pictures of 1 channels"),
        ({"shape": (1, 4, 320, 320)}, "pictures of 4 channels"),
        ({"shape": (4, 3, 320, 320)}, "4 pictures at once"),
        ({"shape": (3, 320, 320)}, "it wants"),
        ({"more_inputs": ("prompt",)}, "it wants .*input.1.*prompt"),
        ({"kind": TensorProto.DOUBLE}, "double"),
    ],
)
def test_a_file_of_another_signature_is_refused(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    path = network(tmp_path / "mine.onnx", **how)
    with pytest.raises(ModelError, match=message) as caught:
        opened(path)
    assert str(path) in caught.value.message
    assert caught.value.exit_code is ExitCode.MODEL


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["mask"], value=value)],
        "constant",
        [],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "mine.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError, match="does not fit"):
        opened(path)


@pytest.mark.parametrize("output", [1, 5, -2])
def test_an_output_that_is_not_there_is_refused(tmp_path: Path, output: int) -> None:
    path = network(tmp_path / "mine.onnx")
    with pytest.raises(ModelError, match=f"it has 1 outputs, number {output} is not among them"):
        opened(path, model_config={"output": output})


def test_a_registry_models_file_must_have_its_rows_size(tmp_path: Path) -> None:
    path = network(tmp_path / "u2net.onnx", (1, 3, 640, 640))
    with pytest.raises(ModelError, match="does not fit u2net: it wants 640×640 pixels"):
        open_file(path, MODELS["u2net"], DeviceRequest(), threads=1)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, I am no model", b"\x08\x08\x12\x00", b"<html>404</html>"],
    ids=["empty", "text", "bytes", "html"],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"mine\.onnx cannot be opened|does not fit") as caught:
        opened(path)
    assert caught.value.exit_code is ExitCode.MODEL


@pytest.mark.parametrize("sides", [(0, 0), (320, 0), (100_000, 100_000), (4097, 320)])
def test_an_input_of_absurd_size_is_refused_before_it_is_made(tmp_path: Path, sides: tuple[int, int]) -> None:
    path = network(tmp_path / "mine.onnx", (1, 3, *sides))
    with pytest.raises(ModelError, match=r"mine\.onnx does not fit|cannot be opened") as caught:
        opened(path)
    assert caught.value.exit_code is ExitCode.MODEL


@pytest.mark.parametrize(
    "config", [{"size": 100_000}, {"size": [320, 5000]}, {"size": None, "long_side": 10**9}, {"multiple": 10**6}]
)
def test_a_configuration_of_absurd_size_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    path = network(tmp_path / "mine.onnx", (1, 3, "height", "width"))
    with pytest.raises(ModelError, match="unfit value"):
        opened(path, model_config=config)


def odd_output(path: Path, node: Any, output: Any, *more: Any) -> Path:
    """A model of one more node, whose output is no mask."""
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 32, 32])
    graph = helper.make_graph([*more, node], "odd", [picture], [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


TEXTS = helper.make_node("Constant", [], ["odd"], value=numpy_helper.from_array(np.array([["cat"]], object)))
USED = helper.make_node("Identity", ["picture"], ["same"])


@pytest.mark.parametrize(
    ("node", "output"),
    [
        (TEXTS, helper.make_tensor_value_info("odd", TensorProto.STRING, [1, 1])),
        (
            helper.make_node("SequenceConstruct", ["picture"], ["odd"]),
            helper.make_tensor_sequence_value_info("odd", TensorProto.FLOAT, [1, 3, 32, 32]),
        ),
        (
            helper.make_node("Flatten", ["picture"], ["odd"], axis=0),
            helper.make_tensor_value_info("odd", TensorProto.FLOAT, [1, 3072]),
        ),
        (
            helper.make_node("Flatten", ["picture"], ["odd"], axis=1),
            helper.make_tensor_value_info("odd", TensorProto.FLOAT, None),
        ),
        (
            helper.make_node("ReduceMean", ["picture"], ["odd"], keepdims=0),
            helper.make_tensor_value_info("odd", TensorProto.FLOAT, []),
        ),
        (
            helper.make_node("Shape", ["picture"], ["odd"]),
            helper.make_tensor_value_info("odd", TensorProto.INT64, [4]),
        ),
    ],
    ids=["texts", "sequence", "features", "features of unknown shape", "number", "shape"],
)
def test_an_output_that_is_no_mask_is_refused(tmp_path: Path, node: Any, output: Any) -> None:
    path = odd_output(tmp_path / "odd.onnx", node, output, *([USED] if node is TEXTS else []))
    with pytest.raises(ModelError, match="no mask") as caught:
        opened(path).cut(halves(), MASK)
    assert caught.value.exit_code is ExitCode.MODEL
    assert "model_config" in (caught.value.hint or "")


def test_a_mask_of_whole_numbers_is_one(tmp_path: Path) -> None:
    """A network may give classes, or yes and no."""
    path = odd_output(
        tmp_path / "odd.onnx",
        helper.make_node("Cast", ["mean"], ["odd"], to=TensorProto.BOOL),
        helper.make_tensor_value_info("odd", TensorProto.BOOL, [1, 1, 32, 32]),
        helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[1], keepdims=1),
    )
    config = {"divisor": 255, "mean": [0, 0, 0], "std": [1, 1, 1]}
    assert opened(path, model_config=config).cut(halves(), MASK).image.getextrema() == (0, 255)


def test_a_model_whose_weights_lie_elsewhere_and_are_not_there_is_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "mine.onnx")
    model = onnx.load(path)
    weights = numpy_helper.from_array(np.zeros((1, 1, 320, 320), np.float32), "more")
    model.graph.initializer.append(weights)
    model.graph.node.insert(0, helper.make_node("Add", ["input.1", "more"], ["shifted"]))
    model.graph.node[1].input[0] = "shifted"
    onnx.save(model, path, save_as_external_data=True, location="gone.bin", size_threshold=0)
    (tmp_path / "gone.bin").unlink()
    with pytest.raises(ModelError, match=r"mine\.onnx cannot be opened"):
        opened(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"size":' * 20_000, b" " * 2_000_000, b"\xff\xfe{}"])
def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    config = tmp_path / "mine.json"
    config.write_bytes(content)
    with pytest.raises(ModelError, match=r"mine\.json (cannot be read|must be)"):
        opened(network(tmp_path / "mine.onnx"), model_config=config)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    model, config = tmp_path / "mine.onnx", tmp_path / "mine.json"
    os.mkfifo(model)
    os.mkfifo(config)
    with pytest.raises(ModelError, match=r"mine\.onnx is no regular file"):
        opened(model)
    with pytest.raises(ModelError, match=r"mine\.json cannot be read: it is a pipe or a device"):
        opened(network(tmp_path / "good.onnx"), model_config=config)


def test_half_a_model_is_refused(tmp_path: Path) -> None:
    whole = require(EMBEDDED).read_bytes()
    path = tmp_path / "half.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be opened") as caught:
        opened(path)
    assert "no ONNX model" in (caught.value.hint or "")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist"):
        opened(tmp_path / "nowhere.onnx")


def test_a_model_that_fails_on_a_picture_fails_that_picture(tmp_path: Path) -> None:
    """Its input is free, but inside it takes one size alone."""
    path = network(tmp_path / "mine.onnx", (1, 3, "height", "width"))
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Add", ["input.1", "fixed"], ["shifted"]))
    model.graph.node[1].input[0] = "shifted"
    model.graph.initializer.append(helper.make_tensor("fixed", TensorProto.FLOAT, [1, 1, 320, 320], [0.0] * 320 * 320))
    onnx.save(model, path)
    assert ends(opened(path).cut(halves(), MASK).image) == (0, 255)
    with pytest.raises(CutoutError, match="mine failed on cpu") as caught:
        opened(path, model_config={"size": 64}).cut(halves(), MASK)
    assert caught.value.exit_code is ExitCode.SOME_FAILED


def test_a_picture_that_makes_the_model_answer_nonsense_is_told(tmp_path: Path) -> None:
    path = network(tmp_path / "mine.onnx", outputs={"mask": (float("inf"), 0.0)})
    with pytest.raises(ModelError, match="no numbers"):
        opened(path).cut(halves(), MASK)


# --- devices that do not come up ---

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Opened:
    """A real session on the CPU that reports other providers."""

    def __init__(self, inner: Any, providers: list[str]) -> None:
        self._inner = inner
        self._providers = providers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_providers(self) -> list[str]:
        return self._providers


class Runtime:
    """What `onnxruntime` looks like on a machine that is not this one; inside, the real one runs on the CPU.

    Attributes:
        refuses: Providers that make opening fail, and what the runtime says then.
        ignores: Providers that are passed over without a word, as CUDA is when its libraries are missing.
    """

    def __init__(self, folder: Path, available: Iterable[str]) -> None:
        self.__file__ = str(folder / "__init__.py")
        self.available = [*available, CPU]
        self.refuses: dict[str, Exception] = {}
        self.ignores: set[str] = set()
        self.asked: list[list[tuple[str, dict[str, Any]]]] = []
        self.threads: list[int] = []
        self.preloaded = False

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        sys.stdout.write("Failed to load libcublasLt.so.12")
        self.preloaded = True

    def InferenceSession(  # noqa: N802 - the runtime's name
        self, path: str, *, sess_options: Any, providers: list[tuple[str, dict[str, Any]]], enable_fallback: int
    ) -> Opened:
        assert enable_fallback == 0
        self.asked.append(providers)
        self.threads.append(sess_options.intra_op_num_threads)
        names = [name for name, _ in providers]
        if names[0] in self.refuses:
            raise self.refuses[names[0]]
        inner = onnxruntime.InferenceSession(path, sess_options, providers=[CPU])
        running = [name for name in names if name not in self.ignores]
        return Opened(inner, running if CPU in running else [*running, CPU])


RunOn = Callable[..., Remover]
Install = Callable[..., Runtime]
"""Makes this machine another one: its runtime's providers and its installed packages."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    def make(*available: str, packages: Iterable[str] = ("onnxruntime-gpu",)) -> Runtime:
        runtime = Runtime(tmp_path / "onnxruntime", available)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        monkeypatch.setattr("cutout.system.distributions", lambda: dict.fromkeys(packages, "1.23.0"))
        monkeypatch.setattr("cutout.engines.environment.runtime_log_of", lambda _entry: "")
        return runtime

    return make


@pytest.fixture
def run_on(model: Path) -> RunOn:
    """Opens the quick model: a device tries its batches when it is opened, which takes seconds with a real one."""

    def opened(device: str | None, warnings: list[str] | None = None) -> Remover:
        return Remover(model, device=device, warn=(warnings if warnings is not None else []).append)

    return opened


def works(remover: Remover) -> bool:
    return remover.cut(halves(), MASK).image.size == (64, 64)


def test_a_device_that_comes_up_is_used_without_a_word(
    install: Install, capsys: pytest.CaptureFixture[str], run_on: RunOn
) -> None:
    runtime, warnings = install(CUDA), list[str]()
    remover = run_on(None, warnings)
    assert remover.device == "cuda"
    assert works(remover)
    assert warnings == []
    assert [name for name, _ in runtime.asked[0]] == [CUDA, CPU]
    assert {name for providers in runtime.asked[1:] for name, _ in providers} <= {CUDA}, "once more, for batches"
    assert runtime.preloaded, "CUDA comes from its wheels"
    assert capsys.readouterr().out == "", "standard output is for pictures"


def test_a_second_card_is_asked_for_by_its_number(install: Install, run_on: RunOn) -> None:
    runtime = install(CUDA)
    assert run_on("cuda:1").device == "cuda:1"
    assert {(name, options["device_id"]) for providers in runtime.asked for name, options in providers} == {(CUDA, 1)}


def test_auto_falls_back_with_one_warning_when_the_runtime_passes_over_a_device(
    install: Install, run_on: RunOn
) -> None:
    runtime, warnings = install(CUDA), list[str]()
    runtime.ignores = {CUDA}
    remover = run_on(None, warnings)
    assert remover.device == "cpu"
    assert works(remover)
    assert len(warnings) == 1
    assert "cuda is installed but cannot be used, running on cpu" in warnings[0]
    assert "without giving a reason" in warnings[0]


def test_auto_falls_back_with_one_warning_when_the_runtime_refuses_a_device(install: Install, run_on: RunOn) -> None:
    runtime, warnings = install(CUDA), list[str]()
    runtime.refuses = {CUDA: RuntimeError("CUDA failure 12345: something new\nand a stack trace")}
    remover = run_on(None, warnings)
    assert remover.device == "cpu"
    assert works(remover)
    assert len(warnings) == 1
    assert "CUDA failure 12345: something new" in warnings[0]
    assert "stack trace" not in warnings[0]
    assert [[name for name, _ in providers] for providers in runtime.asked] == [[CUDA, CPU], [CPU]]


Questions = Callable[..., list[str]]


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Questions:
    """The names of the providers that a second process is asked about, once a runtime is installed."""

    def make(*before: str) -> list[str]:
        asked = list(before)

        def answer(entry: tuple[str, Mapping[str, Any]]) -> str:
            asked.append(entry[0])
            return "CUDA failure 12345: something new"

        monkeypatch.setattr("cutout.engines.environment.runtime_log_of", answer)
        monkeypatch.setattr("cutout.engines.environment._memory", {})
        return asked

    return make


def next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new process has forgotten."""
    monkeypatch.setattr("cutout.engines.environment._memory", {})


def test_why_a_card_is_passed_over_is_found_out_once_a_day(
    install: Install, questions: Questions, monkeypatch: pytest.MonkeyPatch, run_on: RunOn
) -> None:
    """It takes a second Python process."""
    install(CUDA).ignores = {CUDA}
    asked, warnings = questions(), list[str]()
    for _ in range(2):
        run_on(None, warnings)
        next_start(monkeypatch)
        run_on(None, warnings)
    assert asked == [CUDA]
    assert len(warnings) == 4
    assert all("something new" in line for line in warnings), "the reason is told at every start"
    next_start(monkeypatch)
    tomorrow = time.time() + 24 * 3600
    monkeypatch.setattr("cutout.engines.environment._now", lambda: tomorrow)
    run_on(None)
    assert asked == [CUDA] * 2


@pytest.mark.parametrize("change", ["packages", "driver", "LD_LIBRARY_PATH", "boot"])
def test_another_runtime_driver_or_start_of_the_machine_is_asked_again(
    install: Install, questions: Questions, monkeypatch: pytest.MonkeyPatch, change: str, run_on: RunOn
) -> None:
    install(CUDA).ignores = {CUDA}
    asked = questions()
    run_on(None)
    match change:
        case "packages":
            install(CUDA, packages=("onnxruntime-rocm",)).ignores = {CUDA}
            asked = questions(*asked)
        case "driver":
            monkeypatch.setattr("cutout.engines.environment.look", lambda: Place(driver="600.1"))
        case "LD_LIBRARY_PATH":
            monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib64")
        case "boot":
            monkeypatch.setattr("cutout.engines.environment._boot", lambda: "another")
    next_start(monkeypatch)
    run_on(None)
    assert asked == [CUDA] * 2


def test_what_is_free_on_a_card_is_no_reason_to_ask_again(
    install: Install, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(CUDA).ignores = {CUDA}
    asked = questions()
    for memory in (1_000_000, 2_000_000):
        load_runtime(DeviceRequest(devices=(parse_device("cuda"),), memory=memory)).reason(parse_device("cuda"))
        next_start(monkeypatch)
    assert asked == [CUDA]


def test_without_a_place_to_keep_it_the_reason_is_found_out_once_a_process(
    install: Install, questions: Questions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_on: RunOn
) -> None:
    install(CUDA).ignores = {CUDA}
    asked = questions()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CUTOUT_HOME", str(tmp_path / "file" / "below"))
    for _ in range(2):
        assert run_on(None).device == "cpu"
    assert asked == [CUDA]
    next_start(monkeypatch)
    assert run_on(None).device == "cpu"
    assert asked == [CUDA] * 2


def test_the_doctor_asks_again(
    install: Install, questions: Questions, monkeypatch: pytest.MonkeyPatch, run_on: RunOn
) -> None:
    install(CUDA).ignores = {CUDA}
    asked = questions()
    run_on(None)
    for _ in range(2):
        assert not prove(parse_device("cuda")).works
    assert asked == [CUDA] * 3


def test_a_library_that_does_not_load_is_the_reason(install: Install, tmp_path: Path, run_on: RunOn) -> None:
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    for name in ("shared", "cuda"):
        (capi / f"libonnxruntime_providers_{name}.so").write_bytes(b"no library")
    runtime, warnings = install(CUDA), list[str]()
    runtime.ignores = {CUDA}
    assert run_on(None, warnings).device == "cpu"
    assert len(warnings) == 1
    assert "its library does not load" in warnings[0]
    assert "libonnxruntime_providers_" in warnings[0]
    assert 'pip install "cutout-cli[gpu]"' in warnings[0]


@pytest.mark.parametrize("fault", ["ignores", "refuses"])
@pytest.mark.parametrize("environ", [False, True])
def test_a_device_that_was_asked_for_and_does_not_come_up_fails_the_run(
    install: Install, monkeypatch: pytest.MonkeyPatch, fault: str, environ: bool, run_on: RunOn
) -> None:
    runtime = install(CUDA)
    setattr(runtime, fault, {CUDA: RuntimeError("no card")} if fault == "refuses" else {CUDA})
    if environ:
        monkeypatch.setenv("CUTOUT_DEVICE", "cuda")
    with pytest.raises(DeviceError, match="cuda cannot be used: the runtime refused it") as caught:
        run_on(None if environ else "cuda")
    assert caught.value.exit_code == 4
    assert ("CUTOUT_DEVICE" in caught.value.message) is environ
    assert ("no card" in caught.value.message) is (fault == "refuses")


def test_any_of_the_listed_devices_is_good_enough(
    install: Install, monkeypatch: pytest.MonkeyPatch, run_on: RunOn
) -> None:
    """ONNXRUNTIME_EXECUTION_PROVIDERS is an order of preference, also where it leaves the CPU out."""
    tensorrt = "TensorrtExecutionProvider"
    monkeypatch.setenv("ONNXRUNTIME_EXECUTION_PROVIDERS", f"{tensorrt},{CUDA}")
    runtime, warnings = install(tensorrt, CUDA), list[str]()
    runtime.ignores = {tensorrt}
    assert run_on(None, warnings).device == "cuda"
    assert len([line for line in warnings if "cannot be used" in line]) == 1
    runtime.ignores |= {CUDA}
    with pytest.raises(DeviceError, match="ONNXRUNTIME_EXECUTION_PROVIDERS tensorrt cannot be used"):
        run_on(None)


def test_a_broken_model_is_no_fault_of_the_device(install: Install, tmp_path: Path) -> None:
    install(CUDA)
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be opened"):
        Remover(path, device="cuda")


BOTH = ("onnxruntime", "onnxruntime-gpu")


def test_two_packages_over_each_other_are_told_once(install: Install, run_on: RunOn) -> None:
    install(packages=BOTH)
    warnings = list[str]()
    assert works(run_on(None, warnings))
    assert len(warnings) == 1
    assert "onnxruntime and onnxruntime-gpu are both installed" in warnings[0]
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in warnings[0]


def test_two_packages_over_each_other_are_the_reason_why_a_device_fails(install: Install, run_on: RunOn) -> None:
    runtime, warnings = install(CUDA, packages=BOTH), list[str]()
    runtime.ignores = {CUDA}
    assert run_on(None, warnings).device == "cpu"
    assert len(warnings) == 1
    assert "running on cpu" in warnings[0]
    assert "are both installed" in warnings[0]
    install(packages=BOTH)
    with pytest.raises(DeviceError, match=r"^device cuda cannot be used: .*are both installed") as caught:
        run_on("cuda")
    assert 'pip install "cutout-cli[gpu]"' in (caught.value.hint or "")


def test_a_runtime_built_without_the_device_says_which_package_to_install(install: Install, run_on: RunOn) -> None:
    install(packages=("onnxruntime",))
    with pytest.raises(DeviceError, match=r"onnxruntime 1\.23\.0 was built without CUDAExecutionProvider") as caught:
        run_on("cuda")
    assert caught.value.hint == 'pip uninstall -y onnxruntime && pip install "cutout-cli[gpu]"'


def test_without_a_runtime_the_error_is_the_command_to_type(monkeypatch: pytest.MonkeyPatch, run_on: RunOn) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for device in (None, "cpu", "cuda"):
        with pytest.raises(DeviceError, match="ONNX Runtime is not installed") as caught:
            run_on(device)
        assert 'pip install "cutout-cli[cpu]"' in (caught.value.hint or "")
        assert caught.value.exit_code is ExitCode.DEVICE
    assert machine().available == ()


def test_what_uninstalling_one_of_two_packages_leaves_behind_is_recognised(
    install: Install, monkeypatch: pytest.MonkeyPatch, run_on: RunOn
) -> None:
    install()
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))  # a folder without content
    with pytest.raises(DeviceError, match="damaged") as caught:
        run_on(None)
    assert "pip uninstall" in (caught.value.hint or "")


@pytest.mark.parametrize(("jobs", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (100, 1), (0, 8)])
def test_every_inference_gets_its_share_of_the_processors(
    install: Install, monkeypatch: pytest.MonkeyPatch, jobs: int, threads: int
) -> None:
    monkeypatch.setattr("cutout.system.usable_cpus", lambda: 8)
    runtime = install()
    Remover(jobs=jobs)
    assert runtime.threads == [threads]


def test_standard_output_survives_sessions_that_are_opened_side_by_side() -> None:
    """Keeping the runtime quiet exchanges it for a moment: moments that overlap must not leave it exchanged."""
    before = sys.stdout
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with quiet():
            first_in.set()
            second_in.wait(0.3)  # in vain, when all is well
        first_out.set()

    def second() -> None:
        first_in.wait()
        with quiet():
            second_in.set()
            first_out.wait()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    try:
        assert sys.stdout is before
    finally:
        sys.stdout = before


def test_the_request_is_read_when_a_session_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the program starts."""
    monkeypatch.setenv("CUTOUT_DEVICE", "no such thing")
    with pytest.raises(UsageError, match="no such thing"):
        Remover()
    assert request_device("cpu", {"CUTOUT_DEVICE": "no such thing"}).strict
    assert works(Remover(device="cpu"))
