"""Sounds, pictures and videos into the model's space: files, bytes or arrays -> unit vectors (n, E).

A file is read as `equiav ingest` reads it: the same windows, log-mel and frames. What is longer than the model's
window is cut into windows every `hop_s` seconds, each is embedded, and the mean of their unit vectors, scaled to
length 1 again, stands for the whole. The same input gives the same vector, always, whatever else is in the batch.
"""

# torch and numpy leave some of their types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from equiav.augment.view import stack_pictures
from equiav.augment.visual import VisualSpace, normalise
from equiav.config import Features, ModelConfig
from equiav.errors import ConfigError, MediaError, ModelError
from equiav.media.decode import load_image, read_audio, stream_windows, upright_rgb
from equiav.media.fbank import fit_frames, log_mel
from equiav.media.mux import wav_file
from equiav.media.probe import MediaInfo, describe, open_media
from equiav.media.stills import probe_picture, shrunk
from equiav.media.windows import Window, cut, middle_picture, span_of
from equiav.words import are, counted

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, UInt8
    from torch import Tensor


BYTES = (bytes, bytearray, memoryview)


class Embedder(Protocol):
    """What is asked of a model: `EquiAV` is one."""

    config: ModelConfig
    visual_space: VisualSpace
    training: bool

    def standardise(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B, T, M) on the encoder's scale."""
        ...

    def embed_audio(self, audio: Tensor) -> Tensor:
        """Standardised log-mel to unit vectors (B, E)."""
        ...

    def embed_visual(self, visual: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to unit vectors (B, E)."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Training or evaluation mode."""
        ...

    def computing(self, precision: str | torch.dtype | None = None) -> AbstractContextManager[Any]:
        """A context in which the model computes in this precision, or in its own."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """Weights."""
        ...


class Embeddings(NamedTuple):
    """Unit vectors of both modalities of n clips."""

    audio: Float32[np.ndarray, "n E"]
    visual: Float32[np.ndarray, "n E"]


def encode(
    model: Embedder,
    *,
    audio: Any = None,
    image: Any = None,
    video: Any = None,
    sample_rate: int | None = None,
    batch_size: int = 16,
) -> Float32[np.ndarray, "n E"] | Embeddings:
    """Embed sounds, pictures or videos: one of the three, a list of n or a single one.

    Args:
        model: the model; it is used in evaluation mode on the device where it lies.
        audio: audio or video files, mono arrays or tensors (S,) with their `sample_rate`, or pairs (array, rate). A
            file is a path, bytes, or a file object opened for bytes.
        image: files (a video gives the middle frame of its middle window), PIL images, or uint8 arrays or tensors
            (H, W, 3).
        video: files with sound and picture; of each window the sound and the middle one of its frames are used.
        sample_rate: of the arrays in `audio`, in Hz.
        batch_size: windows or pictures per pass through the model.

    Returns:
        (n, E) for `audio` and `image`; for `video` a pair `Embeddings(audio, visual)` of such arrays.

    Raises:
        ConfigError: not exactly one of the three, nothing in it, or something of another kind.
        MediaError: a file cannot be used.
        ModelError: the model gave NaN or infinite values.
    """
    given = {"audio": audio, "image": image, "video": video}
    given = {name: items for name, items in given.items() if items is not None}
    if len(given) != 1:
        raise ConfigError(f"give exactly one of audio, image and video, found {list(given) or 'none'}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, found {batch_size}")
    features = model.config.features

    def sounds(batch: list[np.ndarray]) -> np.ndarray:
        return embed_log_mels(model, torch.from_numpy(np.stack(batch)))

    def pictures(batch: list[np.ndarray]) -> np.ndarray:
        return embed_pictures(model, *stack_pictures(batch))

    if audio is not None:
        items = _as_list(audio, single=1)
        return _mean_vectors(items, lambda item: _sounds(item, sample_rate, features), sounds, batch_size)
    if image is not None:
        items = _as_list(image, single=3)
        return _mean_vectors(items, lambda item: [_picture(item, features)], pictures, batch_size)

    def both(batch: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        audios, frames = zip(*batch, strict=True)
        return np.stack([sounds(list(audios)), pictures(list(frames))], axis=1)

    items = _as_list(video, single=0)
    vectors = _mean_vectors(items, lambda item: _video_windows(item, features), both, batch_size)
    return Embeddings(audio=vectors[:, 0], visual=vectors[:, 1])


def embed_log_mels(
    model: Embedder, log_mels: Tensor, precision: str | torch.dtype | None = None
) -> Float32[np.ndarray, "B E"]:
    """Raw log-mel (B, T, M) to unit vectors, in this precision or in the model's own."""
    with _inference(model, precision) as weight:
        return _checked(model.embed_audio(model.standardise(log_mels.to(weight.device)).to(weight.dtype)))


def embed_pictures(
    model: Embedder,
    frames: UInt8[Tensor, "B 3 H W"],
    sizes: Int64[Tensor, "B 2"],
    precision: str | torch.dtype | None = None,
) -> Float32[np.ndarray, "B E"]:
    """Frames, zero-padded to one size, with their true sizes, to unit vectors."""
    with _inference(model, precision) as weight:
        images = normalise(model.visual_space.plain(frames.to(weight.device), sizes.to(weight.device)))
        return _checked(model.embed_visual(images.to(weight.dtype)))


@contextmanager
def _inference(model: Embedder, precision: str | torch.dtype | None) -> Generator[Tensor]:
    """Evaluation mode without gradients, with a weight of the model: inputs take its device and its precision."""
    training = model.training
    model.train(False)
    try:
        with torch.inference_mode(), model.computing(precision):
            yield next(model.parameters())
    finally:
        model.train(training)


def _checked(vectors: Tensor) -> Float32[np.ndarray, "B E"]:
    found = vectors.float().cpu().numpy()
    if not np.isfinite(found).all():
        raise ModelError(
            "the model gave NaN or infinite embeddings: its weights are broken (look at the run's losses), "
            "or too large for fp16 (take bf16 or fp32)"
        )
    return found


def _mean_vectors(
    items: list[Any],
    windows: Callable[[Any], Iterable[Any]],
    embed: Callable[[list[Any]], np.ndarray],
    batch_size: int,
) -> Float32[np.ndarray, "n *modalities E"]:
    """Embed the windows of all items batch by batch; the mean direction of each item's windows."""
    totals: dict[int, np.ndarray] = {}
    stream = ((i, window) for i, item in enumerate(items) for window in windows(item))
    while batch := list(islice(stream, batch_size)):
        for (i, _), vectors in zip(batch, embed([window for _, window in batch]), strict=True):
            totals[i] = totals[i] + vectors if i in totals else vectors
    return mean_direction(np.stack([totals[i] for i in range(len(items))]))


def mean_direction(*vectors: Float32[np.ndarray, "*n E"]) -> Float32[np.ndarray, "*n E"]:
    """Unit vectors along the sums of vectors.

    Raises:
        ModelError: they cancel out.
    """
    total = np.sum(vectors, axis=0, dtype=np.float64)
    norms = np.linalg.norm(total, axis=-1, keepdims=True)
    if not norms.all():
        raise ModelError("the vectors point in opposite directions: their mean has no direction")
    return (total / norms).astype(np.float32)


def _as_list(items: Any, *, single: int) -> list[Any]:
    """A list of items; one path, file, picture, pair or array of `single` dimensions is a list of one."""
    arrays = isinstance(items, np.ndarray) or torch.is_tensor(items)
    one = items.ndim == single if arrays else isinstance(items, (str, Path, Image.Image, *BYTES))
    if one or hasattr(items, "read") or _is_pair(items):
        return [_plain(items)]
    if not isinstance(items, Iterable):
        raise ConfigError(f"expected paths, files, bytes or arrays, or a list of them; found {type(items).__name__}")
    found = [_plain(item) for item in items]
    if not found:
        raise ConfigError("nothing to embed: the list is empty")
    return found


def _is_pair(item: Any) -> bool:
    """Whether it is samples with their rate, as soundfile and scipy give them (theirs the other way round)."""
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], (int, np.integer))


