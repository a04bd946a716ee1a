"""Imports only go down (errors, config, words ← augment, model, train.loss and media, library ← … ← cli)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "equiav"
FILES = sorted(SRC.rglob("*.py"))

# what a module may import of equiav, besides its own package; the longest matching prefix counts
ALLOWED = {
    "_version": set(),
    "errors": set(),
    "machine": {"errors"},
    "pages": {"words"},
    "ranks": {"errors", "terminal"},
    "terminal": set(),
    "words": set(),
    "config": {"errors"},
    "augment": {"errors", "config"},
    "model": {"errors", "config", "machine", "augment"},
    "train.loss": {"errors", "config", "model"},
    "media": {"errors", "config", "words"},
    "library": {"errors", "config", "machine", "words", "media"},
    "toyworld": {"errors", "media"},
    "train": {"errors", "config", "machine", "words", "augment", "model", "media", "library"},
    "evaluate": {"errors", "config", "machine", "pages", "words"}
    | {"augment", "model", "media", "library", "train", "search"},
    "search": {"errors", "config", "words", "augment", "model", "media", "library", "train"},
    "diagnose": {"errors", "config", "machine", "pages", "words"}
    | {"augment", "model", "media", "library", "train", "evaluate", "search"},
}
UNBOUND = {"cli", "cli_evaluate", "cli_library", "cli_train", "compare", "demo", "variants", "__main__", "__init__"}
# A package outside: the only files that may import it
ONLY_IN = {
    "av": ("media/",),
    "lance": ("library/table.py", "search/table.py"),
    "ray": ("library/cluster.py",),
    "mteb": ("evaluate/mteb.py",),
    "datasets": ("evaluate/mteb.py",),
    "fastapi": ("search/service.py",),
    "gradio": ("search/ui.py",),
}
NEVER = {"torchvision", "torchaudio", "timm"}
# Doors upward, opened inside a method and on purpose: the public object speaks for the whole library
DOORS = {("model/equiav.py", "equiav.search.embed")}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "equiav":
                yield from (f"equiav.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_only_go_down(path):
    place = path.relative_to(SRC).as_posix()
    module = place.removesuffix(".py").replace("/", ".")
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in NEVER, f"{place} imports {name}"
        assert top not in ONLY_IN or place.startswith(ONLY_IN[top]), f"{place} imports {name}"
        if top != "equiav" or module.split(".")[0] in UNBOUND or (place, name) in DOORS:
            continue
        target = name.split(".")[1] if "." in name else ""
        if target in {"", "_version"} or target == module.split(".")[0]:
            continue
        allowed = ALLOWED[max((key for key in ALLOWED if module == key or module.startswith(f"{key}.")), key=len)]
        assert target in allowed, f"{place} imports {name}: upward"


def test_importing_equiav_loads_nothing_heavy():
    code = "import sys, equiav; print(sorted({'torch','lance','av','matplotlib','sklearn'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_public_names_are_what_all_says():
    import equiav

    assert sorted(equiav.__all__) == equiav.__all__
    assert len(equiav.__all__) <= 25
    for name in equiav.__all__:
        assert getattr(equiav, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Equiav'"):
        equiav.Equiav  # noqa: B018


def test_every_module_stands_in_the_readmes_map():
    readme = (SRC.parent.parent / "README.md").read_text(encoding="utf-8")
    missing = [
        str(path.relative_to(SRC))
        for path in FILES
        if not path.stem.startswith("_") and f"`{path.stem}`" not in readme and f"{path.name}`" not in readme
    ]
    assert missing == []
