"""A small library and a small model for the tests of search."""

import pytest

from equiav.library.table import Library
from tiny_library import FEATURES, make_clip, make_model


@pytest.fixture
def library(tmp_path):
    made = Library.create(tmp_path / "library", FEATURES)
    made.append([make_clip(i) for i in range(10)])
    return made


@pytest.fixture(scope="session")
def model():
    return make_model()