def _plain(item: Any) -> Any:
    """An item as a path, bytes, a picture or a numpy array."""
    if torch.is_tensor(item):
        item = item.detach().cpu()
        return (item.float() if item.is_floating_point() else item).numpy()
    if _is_pair(item):
        return wav_file(np.asarray(_plain(item[0])), int(item[1]))
    if isinstance(item, BYTES):
        return bytes(item)
    if hasattr(item, "read"):
        content = item.read()
        if not isinstance(content, bytes):
            raise ConfigError("a file must be opened for bytes: open(path, 'rb')")
        return content
    return item


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


def _sounds(item: Any, sample_rate: int | None, features: Features) -> Iterator[Float32[np.ndarray, "T M"]]:
    """The log-mel of every window of a sound."""
    if isinstance(item, np.ndarray):
        item = wav_file(item, sample_rate)
    with _as_path(item) as path:
        for waveform in stream_windows(path, partial(_windows, path, features), features.sample_rate):
            yield _log_mel(waveform, path, features)


def _log_mel(waveform: Float32[np.ndarray, " S"], path: Path, features: Features) -> Float32[np.ndarray, "T M"]:
    mel = log_mel(waveform, features)
    if not len(mel):
        raise MediaError(
            "too_short",
            f"{path.name}: {counted(len(waveform), 'sample')} {are(len(waveform))} less than one spectrogram frame",
        )
    return fit_frames(mel, features.time_frames)


def _windows(path: Path, features: Features, length_s: float) -> list[Window]:
    """The windows that ingest would cut a file of this length into."""
    whole = MediaInfo(length_s, length_s, length_s, None, None, None, None, None)
    return cut(span_of(whole, features, path.name), whole, features)


def _picture(item: Any, features: Features) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as RGB, its short side at most that of the stored frames."""
    if isinstance(item, Image.Image):
        item = upright_rgb(item, "the picture")
    elif isinstance(item, (str, Path, bytes)):
        with _as_path(item) as path:
            item = load_image(_video_picture(path, features) or path)
    picture = np.asarray(item)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise ConfigError(f"an image array is uint8 RGB, shape (H, W, 3); found {picture.dtype} of {picture.shape}")
    return np.asarray(shrunk(Image.fromarray(picture), features.frame_side))


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


def _video_windows(item: Any, features: Features) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-mel and middle frame of every window of a video, as ingest makes them."""
    with _as_path(item) as path, open_media(path) as container:
        info = describe(container, path)
        if info.audio_end_s is None or info.video_end_s is None:
            lacks, use = ("audio", "a picture") if info.audio_end_s is None else ("video", "a sound")
            raise MediaError(f"no_{lacks}", f"{path.name} has one track; use it as {use}, not as a video")
        for window in cut(span_of(info, features, path.name), info, features):
            sound = read_audio(container, path, window.start_s, window.end_s, features.sample_rate, info)
            jpeg = middle_picture(container, path, window, features, info)
            yield _log_mel(sound, path, features), load_image(jpeg)
