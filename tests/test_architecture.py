"""The layers of the program: imports point downward only, and nothing is loaded before it is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import cutout as package

SOURCE = Path(package.__file__).parent

# Level by level from the bottom; a module may import those of the rows above its own, and none of its own row.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "faults",
        "places",
        "specs",
    ),
    (
        "atomic",
        "cancellation",
        "choices",
        "closedform",
        "cpus",
        "device_options",
        "exif",
        "faults_more",
        "gpu_memory",
        "libtiff",
        "memory",
        "onnx_bytes",
        "pixel_limit",
        "pngchunks",
        "regions",
        "resize",
        "sheet",
        "sniff",
        "stages",
        "structure",
        "xmp",
    ),
    (
        "budget",
        "colors",
        "diagnosis",
        "foreground",
        "graph",
        "limits",
        "matte",
        "metadata",
        "metrics",
        "models",
        "options",
        "png",
        "preflight",
        "provider_table",
        "tiny_model",
    ),
    (
        "backdrop",
        "cleanup",
        "deep",
        "device_queue",
        "device_run",
        "files",
        "graph_batch",
        "graph_half",
        "matting",
        "providers",
        "reasons",
        "refine",
        "runtime_log",
        "store",
        "surroundings",
        "tensor",
        "tiff",
    ),
    (
        "download",
        "encoder",
        "framing",
        "job_io",
        "prepared",
        "picture",
        "report",
        "runtime",
    ),
    ("estimate", "session"),
    (
        "accelerator",
        "codec",
        "frames",
        "openvino_session",
        "passes",
        "proof",
        "rembg_session",
        "sight",
    ),
    (
        "doctor",
        "gallery",
        "pipeline",
    ),
    (
        "batch",
        "predictors",
    ),
    (
        "api",
        "bench",
        "comparison",
        "console",
        "evaluation",
    ),
    (
        "service",
        "service.logs",
        "service.losses",
        "service.origins",
        "service.protocol",
        "service.queue",
        "service.scripts",
        "service.settings",
        "service.tasks",
    ),
    ("service.engine",),
    (
        "service.form",
        "service.metrics",
        "service.problems",
    ),
    (
        "service.describe",
        "service.fetch",
        "service.guard",
        "service.intake",
        "service.jobs",
    ),
    ("service.answers", "service.runner"),
    (
        "service.batches",
        "service.cluster",
        "service.page",
        "service.removebg",
    ),
    ("service.app",),
    ("service.run",),
    (
        "cli.extras",
        "cli.options",
    ),
    (
        "cli.bench",
        "cli.devices",
        "cli.doctor",
        "cli.idle",
        "cli.looks",
        "cli.models",
        "cli.run",
        "cli.serve",
        "cli.sides",
    ),
    (
        "cli.compare",
        "cli.evaluate",
        "cli.remove",
        "cli.worker",
    ),
    ("cli",),
    ("", "__main__"),  # the package itself: its public names
)
LEVEL = {module: level for level, row in enumerate(LAYERS) for module in row}

HEAVY = {"PIL", "numpy", "onnxruntime", "pooch", "requests", "rich", "tqdm", "typer"}
RARELY_NEEDED = {
    "numba",
    "openvino",
    "pooch",
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


def test_every_module_has_its_place_in_the_table() -> None:
    assert set(LEVEL) == set(modules())
    assert len(LEVEL) == sum(map(len, LAYERS)), "a module stands in the table twice"


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_downward_only(module: str) -> None:
    targets = {target for name in imported(module) if (target := ours(name)) is not None}
    upward = {target for target in targets if LEVEL[target] >= LEVEL[module]}
    assert not upward, f"cutout.{module} is not above {sorted(upward)}"


def test_the_walk_sees_imports_inside_functions_and_for_type_checking() -> None:
    assert "cutout.jobs.report.Report" in imported("cli.run"), "under TYPE_CHECKING"
    assert "cutout.pipeline.remover.Remover" in imported("cli.run"), "inside a function"
    assert ours("cutout.formats.decode.decode") == "codec"
    assert ours("cutout.cli.options.option") == "cli.options"
    assert ours("cutout.remove") == ""


def test_only_the_session_imports_onnxruntime() -> None:
    assert importers("onnxruntime") == {"runtime"}


def test_each_optional_package_is_imported_by_one_module() -> None:
    assert importers("rembg") == {"rembg_session"}
    assert importers("openvino") == {"openvino_session"}
    assert not importers("numba", "pymatting", "scipy")
    assert importers("pillow_heif") == {"encoder"}
    assert importers("requests", "tqdm") == {"download"}
    assert importers("rich") <= {"console", "cli.models"}
    commands = {"cli.bench", "cli.compare", "cli.doctor", "cli.evaluate", "cli.models", "cli.remove", "cli.worker"}
    assert importers("typer") == {"cli", "cli.options", *commands}
    assert importers("celery", "kombu", "redis") == {"service.cluster"}
    assert importers("prometheus_client") == {"service.metrics"}
    assert importers("uvicorn") == {"service.protocol", "service.run"}


def test_the_service_is_loaded_by_its_own_commands_alone() -> None:
    assert importers("cutout.service") - {m for m in modules() if m.startswith("service")} == {
        "cli.serve",
        "cli.worker",
    }
    assert not loaded_by("from cutout.cli import app") & {"celery", "fastapi", "redis", "starlette", "uvicorn"}


def test_only_the_codec_opens_pictures() -> None:
    opening = {
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"Image.open", "PIL.Image.open"}
    }
    assert opening == {"codec"}
    assert not importers("PIL.Image.open")


def test_modules_are_imported_by_name_nowhere_but_for_the_public_names() -> None:
    """A dynamic import would escape the tests above."""
    assert importers("importlib.import_module", "importlib.__import__") == {""}
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


def test_importing_the_public_names_loads_no_runtime_and_no_console() -> None:
    loaded = loaded_by("from cutout import *; remove, Remover")
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
        f"sys.argv = ['cutout', 'remove', sys.argv[1], '-o', sys.argv[2], '--device', 'cpu'{extra}]; main()"
    )
    loaded = loaded_by(code, examples / "coffee.jpg", tmp_path / "out.png")
    assert (tmp_path / "out.png").is_file()
    assert {"PIL", "numpy", "onnxruntime"} <= loaded
    assert not loaded & RARELY_NEEDED
