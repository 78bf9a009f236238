"""Where this process runs, as far as it explains why a device cannot be used, and what the runtime says of that.

Imported where an accelerator is installed, or one fails.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cutout import system
from cutout.atomic import write_atomic
from cutout.formats.reading import NOTES, read_file
from cutout.models.files import prepared_home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Card",
    "Place",
    "cards",
    "library_error",
    "load_tensorrt",
    "look",
    "remembered",
    "runtime_log_of",
    "visible",
    "why_passed_over",
]

_TELLING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "ROCR_VISIBLE_DEVICES")
"""Variables that decide which devices and libraries are seen."""
_CUDA_PACKAGES = ("nvidia-cublas", "nvidia-cublas-cu11", "nvidia-cublas-cu12", "nvidia-cublas-cu13")
_CUDA_LIBRARIES = ("lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib", "bin")
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
_CONTAINER_WORDS = ("docker", "kubepods", "containerd", "libpod", "lxc")
_DAY = 24 * 3600.0


class Place(NamedTuple):
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


def look(runtime: str = "", root: Path = Path("/")) -> Place:
    """What there is here of containers, cards, drivers and CUDA: files looked at, nothing run.

    Args:
        runtime: Name and version of the installed runtime.
        root: Where the file system begins; tests have their own.
    """
    driver = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", _text(root / "proc/driver/nvidia/version"))
    wsl = "microsoft" in _text(root / "proc/sys/kernel/osrelease").lower()
    return Place(
        container=any((root / name).exists() for name in _CONTAINER_FILES)
        or bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
        or any(word in _text(root / "proc/1/cgroup") for word in _CONTAINER_WORDS),
        wsl=wsl,
        card=any((root / "dev").glob("nvidia[0-9]*")) or (wsl and (root / "dev/dxg").exists()),
        driver=driver[1] if driver else "",
        cuda=frozenset(_cuda_packages() | _cuda_folders(root)),
        runtime=runtime or "onnxruntime-gpu",
    )


def _cuda_packages() -> set[int]:
    found = (system.distributions().get(name, "").partition(".")[0] for name in _CUDA_PACKAGES)
    return {int(major) for major in found if major.isdecimal()}


def _cuda_folders(root: Path) -> set[int]:
    majors = set()
    with contextlib.suppress(OSError):
        for home in (root / "usr/local").glob("cuda*"):
            for folder in _CUDA_LIBRARIES:
                for library in (home / folder).glob("libcublasLt.so.*"):
                    if (major := library.name.split(".")[2]).isdecimal():
                        majors.add(int(major))
    return majors


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def library_error(folder: Path, stem: str) -> str:
    """Why a provider's shared library does not load; empty when it does, is built in or is not there.

    Args:
        folder: Where the runtime keeps its libraries.
        stem: Of the library's name; empty when the provider is built in.
    """
    for prefix, suffix in (("lib", ".so"), ("", ".dll")):
        library = folder / f"{prefix}{stem}{suffix}"
        if stem and library.exists():
            try:
                ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_shared{suffix}"), mode=ctypes.RTLD_GLOBAL)
                ctypes.CDLL(str(library))
            except OSError as error:
                return str(error)
    return ""


def load_tensorrt() -> None:
    """Load TensorRT from its wheel, which puts its libraries where no loader looks; nothing where there is none."""
    spec = find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for pattern in ("libnvinfer.so.*", "libnvinfer_plugin.so.*", "libnvonnxparser.so.*", "nvinfer_*.dll"):
            for library in sorted(Path(folder).glob(pattern)):
                with contextlib.suppress(OSError):  # what fails shows when the provider's own library is loaded
                    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


# --- NVIDIA cards and their memory, as the driver tells through `nvidia-ml-py` ---


@dataclass(frozen=True, slots=True)
class Card:
    """One card.

    Attributes:
        index: Its number for nvidia-smi, from 0.
        uuid: Its name for machines.
        name: Its name for people.
        used: Bytes of its memory in use, by anybody.
        total: Bytes of its memory.
        driver: Version of the driver.
    """

    index: int
    uuid: str
    name: str
    used: int
    total: int
    driver: str

    def __str__(self) -> str:
        used, total = self.used / 2**30, self.total / 2**30
        return f"{self.index}: {self.name}, {used:.1f} of {total:.1f} GiB in use, driver {self.driver}"

    @property
    def percent(self) -> float:
        """How much of its memory is in use."""
        return 100 * self.used / self.total if self.total else 0.0

    @property
    def free(self) -> int:
        """Bytes that are not in use."""
        return self.total - self.used


def cards() -> list[Card]:
    """The NVIDIA cards that this process may use, in CUDA's order; empty without driver or `nvidia-ml-py`."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no such package, no driver, or one that was updated while it ran
        return []
    found = []
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # memory that is shared with the processor is not told
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(device)
                uuid, name = nvml.nvmlDeviceGetUUID(device), nvml.nvmlDeviceGetName(device)
                found.append(Card(index, uuid, name, memory.used, memory.total, driver))
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()
    return visible(found, os.environ)


