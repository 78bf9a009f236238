"""Cards and their memory, as NVIDIA's own library tells."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from cutout.engines.environment import Card, cards, visible

DRIVER = "580.126.18"
TWO = [
    Card(0, "GPU-5a1e2c14-0b32-8d5f-9b0c-6f6b5e0a1111", "NVIDIA GeForce RTX 3090", 1412 << 20, 24576 << 20, DRIVER),
    Card(1, "GPU-9c7d2c14-0b32-8d5f-9b0c-6f6b5e0a2222", "NVIDIA A100-SXM4-80GB", 73000 << 20, 81920 << 20, DRIVER),
]


class NVMLError(Exception):
    """What the library raises."""


class Library:
    """`pynvml` on a machine with these cards; None is one whose memory is not told."""

    NVMLError = NVMLError

    def __init__(self, *found: Card | None, fails: str = "") -> None:
        self.found, self.fails, self.open = found, fails, 0

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlInit": lambda: self.count(1),
            "nvmlShutdown": lambda: self.count(-1),
            "nvmlDeviceGetCount": lambda: len(self.found),
            "nvmlSystemGetDriverVersion": lambda: DRIVER,
            "nvmlDeviceGetHandleByIndex": self.card,
            "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(used=card.used, total=card.total),
            "nvmlDeviceGetUUID": lambda card: card.uuid,
            "nvmlDeviceGetName": lambda card: card.name,
        }
        return self.fail if name == self.fails else answers[name]

    def count(self, step: int) -> None:
        self.open += step

    def card(self, index: int) -> Card:
        return self.found[index] or self.fail()

    def fail(self, *_: Any) -> Any:
        raise NVMLError("Not Supported")


def test_a_card_says_what_is_in_use() -> None:
    first, second = TWO
    assert second.percent == pytest.approx(89.1, abs=0.1)
    assert second.free == 8920 << 20
    assert str(first) == "0: NVIDIA GeForce RTX 3090, 1.4 of 24.0 GiB in use, driver 580.126.18"


@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        (None, [0, 1]),
        ("0,1", [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-9c7d", [1]),
        ("", []),
        ("-1", []),
        ("1,7,0", [1]),
    ],
)
def test_cuda_visible_devices_is_obeyed(wanted: str | None, indexes: list[int]) -> None:
    environ = {} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted}
    assert [card.index for card in visible(TWO, environ)] == indexes


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    library = Library(*TWO)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert cards() == TWO
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cards() == TWO[1:]
    assert library.open == 0, "it is closed each time"


def test_a_card_that_shares_the_processors_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", Library(None, TWO[1]))
    assert cards() == TWO[1:]


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount", "nvmlSystemGetDriverVersion", "nvmlDeviceGetName"])
def test_without_a_driver_that_answers_there_is_no_card(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Library(*TWO, fails=fails))
    assert cards() == []


def test_without_the_library_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert cards() == []
