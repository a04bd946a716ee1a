"""What is written is what FFmpeg would write, and is read again as it was."""

import io

import av
import numpy as np
import pytest

from equiav.media.decode import load_waveform
from equiav.media.mux import wav_file, wav_header

SOUND = np.random.default_rng(0).uniform(-1, 1, 1001).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_a_wav_is_byte_for_byte_what_ffmpeg_writes_and_is_read_bit_for_bit(tmp_path, rate):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav", options={"fflags": "+bitexact"}) as container:
        track = container.add_stream("pcm_f32le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(SOUND[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        container.mux([*track.encode(frame), *track.encode(None)])
    assert wav_file(SOUND, rate) == buffer.getvalue()
    (tmp_path / "sound.wav").write_bytes(wav_file(SOUND, rate))
    np.testing.assert_array_equal(load_waveform(tmp_path / "sound.wav", rate), SOUND)


def test_the_header_of_a_sound_beyond_four_gigabytes_says_up_to_the_end():
    assert wav_header(2**32, 16_000)[-4:] == wav_header(2**32, 16_000)[4:8] == b"\xff" * 4
    assert len(wav_header(2**40, 16_000)) == len(wav_header(4, 16_000))
    assert int.from_bytes(wav_header(4000, 16_000)[-4:], "little") == 4000
