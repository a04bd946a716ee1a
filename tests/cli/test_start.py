"""Imports of a verb that answers once."""

import gc
import subprocess
import sys

import pytest

from equiav.cli.start import quick_imports

CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from equiav.cli.start import quick_imports
with quick_imports():
    import pyarrow.dataset
    import lance
assert "pandas" not in sys.modules
import pyarrow as pa
assert pa.table({"a": [1, None, 3]}).to_pydict() == {"a": [1, None, 3]}
import pandas
print(pandas.__file__)
"""


def test_arrow_does_without_pandas_and_who_wants_it_gets_it_afterwards(tmp_path):
    (tmp_path / "pandas.py").write_text("__version__ = '99'\n")
    out = subprocess.run([sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(tmp_path / "pandas.py")


def test_the_collector_rests_while_modules_are_imported_and_passes_over_them_afterwards():
    at_work = []

    @quick_imports()
    def imports():
        at_work.append(gc.isenabled())
        raise ImportError

    frozen = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError):
            imports()
        assert at_work == [False]
        assert gc.isenabled()
        assert gc.get_freeze_count() > max(frozen, 10_000)
    finally:
        gc.unfreeze()


def test_search_imports_all_that_it_needs_at_once(tmp_path):
    # what came later would be looked through again and again, and torn down piece by piece at the end
    code = f"""
import gc, sys
from typer.testing import CliRunner
from equiav.cli.app import app
import equiav.search.index as index

class Stops(Exception):
    pass

def seen(library, model):
    assert gc.isenabled() and gc.get_freeze_count() > 100_000
    assert dict.fromkeys(["torch", "equiav.model.equiav", "equiav.model.encode"]).keys() <= sys.modules.keys()
    raise Stops

index.SearchIndex = seen
found = CliRunner().invoke(app, ["search", "-L", "L", "-R", {str(tmp_path)!r}, "--audio", "dog.wav"])
print(type(found.exception).__name__, found.output)
"""
    from tiny_library import make_model

    make_model().save_pretrained(tmp_path)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Stops"
