"""Imports only go down, from the verbs to the errors, and never in a circle."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "equiav"
FILES = sorted(SRC.rglob("*.py"))

# The rooms from the ground up: a module may import its own room and those of lower floors
FLOORS = (
    {"_version", "errors", "words"},
    {"config", "files", "machine"},
    {"metrics"},
    {"augment", "media"},
    {"model", "library", "toyworld"},
    {"train", "search"},
    {"evaluate"},
    {"diagnose", "doctor"},
    {"pages"},
    {"compare", "demo", "serve"},
    {"cli"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# A package outside: the only files that may import it
ONLY_IN = {
    "av": ("media/", "doctor.py"),
    "lance": ("library/table.py", "library/versions.py", "search/"),
    "ray": ("library/cluster.py",),
    "mteb": ("evaluate/mteb.py",),
    "fastapi": ("serve/",),
    "starlette": ("serve/",),
    "uvicorn": ("serve/",),
    "prometheus_client": ("serve/",),
    "datasets": ("evaluate/mteb.py",),
}
NEVER = {"torchvision", "torchaudio", "timm"}


def module_of(path):
    return ".".join(["equiav", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path):
    """Full names of the modules that a file imports, also those for types alone and those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from ((name if name in MODULES else node.module) for name in inside)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_only_go_down(path):
    place = path.relative_to(SRC).as_posix()
    room = place.removesuffix(".py").split("/")[0]
    for name in imported(path):
        top, _, inside = name.partition(".")
        assert top not in NEVER, f"{place} imports {name}"
        assert top not in ONLY_IN or place.startswith(ONLY_IN[top]), f"{place} imports {name}"
        target = inside.split(".")[0]
        if top == "equiav" and target != room and not room.startswith("__"):
            assert FLOOR[target] < FLOOR[room], f"{place} imports {name}: upward"


def test_no_imports_go_in_a_circle():
    # a room's face imports its rooms, so within a room its modules are asked for
    TopologicalSorter({name: set(imported(path)) & set(MODULES) - {name} for name, path in MODULES.items()}).prepare()


@pytest.mark.parametrize(
    ("line", "unwanted"),
    [
        ("from tiny_library import make_model; make_model()", {"sympy", "lance", "matplotlib", "sklearn"}),
        ("import equiav", {"torch", "lance", "av", "matplotlib", "sklearn", "fastapi"}),
        (
            "from equiav import SearchIndex; from equiav.model.light import LightModel; import equiav.cli.app",
            {"torch", "safetensors", "huggingface_hub", "av", "PIL", "ray", "sklearn", "matplotlib"},
        ),
        ("import equiav.cli.app", {"torch", "fastapi", "starlette", "uvicorn"}),
        ("import equiav.serve.decoding", {"torch", "fastapi", "lance"}),
        (
            "from equiav import EquiAV; EquiAV.encode; import equiav.model.encode",
            {"lance", "ray", "matplotlib", "sklearn"},
        ),
    ],
)
def test_what_is_imported_loads_nothing_that_it_does_not_need(line, unwanted):
    code = f"import sys; {line}; print(sorted({unwanted} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert out.stdout.strip() == "[]"


def test_the_public_names_are_what_all_says():
    import equiav

    assert sorted(equiav.__all__) == equiav.__all__
    assert len(equiav.__all__) <= 25
    for name in equiav.__all__:
        assert getattr(equiav, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Equiav'"):
        equiav.Equiav  # noqa: B018


def test_the_tree_of_contributing_names_the_modules_and_no_others():
    contributing = (SRC.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = contributing.split("## The tree")[1].split("```")[1]
    modules = {name.rpartition(".")[2] for name, path in MODULES.items() if path.name != "__init__.py"}
    assert set(re.findall(r"`(\w+)`", tree)) == {name for name in modules if not name.startswith("_")}


def test_files_and_functions_are_short_or_say_why_not():
    long = [place for place in FILES if len(place.read_text(encoding="utf-8").splitlines()) > 400]
    for place in FILES:
        text = place.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if not text.splitlines()[first - 2].lstrip().startswith("# Longer than"):
                    long.append(f"{place}: {node.name}")
    assert long == []
