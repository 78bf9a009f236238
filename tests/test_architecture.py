"""The shape of the program: who imports what, how much stands in one place, what a start loads.

Which package may import which is the contract in `pyproject.toml`, checked by `lint-imports`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cutout as package

if TYPE_CHECKING:
    from conftest import Cutout

SOURCE = Path(package.__file__).parent

ENTERED = """
import json, sys, threading
from inspect import CO_OPTIMIZED
entered = set()
def note(frame, event, argument):
    code = frame.f_code
    is_function = code.co_flags & CO_OPTIMIZED and not code.co_name.startswith("<")  # no body of a module or class
    if event == "call" and is_function and code.co_filename.startswith(source):
        entered.add(code.co_filename)
source = sys.argv.pop(1)
sys.setprofile(note), threading.setprofile(note)
from cutout.cli import main
try:
    main()
finally:
    sys.setprofile(None)
    loaded = [module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)]
    print(json.dumps([[name for name in names if name.startswith(source)] for names in (entered, loaded)]))
"""

HEAVY = {"PIL", "numpy", "onnxruntime", "pooch", "requests", "rich", "tqdm", "typer"}
RARELY_NEEDED = {
    "email",
    "numba",
    "openvino",
    "pooch",
    "pydantic",
    "pymatting",
    "rembg",
    "requests",
    "rich",
    "scipy",
    "skimage",
    "tqdm",
    "urllib3",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, by its name below `cutout`."""
    trees = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text("utf-8"))
    return trees


def imported(module: str) -> set[str]:
    """Full names of all that a module imports: at its top, inside functions, and for type checking alone."""
    found = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(name: str) -> str | None:
    """The module of ours that an imported name is or lies in; None for a foreign one and for the version number."""
    if name.partition(".")[0] != "cutout" or name == "cutout.__version__":
        return None
    below = name.removeprefix("cutout").removeprefix(".")
    while below not in modules():
        below = below.rpartition(".")[0]
    return below


def importers(*names: str) -> set[str]:
    """The modules of ours that import one of these, or anything below it."""
    return {
        module
        for module in modules()
        if any(name == wanted or name.startswith(f"{wanted}.") for name in imported(module) for wanted in names)
    }


