"""Remove the background of pictures.

    from cutout import Remover, remove

    cut = remove(image)                     # path, bytes, Pillow image or array in, the like kind out
    remover = Remover(model="u2net")        # opened once, safe from many threads
    cut = remove(image, session=remover)

Importing this package loads nothing else: numpy, Pillow and the runtime come with the first name that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cutout.api import remove
    from cutout.enums import EdgeColors, Fit
    from cutout.errors import (
        CutoutError,
        CutoutWarning,
        DeviceError,
        ExitCode,
        ModelError,
        OutputError,
        PictureError,
        UsageError,
    )
    from cutout.models.registry import MODELS, ModelSpec
    from cutout.options import RemoveOptions
    from cutout.output_formats import OutputFormat
    from cutout.pipeline.remover import Cutout, Remover

__all__ = [
    "MODELS",
    "Cutout",
    "CutoutError",
    "CutoutWarning",
    "DeviceError",
    "EdgeColors",
    "ExitCode",
    "Fit",
    "ModelError",
    "ModelSpec",
    "OutputError",
    "OutputFormat",
    "PictureError",
    "RemoveOptions",
    "Remover",
    "UsageError",
    "__version__",
    "remove",
]

_HOMES = {
    "MODELS": "models.registry",
    "Cutout": "pipeline.remover",
    "EdgeColors": "enums",
    "Fit": "enums",
    "ModelSpec": "models.registry",
    "OutputFormat": "output_formats",
    "RemoveOptions": "options",
    "Remover": "pipeline.remover",
    "remove": "api",
}
"""Modules of the names that are not in `errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
