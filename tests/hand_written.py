"""Files whose headers are written by hand, or where nobody can seek back to complete them."""

import struct

import av
import numpy as np

RATE = 16_000
SAMPLES = (9000 * np.sin(np.arange(3 * RATE) * 0.1)).astype("<i2")
PCM, BIG = SAMPLES.tobytes(), SAMPLES.astype(">i2").tobytes()
SIZE = len(PCM)
WAVE = SAMPLES / 32768
BIG_24 = np.round(WAVE * 2**23).astype(">i4").view("u1").reshape(-1, 4)[:, 1:]
RIFX = {  # bits and code of a big-endian WAV → its samples, and how near they come
    (8, 1): (np.round(WAVE * 128 + 128).astype("u1"), 1 / 256),
    (16, 1): (SAMPLES.astype(">i2"), 0.0),
    (24, 1): (BIG_24, 0.0),
    (32, 1): ((SAMPLES.astype(np.int64) << 16).astype(">i4"), 0.0),
    (32, 3): (WAVE.astype(">f4"), 0.0),
    (64, 3): (WAVE.astype(">f8"), 0.0),
}


def wav(data_size, riff_size=None, data=PCM, code=1, bits=16, form=b"RIFF", extra=b"", channels=1, rate=RATE):
    order = ">" if form == b"RIFX" else "<"
    fmt = struct.pack(
        order + "IHHIIHH", 16, code, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits
    )
    riff_size = data_size + 36 if riff_size is None else riff_size
    sizes = [struct.pack(order + "I", min(size, 2**32 - 1)) for size in (riff_size, data_size)]
    return form + sizes[0] + b"WAVE" + extra + b"fmt " + fmt + b"data" + sizes[1] + data


def aiff(data_size, kind=b"AIFF", data=BIG, frames=None, code=b"NONE", rate=RATE):
    frames = min(data_size // 2, 2**32 - 1) if frames is None else frames
    comm = struct.pack(">hIh", 1, frames, 16) + struct.pack(
        ">HQ", 16382 + rate.bit_length(), rate << 64 - rate.bit_length()
    )
    comm += code + b"\0\0" if kind == b"AIFC" else b""
    form = kind + b"COMM" + struct.pack(">I", len(comm)) + comm
    sizes = [struct.pack(">I", min(size, 2**32 - 1)) for size in (len(form) + 16 + data_size, data_size + 8)]
    return b"FORM" + sizes[0] + form + b"SSND" + sizes[1] + bytes(8) + data


def gsm(frames):
    """GSM in an AIFC: 160 samples of 8 kHz in 33 bytes, each of which begins with 13; `frames` is what is declared."""
    packets = np.random.default_rng(0).integers(256, size=(150, 33), dtype=np.uint8)
    packets[:, 0] = 0xD0 | packets[:, 0] & 15
    return aiff(packets.size, b"AIFC", packets.tobytes(), frames, b"GSM ", 8000)


def piped(path, target, fmt, options=None):
    """A tape written where nobody can seek back."""

    class Pipe:
        def __init__(self):
            self.data = bytearray()

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with av.open(str(path)) as source, av.open(pipe, "w", format=fmt, options=options or {}) as out:
        tracks = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    target.write_bytes(bytes(pipe.data))
    return target
