"""The Dockerfiles: no engine runs here, so a linter reads them, and what they promise is read off them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from registries import pip

from cutout import __version__

ROOT = Path(__file__).parent.parent
FILES = ("Dockerfile", "Dockerfile.cuda", "Dockerfile.serve")


def steps(name: str) -> list[tuple[str, str]]:
    """Instructions and what they are given, continued lines joined."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("name", FILES)
def test_the_linter_has_nothing_to_say(name: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    run = subprocess.run([hadolint, "--no-color", str(ROOT / name)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_slim_keeps_no_cache_and_runs_without_rights(name: str) -> None:
    found = steps(name)
    assert {rest.split()[0] for word, rest in found if word == "FROM"} == {"python:3.12-slim-bookworm"}
    last = found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]
    installs = [rest for word, rest in found if word == "RUN" and "pip" in rest]
    assert installs
    assert all("--no-cache-dir" in rest for rest in installs)
    assert not any("pip" in rest or "apt-get" in rest for word, rest in last if word == "RUN"), "built elsewhere"
    (user,) = [rest for word, rest in last if word == "USER"]
    assert user.isdecimal()
    assert int(user) > 0
    assert ("ENTRYPOINT", '["cutout"]') in last


@pytest.mark.parametrize("name", FILES)
def test_models_are_pulled_on_request_by_whoever_runs_them(name: str) -> None:
    found = steps(name)
    assert ("ARG", 'MODELS=""') in found
    words = [word for word, _ in found]
    (pull,) = [place for place, (word, rest) in enumerate(found) if word == "RUN" and "cutout models pull" in rest]
    assert words.index("USER") < words.index("ARG") < pull
    assert "|| exit 1" in found[pull][1], "a model that cannot be had fails the build"


@pytest.mark.parametrize(
    ("name", "extra"), [("Dockerfile", "cpu"), ("Dockerfile.cuda", "gpu"), ("Dockerfile.serve", "serve")]
)
def test_what_is_installed_is_an_extra_of_this_package(name: str, extra: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (wanted,) = [
        rest.split('".[')[1].split("]")[0].split(",") for word, rest in steps(name) if word == "RUN" and ".[" in rest
    ]
    assert extra in wanted
    assert set(wanted) <= set(known)


def test_cards_are_asked_for_in_the_cuda_image_alone() -> None:
    text = (ROOT / "Dockerfile.cuda").read_text("utf-8")
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in text, "utility is nvidia-smi"
    assert "NVIDIA" not in (ROOT / "Dockerfile").read_text("utf-8")


def let_through() -> set[str]:
    """What of the checkout reaches a build."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    return {rule[1:] for rule in rules if rule.startswith("!")}


def test_the_package_builds_from_what_the_context_lets_through() -> None:
    through = let_through()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = {"pyproject.toml", "src", project["project"]["readme"]}
    for pattern in project["project"]["license-files"]:
        needed |= {path.relative_to(ROOT).parts[0] for path in ROOT.glob(pattern)}
    assert needed <= through
    assert not any(fnmatch(".git", name) or fnmatch("tests", name) for name in through)


def test_a_wheel_of_the_context_has_all_that_runs(tmp_path: Path) -> None:
    """What the first step of every image does, without its dependencies."""
    context = tmp_path / "src"
    context.mkdir()
    for name in let_through():
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, context / name)
    run = subprocess.run(
        [*pip(), "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(context)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode and "hatchling" in run.stderr:
        pytest.skip(f"the registry has no build system for us: {run.stderr[-200:]}")
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    package = ROOT / "src" / "cutout"
    wanted = {str(path.relative_to(package.parent)) for path in package.rglob("*") if path.is_file()}
    assert {name for name in wanted if "__pycache__" not in name} <= there


def test_every_image_is_published_with_the_version() -> None:
    command = [str(ROOT / "deploy" / "publish"), "registry.example/cutout"]
    run = subprocess.run(command, env={**os.environ, "DRY_RUN": "1"}, capture_output=True, text=True, check=True)
    found = [dict(re.findall(r"--(file|platform|tag) (\S+:?\S*)", line)[:3]) for line in run.stdout.splitlines()]
    assert [row["file"] for row in found] == list(FILES)
    assert [row["tag"].partition(":")[2] for row in found] == [
        __version__,
        f"{__version__}-cuda",
        f"{__version__}-serve",
    ]
    assert all(
        line.startswith("docker buildx build ") and line.endswith(" --push .") for line in run.stdout.splitlines()
    )
    nameless = subprocess.run(command[:1], capture_output=True, text=True, check=False)
    assert (nameless.returncode, nameless.stdout) == (1, "")
    assert "name of the image" in nameless.stderr
