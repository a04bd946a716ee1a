"""The model in mteb's hands: the field's own tasks on sound and video, scored and stored by mteb itself.

    model, names of mteb tasks → OUT/results/NAME/FINGERPRINT/TASK.json (mteb's form), `MtebScore`s for people

Sound of any rate and length is resampled, cut into windows and padded as `EquiAV.encode` does it; of a video its
middle frame is taken, whatever its length (the field's one-frame protocol); what has both is the mean direction of
the two unit vectors. mteb's own collators need torchaudio and torchcodec: this encoder takes the stored bytes of a
dataset and decodes them as `equiav ingest` would, so it needs neither.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from typing_extensions import override

from equiav.errors import ConfigError
from equiav.media.mux import wav_file
from equiav.metrics.directions import mean_direction
from equiav.model.encode import encode

try:
    import mteb
    from datasets import Audio, Dataset, Image, Video
    from mteb.get_tasks import TASK_LIST
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ModuleNotFoundError as error:
    raise ConfigError(
        f"mteb's tasks need {error.name}, which is not installed: pip install 'equiav[mteb]' (Python 3.11 or later)"
    ) from None

if TYPE_CHECKING:
    from jaxtyping import Float32
    from mteb.abstasks.abstask import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import PromptType
    from rich.table import Table
    from torch.utils.data import DataLoader

    from equiav.model.equiav import EquiAV

STORED = {"audio": Audio(decode=False), "image": Image(decode=False), "video": Video(decode=False)}


class MtebEncoder(AbsEncoder):
    """An mteb encoder of sounds, pictures, videos, and of items that have several of them.

    Args:
        model: what embeds; it keeps its device.
        name: how mteb calls it, ORGANISATION/MODEL; its revision is the model's fingerprint, and its precision
            if that is not fp32: mteb takes results of one revision from its cache.
        on_progress: called with (items embedded, items of this part of the task, name of the task).
    """

    def __init__(
        self,
        model: EquiAV,
        name: str = "equiav/model",
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self.model = model
        self.mteb_model_meta = _meta(model, name)
        self.on_progress = on_progress

    @override
    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Float32[np.ndarray, "n E"]:
        """Unit vectors of the rows that mteb hands over.

        Raises:
            ConfigError: rows of text, or of nothing that the model embeds.
            MediaError: a row's sound or picture cannot be used.
        """
        rows: Any = inputs.dataset
        if not len(rows):
            raise ConfigError(f"{task_metadata.name}: its split {hf_split!r} has no rows, there is nothing to embed")
        columns = rows.column_names if isinstance(rows, Dataset) else list(rows[0])
        if "text" in columns:
            raise ConfigError(_no_text(task_metadata.name))
        modalities = [name for name in STORED if name in columns]
        if not modalities:
            raise ConfigError(f"{task_metadata.name}: found columns {columns}, expected some of {list(STORED)}")
        for name in modalities:
            if isinstance(rows, Dataset) and isinstance(rows.features[name], type(STORED[name])):
                rows = rows.cast_column(name, STORED[name])
        parts = []
        for batch in _batches(rows, int(kwargs.get("batch_size", 32))):
            parts.append(mean_direction(*(self._embed(name, [row[name] for row in batch]) for name in modalities)))
            if self.on_progress:
                self.on_progress(sum(map(len, parts)), len(rows), task_metadata.name)
        return np.concatenate(parts)

    def _embed(self, modality: str, items: list[Any]) -> Float32[np.ndarray, "n E"]:
        if modality == "audio":
            found = encode(self.model, audio=[_sound(item) for item in items], batch_size=len(items))
        else:
            found = encode(self.model, image=[_picture(item) for item in items], batch_size=len(items))
        assert isinstance(found, np.ndarray)  # noqa: S101  (a pair is what a video gives)
        return found


@dataclass(frozen=True)
class MtebScore:
    """One split of one task.

    Attributes:
        main: name of the task's main score.
        scores: all figures that mteb gives, the main one among them.
        file: mteb's result.
    """

    task: str
    split: str
    subset: str
    main: str
    value: float
    scores: dict[str, float]
    file: Path

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "file": str(self.file)}


def evaluate_mteb(
    model: EquiAV,
    names: Sequence[str],
    out: Path,
    *,
    name: str = "equiav/model",
    batch_size: int = 32,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[MtebScore]:
    """Run tasks of mteb, those whose result of this model lies in `out` excepted, and store their results there.

    Args:
        names: tasks by mteb's names; their data comes from the Hub or from its cache on this machine.
        out: folder of mteb's results.
        name: see `MtebEncoder`.

    Raises:
        ConfigError: no such task, a task with text, or its data cannot be had.
        MediaError: an item of a task cannot be used.
    """
    if not names:
        raise ConfigError("no task was named: see mteb's list, e.g. VGGSoundAVA2VRetrieval, VGGSoundAVV2ARetrieval")
    return run_tasks(model, [find_task(wanted) for wanted in names], out, name, batch_size, on_progress)


def run_tasks(
    model: EquiAV,
    tasks: Sequence[AbsTask],
    out: Path,
    name: str = "equiav/model",
    batch_size: int = 32,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[MtebScore]:
    """As `evaluate_mteb`, for tasks that are there already, one's own among them."""
    if wordy := [task.metadata.name for task in tasks if "text" in task.metadata.modalities]:
        raise ConfigError(_no_text(", ".join(wordy)))
    encoder: Any = MtebEncoder(model, name, on_progress)  # mteb's protocol asks for a constructor of its own
    options: Any = {"batch_size": batch_size, "show_progress_bar": False}
    cache = mteb.ResultCache(out)
    found = []
    for task in tasks:
        about = task.metadata
        try:
            results = mteb.evaluate(encoder, task, cache=cache, encode_kwargs=options, show_progress_bar=False)
        except (OSError, ImportError) as error:
            raise ConfigError(
                f"mteb could not run {about.name}: {error}. Its data is {about.dataset.get('path')} on the Hub; "
                "without a way there it must lie in the Hub's cache of this machine"
            ) from None
        file = cache.get_task_result_path(about.name, encoder.mteb_model_meta)
        for result in results.task_results:
            for split, subsets in result.scores.items():
                for one in subsets:
                    numbers = {key: float(value) for key, value in one.items() if isinstance(value, (int, float))}
                    value = numbers["main_score"]
                    found.append(MtebScore(about.name, split, one["hf_subset"], about.main_score, value, numbers, file))
    return found


