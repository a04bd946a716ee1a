"""The page of copies shows every pair with its files, fetches nothing, and escapes what files are called."""

import re

import pytest

from equiav.pages.duplicates import duplicates_page
from equiav.search.pairs import Duplicates, FilePair, Group
from samples import pictures
from search.test_duplicates import jpeg


def pair(a, b, kind, **changes):
    about = {"offset_s": 0.0, "start_s": 0.0, "length_s": 9.0, "audio": 0.97, "visual": None, "sound": 0.95}
    about |= {"picture": None, "coverage_a": 1.0, "coverage_b": 1.0, "windows": 3, "clip_a": "x", "clip_b": "y"}
    return FilePair(a=a, b=b, kind=kind, **(about | changes))


def report(pairs, groups=()):
    about = {"files": 4, "windows": 12, "missing": 1, "least_audio": 0.95, "least_visual": 0.9}
    return Duplicates(**about, pairs=pairs, groups=list(groups))


PAIRS = [
    pair("/v/a.mp4", "/v/b & <c>.mp4", "same_recording"),
    pair("/v/a.mp4", "/v/part.mp4", "part_of", offset_s=12.5, start_s=12.5, coverage_a=0.25),
    pair("/t.tar#one", "s3://bucket/x.mp4", "same_sound"),
]


def test_each_pair_has_both_files_its_reason_and_where_to_play_it():
    page = duplicates_page(
        report(PAIRS, [Group("/v/a.mp4", ["/v/b & <c>.mp4"])]), {"x": jpeg(pictures(1)[0])}, "Copies"
    )
    assert "the same recording" in page
    assert "sound 0.970, itself 0.95 over 3 windows; no picture to compare" in page
    assert 'src="file:///v/a.mp4#t=12.50"' in page
    assert 'src="file:///v/part.mp4#t=0.00"' in page
    assert "12.5 s later in the first" in page
    assert "/v/b &amp; &lt;c&gt;.mp4" in page
    assert "<c>" not in page
    assert page.count('class="best"') == 1
    assert page.count("<video") == 4, "nothing plays a member of a tar, or a file on a store"
    assert page.count("poster=") == 2
    assert "Files that a better one stands for" in page


def test_nothing_is_fetched_before_a_player_is_started():
    page = duplicates_page(report(PAIRS), {}, "Copies")
    assert page.count('preload="none"') == page.count("<video")
    assert not re.search(r'(src|href)="https?:|@import|url\(', page)


def test_a_library_without_copies_has_a_page_too():
    assert "No copies were found." in duplicates_page(report([]), {}, "Copies")


@pytest.mark.parametrize("kind", ["same_content", "shared_part", "same_picture", "similar"])
def test_each_kind_is_shown(kind):
    group = [Group("/v/a.mp4", ["/v/b.mp4"])] if kind == "same_content" else []
    page = duplicates_page(report([pair("/v/a.mp4", "/v/b.mp4", kind)], group), {}, "Copies")
    assert page.count("<figure>") == 2
