"""What the tests of the command share: a model that takes no time, a picture it cuts exactly, a root with no rights."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

ORANGE = (255, 160, 0)


def brightness_model(folder: Path) -> Path:
    """A model whose mask is the brightness of the picture: real in every way, but done in a millisecond."""
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info
    graph: Any = helper.make_graph(
        [helper.make_node("ReduceMean", ["picture"], ["mask"], axes=[1], keepdims=1)],
        "brightness",
        [value("picture", TensorProto.FLOAT, [1, 3, 32, 32])],
        [value("mask", TensorProto.FLOAT, [1, 1, 32, 32])],
    )
    path = folder / "brightness.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def half(path: Path, size: tuple[int, int] = (64, 32)) -> Path:
    """A picture whose left half is black and whose right half is orange: the brightness model keeps the right one."""
    image = Image.new("RGB", size)
    image.paste(ORANGE, (size[0] // 2, 0, *size))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@cache
def _without_rights() -> tuple[str, ...] | None:
    """A command's beginning that takes from root the right to pass permissions by; None where it cannot be had."""
    if os.geteuid() != 0:
        return ()
    command = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    try:
        works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return None
    return command if works else None


def limited() -> tuple[str, ...]:
    """What to put before a command that permissions shall bind; skips the test where they bind nobody."""
    found = _without_rights()
    if found is None:
        pytest.skip("root passes every permission by, and setpriv is not there to prevent it")
    return found
