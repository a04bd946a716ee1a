"""A spliced file reads as its parts written one behind the other."""

import io

import numpy as np
import pytest

from equiav.media.splice import Splice

BYTES = bytes(range(200))
PARTS = [b"head", (3, 40), b"", (40, 40), (17, 120), b"tail", (190, 200)]
WHOLE = b"head" + BYTES[3:40] + BYTES[17:120] + b"tail" + BYTES[190:]


def test_a_spliced_file_reads_as_its_parts_from_any_place_on():
    spliced = Splice(io.BytesIO(BYTES), PARTS)
    assert io.BufferedReader(Splice(io.BytesIO(BYTES), PARTS)).read() == WHOLE
    assert spliced.seek(0, io.SEEK_END) == len(WHOLE)
    for at, size in np.random.default_rng(0).integers(0, len(WHOLE) + 9, (200, 2)).tolist():
        assert spliced.seek(at) == spliced.tell() == at
        read = b""
        while len(read) < size and (more := spliced.read(size - len(read))):
            read += more
        assert read == WHOLE[at : at + size]


def test_a_spliced_file_closes_its_file():
    file = io.BytesIO(BYTES)
    Splice(file, PARTS).close()
    with pytest.raises(ValueError, match="closed"):
        file.read()
