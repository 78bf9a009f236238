"""The models of users: an `.onnx` file of their own, described by a JSON file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout.enums import Fit
from cutout.errors import ModelError
from cutout.formats.reading import NOTES, read_file
from cutout.models.registry import LARGEST_SIDE, MODELS, Activation, ModelSpec, Triple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["custom_spec", "read_config"]


def read_config(config: Mapping[str, Any] | Path | None) -> dict[str, Any]:
    """The columns that a configuration names.

    Raises:
        ModelError: It cannot be read, or is no JSON object.
    """
    if config is None:
        return {}
    if not isinstance(config, Path):
        return dict(config)
    try:
        values = json.loads(read_file(config, NOTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"the model configuration {config} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"the model configuration {config} must be a JSON object")
    return values


def custom_spec(path: Path, config: dict[str, Any] | None = None) -> ModelSpec:
    """The description of a user's own `.onnx` file.

    A file that bears the name of a registry file is taken to be that model; any other starts from u2net's row, with
    the input size read from the file when it is opened. `config` then replaces single columns.

    Args:
        path: The file.
        config: Columns of `ModelSpec` by name: size, divisor ("max" or a number), mean, std, fit, output, …

    Raises:
        ModelError: The configuration has an unknown column or a value that does not fit.
    """
    base = next((spec for spec in MODELS.values() if path.name in (spec.file, *spec.other_files)), MODELS["u2net"])
    spec = replace(
        base,
        name=path.stem,
        file=path.name,
        path=path,
        url="",
        bytes=0,
        sha256="",
        embedded=False,
        aliases=(),
        licence=base.licence if base.file == path.name else "the user's own",
        reduced=None,  # measured for the registry's files
    )
    if not config:
        return spec
    unknown = sorted(set(config) - set(_CONFIG_COLUMNS))
    if unknown:
        raise ModelError(
            f"the model configuration of {path} has unknown entries: {', '.join(unknown)}",
            hint=f"known: {', '.join(_CONFIG_COLUMNS)}",
        )
    columns: dict[str, Any] = {}
    for key, value in config.items():
        try:
            columns[key] = _CONFIG_COLUMNS[key](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"the model configuration of {path} has an unfit value for {key}: {value!r}") from error
    return replace(spec, **columns)


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    height, width = (value, value) if isinstance(value, int) else value
    if not 1 <= min(int(height), int(width)) <= max(int(height), int(width)) <= LARGEST_SIDE:
        raise ValueError(value)
    return int(height), int(width)


def _count(value: Any) -> int:
    if not 1 <= int(value) <= LARGEST_SIDE:
        raise ValueError(value)
    return int(value)


def _divisor(value: Any) -> float | None:
    if value == "max":
        return None
    if not 0 < float(value) < math.inf:
        raise ValueError(value)
    return float(value)


def _triple(value: Any) -> Triple:
    first, second, third = (float(item) for item in value)
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError(value)
    return first, second, third


def _std(value: Any) -> Triple:
    if 0.0 in (triple := _triple(value)):
        raise ValueError(value)
    return triple


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(value)
    return tuple(str(item) for item in value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


_CONFIG_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "size": _size,
    "long_side": _count,
    "multiple": _count,
    "divisor": _divisor,
    "mean": _triple,
    "std": _std,
    "fit": Fit,
    "output": int,
    "activation": Activation,
    "rescale": _bool,
    "classes": _names,
    "licence": str,
    "non_commercial": _bool,
    "sha256": lambda value: str(value).lower(),
}
