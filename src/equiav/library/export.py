"""Clips of a library for other programs, and for ingest again:  library → a list, WebDataset tars, or CAV-MAE's files.

Lists name the files that the clips came from. The others hold the clips: the stored frames, and the sound, decoded anew
from its source (a library keeps spectrograms) at the library's sample rate.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from equiav.errors import ConfigError, LibraryError, MediaError
from equiav.files import whole_file, write_text
from equiav.library.datasets import LABEL_MAP
from equiav.library.items import Item, files_of
from equiav.library.manifests import read_source
from equiav.library.pieces import as_one_file
from equiav.library.table import Library
from equiav.library.windows import stamp_of
from equiav.media.decode import decode_audio
from equiav.media.mux import wav_file
from equiav.media.sandbox import Sandbox

Kind = Literal["csv", "jsonl", "webdataset", "cav"]
Progress = Callable[[int, int, str], None]

COLUMNS = ["clip_id", "source", "start_s", "end_s", "labels", "split", "file_size", "file_mtime_ns"]
LIST_COLUMNS: tuple[str, ...] = ("path", "labels", "split", "start_s", "end_s")
SHARD_CLIPS = 1000
AT_ONCE = 64  # clips in memory
LIMIT_S = 300.0

Row = dict[str, Any]
Wanted = tuple[Row, int]  # whose sound, at which sample rate
WithMedia = tuple[Row, bytes, list[bytes]]  # a row, its sound as WAV and its frames


@dataclass(frozen=True)
class LeftOut:
    """A clip that is not in an export, and why."""

    clip_id: str
    source: str
    reason: str
    detail: str


@dataclass
class ExportReport:
    """What was written."""

    out: Path
    clips: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


def export_clips(
    library: Library,
    out: Path,
    kind: Kind,
    *,
    split: str | None = None,
    workers: int = 1,
    on_progress: Progress | None = None,
) -> ExportReport:
    """Write the clips with sound and picture, of one split or all, ordered by source and time.

    Args:
        library: where from.
        out: a new file (csv, jsonl) or folder (webdataset, cav).
        kind: csv and jsonl name windows of the source files; webdataset and cav hold sound and frames.
        split: which clips.
        workers: processes that decode sound.
        on_progress: called with (clips done, clips, note).

    Raises:
        ConfigError: `out` is there already, or there is nothing to write.
        LibraryError: it cannot be written.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; name a new file or folder")
    positions = library.positions(split).tolist()
    rows = list(zip(positions, library.take(positions, COLUMNS).to_pylist(), strict=True))
    if not rows:
        raise ConfigError(f"{library.path}: split {split!r} has no clips with sound and picture to export")
    rows.sort(key=lambda entry: (entry[1]["source"], entry[1]["start_s"], entry[1]["clip_id"]))
    report = ExportReport(out)
    try:
        if kind in ("csv", "jsonl"):
            _write_list(out, kind, [row for _, row in rows], report)
            return report
        out.mkdir(parents=True, exist_ok=True)
        whole = _with_media(library, rows, workers, report, on_progress)
        _write_tars(out, whole) if kind == "webdataset" else _write_cav(out, whole)
    except OSError as error:
        raise LibraryError(f"{out} cannot be written: {error.strerror or error}") from None
    return report


def _write_list(out: Path, kind: Kind, rows: list[Row], report: ExportReport) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out, LibraryError) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, LIST_COLUMNS)
        if kind == "csv":
            table.writeheader()
        for row in rows:
            fault = _unlistable(row, kind)
            if fault:
                report.left_out.append(LeftOut(row["clip_id"], row["source"], *fault))
                continue
            line = {"path": row["source"]} | {name: row[name] for name in LIST_COLUMNS[1:]}
            if kind == "csv":
                table.writerow(line | {"labels": ";".join(row["labels"])})
            else:
                file.write(json.dumps(line) + "\n")
            report.clips += 1


def _unlistable(row: Row, kind: Kind) -> tuple[str, str] | None:
    path, part = next(files_of(row["source"]), (None, ""))
    if path is None:
        return "missing", f"there is no file {row['source']}"
    if part:
        return "unsupported", "it lies in a tar or in pieces, no list can name it: export as webdataset or cav"
    if stamp_of(path) != (row["file_size"], row["file_mtime_ns"]):
        return "changed", f"{path} is another file than the one ingested; ingest again"
    if kind == "csv" and any(";" in label for label in row["labels"]):
        return "unsupported", "a label holds ';', which divides labels: export as jsonl"
    return None


