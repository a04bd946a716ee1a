"""Sounds, pictures and videos into the model's space: files, bytes or arrays -> unit vectors (n, E).

A file is read as `equiav ingest` reads it: the same windows, log-mel and frames. What is longer than the model's
window is cut into windows every `hop_s` seconds, each is embedded, and the mean of their unit vectors, scaled to
length 1 again, stands for the whole. The same input gives the same vector, always, whatever else is in the batch.
"""

# torch and numpy leave some of their types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from equiav.augment.view import stack_pictures
from equiav.augment.visual import VisualSpace, normalise
from equiav.config import ModelConfig
from equiav.errors import ConfigError, MediaError, ModelError
from equiav.machine import pick_device
from equiav.media.inputs import Found, Input, read_ahead
from equiav.media.mux import wav_file
from equiav.metrics.directions import mean_direction

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, UInt8
    from torch import Tensor


LIKE = 4  # batches, in which pictures of like sizes are put together
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

    def to(self, device: torch.device) -> Any:
        """Put it there."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """Weights."""
        ...


class Embeddings(NamedTuple):
    """Vectors of both modalities of n clips."""

    audio: Float32[np.ndarray, "n E"]
    visual: Float32[np.ndarray, "n E"]


class Encoded(NamedTuple):
    """What `on_error="skip"` gives."""

    embeddings: Any  # what "raise" gives, of the items that could be read
    indices: list[int]  # their places in the list, one a row
    skipped: dict[int, str]  # place in the list -> why


# Longer than most functions: most of it are its options
def encode(
    model: Embedder,
    *,
    audio: Any = None,
    image: Any = None,
    video: Any = None,
    sample_rate: int | None = None,
    batch_size: int = 16,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    normalize: bool = True,
    convert_to_tensor: bool = False,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool | Callable[[int, int], object] = False,
    workers: int | None = None,
) -> Float32[np.ndarray, "n E"] | Tensor | Embeddings | Encoded:
    """Embed sounds, pictures or videos: one of the three, a list of n or a single one; a list may mix all kinds.

    Args:
        model: the model; it is used in evaluation mode on the device where it lies.
        audio: audio or video files, mono arrays or tensors (S,) with their `sample_rate`, or pairs (array, rate). A
            file is a path, bytes, or a file object opened for bytes.
        image: files (a video gives the middle frame of its middle window), PIL images, or uint8 arrays or tensors
            (H, W, 3).
        video: files with sound and picture; of each window the sound and the middle one of its frames are used.
        sample_rate: of the arrays in `audio`, in Hz.
        batch_size: windows or pictures per pass through the model.
        device: where the model is put before, as `from_pretrained` takes it; it stays there.
        dtype: precision of this call, likewise; None: the model's own.
        normalize: scale each vector to length 1. Otherwise it is the mean of the unit vectors of an item's windows, and
            the shorter the less alike they are; of one window it has length 1 all the same.
        convert_to_tensor: give tensors on the model's device instead of numpy arrays.
        on_error: what a file that cannot be used is: an error, or left out and named.
        progress: show a bar with rate and ETA on standard error, or call this with (items done, items).
        workers: processes that read, within limits on time and memory: a file that crashes its decoder ends one of
            them. None: one per core for a list that takes a few seconds to read, none for a shorter one; 0: none.

    Returns:
        (n, E) for `audio` and `image`; for `video` a pair `Embeddings(audio, visual)` of such arrays. With
        `on_error="skip"` an `Encoded(embeddings, indices, skipped)` around it.

    Raises:
        ConfigError: not exactly one of the three, nothing in it, something of another kind, or an unknown option.
        MediaError: a file cannot be used.
        ModelError: the model gave NaN or infinite values.
        WorkerError: the workers that were asked for cannot be started.
    """
    kind, items = _asked(audio, image, video)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, found {batch_size}")
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error={on_error!r}: expected raise or skip")
    if device:
        model.to(pick_device(device))
    features = model.config.features

    def at(index: int) -> Input:
        return Input(index, kind, _plain(items[index]), sample_rate, features)

    sums, skipped = _Sums(), dict[int, str]()
    with (
        read_ahead(len(items), at, workers, most=LIKE * batch_size) as found,
        _reported(progress, len(items)) as report,
    ):
        for batch in _batches(_usable(found, on_error, skipped), batch_size, alike=kind != "audio"):
            # the first pass is full where others follow: then they all are of one size
            missing = batch_size - len(batch) if sums.counts else 0
            contents = [one.content for one in (*batch, *batch[:1] * missing)]
            for one, vectors in zip(batch, _embed(model, kind, contents, dtype), strict=False):
                sums.add(one.place, vectors)
            report(max(one.place for one in batch))
        report(len(items))
    indices = [index for index in range(len(items)) if index not in skipped]
    vectors = sums.vectors(indices, normalize, None if on_error == "raise" else skipped)
    width = model.config.architecture.embedding
    vectors = vectors.reshape(-1, 2, width) if kind == "video" else vectors.reshape(-1, width)
    embeddings: Any = torch.from_numpy(vectors).to(next(model.parameters()).device) if convert_to_tensor else vectors
    if kind == "video":
        embeddings = Embeddings(audio=embeddings[:, 0], visual=embeddings[:, 1])
    if on_error == "raise":
        return embeddings
    return Encoded(embeddings, [index for index in indices if index not in skipped], dict(sorted(skipped.items())))


def _asked(audio: Any, image: Any, video: Any) -> tuple[Literal["audio", "image", "video"], list[Any]]:
    """What is asked for, and the items."""
    given = {"audio": audio, "image": image, "video": video}
    given = {name: items for name, items in given.items() if items is not None}
    if len(given) != 1:
        raise ConfigError(f"give exactly one of audio, image and video, found {list(given) or 'none'}")
    if audio is not None:
        return "audio", _as_list(audio, single=1)
    return ("image", _as_list(image, single=3)) if image is not None else ("video", _as_list(video, single=0))


def _usable(found: Iterable[Found], on_error: str, skipped: dict[int, str]) -> Iterator[Found]:
    """The windows; what stands for one that cannot be had is raised, or its item is named in `skipped`."""
    for one in found:
        if not isinstance(one.content, MediaError):
            yield one
        elif on_error == "raise":
            raise one.content
        else:
            skipped[one.place] = str(one.content)


def _batches(found: Iterator[Found], size: int, *, alike: bool) -> Iterator[list[Found]]:
    """Windows by `size`, the last ones what is left; `alike`: those with pictures of like sizes together."""

    def shape(one: Found) -> tuple[int, ...]:
        return (one.content[1] if isinstance(one.content, tuple) else one.content).shape

    while some := list(islice(found, LIKE * size if alike else size)):
        some = sorted(some, key=shape) if alike else some
        yield from (some[first : first + size] for first in range(0, len(some), size))


def _embed(model: Embedder, kind: str, batch: list[Any], dtype: str | torch.dtype | None) -> np.ndarray:
    """Unit vectors of windows (B, E), or of both modalities (B, 2, E)."""
    if kind == "audio":
        return embed_log_mels(model, torch.from_numpy(np.stack(batch)), dtype)
    if kind == "image":
        return embed_pictures(model, *stack_pictures(batch), dtype)
    heard, seen = zip(*batch, strict=True)
    return np.stack([_embed(model, "audio", list(heard), dtype), _embed(model, "image", list(seen), dtype)], axis=1)


class _Sums:
    """Of each item the sum of its windows' vectors."""

    def __init__(self) -> None:
        self.totals, self.counts = dict[int, np.ndarray](), Counter[int]()

    def add(self, index: int, vectors: np.ndarray) -> None:
        """Take in a window."""
        self.totals[index] = self.totals[index] + vectors if index in self.totals else vectors
        self.counts[index] += 1

    def vectors(self, indices: list[int], normalize: bool, skipped: dict[int, str] | None) -> np.ndarray:
        """Their mean directions or mean vectors; one without direction is an error, or is added to `skipped`."""
        found: list[np.ndarray] = []
        for index in indices:
            try:
                total = self.totals[index]
                found.append(mean_direction(total) if normalize else total / np.float32(self.counts[index]))
            except ModelError as error:
                if skipped is None:
                    raise
                skipped[index] = str(error)
        return np.stack(found) if found else np.zeros(0, np.float32)


@contextmanager
def _reported(progress: bool | Callable[[int, int], object], count: int) -> Generator[Callable[[int], object]]:
    """What is told how many items are done."""
    if callable(progress):
        yield lambda done: progress(done, count)
    elif not progress:
        yield lambda _: None
    else:
        with tqdm(total=count, desc="encode", unit="file") as bar:
            yield lambda done: bar.update(done - bar.n)


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


def _as_list(items: Any, *, single: int) -> list[Any]:
    """A list of items; one path, file, picture, pair or array of `single` dimensions is a list of one."""
    arrays = isinstance(items, np.ndarray) or torch.is_tensor(items)
    one = items.ndim == single if arrays else isinstance(items, (str, Path, Image.Image, *BYTES))
    if one or hasattr(items, "read") or _is_pair(items):
        return [items]
    if not isinstance(items, Iterable):
        raise ConfigError(f"expected paths, files, bytes or arrays, or a list of them; found {type(items).__name__}")
    found = list(items)
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
