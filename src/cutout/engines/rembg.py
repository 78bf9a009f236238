"""rembg's own sessions as `--model rembg:NAME`: a companion for models that the registry does not have."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING, Any

from cutout.engines.base import Engine, closed
from cutout.engines.devices import CPU
from cutout.engines.runtime import load_runtime, quiet
from cutout.enums import Precision
from cutout.errors import CutoutError, DeviceError, ModelError, UsageError
from cutout.models.files import offline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

    from cutout.engines.base import EngineRequest
    from cutout.enums import Fit
    from cutout.models.registry import ModelSpec
    from cutout.timing import StageTimes

__all__ = ["RembgEngine", "open_rembg"]


class RembgEngine(Engine):
    """One of rembg's sessions, which does its own pre- and post-processing.

    Attributes:
        inner: rembg's session; None once it is closed.
    """

    engine = "rembg"

    def __init__(self, inner: Any, spec: ModelSpec, device: str, options: dict[str, Any]) -> None:
        self.inner = inner
        self._options = options
        self._lock = threading.Lock()  # rembg promises nothing about threads
        self.spec = spec
        self.device = device

    def predict(
        self,
        rgb: Image.Image,
        *,
        fit: Fit | None,  # noqa: ARG002 - the protocol's; rembg decides
        rescale: bool | None,  # noqa: ARG002
        stages: StageTimes,
    ) -> Image.Image:
        """See `Engine.predict`; several masks (clothes) become their union."""
        from PIL import ImageChops

        with stages.time("inference"), self._lock:
            stages.check()  # others may have been before it for long
            if self.inner is None:
                raise closed(self.spec)
            try:
                masks = self.inner.predict(rgb, **self._options)
            except Exception as error:  # rembg and what it calls raise anything
                raise CutoutError(f"{self.spec.name} failed: {error}") from error
        if not masks:
            raise CutoutError(
                f"{self.spec.name} gave no mask",
                hint="does the model need a prompt? see model_option",
                options=("model_option",),
            )
        union: Image.Image = masks[0].convert("L")
        for mask in masks[1:]:
            union = ImageChops.lighter(union, mask.convert("L"))
        return union

    def close(self) -> None:
        """See `Engine.close`."""
        self.inner = None


def open_rembg(request: EngineRequest, warn: Callable[[str], None]) -> RembgEngine:
    """Open a session of rembg, which downloads its model itself unless `CUTOUT_OFFLINE` is set; see `base.open_engine`.

    Raises:
        UsageError: rembg is not installed, or has no such session.
    """
    model, options = request.spec.name, dict(request.model_options)
    if request.precision is Precision.REDUCED:
        from cutout.engines.openvino import no_reduced

        raise no_reduced(model)
    name = model.partition(":")[2]
    here = load_runtime(request.asked)
    try:
        import rembg
        from rembg.sessions import sessions
    except (ImportError, SystemExit) as error:  # rembg exits where it finds no runtime
        raise UsageError(
            f"model {model} needs rembg, which is not installed",
            hint='pip install "cutout-cli[rembg]"',
            options=("model",),
        ) from error
    if name not in sessions:
        raise UsageError(f"rembg has no session {name!r}", hint=f"known: {', '.join(sorted(sessions))}")
    if not getattr(sessions[name], "is_local", lambda: True)():
        if offline():
            raise ModelError(f"CUTOUT_OFFLINE is set, and {model} is a service on another machine")
        warn(f"{model} sends every picture to a service on another machine")
    # a name alone where that says enough: rembg's own messages cannot take the longer form
    providers = [device.provider.name if device.index is None else device.entry for device in here.devices]
    try:
        with quiet(), warnings.catch_warnings(), _network_allowed():
            warnings.simplefilter("ignore", RuntimeWarning)  # its fallback to the CPU is told in our own words
            inner = rembg.new_session(name, sess_opts=here.settings(request.threads), providers=providers, **options)
    except CutoutError:
        raise
    except Exception as error:  # rembg and what it calls raise anything
        raise ModelError(f"{model} cannot be opened: {error}") from error
    opened = getattr(inner, "inner_session", None)
    if opened is None:  # several sessions, or a service: it chooses its device itself and does not tell
        if here.request.strict and here.devices[0].provider != CPU:
            raise DeviceError(
                f"{model} cannot be told to run on {here.devices[0]}", hint="leave out device", options=("device",)
            )
        return RembgEngine(inner, request.spec, CPU.device, options)
    return RembgEngine(inner, request.spec, str(here.settle(opened.get_providers(), "", warn)), options)


@contextlib.contextmanager
def _network_allowed() -> Iterator[None]:
    """Under `CUTOUT_OFFLINE`, refuse the one call through which rembg fetches files."""
    if not offline():
        yield
        return
    import pooch

    def refuse(url: str, *_args: object, **_kwargs: object) -> str:
        raise ModelError(f"CUTOUT_OFFLINE is set, and rembg would download {url}")

    original = pooch.retrieve
    pooch.retrieve = refuse
    try:
        yield
    finally:
        pooch.retrieve = original
