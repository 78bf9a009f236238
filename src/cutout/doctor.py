"""What this machine offers, and what stands in the way: facts for `cutout doctor`."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutout import __version__
from cutout.cpus import cgroup_quota, usable_cpus
from cutout.errors import CutoutError
from cutout.models import DEFAULT_MODEL, MODELS
from cutout.providers import PROVIDERS, Device, DeviceRequest, request_device, why_not
from cutout.session import machine, open_session
from cutout.store import data_home, locate, offline, require

if TYPE_CHECKING:
    from cutout.providers import Machine, Provider

__all__ = ["Diagnosis", "ProviderCheck", "examine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderCheck:
    """Whether one provider really runs.

    Attributes:
        device: The word for `--device`.
        works: A real model was opened on it, ran, and the runtime says that it ran there.
        ms: Milliseconds of one inference of the embedded model, after one to warm up.
        reason: Why it does not work.
        hint: What to do.
    """

    device: str
    works: bool
    ms: float | None = None
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """All that `cutout doctor` shows."""

    facts: dict[str, Any]
    checks: tuple[ProviderCheck, ...]
    advice: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Pictures can be worked on, and nothing is installed that cannot be used."""
        return any(check.works for check in self.checks) and not self.advice

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.facts,
            "providers": [
                {"device": c.device, "works": c.works, "ms": c.ms, "reason": c.reason, "hint": c.hint}
                for c in self.checks
            ],
            "advice": list(self.advice),
            "healthy": self.healthy,
        }


def examine() -> Diagnosis:
    """Look at the runtime, try every provider it offers on the embedded model, and say what to do."""
    here = machine()
    checks = tuple(_check(provider) for provider in PROVIDERS if _worth_showing(provider, here))
    advice = [f"{check.device}: {check.reason} — {check.hint}" for check in checks if not check.works]
    if here.clash:
        advice = [" — ".join(why_not(PROVIDERS[0], here))]
    try:
        asked = [str(device) for device in request_device(None, os.environ).devices] or ["auto"]
    except CutoutError as error:
        asked = []
        advice.append(f"{error.message} — {error.hint}" if error.hint else error.message)
    return Diagnosis(facts={**_facts(here), "device_asked": asked}, checks=checks, advice=tuple(advice))


def _worth_showing(provider: Provider, here: Machine) -> bool:
    # TensorRT's library is in every GPU build, but its own wheels are asked for by name only
    return provider.device == "cpu" or (provider.name in here.available and provider.device != "tensorrt")


def _check(provider: Provider) -> ProviderCheck:
    import numpy as np

    spec = MODELS[DEFAULT_MODEL]
    request = DeviceRequest(devices=(Device(provider),), strict=True, origin="device")
    try:
        session = open_session(require(spec), spec, request, threads=usable_cpus())
        batch = np.zeros((1, 3, 320, 320), np.float32)
        session.run(batch)
        start = time.perf_counter()
        session.run(batch)
        return ProviderCheck(device=provider.device, works=True, ms=round((time.perf_counter() - start) * 1e3, 1))
    except CutoutError as error:
        reason = error.message.removeprefix(f"device {provider.device} cannot be used: ")
        return ProviderCheck(device=provider.device, works=False, reason=reason, hint=error.hint or "")


def _facts(here: Machine) -> dict[str, Any]:
    models = {spec.name: str(found.path) for spec in MODELS.values() if (found := locate(spec)).path is not None}
    return {
        "cutout": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processors": {"usable": usable_cpus(), "machine": os.cpu_count(), "container_quota": cgroup_quota()},
        "runtime_packages": dict(here.packages),
        "runtime_providers": list(here.available),
        "model_folder": str(data_home() / "models"),
        "models": models,
        "offline": offline(),
    }