def visible(found: list[Card], environ: Mapping[str, str]) -> list[Card]:
    """The cards in CUDA's own order: what `CUDA_VISIBLE_DEVICES` leaves, in the order it gives them."""
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return found
    chosen = []
    for word in (part.strip() for part in wanted.split(",")):
        card = next((card for card in found if word == str(card.index) or (word and card.uuid.startswith(word))), None)
        if card is None:  # CUDA, too, sees nothing from the first unknown word on
            break
        chosen.append(card)
    return chosen


# --- why a provider is passed over in silence ---
# ONNX Runtime writes why a provider cannot be made to the standard error of the process, raises nothing, and goes on
# with the processor. To read it without touching our own streams, the same is done once more in a process of its own.

_PROGRAM = """
import base64, json, sys, onnxruntime
if hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()
settings = onnxruntime.SessionOptions()
settings.log_severity_level = 3
model, name, options = json.load(sys.stdin)
try:
    onnxruntime.InferenceSession(base64.b64decode(model), settings, providers=[(name, options)], enable_fallback=0)
except Exception as error:
    sys.stderr.write(f"[E:onnxruntime raised] {error}")
"""


def runtime_log_of(entry: tuple[str, Mapping[str, Any]]) -> str:
    """The runtime's own reason why it does not use a provider; empty where it gives none.

    Args:
        entry: The provider and its options, as the runtime takes them.
    """
    from cutout.engines.selftest import TINY_MODEL

    if getattr(sys, "frozen", False):  # a program made of one file: its executable is no Python
        return ""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=json.dumps([base64.b64encode(TINY_MODEL).decode(), entry[0], dict(entry[1])]).encode(),
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = re.findall(r"\[E:onnxruntime[^\]]*\]\s*(.+)", done.stderr.decode("utf-8", "replace"))
    return "\n".join(line.strip() for line in lines)


def why_passed_over(entry: tuple[str, Mapping[str, Any]], machine: tuple[Any, ...], *, fresh: bool = False) -> str:
    """What `runtime_log_of`, kept for a day, as long as runtime, driver and libraries are the same.

    Args:
        entry: The provider and its options; those that change from run to run are left out of the key by the caller.
        machine: What else the answer depends on.
        fresh: Ask in any case.
    """
    place = look()
    seen = [(name, value) for name, value in sorted(os.environ.items()) if name in _TELLING]
    facts = (entry, sys.executable, *machine, _boot(), place._replace(cuda=frozenset()), sorted(place.cuda), seen)
    notes = None
    with contextlib.suppress(Exception):  # a user without a home
        notes = prepared_home() / "passed-over.json"
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    return remembered(notes, key, lambda: runtime_log_of(entry), fresh=fresh)


def _boot() -> str:
    """Another text after each start of the machine; empty where the system does not tell."""
    return _text(Path("/proc/sys/kernel/random/boot_id"))


_memory: dict[tuple[Path | None, str], tuple[float, str]] = {}


def remembered(notes: Path | None, key: str, ask: Callable[[], str], *, fresh: bool = False) -> str:
    """The answer to a question, asked anew where it is unknown or a day old.

    Args:
        notes: A JSON file that keeps answers from run to run; None keeps them in this process alone, and so does one
            that cannot be read or written.
        key: Everything that the answer depends on.
        ask: Finds it out.
        fresh: Ask in any case.
    """
    known = None if fresh else _memory.get((notes, key)) or _read(notes).get(key)
    if known is None or not _holds(known):
        known = _now(), ask()
        kept = {other: entry for other, entry in _read(notes).items() if _holds(entry)}
        with contextlib.suppress(Exception):  # where nothing can be kept, the next run asks again
            if notes is not None:
                notes.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps({**kept, key: known}, indent=1, sort_keys=True)
                write_atomic(notes, text.encode(), replace_existing=True)
    _memory[notes, key] = known
    return known[1]


def _read(notes: Path | None) -> dict[str, tuple[float, str]]:
    """What is kept; whatever else the file may be holds nothing."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found: Any = None if notes is None else json.loads(read_file(notes, NOTES))
        if isinstance(found, dict):
            return {key: (entry[0], entry[1]) for key, entry in found.items() if _is_ours(entry)}
    return {}


def _is_ours(entry: Any) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [float, str]


def _holds(entry: tuple[float, str]) -> bool:
    return 0 <= _now() - entry[0] < _DAY  # a clock may have been set back


def _now() -> float:
    return time.time()
