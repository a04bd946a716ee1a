"""The demo's page: summary, losses, retrieval, queries with their hits -> one self-contained HTML text.

Nothing is fetched: pictures, spectrograms and sounds are inlined, the curves are SVG in the page's own colours, so
that the file can be mailed, archived, printed, and read in light and in dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup
from PIL import Image

from equiav._version import __version__
from equiav.diagnose.plots import Panel, Series, panels
from equiav.errors import ConfigError
from equiav.evaluate.metrics import Estimate, RetrievalReport, RetrievalResult
from equiav.pages import render

if TYPE_CHECKING:
    from jaxtyping import Float


LOSS_NAMES = {
    "loss": "total",
    "loss_inter": "sound and picture agree",
    "loss_intra_audio": "sound: transformation predicted",
    "loss_intra_visual": "picture: transformation predicted",
}
# Shown as natural-log mel energies below the loudest cell: quieter is the colour map's floor
DYNAMIC_RANGE = 10.0
SPECTROGRAM_SIZE = (288, 96)


@dataclass(frozen=True)
class ClipShown:
    """A clip as the page shows it; `log_mel` is raw (T, M), `audio` any file that a browser plays."""

    clip_id: str
    source: str
    start_s: float
    end_s: float
    labels: Sequence[str]
    thumbnail: bytes
    log_mel: Float[np.ndarray, "T M"] | None = None
    audio: bytes | None = None
    score: float | None = None


@dataclass(frozen=True)
class QueryShown:
    """What was asked and what was found, best hit first; `rank` is where the query's own partner came."""

    kind: Literal["sound", "picture"]
    clip: ClipShown
    hits: Sequence[ClipShown]
    rank: float | None = None


@dataclass(frozen=True)
class _Figure:
    """One figure of the retrieval table, in both directions."""

    name: str
    meaning: str
    cells: list[_Cell] = field(default_factory=list)


@dataclass(frozen=True)
class _Cell:
    value: str
    interval: str
    chance: str
    # places on a 0–100 bar, None for figures that are no share
    bar: tuple[float, float, float, float] | None


def demo_page(
    *,
    title: str,
    summary: Sequence[str],
    metrics: Sequence[Mapping[str, Any]],
    retrieval: RetrievalReport | None,
    queries: Sequence[QueryShown],
    commands: Sequence[str],
) -> str:
    """The page as HTML text.

    Args:
        title: heading.
        summary: paragraphs of plain text below it.
        metrics: rows of metrics.jsonl.
        retrieval: the measured retrieval; None leaves the section out.
        queries: searches to show.
        commands: shell lines that lead to this page.
    """
    return render(
        "demo.html.jinja",
        {"picture": picture_uri, "spectrogram": spectrogram_uri, "sound": sound_uri},
        title=title,
        summary=summary,
        commands=commands,
        curves=loss_curves(metrics) if metrics else "",
        figures=_figures(retrieval) if retrieval else [],
        retrieval=retrieval,
        queries=queries,
        version=__version__,
    )


