"""Ranks are tested through `test_retrieval`; here is what stands by itself."""

import numpy as np
import pytest

from equiav.errors import ConfigError, ModelError
from equiav.metrics.ranking import similarity


def test_similarity_is_the_cosine_of_each_pair():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(4, 5)) * 9
    expected = [[x @ y / np.sqrt((x @ x) * (y @ y)) for y in b] for x in a]
    np.testing.assert_allclose(similarity(a, b), expected, atol=1e-6)
    np.testing.assert_array_equal(similarity(a[0], b), similarity(a, b)[:1])
    with pytest.raises(ConfigError, match="widths 5 and 4"):
        similarity(a, b[:, :4])
    with pytest.raises(ModelError, match="row 0 is all zeros"):
        similarity(a, np.zeros((1, 5)))
