"""Everything the README shows is run, as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES, ROOT
from PIL import Image

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"(?:<!-- run(?:: (\w+))? -->\n)?```(\w+)\n(.*?)```", README, re.DOTALL)
MARKED = re.findall(r"<!-- run(?:: (\w+))? -->\n```(\w+)\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the example pictures and samples, where a user would type the commands."""
    (tmp_path / "examples").mkdir()
    for path in EXAMPLES.glob("*.jpg"):
        shutil.copy(path, tmp_path / "examples")
    shutil.copytree(ROOT / "tests" / "data", tmp_path / "tests" / "data")
    return tmp_path


def test_every_code_block_is_marked_to_be_run() -> None:
    assert len(BLOCKS) == len(MARKED)


def test_the_two_first_commands_are_those_that_ci_runs() -> None:
    assert [name for name, _, _ in MARKED if name] == ["first", "second"]
    assert "from_readme first" in (ROOT / ".ci" / "run").read_text()
    assert "from_readme second" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("code", [code for name, kind, code in MARKED if kind == "sh" and not name])
def test_shell_commands_work(code: str, checkout: Path) -> None:
    bin_folder = str(Path(sys.executable).parent)
    environ = {**os.environ, "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]])}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["bash", "-euo", "pipefail", "-c", code.replace("8765", port)]  # theirs may be taken
    done = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"(?:-o|>) ([\w-]+\.(?:png|webp|jpg))", code):
        with Image.open(checkout / name) as image:
            image.load()
    for name in re.findall(r"-o ([\w-]+)(?: |$)", code, re.MULTILINE):
        if "--dry-run" not in code and name != "-":
            assert len(list((checkout / name).iterdir())) == 3


@pytest.mark.parametrize("code", [code for _, kind, code in MARKED if kind == "python"])
def test_python_examples_work(code: str, checkout: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(checkout / "chelsea.webp") as image:
        assert image.format == "WEBP"


def test_programs_for_rembg_run_as_the_readme_and_the_guide_say(checkout: Path) -> None:
    line = re.findall(r"`(from cutout.rembg import [^`]+)`", README.partition("## Start")[0])
    guide = re.findall(
        r"<!-- run -->\n```python\n(.*?)```", (ROOT / "docs" / "from-rembg.md").read_text("utf-8"), re.DOTALL
    )
    assert len(line) == len(guide) == 1
    code = f"{line[0]}\n{guide[0]}\nprint(cut[1:4].decode(), remove.__module__, mask.size)"
    run = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(run, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "PNG cutout.rembg (600, 400)\n"


def test_the_sheet_in_the_readme_is_what_the_script_makes(tmp_path: Path) -> None:
    target = tmp_path / "sheet.jpg"
    subprocess.run([sys.executable, EXAMPLES / "make_sheet.py", target], check=True, capture_output=True)
    with Image.open(target) as made, Image.open(ROOT / "docs" / "examples.jpg") as shown:
        assert made.size == shown.size


def test_the_exit_codes_in_the_readme_are_the_real_ones() -> None:
    from cutout.errors import ExitCode

    table = {int(number) for number in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert table == {int(code) for code in ExitCode}


def test_the_models_in_the_readme_are_those_of_the_registry() -> None:
    from cutout.models.registry import MODELS

    section = README.partition("## Models")[2].partition("## Devices")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == set(MODELS)
