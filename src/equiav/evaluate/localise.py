"""Where in the picture is the sound? A library and a model → maps over the frames, and how well they meet known boxes.

A map is the cosine between the sound's embedding and each patch token by itself, taken through the final LayerNorm and
the inter-modal head that the picture's own embedding passes. That embedding is a centroid: what the predictor makes of
all tokens together, and no mean over something that each token has alone. No loss ever saw the head of a single token,
so the map is a probe of the tokens and no decomposition of the similarity (docs/evaluation.md has what other choices
gave). It lies on the centre square that the model sees; outside it nothing is predicted, though boxes there count.

- pointing: the map's largest value lies in a box (Zhang et al. 2018); of several equal ones, the share that does;
- cIoU@0.5: the map, scaled to [0, 1] and cut at 0.5, and the union of the boxes have an IoU of at least 0.5
  (Senocak et al. 2018, with every annotator agreeing);
- AUC: area under the share of clips whose IoU reaches 0, 0.05, … 1.

B batch · G rows and columns of patches · N = G² tokens · E embedding width · H, W frame
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from equiav.augment.visual import normalise
from equiav.config import check_features
from equiav.errors import ConfigError, LibraryError
from equiav.evaluate.boxes import Boxes, mask
from equiav.evaluate.gallery import rows_by_id, sources_of
from equiav.evaluate.leaks import seen_in_training
from equiav.evaluate.results import Result, about
from equiav.library.loader import ClipLoader
from equiav.metrics.figures import Figure, figure_table, mean_figures, seen_warning, source_warning
from equiav.metrics.sources import another
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.words import counted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, UInt8
    from rich.table import Table

    from equiav.evaluate.boxes import Box
    from equiav.library.loader import Batch
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.trained_on import TrainedOn

BATCH = 32
SHOWN = 24  # clips on the page
STEPS = np.arange(21) / 20  # thresholds of the AUC; linspace is above 3/20, 6/20 and others by a rounding
GAUSSIAN = 0.25  # deviation of the centre's Gaussian, of the square's side
KINDS = {
    "own_sound": "the clip's own sound",
    "other_sound": "another clip's sound",
    "picture": "no sound: the picture's own embedding",
    "centre": "no model: a Gaussian around the centre",
}
MEASURES = {"pointing": "pointing", "ciou": "cIoU@0.5", "auc": "AUC"}
PROTOCOL = "cosine of the sound's embedding with each patch token of the middle frame; min-max scaled, cut at 0.5"


@dataclass(frozen=True)
class ShownClip:
    """One clip for the page: its frame, its maps (NaN outside the square), its boxes."""

    source: str
    labels: list[str]
    frame: UInt8[np.ndarray, "H W 3"]
    maps: dict[str, Float32[np.ndarray, "H W"]]
    boxes: list[Box]


@dataclass
class Localisation:
    """What was found on a split.

    Attributes:
        scores: kind of map → measure → one value per clip with boxes, in the order of `ids`.
        sources: a number for each of these clips, equal where two are of one source.
        trained_on: of them, those of sources that the model was trained on; None where that is unknown.
        covered: share of each of these frames that lies in boxes: what a random point would score.
    """

    split: str
    clips: int
    ids: list[str] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    covered: list[float] = field(default_factory=list)
    scores: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: {kind: {name: [] for name in MEASURES} for kind in KINDS}
    )
    shown: list[ShownClip] = field(default_factory=list)
    trained_on: int | None = None

    def per_clip(self) -> dict[str, list[float]]:
        """`kind.measure` → one value per clip with boxes."""
        return {f"{kind}.{name}": values for kind, row in self.scores.items() for name, values in row.items()}

    def figures(self) -> dict[str, Figure]:
        """Means with 95 % bootstrap intervals, and what the own sound adds to another clip's, pair by pair."""
        if not self.ids:
            return {}
        columns = self.per_clip()
        for name in MEASURES:
            own, other = (np.array(self.scores[kind][name]) for kind in ("own_sound", "other_sound"))
            columns[f"own_minus_other.{name}"] = (own - other).tolist()
        columns["random_point.pointing"] = self.covered
        return mean_figures(columns, np.array(self.sources))

    @property
    def warnings(self) -> list[str]:
        """What makes the figures easier than they look, or their intervals less sure."""
        return source_warning(len(set(self.sources))) + seen_warning(self.trained_on, len(self.ids))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: asdict(found) for name, found in self.figures().items()}
        counts = {"clips": self.clips, "clips_with_boxes": len(self.ids), "sources": len(set(self.sources))}
        caveats = {"trained_on": self.trained_on, "warnings": self.warnings}
        return {"split": self.split, **counts, "figures": figures, **caveats}

    def to_table(self) -> Table:
        """For people."""
        verb = "has" if self.clips == 1 else "have"
        title = f"localisation on split {self.split!r}: {len(self.ids)} of {counted(self.clips, 'clip')} {verb} boxes"
        measures = (f"{name} %" for name in MEASURES.values())
        table = figure_table("map", *measures, title=title, warnings=self.warnings)
        for name, cells in self.rows():
            table.add_row(name, *cells)
        return table

    def rows(self) -> list[tuple[str, list[str]]]:
        """What each row of a table says: percent, with intervals; empty where a map has no such measure."""
        figures = self.figures()
        names = {**KINDS, "own_minus_other": "own minus another's sound, paired", "random_point": "a random point"}
        shown = {name: found.text(100, ".1f") for name, found in figures.items()}
        return [
            (text, [shown.get(f"{kind}.{measure}", "") for measure in MEASURES])
            for kind, text in names.items()
            if figures
        ]


