"""What `encode` is given, as what the model sees:  paths, bytes, arrays, pictures → log-mel and frames of each window.

Read as ingest reads it. Short lists are read here; where it pays, worker processes with limits read the rest, some
files ahead of the model. Results come in the order of the list either way, and are the same bit for bit.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from equiav.config import Features
from equiav.errors import ConfigError, MediaError, WorkerError
from equiav.machine import usable_cores
from equiav.media.decode import load_image, read_audio, stream_windows, upright_rgb
from equiav.media.fbank import fit_frames, log_mel
from equiav.media.mux import wav_file
from equiav.media.probe import MediaInfo, describe, open_media
from equiav.media.sandbox import QUEUE, Sandbox
from equiav.media.stills import probe_picture, shrunk
from equiav.media.windows import Window, cut, middle_picture, span_of
from equiav.words import are, counted

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LOOK_S = 0.2  # of reading here, which tell how long the rest of a list takes
PAYS_S = 1.5  # of reading, from which on workers pay: they begin in half a second to two
AT_ONCE = 16  # windows that a worker sends in one piece; a longer file is read here, a window at a time
LIMIT_S = 1800.0  # for one file in a worker
LISTEN_S = 0.2
Check = Callable[[list[Window]], None]  # looks at the windows of a file before it is decoded


class Input(NamedTuple):
    """One item of a list, as something that another process can be sent."""

    place: int  # in the list
    kind: Literal["audio", "image", "video"]
    item: Any  # a path, bytes, a picture or a numpy array
    sample_rate: int | None
    features: Features


class Found(NamedTuple):
    """A window of an item, or why there is none (any more)."""

    place: int  # in the list
    content: Any  # log-mel (T, M); a picture (h, w, 3); both


class _LongError(Exception):
    """More windows than are sent in one piece."""


@contextmanager
def read_ahead(count: int, at: Callable[[int], Input], workers: int | None, most: int) -> Generator[Iterator[Found]]:
    """The windows of the inputs `at(0)`, `at(1)`, …, in order, read in a thread at most so many windows ahead.

    A MediaError stands for what is missing of an item.

    Args:
        workers: processes that read; 0: none; None: one per core for a list that takes a few seconds to read.
        most: windows that wait.

    Raises:
        ConfigError: an item is of another kind than it should be.
        WorkerError: the workers that were asked for cannot be started.
    """
    waiting: Queue[Found | BaseException | None] = Queue(most)
    left = threading.Event()

    def read() -> None:
        found = _read(count, at, workers)
        try:
            for one in found:
                if one is not None:
                    waiting.put(one)
                if left.is_set():
                    break
        except Exception as error:  # noqa: BLE001 - raised where it is read
            waiting.put(error)
        finally:
            found.close()
            waiting.put(None)

    def windows() -> Iterator[Found]:
        while (one := waiting.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            yield one

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield windows()
    finally:
        left.set()
        while thread.is_alive():  # it may wait for room
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
            thread.join(LISTEN_S)


def _read(count: int, at: Callable[[int], Input], workers: int | None) -> Generator[Found | None]:
    """The windows of all; None now and then while none comes."""
    spent = 0.0
    for i in range(count):
        pays = workers is None and i and spent > LOOK_S and spent / i * (count - i) > PAYS_S
        if workers or pays:
            yield from _read_in_workers(range(i, count), at, workers)
            return
        begun = time.perf_counter()
        for one in _each(at(i)):
            spent += time.perf_counter() - begun
            yield one
            begun = time.perf_counter()
        spent += time.perf_counter() - begun


def _each(given: Input) -> Iterator[Found]:
    """Its windows, read here."""
    try:
        for content in windows_of(given):
            yield Found(given.place, content)
    except MediaError as error:
        yield Found(given.place, error)


def _read_in_workers(todo: range, at: Callable[[int], Input], workers: int | None) -> Generator[Found | None]:
    """As `_read`, from processes; a long file is read here, and all of the rest where workers cannot be started."""
    processes = workers or usable_cores()
    coming, sent, done = deque(todo), dict[int, Input](), dict[int, Any]()
    with Sandbox(read_whole, processes, LIMIT_S) as pool:
        for i in todo:
            while i not in done:
                try:
                    # what waits for the result of a file before it takes memory: so few are ahead
                    while len(sent) < (QUEUE + 1) * processes and pool.has_room() and coming:
                        sent[coming[0]] = at(coming[0])
                        pool.submit(sent[coming.popleft()])
                    done.update((given.place, result) for given, result in pool.wait(LISTEN_S))
                except WorkerError:
                    if workers:
                        raise
                    done.update((rest, None) for rest in range(i, todo.stop) if rest not in done)
                yield None
            given, found = sent.pop(i, None), done.pop(i)
            if isinstance(found, ConfigError):
                raise found
            if found is None:
                yield from _each(given or at(i))
            else:
                parts = [found] if isinstance(found, MediaError) else found
                yield from (Found(i, part) for part in parts)


def read_whole(given: Input) -> list[Any] | ConfigError | None:
    """All windows of an item, in a worker; None where they are too many to be sent, before anything is decoded."""

    def short(windows: list[Window]) -> None:
        if len(windows) > AT_ONCE:
            raise _LongError

    try:
        return list(windows_of(given, short))
    except _LongError:
        return None
    except ConfigError as error:  # ours to raise: nothing is wrong with the file
        return error


def windows_of(given: Input, check: Check = lambda _: None) -> Iterator[Any]:
    """The windows of one item: log-mel (T, M), picture (h, w, 3), or both; of a picture one.

    Raises:
        ConfigError: it is of another kind than it should be. MediaError: it cannot be used.
    """
    return _WINDOWS[given.kind](given, check)


@contextmanager
def _as_path(item: Any) -> Generator[Path]:
    """A path as it is, bytes as a file for a while."""
    if isinstance(item, (str, Path)):
        yield Path(item)
        return
    if not isinstance(item, bytes):
        raise ConfigError(f"expected a path or the bytes of a file, found {type(item).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bytes"
        path.write_bytes(item)
        yield path


def _sounds(given: Input, check: Check) -> Iterator[Float32[np.ndarray, "T M"]]:
    """The log-mel of every window of a sound."""
    item, features = given.item, given.features
    if isinstance(item, np.ndarray):
        item = wav_file(item, given.sample_rate)
    with _as_path(item) as path:
        for waveform in stream_windows(path, partial(_windows, path, features, check), features.sample_rate):
            yield _log_mel(waveform, path, features)


def _log_mel(waveform: Float32[np.ndarray, " S"], path: Path, features: Features) -> Float32[np.ndarray, "T M"]:
    mel = log_mel(waveform, features)
    if not len(mel):
        raise MediaError(
            "too_short",
            f"{path.name}: {counted(len(waveform), 'sample')} {are(len(waveform))} less than one spectrogram frame",
        )
    return fit_frames(mel, features.time_frames)


def _windows(path: Path, features: Features, check: Check, length_s: float) -> list[Window]:
    """The windows that ingest would cut a file of this length into."""
    whole = MediaInfo(length_s, length_s, length_s, None, None, None, None, None)
    windows = cut(span_of(whole, features, path.name), whole, features)
    check(windows)
    return windows


def _picture(given: Input, _: Check) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """A picture as RGB, its short side at most that of the stored frames."""
    item, features = given.item, given.features
    if isinstance(item, Image.Image):
        item = upright_rgb(item, "the picture")
    elif isinstance(item, (str, Path, bytes)):
        with _as_path(item) as path:
            item = load_image(_video_picture(path, features) or path)
    picture = np.asarray(item)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise ConfigError(f"an image array is uint8 RGB, shape (H, W, 3); found {picture.dtype} of {picture.shape}")
    yield np.asarray(shrunk(Image.fromarray(picture), features.frame_side))


def _video_picture(path: Path, features: Features) -> bytes | None:
    """What the middle window of a video is embedded by, as JPEG; None for a picture file, and a sound with a cover."""
    if probe_picture(path):
        return None
    with open_media(path) as container:
        info = describe(container, path)
        if info.video_end_s is None:
            return None
        windows = cut(span_of(info, features, path.name), info, features)
        return middle_picture(container, path, windows[len(windows) // 2], features, info)


def _video_windows(given: Input, check: Check) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-mel and middle frame of every window of a video, as ingest makes them."""
    features = given.features
    with _as_path(given.item) as path, open_media(path) as container:
        info = describe(container, path)
        if info.audio_end_s is None or info.video_end_s is None:
            lacks, use = ("audio", "a picture") if info.audio_end_s is None else ("video", "a sound")
            raise MediaError(f"no_{lacks}", f"{path.name} has one track; use it as {use}, not as a video")
        windows = cut(span_of(info, features, path.name), info, features)
        check(windows)
        for window in windows:
            sound = read_audio(container, path, window.start_s, window.end_s, features.sample_rate, info)
            jpeg = middle_picture(container, path, window, features, info)
            yield _log_mel(sound, path, features), load_image(jpeg)


_WINDOWS: dict[str, Callable[[Input, Check], Iterator[Any]]] = {
    "audio": _sounds,
    "image": _picture,
    "video": _video_windows,
}
