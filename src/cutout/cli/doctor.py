"""`cutout doctor`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cutout.cli.options import option
from cutout.errors import ExitCode

__all__ = ["doctor"]


def doctor(as_json: Annotated[bool, option("--json", text="Print JSON.")] = False) -> None:
    """Show what this machine offers: runtime, devices that really work, models, and what to do.

    Exit code 4 when something that is installed cannot be used.
    """
    from cutout.engines.examine import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        for name, value in found.facts.items():
            typer.echo(f"{name.replace('_', ' '):18} {_text(value)}")
        for check in found.checks:
            text = f"works, {check.ms:.2f} ms a run, {check.first_ms:.0f} ms to start" if check.works else check.reason
            typer.echo(f"device {check.device:11} {'' if check.works else 'NO: '}{text}")
        for advice in found.advice:
            typer.echo(f"to do: {advice}")
        if found.healthy:
            typer.echo("all is well")
    if not found.healthy:
        raise typer.Exit(int(ExitCode.DEVICE))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
