"""rembg's own sessions as `--model rembg:NAME`: a companion for models that the registry does not have."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from cutout.errors import CutoutError, ModelError, UsageError
from cutout.models import ModelSpec
from cutout.providers import CPU, PROVIDERS, choose, unusable
from cutout.session import machine
from cutout.store import offline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

    from cutout.options import Fit
    from cutout.providers import DeviceRequest
    from cutout.stages import Stages

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
        self.spec = ModelSpec(name=PREFIX + name, file="", licence="see rembg", about="through rembg")
        self.device = device

    def predict(
        self,
        rgb: Image.Image,
        *,
        fit: Fit | None,  # noqa: ARG002 - the protocol's; rembg decides
        rescale: bool | None,  # noqa: ARG002
        stages: Stages,
    ) -> Image.Image:
        """See `Session.predict`; several masks (clothes) become their union."""
        from PIL import ImageChops

        with stages.time("inference"), self._lock:
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
    try:
        import onnxruntime
        import rembg
        from rembg.sessions import sessions
    except (ImportError, SystemExit) as error:  # rembg exits where it finds no runtime
        raise UsageError(
            f"--model {PREFIX}{name} needs rembg, which is not installed", hint='pip install "cutout-cli[rembg]"'
        ) from error
    if name not in sessions:
        raise UsageError(f"rembg has no session {name!r}", hint=f"known: {', '.join(sorted(sessions))}")
    if not getattr(sessions[name], "is_local", lambda: True)():
        warn(f"{PREFIX}{name} sends every picture to a service on another machine")
    here = machine()
    devices = choose(request, here)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    options = dict(model_options or {})
    try:
        with _network_allowed():
            inner = rembg.new_session(
                name, sess_opts=settings, providers=[device.provider.name for device in devices], **options
            )
    except CutoutError:
        raise
    except Exception as error:  # rembg and what it calls raise anything
        raise ModelError(f"{PREFIX}{name} cannot be opened: {error}") from error
    running = getattr(getattr(inner, "inner_session", None), "get_providers", lambda: [CPU.name])()
    used = next((provider for provider in PROVIDERS if running and provider.name == running[0]), CPU)
    if request.strict and used is not devices[0].provider:
        raise unusable(devices[0], request, here)
    return RembgSession(inner, name, used.device, options)


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
