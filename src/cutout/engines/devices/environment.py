"""Where this process runs, as far as it explains why a graphics card cannot be used: files looked at, nothing run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from cutout.engines.known_errors.recognise import Place

__all__ = ["library_error", "load_tensorrt", "look"]

_CUDA_PACKAGES = ("nvidia-cublas", "nvidia-cublas-cu11", "nvidia-cublas-cu12", "nvidia-cublas-cu13")
_CUDA_LIBRARIES = ("lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib", "bin")
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
_CONTAINER_WORDS = ("docker", "kubepods", "containerd", "libpod", "lxc")


def look(runtime: str = "", root: Path = Path("/")) -> Place:
    """What there is here of containers, cards, drivers and CUDA.

    Args:
        runtime: Name and version of the installed runtime.
        root: Where the file system begins; tests have their own.
    """
    driver = _driver(root)
    wsl = "microsoft" in _text(root / "proc/sys/kernel/osrelease").lower()
    card = any((root / "dev").glob("nvidia[0-9]*")) or (wsl and (root / "dev/dxg").exists())
    return Place(
        container=_in_container(root),
        wsl=wsl,
        card=card,
        driver=driver,
        cuda=frozenset(_cuda_packages() | _cuda_folders(root)),
        runtime=runtime or "onnxruntime-gpu",
    )


def library_error(folder: Path, stem: str) -> str:
    """Why a provider's shared library does not load; empty when it does, is built in or is not there.

    Args:
        folder: Where the runtime keeps its libraries.
        stem: Of the library's name; empty when the provider is built in.
    """
    for prefix, suffix in (("lib", ".so"), ("", ".dll")):
        library = folder / f"{prefix}{stem}{suffix}"
        if stem and library.exists():
            shared = folder / f"{prefix}onnxruntime_providers_shared{suffix}"
            try:
                ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
                ctypes.CDLL(str(library))
            except OSError as error:
                return str(error)
            return ""
    return ""


def load_tensorrt() -> None:
    """Load TensorRT from its wheel, which puts its libraries where no loader looks; nothing where there is none."""
    spec = find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for pattern in ("libnvinfer.so.*", "libnvinfer_plugin.so.*", "libnvonnxparser.so.*", "nvinfer_*.dll"):
            for library in sorted(Path(folder).glob(pattern)):
                with contextlib.suppress(OSError):  # what fails shows when the provider's own library is loaded
                    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _in_container(root: Path) -> bool:
    if any((root / name).exists() for name in _CONTAINER_FILES) or os.environ.get("KUBERNETES_SERVICE_HOST"):
        return True
    return any(word in _text(root / "proc/1/cgroup") for word in _CONTAINER_WORDS)


def _driver(root: Path) -> str:
    """Version of the loaded NVIDIA kernel module, such as 535.183.01."""
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", _text(root / "proc/driver/nvidia/version"))
    return found[1] if found else ""


def _cuda_packages() -> set[int]:
    majors = set()
    for name in _CUDA_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            majors.add(int(metadata.version(name).split(".")[0]))
    return majors


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