def _with_media(
    library: Library, rows: list[tuple[int, Row]], workers: int, report: ExportReport, on_progress: Progress | None
) -> Iterator[WithMedia]:
    """Each row with its media; what has lost its sound goes into the report."""
    with Sandbox(_read_sound, workers, LIMIT_S) as sandbox:
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            frames = library.take([position for position, _ in part], ["frames"])["frames"].to_pylist()
            sounds = _read_sounds(sandbox, [(row, library.features.sample_rate) for _, row in part])
            for (_, row), sound, pictures in zip(part, sounds, frames, strict=True):
                if isinstance(sound, MediaError):
                    report.left_out.append(LeftOut(row["clip_id"], row["source"], sound.reason, sound.detail))
                    continue
                report.clips += 1
                yield row, sound, pictures
            if on_progress:
                left_out = len(report.left_out)
                on_progress(first + len(part), len(rows), f"{left_out} left out" if left_out else "")


def _read_sounds(sandbox: Sandbox[Wanted, bytes], wanted: list[Wanted]) -> list[bytes | MediaError]:
    """The sounds in the order asked."""
    done = {row["clip_id"]: result for (row, _), result in sandbox.run(wanted)}
    return [done[row["clip_id"]] for row, _ in wanted]


def _read_sound(wanted: Wanted) -> bytes:
    row, rate = wanted
    item = _find(row["source"])
    # of a clip in pieces the sound alone is read: the stamp is of all its files
    if not row["source"].endswith("#frames") and stamp_of(item.path) != (row["file_size"], row["file_mtime_ns"]):
        raise MediaError("changed", f"{item.path} is another file than the one ingested; ingest again")
    with as_one_file(item) as (path, _):
        return wav_file(decode_audio(path, row["start_s"], row["end_s"], rate), rate)


def _find(source: str) -> Item:
    """The item of a row's `source`."""
    if "://" in source:  # the processes that decode have no keys of a store
        raise MediaError("unreadable", f"{source} is on an object store; exports read the media of this machine")
    for path, part in files_of(source):
        item = Item(path) if part in ("", "frames") else _samples(str(path)).get(source)
        if item:
            return item
    raise MediaError("missing", f"there is no {source}")


@lru_cache(maxsize=2)
def _samples(tar: str) -> dict[str, Item]:
    try:
        return {item.source: item for item in read_source(Path(tar)).items if item.members}
    except ConfigError as error:
        raise MediaError("not_media", str(error)) from None


def _write_tars(out: Path, clips: Iterator[WithMedia]) -> None:
    """`clips-000000.tar`, …: ID.wav, ID.0.jpg, …, ID.json."""
    clip, number = next(clips, None), 0
    while clip is not None:
        with whole_file(out / f"clips-{number:06d}.tar", LibraryError) as beside, tarfile.open(beside, "w") as tar:
            for _ in range(SHARD_CLIPS):
                row, sound, frames = clip
                name = row["clip_id"]
                members = {f"{name}.wav": sound} | {f"{name}.{i}.jpg": frame for i, frame in enumerate(frames)}
                about = {key: row[key] for key in ("labels", "split", "source", "start_s", "end_s")}
                members[f"{name}.json"] = json.dumps(about).encode()
                for member, data in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                if (clip := next(clips, None)) is None:
                    break
        number += 1


def _write_cav(out: Path, clips: Iterator[WithMedia]) -> None:
    """`SPLIT.json` with `wav/ID.wav` and `frame_i/ID.jpg`; labels as mids of `class_labels_indices.csv`."""
    entries: dict[str, list[Row]] = {}
    mids: dict[str, str] = {}
    for row, sound, frames in clips:
        name = row["clip_id"]
        for i, data in enumerate([sound, *frames]):
            path = out / (f"frame_{i - 1}/{name}.jpg" if i else f"wav/{name}.wav")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        labels = [mids.setdefault(label, f"/m/label{len(mids):05d}") for label in row["labels"]]
        entries.setdefault(row["split"], []).append(
            {
                "video_id": name,
                "wav": str((out / f"wav/{name}.wav").absolute()),
                "video_path": str(out.absolute()),
                "labels": ",".join(labels),
                "split": row["split"],
            }
        )
    if mids:
        with (
            whole_file(out / LABEL_MAP, LibraryError) as beside,
            beside.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerows([("index", "mid", "display_name"), *((i, mids[name], name) for i, name in enumerate(mids))])
    names: set[str] = set()
    for split, data in entries.items():
        name = plain = re.sub(r"[^\w.-]", "_", split) or "_"
        while name in names:
            name = f"{plain}-{len(names)}"
        names.add(name)
        write_text(out / f"{name}.json", json.dumps({"data": data}, indent=1), LibraryError)
