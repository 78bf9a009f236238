"""What a runtime's error text means on this machine: one sentence, and the command that mends it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cutout.engines.known_errors.nvidia import NVIDIA, NVIDIA_FAULTS, Fault
from cutout.engines.known_errors.others import MORE_FAULTS

__all__ = ["FAULTS", "Finding", "Place", "is_out_of_memory", "recognise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What decides between faults that look alike to the runtime.

    Attributes:
        container: This process runs in a container.
        wsl: It runs in the Windows Subsystem for Linux.
        card: The kernel of this system shows an NVIDIA card to this process.
        driver: Version of the NVIDIA driver, empty when there is none or it does not tell.
        cuda: Major versions of CUDA whose libraries are installed.
        runtime: Name and version of the installed runtime, for messages.
    """

    container: bool = False
    wsl: bool = False
    card: bool = False
    driver: str = ""
    cuda: frozenset[int] = frozenset()
    runtime: str = "onnxruntime-gpu"


@dataclass(frozen=True, slots=True)
class Finding:
    """A recognised fault.

    Attributes:
        key: A stable word for scripts.
        sentence: What is wrong.
        hint: The command that mends it.
    """

    key: str
    sentence: str
    hint: str


FAULTS = (*NVIDIA_FAULTS, *MORE_FAULTS)  # the first row that fits counts

_STARVED = r"CUDNN_STATUS_NOT_INITIALIZED|CUBLAS_STATUS_NOT_INITIALIZED"


@cache
def _pattern(fault: Fault) -> re.Pattern[str]:
    return re.compile("|".join(fault.symptoms), re.IGNORECASE | re.DOTALL)


def recognise(device: str, text: str, place: Place | None = None) -> Finding | None:
    """What an error text means; None where nobody has met it.

    Args:
        device: The word for `--device`, such as `cuda`.
        text: What the runtime or the loader of libraries said, in full.
        place: What is known of this machine.
    """
    place = place or Place()
    for fault in FAULTS:
        if fault.devices and device not in fault.devices:
            continue
        match = _pattern(fault).search(text)
        if match is None:
            continue
        words = {name: value or "" for name, value in match.groupdict().items()}
        words["major"] = words.get("major") or words.get("winmajor") or words.get("winmajor2") or ""
        if not _counts(fault, words["major"], place):
            continue
        words |= {"runtime": place.runtime, "driver": place.driver, "have": ", ".join(map(str, sorted(place.cuda)))}
        words["extra"] = "gpu" if device in NVIDIA else "openvino" if device == "openvino" else "cpu"
        return Finding(
            fault.key,
            " ".join(fault.sentence.format_map(words).split()),
            " ".join(fault.hint.format_map(words).split()),
        )
    return None


def is_out_of_memory(text: str) -> bool:
    """Whether a device failed for want of memory while it ran: a smaller batch may do.

    cuDNN and cuBLAS say that they are not initialised when they find no memory for their own workspace.
    """
    memory = next(fault for fault in FAULTS if fault.key == "memory")
    return bool(_pattern(memory).search(text) or re.search(_STARVED, text, re.IGNORECASE))


def _counts(fault: Fault, major: str, place: Place) -> bool:
    match fault.where:
        case "container":
            return place.container and not place.card
        case "wsl":
            return place.wsl
        case "driver":
            return bool(place.driver)
        case "other-cuda":
            return major.isdecimal() and bool(place.cuda) and int(major) not in place.cuda
        case _:
            return True