def localise(
    library: Library,
    model: EquiAV,
    boxes: Boxes | None = None,
    *,
    split: str = "test",
    learned: TrainedOn | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Localisation:
    """Map every clip of a split, hold the maps against the boxes, and keep some clips to be shown.

    Args:
        boxes: without them there are maps and no figures.
        learned: what the model's run was trained on: which of the clips with boxes it knows is counted.
        seed: of which other clip's sound a picture is asked with; it is of another source, where there is one.

    Raises:
        LibraryError: fewer than two clips, or features other than the model's.
        ConfigError: the boxes are of no clip of the split.
        ModelError: NaN or infinite embeddings.
    """
    check_features(library.features, model.config.features, library.path)
    rows = rows_by_id(library, split)
    loader = ClipLoader(library, split, BATCH, frame="middle", shuffle=False, drop_last=False, rows=rows)
    sounds = np.concatenate([embed_log_mels(model, batch.audio) for batch in loader.epoch(0)])
    if len(sounds) < 2:
        raise LibraryError(f"{library.path}: split {split!r} has one clip, no other clip's sound to compare with")
    sources = sources_of(library, rows)
    others = sounds[another(sources, np.random.default_rng(seed).permutation(len(sounds)))]
    found = Localisation(split, len(sounds))
    chosen = set(np.linspace(0, len(sounds) - 1, min(SHOWN, len(sounds))).round().astype(int).tolist())
    done = 0
    for batch in loader.epoch(0):
        part = slice(done, done + len(batch.clip_ids))
        for clip_id, clip in zip(
            batch.clip_ids, _mapped(library, model, batch, boxes, sounds[part], others[part]), strict=True
        ):
            if clip.boxes:
                _score(found, clip_id, clip)
                found.sources.append(int(sources[done]))
            if done in chosen:
                found.shown.append(clip)
            done += 1
        if on_progress:
            on_progress(done, len(sounds))
    if boxes is not None and not found.ids:
        raise ConfigError(
            f"{boxes.path} has boxes of none of the {counted(done, 'clip')} of split {split!r}, "
            f"e.g. {found.shown[0].source}: "
            "its paths count from its own folder, its times must be near the clips' middle frames"
        )
    found.trained_on = seen_in_training(library, found.ids, learned)
    return found


def localisation_result(
    found: Localisation, library: Library, model: EquiAV, *, seed: int = 0, run: Path | None = None
) -> Result:
    """The figures as a result that can be stored and compared."""
    return Result(
        evaluation="localise",
        about=about(model, library, found.split, protocol=PROTOCOL, seed=seed, run=run),
        figures=found.figures(),
        items=found.ids,
        sources=found.sources,
        per_item=found.per_clip(),
        details={"clips": found.clips, "clips_with_boxes": len(found.ids), "trained_on": found.trained_on},
    )


@torch.inference_mode()
def _mapped(
    library: Library,
    model: EquiAV,
    batch: Batch,
    boxes: Boxes | None,
    own: Float32[np.ndarray, "B E"],
    others: Float32[np.ndarray, "B E"],
) -> Iterator[ShownClip]:
    """The clips of a batch with their maps."""
    device = model.device
    square = model.visual_space.plain(batch.frames.to(device), batch.sizes.to(device))
    with model.computing():
        tokens = model.visual_tower.embed_tokens(normalise(square)).cpu().numpy()
    asked = {"own_sound": own, "other_sound": others, "picture": embed_pictures(model, batch.frames, batch.sizes)}
    about_clips = library.take(batch.indices.tolist(), ["source", "frame_times_s"]).to_pylist()
    grid = model.visual_tower.encoder.grid
    for i, (clip, (height, width)) in enumerate(zip(about_clips, batch.sizes.tolist(), strict=True)):
        times = clip["frame_times_s"]
        known = boxes.at(clip["source"], times[len(times) // 2]) if boxes else []
        maps = {kind: on_frame((tokens[i] @ x[i]).reshape(grid), height, width) for kind, x in asked.items()}
        maps["centre"] = on_frame(centre_gaussian(grid), height, width)
        frame = batch.frames[i, :, :height, :width].permute(1, 2, 0).numpy()
        yield ShownClip(clip["source"], batch.labels[i], frame, maps, known)


def on_frame(values: Float[np.ndarray, "G G"], height: int, width: int) -> Float32[np.ndarray, "H W"]:
    """A map of tokens, bilinear on the frame's centre square; NaN outside it."""
    side = min(height, width)
    whole = np.full((height, width), np.nan, dtype=np.float32)
    top, left = (height - side) // 2, (width - side) // 2
    grid = torch.from_numpy(np.asarray(values, dtype=np.float32))[None, None]
    smooth = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
    whole[top : top + side, left : left + side] = smooth[0, 0].numpy()
    return whole


def centre_gaussian(grid: tuple[int, int]) -> Float64[np.ndarray, "G G"]:
    """The yardstick of a model that looks at nothing: things are in the middle."""
    down, across = ((np.arange(size) + 0.5) / size - 0.5 for size in grid)
    return np.exp(-(down[:, None] ** 2 + across**2) / (2 * GAUSSIAN**2))


def scores(values: Float32[np.ndarray, "H W"], inside: Bool[np.ndarray, "H W"]) -> dict[str, float]:
    """The measures of one map against the pixels in boxes; a flat map predicts the whole square."""
    low, high = np.nanmin(values), np.nanmax(values)
    predicted = values >= (low + high) / 2
    iou = (predicted & inside).sum() / (predicted | inside).sum()
    reached = (iou >= STEPS).astype(np.float64)
    area = float(((reached[1:] + reached[:-1]) / 2 * np.diff(STEPS)).sum())
    return {"pointing": float(inside[values == high].mean()), "ciou": float(iou >= 0.5), "auc": area}


def _score(found: Localisation, clip_id: str, clip: ShownClip) -> None:
    inside = mask(clip.boxes, *clip.frame.shape[:2])
    found.ids.append(clip_id)
    found.covered.append(float(inside.mean()))
    for kind, values in clip.maps.items():
        for name, value in scores(values, inside).items():
            found.scores[kind][name].append(value)
