"""What this machine offers, and what stands in the way: facts for `cutout doctor`."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cutout import __version__
from cutout.engines.devices import CPU, PROVIDERS, Device, request_device
from cutout.engines.environment import cards
from cutout.engines.known_errors import why_not
from cutout.engines.runtime import machine
from cutout.engines.selftest import Proof, prove
from cutout.enums import PngLevel
from cutout.errors import CutoutError
from cutout.formats import png
from cutout.models.files import NOWHERE, data_home, locate, model_home, offline, require
from cutout.models.registry import DEFAULT_MODEL, MODELS
from cutout.system import cgroup_quota, usable_cpus

if TYPE_CHECKING:
    from cutout.engines.devices import Machine, Provider

__all__ = ["Diagnosis", "examine"]

_FAST_MACHINES = frozenset({"x86_64", "amd64", "aarch64", "arm64"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """All that `cutout doctor` shows."""

    facts: dict[str, Any]
    checks: tuple[Proof, ...]
    advice: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Pictures can be worked on, and nothing is installed that cannot be used."""
        return any(check.works for check in self.checks) and not self.advice

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.facts,
            "providers": [asdict(check) for check in self.checks],
            "advice": list(self.advice),
            "healthy": self.healthy,
        }


def examine() -> Diagnosis:
    """Look at the runtime, try a tiny network on every provider it offers, and say what to do."""
    here = machine()
    checks = tuple(_check(provider) for provider in PROVIDERS if _worth_showing(provider, here))
    advice = [f"{check.device}: {check.reason} — {check.hint}" for check in checks if not check.works]
    if here.clash:
        advice = [" — ".join(why_not(PROVIDERS[0], here))]
    backends = {str(level): png.backend(level) for level in PngLevel}
    advice += _model_advice() + _png_advice(backends)
    try:
        asked = [str(device) for device in request_device(None, os.environ).devices] or ["auto"]
    except CutoutError as error:
        asked = []
        advice.append(_told(error))
    return Diagnosis(
        facts={**_facts(here), "png": backends, "device_asked": asked}, checks=checks, advice=tuple(advice)
    )


def _told(error: CutoutError) -> str:
    return f"{error.message} — {error.hint}" if error.hint else error.message


def _worth_showing(provider: Provider, here: Machine) -> bool:
    # TensorRT's library is in every GPU build, but its own wheels are asked for by name only
    return provider == CPU or (provider.name in here.available and provider.device != "tensorrt")


def _check(provider: Provider) -> Proof:
    try:
        return prove(Device(provider))
    except CutoutError as error:
        reason = error.message.removeprefix(f"device {provider.device} cannot be used: ")
        return Proof(device=provider.device, works=False, reason=reason, hint=error.hint or "")


def _model_advice() -> list[str]:
    """What is wrong with the model that ships with the package, if anything."""
    try:
        require(MODELS[DEFAULT_MODEL])
    except CutoutError as error:
        return [f"{DEFAULT_MODEL}: {_told(error)}"]
    return []


def _png_advice(backends: dict[str, str]) -> list[str]:
    """Where the fast libraries are missing, PNGs take several times as long."""
    slow = [level for level, library in backends.items() if library.partition(" ")[0] == "zlib"]
    if not slow or platform.machine().lower() not in _FAST_MACHINES:  # there are no wheels for others
        return []
    told = f"png: {', '.join(slow)} is written by the slow zlib, as zlib-ng and isal cannot be loaded"
    return [f"{told} — pip install --force-reinstall zlib-ng isal"]


def _mnn() -> str:
    """What the trials of MNN found, or what installing it would bring."""
    from cutout.engines.mnn import known_trial, version

    if not version():
        return "not installed: a processor without AVX-512 computes masks in 0.6 of the time with it (pip install mnn)"
    trials = {spec.name: trial for spec in MODELS.values() if (trial := known_trial(spec))}
    found = [f"{name} {trial.fault or f'at {trial.ratio:.2f} of the time'}" for name, trial in trials.items()]
    return f"{version()}: {', '.join(found) or 'not tried yet'}"


def _facts(here: Machine) -> dict[str, Any]:
    models = {spec.name: str(found.path) for spec in MODELS.values() if (found := locate(spec)).path is not None}
    return {
        "cutout": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processors": {"usable": usable_cpus(), "machine": os.cpu_count(), "container_quota": cgroup_quota()},
        "runtime_packages": dict(here.packages),
        "runtime_providers": list(here.available),
        "mnn": _mnn(),
        "model_folder": "none: no home; CUTOUT_HOME names one" if data_home() == NOWHERE else str(model_home()),
        "models": models,
        "offline": offline(),
        "cards": [str(card) for card in cards()],
    }
