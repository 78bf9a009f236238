"""rembg's own sessions as `--model rembg:NAME`: a companion for models that the registry does not have."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING, Any

from cutout.engines.devices.providers import CPU
from cutout.engines.onnxruntime import closed
from cutout.engines.runtime import prepare, quiet
from cutout.errors import CutoutError, DeviceError, ModelError, UsageError
from cutout.models.files import offline
from cutout.models.registry import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

    from cutout.engines.devices.providers import DeviceRequest
    from cutout.enums import Fit
    from cutout.timing import StageTimes

__all__ = ["PREFIX", "RembgSession", "open_rembg"]

PREFIX = "rembg:"


class RembgSession:
    """One of rembg's sessions behind our `Session` protocol.

    Attributes:
        spec: A description with the name alone; rembg does its own pre- and post-processing.
        device: What the session reports.
    """

    def __init__(self, inner: Any, name: str, device: str, options: dict[str, Any]) -> None:
        self._inner = inner
        self._options = options
        self._lock = threading.Lock()  # rembg promises nothing about threads
        self.spec = ModelSpec(name=PREFIX + name, file="", licence="see rembg", size=None, about="through rembg")
        self.device = device

    def predict(
        self,
        rgb: Image.Image,
        *,
        fit: Fit | None,  # noqa: ARG002 - the protocol's; rembg decides
        rescale: bool | None,  # noqa: ARG002
        stages: StageTimes,
    ) -> Image.Image:
        """See `Session.predict`; several masks (clothes) become their union."""
        from PIL import ImageChops

        with stages.time("inference"), self._lock:
            stages.check()  # others may have been before it for long
            if self._inner is None:
                raise closed(self.spec)
            try:
                masks = self._inner.predict(rgb, **self._options)
            except Exception as error:  # rembg and what it calls raise anything
                raise CutoutError(f"{self.spec.name} failed: {error}") from error
        if not masks:
            raise CutoutError(f"{self.spec.name} gave no mask", hint="does the model need a prompt? see --model-option")
        union: Image.Image = masks[0].convert("L")
        for mask in masks[1:]:
            union = ImageChops.lighter(union, mask.convert("L"))
        return union

    def close(self) -> None:
        """See `Session.close`."""
        self._inner = None


def open_rembg(
    name: str,
    request: DeviceRequest,
    *,
    threads: int,
    model_options: dict[str, Any] | None = None,
    warn: Callable[[str], None] = lambda _text: None,
) -> RembgSession:
    """Open a session of rembg, which downloads its model itself unless `CUTOUT_OFFLINE` is set.

    Args:
        name: rembg's name, without the prefix.
        request: Which device was asked for.
        threads: Threads of one inference on the CPU.
        model_options: Passed to the session's `predict`, such as `sam_prompt`.
        warn: Called with a line worth telling.

    Raises:
        UsageError: rembg is not installed, or has no such session.
        DeviceError: The asked-for device cannot be used.
        ModelError: The model is missing and cannot be fetched.
    """
    here = prepare(request)
    try:
        import rembg
        from rembg.sessions import sessions
    except (ImportError, SystemExit) as error:  # rembg exits where it finds no runtime
        raise UsageError(
            f"--model {PREFIX}{name} needs rembg, which is not installed", hint='pip install "cutout-cli[rembg]"'
        ) from error
    if name not in sessions:
        raise UsageError(f"rembg has no session {name!r}", hint=f"known: {', '.join(sorted(sessions))}")
    if not getattr(sessions[name], "is_local", lambda: True)():
        if offline():
            raise ModelError(f"CUTOUT_OFFLINE is set, and {PREFIX}{name} is a service on another machine")
        warn(f"{PREFIX}{name} sends every picture to a service on another machine")
    options = dict(model_options or {})
    # a name alone where that says enough: rembg's own messages cannot take the longer form
    providers = [device.provider.name if device.index is None else device.entry for device in here.devices]
    try:
        with quiet(), warnings.catch_warnings(), _network_allowed():
            warnings.simplefilter("ignore", RuntimeWarning)  # its fallback to the CPU is told in our own words
            inner = rembg.new_session(name, sess_opts=here.settings(threads), providers=providers, **options)
    except CutoutError:
        raise
    except Exception as error:  # rembg and what it calls raise anything
        raise ModelError(f"{PREFIX}{name} cannot be opened: {error}") from error
    opened = getattr(inner, "inner_session", None)
    if opened is None:  # several sessions, or a service: it chooses its device itself and does not tell
        if request.strict and here.devices[0].provider is not CPU:
            raise DeviceError(f"{PREFIX}{name} cannot be told to run on {here.devices[0]}", hint="leave out --device")
        return RembgSession(inner, name, CPU.device, options)
    return RembgSession(inner, name, str(here.settle(opened.get_providers(), "", warn)), options)


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
