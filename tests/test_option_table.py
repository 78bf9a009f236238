"""An option is one row: help, form, schema, Python keyword and README follow from it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, get_type_hints

import option_table
import pytest
import typer
from typer.testing import CliRunner

import cutout
from cutout.cli.options import rows, with_rows
from cutout.errors import UsageError
from cutout.options import RemoveOptions
from cutout.options.keywords import RemoveKeywords
from cutout.options.kinds import whole

if TYPE_CHECKING:
    from pathlib import Path


class Toy(RemoveOptions):
    """The options with one more."""

    glow: int = whole("How much it glows, beside {shadow}.", "Look", default=3, most=9, unit=" lumens", service_most=5)


def test_an_option_that_is_added_is_an_option_of_the_command_line() -> None:
    app = typer.Typer()
    found: dict[str, Any] = {}

    @app.command()
    @with_rows(other=rows(Toy))
    def toy(other: bool = False, **given: Any) -> None:
        found.update(given)

    run = CliRunner(env={"COLUMNS": "200"}).invoke
    told = run(app, ["--help"]).output
    assert "--glow" in told
    assert "How much it glows, beside --shadow." in told
    assert "[0<=x<=9]" in told
    assert run(app, ["--glow", "7"]).exit_code == 0
    assert (found["glow"], set(found)) == (7, set(Toy.table))
    assert run(app, [], env={"CUTOUT_GLOW": "4"}).exit_code == 0
    assert found["glow"] == 4
    assert run(app, ["--glow", "70"]).exit_code == 2


def test_an_option_that_is_added_is_a_keyword_a_value_and_a_line_of_the_documentation() -> None:
    assert (Toy().glow, Toy(glow=5).glow, Toy(glow=5).replace(mask=True).glow) == (3, 5, 5)
    assert "glow" in Toy.names()
    with pytest.raises(UsageError, match="glow is 10, but it must lie between 0 and 9 lumens") as caught:
        Toy.from_mapping({"glow": 10})
    assert caught.value.options == ("glow",)
    with pytest.raises(TypeError, match="glow"):
        RemoveOptions(glow=5)  # type: ignore[call-arg]
    assert "edge_colors: clean: take the old" in (RemoveOptions.__doc__ or "")


def test_an_option_that_is_added_is_a_field_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette")
    from cutout.service import form

    monkeypatch.setitem(form._FIELDS, "glow", Toy.table["glow"])
    shown = {"description": "How much it glows, beside shadow.", "type": "integer", "minimum": 0, "maximum": 5}
    assert form.schema()["glow"] == shown | {"x-group": "Look", "x-unit": "lumens", "default": 3}
    assert form._parsed("glow", Toy.table["glow"], "4") == 4
    with pytest.raises(UsageError, match="glow holds 7, but at most 5 is allowed here"):
        form._parsed("glow", Toy.table["glow"], "7")


def test_the_keywords_for_type_checkers_are_the_options() -> None:
    assert set(get_type_hints(RemoveKeywords)) == set(RemoveOptions.names())


CALLS = """
from pathlib import Path
from PIL import Image
from cutout import RemoveOptions, remove

picture: Image.Image = remove(Image.new("RGB", (1, 1)), threshold=5, margin=("5%", 3), crop=True, alpha_matting=True)
path: Path = remove("a.jpg", output="b.png", background=picture, fill_holes=True, shadow="default", fit="pad")
data: bytes = remove(Path("a.jpg"), force_return_bytes=True, canvas=(3, 4), scale="80%", model="u2netp")
box: tuple[int, int] | None = RemoveOptions(canvas="1x1").replace(position="left").canvas
remove("a.jpg", no_such_option=3)  # wrong
remove("a.jpg", threshold="high")  # wrong
RemoveOptions(no_such_option=3)  # wrong
RemoveOptions(margin=None, crop="yes please")  # wrong
"""


def test_mypy_refuses_a_keyword_that_is_none_and_a_value_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CALLS)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "calls.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = {int(line.split(":")[1]) for line in run.stdout.splitlines() if ": error: " in line}
    assert told == {number for number, line in enumerate(CALLS.splitlines(), 1) if "# wrong" in line}, run.stdout


def test_the_readmes_table_is_that_of_the_options() -> None:
    assert option_table.in_readme() == option_table.rows(), "python tests/support/option_table.py writes it anew"


def test_the_public_names_are_all_that_the_package_shows() -> None:
    assert dir(cutout) == sorted(cutout.__all__)