def find_task(name: str) -> AbsTask:
    """A task of mteb by its name.

    Raises:
        ConfigError: there is none; the message has the nearest names.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a task is in beta is in its description
        try:
            return mteb.get_task(name)
        except KeyError:
            known = [task.metadata.name for task in TASK_LIST]
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    raise ConfigError(f"mteb {mteb.__version__} has no task {name!r}; near: {', '.join(near) or 'none'}")


def to_table(scores: Sequence[MtebScore]) -> Table:
    """For people: the main score, and of retrieval R@1 and R@10 beside it."""
    from rich.table import Table

    table = Table("task", "split", "main score", "", "R@1", "R@10", caption=str(scores[0].file.parent))
    for one in scores:
        recalls = [f"{one.scores[key]:.4f}" if key in one.scores else "" for key in ("recall_at_1", "recall_at_10")]
        part = one.split if one.subset == "default" else f"{one.split}, {one.subset}"
        table.add_row(one.task, part, one.main, f"{one.value:.4f}", *recalls)
    return table


def _meta(model: EquiAV, name: str) -> ModelMeta:
    """What mteb keeps beside its results."""
    weights = list(model.parameters())
    return ModelMeta(
        loader=None,
        name=name,
        revision=model.fingerprint() + (f"-{model.precision}" if model.precision != "fp32" else ""),
        release_date=None,
        languages=None,
        n_parameters=sum(weight.numel() for weight in weights),
        n_embedding_parameters=0,
        memory_usage_mb=sum(weight.numel() * weight.element_size() for weight in weights) / 2**20,
        max_tokens=None,
        embed_dim=model.config.architecture.embedding,
        license="apache-2.0",
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        reference="https://arxiv.org/abs/2403.09502",
        similarity_fn_name=ScoringFunction("cosine"),
        use_instructions=False,
        training_datasets=None,
        modalities=["audio", "image", "video"],
    )


def _no_text(tasks: str) -> str:
    return f"{tasks}: needs text queries, and the model has no text tower; it embeds sounds, pictures and videos"


def _batches(rows: Any, size: int) -> Iterator[list[dict[str, Any]]]:
    for first in range(0, len(rows), size):
        yield [rows[i] for i in range(first, min(first + size, len(rows)))]


def _sound(item: Any) -> Any:
    """What `encode` takes as a sound: stored bytes, a path, an array with its rate, or torchcodec's decoder."""
    if hasattr(item, "get_all_samples"):
        samples = item.get_all_samples()
        item = {"array": samples.data, "sampling_rate": samples.sample_rate}
    if isinstance(item, dict) and item.get("array") is not None:
        array, rate = np.asarray(item["array"]), item.get("sampling_rate")
        return wav_file(array.mean(axis=0) if array.ndim > 1 else array, rate and int(rate))
    return _stored(item)


def _picture(item: Any) -> Any:
    """What `encode` takes as a picture: a file's bytes or path, (H, W, 3), or the middle of frames (F, 3, H, W)."""
    if hasattr(item, "get_frame_at"):
        item = item.get_frame_at(len(item) // 2).data[None]
    if torch.is_tensor(item) or isinstance(item, np.ndarray):
        frames = np.asarray(item)
        return frames[len(frames) // 2].transpose(1, 2, 0) if frames.ndim == 4 and len(frames) else frames
    return _stored(item)


def _stored(item: Any) -> Any:
    """The bytes of a file in a dataset, or its path."""
    if not isinstance(item, dict):
        return item
    return item["path"] if item.get("bytes") is None else item["bytes"]