def loaded_by(code: str, *args: str | Path) -> set[str]:
    """Top-level names of all modules that are loaded after running the code in a fresh interpreter."""
    tail = "\nfinally:\n print('\\n' + json.dumps([name.partition('.')[0] for name in sys.modules]))"
    run = subprocess.run(
        [sys.executable, "-c", f"import json, sys\ntry:\n {code}{tail}", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


MOST_ENTERED = 44
MOST_LOADED = 55
"""Modules of ours that one JPEG's cut-out on a processor runs functions of, and imports. Never raise them."""

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_MODULES_OF_A_FOLDER = 14


def test_the_walk_sees_imports_inside_functions_and_for_type_checking() -> None:
    assert "cutout.jobs.report.Report" in imported("cli.run"), "under TYPE_CHECKING"
    assert "cutout.jobs.executors.base.executor_named" in imported("cli.run"), "inside a function"
    assert ours("cutout.formats.decode.decode") == "formats.decode"
    assert ours("cutout.cli.options.option") == "cli.options"
    assert ours("cutout.remove") == ""


def test_no_folder_is_crowded() -> None:
    folders: dict[str, list[str]] = {}
    for path in SOURCE.rglob("*.py"):
        if path.name != "__init__.py":
            folders.setdefault(str(path.parent.relative_to(SOURCE)), []).append(path.stem)
    crowded = {folder: len(names) for folder, names in folders.items() if len(names) > MOST_MODULES_OF_A_FOLDER}
    assert not crowded


def documented(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of its docstring."""
    first = function.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return (first.end_lineno or first.lineno) - first.lineno + 1 if is_text else 0


def test_no_module_and_no_function_is_too_long_to_be_read_at_once() -> None:
    long = []
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        if (lines := len(text.splitlines())) > MOST_LINES:
            long.append(f"{path.name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and path.parent.name != "cli":
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - documented(node)
                if lines > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{path.name}: {node.name} has {lines} lines")
    assert not long


def test_only_the_session_imports_onnxruntime() -> None:
    assert importers("onnxruntime") == {"engines.runtime"}


def test_each_optional_package_is_imported_by_one_module() -> None:
    assert importers("rembg") == {"engines.rembg"}
    assert importers("openvino") == {"engines.openvino"}
    assert not importers("numba", "pymatting", "scipy")
    assert importers("pillow_heif") == {"formats.pillow"}
    assert importers("requests", "tqdm") == {"models.download"}
    assert importers("rich") <= {"cli.console", "cli.models"}
    commands = {"cli.bench", "cli.compare", "cli.doctor", "cli.evaluate", "cli.models", "cli.remove", "cli.worker"}
    assert importers("typer") == {"cli", "cli.options", *commands}
    assert importers("celery", "kombu", "redis") == {"service.store.redis"}
    assert importers("prometheus_client") == {"service.metrics"}
    assert importers("uvicorn") == {"service.http.protocol", "service.http.server"}


def test_the_service_is_loaded_by_its_own_commands_alone() -> None:
    assert importers("cutout.service") - {m for m in modules() if m.startswith("service")} == {
        "cli.serve",
        "cli.worker",
    }
    every_command = "from cutout.cli import main; sys.argv = ['cutout', '--help']; main()"
    assert not loaded_by(every_command) & {"celery", "fastapi", "redis", "starlette", "uvicorn"}


def test_only_the_codec_opens_pictures() -> None:
    opening = {
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"Image.open", "PIL.Image.open"}
    }
    assert opening == {"formats.decode"}
    assert not importers("PIL.Image.open")


def test_modules_are_imported_by_name_nowhere_but_for_the_public_names_and_the_commands() -> None:
    """A dynamic import would escape the tests above."""
    assert importers("importlib.import_module", "importlib.__import__") == {"", "cli"}
    assert not [
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "__import__"
    ]


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = loaded_by("import cutout")
    assert "cutout" in loaded
    assert not loaded & (HEAVY | RARELY_NEEDED)


@pytest.mark.parametrize("code", ["from cutout import *; remove, Remover", "from cutout.rembg import *; new_session"])
def test_importing_the_public_names_loads_no_runtime_and_no_console(code: str) -> None:
    loaded = loaded_by(code)
    assert "PIL" in loaded
    assert not loaded & ((HEAVY | RARELY_NEEDED) - {"PIL", "numpy"})


def test_every_public_name_resolves_to_what_its_module_defines() -> None:
    for name in package.__all__:
        value = getattr(package, name)
        if name not in {"MODELS", "__version__"}:
            assert value.__name__ == name
            assert value.__module__.startswith("cutout.")
    assert set(package.__all__) <= set(dir(package))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Romover'"):
        package.Romover  # noqa: B018


@pytest.mark.parametrize("extra", ["", ", '--matting'"])
def test_removing_a_background_loads_only_what_it_needs(extra: str, examples: Path, tmp_path: Path) -> None:
    """No download library, no rembg, and no rich where there is no terminal."""
    code = (
        "from cutout.cli import main; "
        f"sys.argv = ['cutout', 'remove', sys.argv[1], '-o', sys.argv[2], '-f', 'png', '--device', 'cpu'"
        f"{extra}]; main()"
    )
    loaded = loaded_by(code, examples / "coffee.jpg", tmp_path / "out.png")
    assert (tmp_path / "out.png").is_file()
    assert {"PIL", "numpy", "onnxruntime"} <= loaded
    assert not loaded & RARELY_NEEDED


def test_one_picture_goes_through_few_modules(cutout: Cutout, examples: Path, tmp_path: Path) -> None:
    command = ("remove", examples / "coffee.jpg", "--device", "cpu", "--quiet", "-o")
    assert cutout(*command, tmp_path / "first.png").code == 0, "it prepares the model, for the second"
    run: list[str | Path] = [sys.executable, "-c", ENTERED, SOURCE, *command, tmp_path / "second.png"]
    entered, loaded = json.loads(subprocess.run(run, capture_output=True, check=True).stdout)
    names = sorted(str(Path(name).relative_to(SOURCE)) for name in entered)
    print(f"{len(entered)} modules entered, {len(loaded)} loaded:", *names)  # noqa: T201
    assert len(entered) <= MOST_ENTERED
    assert len(loaded) <= MOST_LOADED
