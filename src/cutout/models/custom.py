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
    the input size read from the file when it is opened. `config` then replaces columns of `ModelSpec` by their names.

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


def _accepted(number: Any, good: bool) -> Any:  # noqa: FBT001 - a verdict
    if not good:
        raise ValueError(number)
    return number


def _side(value: Any) -> int:
    return int(_accepted(value, 1 <= int(value) <= LARGEST_SIDE))


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    height, width = (value, value) if isinstance(value, int) else value
    return _side(height), _side(width)


def _divisor(value: Any) -> float | None:
    return None if value == "max" else float(_accepted(value, 0 < float(value) < math.inf))


def _triple(value: Any) -> Triple:
    first, second, third = (float(_accepted(item, math.isfinite(float(item)))) for item in value)
    return first, second, third


def _std(value: Any) -> Triple:
    return _triple(_accepted(value, 0.0 not in _triple(value)))


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
    "long_side": _side,
    "multiple": _side,
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
