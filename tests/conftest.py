"""Media files that several tests read, made once."""

import shutil
import signal
import sys

import pytest

from equiav.cli import app as cli
from equiav.library.table import Library
from samples import TINY, pictures, tone, write_bad, write_media
from train.labelled_library import label, make_labelled_library

# A shell lets what it starts in the background ignore Ctrl-C, and the programs that the tests start and stop with it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def features():
    return TINY


@pytest.fixture(scope="session")
def good_video(tmp_path_factory):
    """1.4 s, 64x48, a tone: two windows of TINY."""
    return write_media(tmp_path_factory.mktemp("media") / "good.mp4", frames=pictures(14), sound=tone(1.4))


@pytest.fixture(scope="session")
def labelled_template(tmp_path_factory):
    """A library of eleven short labelled clips, made once; to be copied, not changed."""
    return make_labelled_library(tmp_path_factory.mktemp("labelled")).path


@pytest.fixture(scope="module")
def library_of(labelled_template, tmp_path_factory):
    """A copy of it with labels and splits of one's own."""

    def make(*given, **named):
        folder = tmp_path_factory.mktemp("copy") / "L"
        shutil.copytree(labelled_template, folder)
        return label(Library(folder), *given, **named)

    return make


@pytest.fixture(scope="session")
def bad_videos(tmp_path_factory, good_video):
    """One file of each bad kind: kind → path."""
    return write_bad(tmp_path_factory.mktemp("bad"), good_video)


@pytest.fixture
def equiav(capsys, monkeypatch):
    """Run a command line as `main` does: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["equiav", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out = capsys.readouterr()
        return stopped.value.code, out.out, out.err

    return run


@pytest.fixture(scope="session")
def s3_server():
    """Address of moto, which speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch, request):
    """URL of an empty place on it; this process and those that it starts find it by their environment."""
    import boto3

    found = {"ENDPOINT": s3_server, "ENDPOINT_URL": s3_server, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in (found | {"ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": "nothing"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3.client("s3").create_bucket(Bucket="media")
    return f"s3://media/{request.node.name}"
