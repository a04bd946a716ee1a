"""What a count is called."""

import pytest

from equiav.words import are, counted, have


@pytest.mark.parametrize(("count", "said"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (12_000, "12,000 clips")])
def test_one_is_singular_and_all_else_plural(count, said):
    assert counted(count, "clip") == said


def test_a_plural_of_its_own_is_taken():
    assert [counted(n, "class", "classes") for n in (1, 3)] == ["1 class", "3 classes"]


def test_verbs_agree_with_their_count():
    assert [(are(n), have(n)) for n in (0, 1, 2)] == [("are", "have"), ("is", "has"), ("are", "have")]
