"""`cutout models`: the registry."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cutout.cli.console import Console
from cutout.cli.options import option
from cutout.errors import ModelError, UsageError
from cutout.models.registry import MODELS, find_spec

if TYPE_CHECKING:
    from pathlib import Path

    from cutout.models.registry import ModelSpec

__all__ = ["app", "pull_one"]

app = typer.Typer(
    add_completion=False, help="The model registry: what exists, what is on this machine.", no_args_is_help=True
)

_Names = Annotated[list[str], typer.Argument(help="Model names.", metavar="MODEL...")]
_Json = Annotated[bool, option("--json", text="One JSON line per model.")]


@app.command("list")
def list_models(as_json: _Json = False) -> None:
    """Show every model: licence, size, where it is on disk."""
    from cutout.models.files import FileState, locate

    rows = [(spec, locate(spec)) for spec in MODELS.values()]
    if as_json:
        for spec, found in rows:
            _emit(spec, state=found.state.value, path=found.path)
        return
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    longest = max(len(name) for spec in MODELS.values() for name in (spec.name, *spec.aliases))
    table.add_column("model", overflow="fold", min_width=longest + 1)  # names are there to be copied
    for title in ("MB", "licence", "state", "about"):
        table.add_column(title)
    for spec, found in rows:
        licence = f"{spec.licence} (non-commercial)" if spec.non_commercial else spec.licence
        names = ", ".join((spec.name, *spec.aliases))
        there = found.state in {FileState.VERIFIED, FileState.UNVERIFIED}
        place = "in this package" if spec.embedded and there else found.state.value
        table.add_row(names, f"{spec.bytes / 1e6:.1f}", licence, place, spec.about)
    # what stands in brackets or between colons in a path is no markup
    console = RichConsole(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = RichConsole(highlight=False, markup=False, emoji=False, width=200)
    console.print(table)
    for spec, found in rows:
        if found.path is not None and not spec.embedded:
            console.print(f"{spec.name}: {found.path}", soft_wrap=True)


@app.command("pull")
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Model names.", metavar="[MODEL]...")] = None,
    every: Annotated[bool, option("--all", text="All models but those not for commercial use.")] = False,
    force: Annotated[bool, option("--force", text="Download even when a good copy is there.")] = False,
    quiet: Annotated[bool, option("--quiet", "-q", text="Print errors only.")] = False,
) -> None:
    """Download models, with their hashes checked; a broken transfer is continued."""
    console = Console(quiet=quiet)
    if bool(names) is every:
        raise UsageError("name models, or say --all", hint="cutout models list shows what exists")
    specs = [find_spec(name) for name in names or ()]
    if every:
        specs = [spec for spec in MODELS.values() if not spec.non_commercial]
        left = ", ".join(spec.name for spec in MODELS.values() if spec.non_commercial)
        console.say(f"without {left}: commercial use is not allowed without a contract")
    for spec in specs:
        pull_one(spec, console, force=force)


@app.command("rm")
def remove(names: _Names) -> None:
    """Delete models that were downloaded; what other programs keep stays."""
    from cutout.models.files import is_file, locate, model_home

    for spec in [find_spec(name) for name in names]:
        path = model_home() / spec.file
        if not is_file(path):
            place = locate(spec).path
            text = "is not on this machine" if place is None else f"lies in {place}, and was not downloaded by cutout"
            raise ModelError(f"the model {spec.name} {text}")
        try:
            path.unlink()
        except OSError as error:
            raise ModelError(f"{path} cannot be removed: {error.strerror}") from error
        typer.echo(f"{spec.name}: removed {path}")


def pull_one(spec: ModelSpec, console: Console, *, force: bool) -> Path:
    """Download one model and print where it is; before that, warn of a licence that forbids commercial use."""
    from cutout.models.download import pull as download

    if spec.non_commercial:
        console.warn(f"{spec.name} is licensed {spec.licence}: commercial use is not allowed without a contract")
    path = download(spec, force=force, progress=not console.quiet and sys.stderr.isatty(), say=console.say)
    console.say(f"{spec.name}: {path} ({spec.licence})")
    return path


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Model names; all on this machine without any.", metavar="[MODEL]...")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Read model files and check their hashes."""
    from cutout.models.files import candidates, is_file, verify

    specs = [find_spec(name) for name in names] if names else list(MODELS.values())
    bad: list[tuple[ModelSpec, Path]] = []
    for spec in specs:
        paths = list(dict.fromkeys(path for path in candidates(spec) if is_file(path)))
        if names and not paths:
            raise ModelError(f"the model {spec.name} is not on this machine", hint=f"cutout models pull {spec.name}")
        for path in paths:
            good = verify(path, spec, again=True)
            if not good:
                bad.append((spec, path))
            if as_json:
                _emit(spec, state="verified" if good else "corrupt", path=path)
            else:
                typer.echo(f"{spec.name}: {'good' if good else 'CORRUPT'}  {path}")
    if bad:
        spec, path = bad[0]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ModelError(f"the model file {path} is corrupt{more}", hint=_mend(spec, path))


def _mend(spec: ModelSpec, path: Path) -> str:
    """What replaces a corrupt file: a download goes to our own folder only."""
    from cutout.models.files import model_home

    pull = f"cutout models pull {spec.name}"
    return f"fetch a good one: {pull}" if path == model_home() / spec.file else f"delete that file, then {pull}"


@app.command("path", no_args_is_help=True)
def path(name: Annotated[str, typer.Argument(help="Model name.", metavar="MODEL")]) -> None:
    """Print where a model lies on this machine."""
    from cutout.models.files import require

    typer.echo(str(require(find_spec(name))))


@app.command("cache")
def cache(
    clear: Annotated[bool, option("--clear", text="Remove them; each is made again when it is next needed.")] = False,
    as_json: Annotated[bool, option("--json", text="One JSON line.")] = False,
) -> None:
    """Show the files that were made from models to start faster, or remove them."""
    from cutout.engines import prepared
    from cutout.models.files import prepared_home

    files = prepared.contents()
    size = sum(file.lstat().st_size for file in files)
    if clear:
        try:
            prepared.clear()
        except OSError as error:
            raise ModelError(
                f"{error.filename} cannot be removed: {error.strerror}", hint="change the folder's permissions"
            ) from error
    if as_json:
        line = {"folder": str(prepared_home()), "files": len(files), "bytes": size, "cleared": clear}
        typer.echo(json.dumps(line))
        return
    if not clear:
        for file in files:
            typer.echo(f"{file.lstat().st_size / 1e6:8.1f} MB  {file}")
    word = "removed" if clear else "in all"
    typer.echo(f"{size / 1e6:8.1f} MB  {word}, {len(files)} file{'' if len(files) == 1 else 's'} in {prepared_home()}")


def _emit(spec: ModelSpec, *, state: str, path: Path | None) -> None:
    columns = ("aliases", "bytes", "sha256", "licence", "non_commercial", "embedded")
    line = {"model": spec.name, **{column: getattr(spec, column) for column in columns}}
    typer.echo(json.dumps({**line, "state": state, "path": None if path is None else str(path)}))