def loss_curves(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """An inline SVG of every loss over the epochs."""
    names = [name for name in rows[-1] if name.startswith("loss")]
    if not names:
        raise ConfigError(f"rows of metrics.jsonl hold no loss, only {', '.join(rows[-1])}")
    epochs = [row["epoch"] for row in rows]
    series = [
        Series(
            LOSS_NAMES.get(name, name.removeprefix("loss_").replace("_", " ")),
            epochs,
            [row.get(name, math.nan) for row in rows],
        )
        for name in names
    ]
    return panels([Panel("", "epoch", "loss", series)])


def spectrogram_uri(log_mel: Float[np.ndarray, "T M"]) -> str:
    """A small PNG of a log-mel as data URI: time to the right, low at the bottom, magma from quiet to loud."""
    from matplotlib import colormaps

    mel = np.asarray(log_mel, dtype=np.float32)
    if mel.ndim != 2 or not np.isfinite(mel).all():
        raise ConfigError(f"a spectrogram is a finite (T, M) array, found shape {mel.shape}")
    # clips shorter than the window end in exact zeros, which would read as loud
    sounding = np.flatnonzero(mel.any(axis=1))
    mel = mel[: sounding[-1] + 1] if len(sounding) else mel
    shade = np.clip((mel - mel.max()) / DYNAMIC_RANGE + 1, 0, 1)
    image = Image.fromarray(np.round(255 * shade.T[::-1]).astype(np.uint8))
    image = image.resize(SPECTROGRAM_SIZE, Image.Resampling.BOX if mel.shape[0] > 288 else Image.Resampling.BICUBIC)
    palette = np.round(255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    image = image.convert("L")
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def picture_uri(data: bytes) -> str:
    """A JPEG or PNG as data URI."""
    if data.startswith(b"\x89PNG"):
        return _data_uri("image/png", data)
    if data.startswith(b"\xff\xd8"):
        return _data_uri("image/jpeg", data)
    raise ConfigError(f"a thumbnail is a JPEG or PNG file, found bytes that start with {data[:8]!r}")


def sound_uri(data: bytes) -> str:
    """A WAV, Ogg, FLAC, MP3 or MP4 sound as data URI."""
    kinds = {b"RIFF": "audio/wav", b"OggS": "audio/ogg", b"fLaC": "audio/flac", b"ID3": "audio/mpeg"}
    kind = next((kind for start, kind in kinds.items() if data.startswith(start)), "audio/mp4")
    return _data_uri(kind, data)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _figures(report: RetrievalReport) -> list[_Figure]:
    """Rows of the retrieval table; shares are shown as per cent with a bar, ranks as numbers."""
    directions = (report.audio_to_visual, report.visual_to_audio)
    shares = {
        "recall_at_1": ("R@1", "the right one comes first"),
        "recall_at_5": ("R@5", "it is among the first 5"),
        "recall_at_10": ("R@10", "it is among the first 10"),
        "mean_reciprocal_rank": ("MRR", "mean of 1 / rank"),
        "ndcg_at_10": ("nDCG@10", "gain discounted by rank"),
    }
    figures = [
        _Figure(name, meaning, [_share(getattr(result, key)) for result in directions])
        for key, (name, meaning) in shares.items()
    ]
    ranks = [_rank(result.median_rank) for result in directions]
    figures.insert(3, _Figure("median rank", f"of {report.clips}; 1 is best", ranks))
    return figures + _class_figures(directions)


def _class_figures(directions: tuple[RetrievalResult, RetrievalResult]) -> list[_Figure]:
    levels = [result.class_level_others for result in directions]
    if not all(levels):
        return []
    names = {
        "precision_at_1": ("class P@1", "the first clip of another source is of the same class"),
        "precision_at_10": ("class P@10", "share of the first 10 of other sources that are of it"),
        "mean_average_precision": ("class mAP", "same class ranked before the rest, own source left out"),
    }
    return [
        _Figure(name, meaning, [_share(getattr(level, key)) for level in levels])
        for key, (name, meaning) in names.items()
    ]


def _share(figure: Estimate) -> _Cell:
    value, chance = 100 * figure.value, 100 * figure.chance
    if figure.low is None or figure.high is None:
        return _Cell(f"{value:.1f} %", "no interval", f"{chance:.1f} %", None)
    low, high = 100 * figure.low, 100 * figure.high
    return _Cell(f"{value:.1f} %", f"{low:.1f} – {high:.1f}", f"{chance:.1f} %", (value, low, high, chance))


def _rank(figure: Estimate) -> _Cell:
    known = figure.low is not None and figure.high is not None
    interval = f"{figure.low:g} – {figure.high:g}" if known else "no interval"
    return _Cell(f"{figure.value:g}", interval, f"{figure.chance:g}", None)
