"""Options of the command line as data: help text, environment variable, panel."""

from __future__ import annotations

from typing import Any

import typer

from cutout.errors import UsageError

__all__ = ["jobs_option", "key_values", "memory_option", "option"]

_MOST_JOBS = 1024
"""Each is a thread."""


def option(*names: str, text: str, panel: str | None = None, **settings: Any) -> Any:
    """A Typer option; its environment variable follows from its long name (`--on-collision`: `CUTOUT_ON_COLLISION`)."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "CUTOUT_" + long.removeprefix("--").removeprefix("no-").replace("-", "_").upper()
    return typer.Option(*names, help=text, envvar=variable, show_envvar=False, rich_help_panel=panel, **settings)


def jobs_option(panel: str | None = None) -> Any:
    """`--jobs`, the same for all commands that work on pictures side by side."""
    text = "Pictures worked on side by side; 0 means as many as there are processors."
    return option("--jobs", "-j", text=text, min=0, max=_MOST_JOBS, metavar="N", panel=panel)


def memory_option(panel: str | None = None) -> Any:
    """`--memory-limit`, the same for all commands that work on pictures of other people's choice."""
    text = "Memory that all pictures at work may take, such as 2GB; larger ones wait. (default: 60% of the machine's)"
    return option("--memory-limit", text=text, metavar="SIZE", panel=panel)


def key_values(texts: list[str], option: str = "--model-option") -> dict[str, Any]:
    """`key=value` texts as a mapping; a value that is JSON is taken as such.

    Raises:
        UsageError: A text without `=`.
    """
    import json

    result: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"{option} {text!r} is not of the form key=value")
        try:
            result[key] = json.loads(value)
        except ValueError:
            result[key] = value
    return result
