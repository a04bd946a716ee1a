"""Lists of ids, in the forms that they come in, and the names that a clip answers to."""

import pytest

from equiav.errors import ConfigError
from equiav.evaluate.gallery import names_of, read_ids


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("a.csv", "x1\nx2\n", ["x1", "x2"]),
        ("a.csv", "label,video_id\nbell,x1\ndrum,x2\n", ["x1", "x2"]),
        ("a.csv", "\ufeffID\nx1\n\n", ["x1"]),
        ("vgg.csv", "-0jeONf82dE,21,bell,test\n", ["-0jeONf82dE_000021"]),
        ("as.csv", '# YTID, start_seconds\n--4gqARaEJE, 0.000, 10.000, "/m/068hy"\n', ["--4gqARaEJE_000000"]),
        ("cav.json", '{"data": [{"video_id": "x1", "wav": "x1.wav"}]}', ["x1"]),
    ],
)
def test_a_list_gives_its_ids_in_every_form(tmp_path, name, text, ids):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_ids(tmp_path / name) == ids


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", ""), ("a.csv", "id\n"), ("a.csv", "x" * 200_000), ("a.json", "[1]"), ("a.json", "{")]
)
def test_a_list_without_ids_is_an_error_that_names_it(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        read_ids(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "start_s", "name"),
    [
        ("/v/-0jeONf82dE_000021.mp4", 0.0, "-0jeONf82dE_000021"),
        ("/v/-0jeONf82dE_000021.mp4", 0.0, "-0jeONf82dE"),
        ("/v/-0jeONf82dE_21.mp4", 0.0, "-0jeONf82dE_000021"),
        ("/v/-0jeONf82dE_21.000_31.000.mp4", 0.0, "-0jeONf82dE_000021"),
        ("/v/Y-0jeONf82dE-21.mkv", 0.0, "-0jeONf82dE_000021"),
        ("/v/-0jeONf82dE.mp4", 21.0, "-0jeONf82dE_000021"),
        ("/v/-0jeONf82dE.wav#frames", 0.0, "-0jeONf82dE"),
        ("/v/shard-000.tar#test/-0jeONf82dE_000021", 0.0, "-0jeONf82dE_000021"),
        ("/v/dog#2.mp4", 0.0, "dog#2"),
        ("/v/dog#2.mp4", 0.0, "dog#2.mp4"),
        ("/v/shard-000.tar#test/dog.flac", 0.0, "dog.flac"),
    ],
)
def test_a_clip_answers_to_the_names_that_lists_use(source, start_s, name):
    assert name in names_of(source, start_s)


def test_another_second_or_another_video_is_another_clip():
    names = names_of("/v/-0jeONf82dE_000021.mp4", 0.0)
    assert not names & {"-0jeONf82dE_000031", "-0jeONf82d", "_000021", "000021"}
