"""What a run was trained on:  RUN/trained_on.json (which library, how much), RUN/trained_on.parquet (clip by clip).

    (library, split) → `TrainedOn` → a run folder → `TrainedOn`, for resuming and for whoever measures the model

The table has a row per clip: `clip_id`, `source`, `file_size`, `role` ("train"; "validation", if the best epoch was
chosen on it; "earlier", if a model that the run started from had learned from it) and, if labels were learned,
`labels`, a hash of them. Two million clips take about 60 MB on disk.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false
from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from equiav.config import Modalities, stored_modalities
from equiav.errors import TrainingError
from equiav.files import whole_file, write_text
from equiav.library.records import USABLE
from equiav.library.table import Library
from equiav.words import counted

log = logging.getLogger(__name__)

ABOUT, CLIPS = "trained_on.json", "trained_on.parquet"
VERSION = 1
OWN = ("train", "validation")  # roles of clips that the run itself reads
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("file_size", pa.int64(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("labels", pa.string()),
    ]
)


@dataclass(frozen=True, eq=False)
class TrainedOn:
    """The clips of a run.

    Attributes:
        library: absolute path of the library, as it was when the run began.
        library_fingerprint: `Library.fingerprint` at that time.
        splits: role → split of that library.
        modalities: what of a clip was looked at.
        clips: the table above, sorted by role, source and clip id.
    """

    library: str
    library_fingerprint: str
    splits: dict[str, str]
    modalities: Modalities
    clips: pa.Table

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the run itself reads: ids and roles of its clips, and their labels if it learns them."""
        # of both, the word of the first runs
        digest = hashlib.sha256(b"audio-visual" if self.modalities == "both" else self.modalities.encode())
        own = self.of(*OWN)
        for row in zip(*(own[name].to_pylist() for name in ("role", "clip_id", "labels")), strict=True):
            digest.update("|".join(map(str, row)).encode())
        return digest.hexdigest()[:16]

    @property
    def labelled(self) -> bool:
        """Whether it learns labels."""
        return not all(label is None for label in self.of("train")["labels"].to_pylist())

    @cached_property
    def clip_ids(self) -> frozenset[str]:
        """Ids of all clips, of every role."""
        return frozenset(self.clips["clip_id"].to_pylist())

    @cached_property
    def sources(self) -> frozenset[str]:
        """Files that they are windows of, as `Library` names them."""
        return frozenset(self.clips["source"].unique().to_pylist())

    def of(self, *roles: str) -> pa.Table:
        """The clips of some roles, by role and clip id."""
        own = self.clips.filter(pa.array([role in roles for role in self.clips["role"].to_pylist()], pa.bool_()))
        return own.sort_by([("role", "ascending"), ("clip_id", "ascending")])

    def save(self, run: Path) -> None:
        """Write both files, each whole or not at all, the JSON last."""
        roles = self.clips["role"].value_counts().to_pylist()
        about = {
            "schema_version": VERSION,
            "library": self.library,
            "library_fingerprint": self.library_fingerprint,
            "splits": self.splits,
            "modalities": self.modalities,
            "fingerprint": self.fingerprint,
            "clips": {row["values"]: row["counts"] for row in roles},
            "sources": len(self.sources),
            "table": CLIPS,
        }
        with whole_file(run / CLIPS, TrainingError) as beside:
            pq.write_table(self.clips, beside, compression="zstd")
        write_text(run / ABOUT, json.dumps(about, indent=1), TrainingError)


def about_to_train(
    library: Library,
    splits: Mapping[str, str],
    modalities: Modalities = "both",
    *,
    labelled: bool = False,
    start: str | None = None,
) -> TrainedOn:
    """What a run that begins now is going to be trained on.

    Args:
        splits: role ("train", "validation") → split.
        modalities: which clips of a split.
        labelled: whether their labels are learned.
        start: model folder or Hub id whose weights the run starts from: what its run was trained on counts too.
    """
    tables = [_read(library, split, modalities, role, labelled) for role, split in splits.items()]
    earlier = load_trained_on(Path(start)) if start else None
    if earlier:
        role = pa.array(["earlier"] * len(earlier.clips), pa.string())
        tables.append(earlier.clips.set_column(SCHEMA.get_field_index("role"), "role", role).cast(SCHEMA))
    clips = pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("role", "source", "clip_id")])
    path, fingerprint = str(library.path.absolute()), library.fingerprint()
    return TrainedOn(path, fingerprint, dict(splits), modalities, clips)


def check_clips(run: Path, begun: TrainedOn, now: TrainedOn) -> None:
    """A run goes on with the clips that it began with: all of them must be there; what was added is left out.

    Raises:
        TrainingError: clips were removed from the split or, where labels are learned, relabelled; says how many, and
            what to do.
    """
    for role, split in begun.splits.items():
        before, after = (
            dict(zip(own["clip_id"].to_pylist(), own["labels"].to_pylist(), strict=True))
            for own in (begun.of(role), now.of(role))
        )
        differ = {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "relabelled": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        }
        lost = differ["removed"] or differ["relabelled"]
        found = ", ".join(f"{len(ids)} {what}" for what, ids in differ.items() if ids)
        n = len(before)
        if len(differ["removed"]) == n:
            raise TrainingError(
                f"{run} was begun on another library, {begun.library}: none of its {counted(n, 'clip')} "
                f"is in split {split!r} of {now.library}. Give that library, or begin another run: another --run folder"
            )
        if lost:
            source = begun.clips["source"][begun.clips["clip_id"].to_pylist().index(lost[0])].as_py()
            raise TrainingError(
                f"{now.library} is not what {run} was begun on: of the {counted(n, 'clip')} of its split {split!r}, "
                f"{found} since then, e.g. clip {lost[0]} of {source}. Bring these clips back as they were, "
                "or begin another run: another --run folder"
            )
        if found:
            log.warning(
                "%s: %s to split %r since %s was begun; it goes on with the %d clips that it began with. To train on "
                "all of them begin another run: another --run folder",
                *(now.library, found, split, run, n),
            )


def load_trained_on(folder: Path) -> TrainedOn | None:
    """What the run in `folder` (or whose `model` folder this is) was trained on; None where that is not known.

    Raises:
        TrainingError: the files are damaged, or of another version.
    """
    run = next((place for place in (folder, folder.parent) if (place / ABOUT).is_file()), None)
    if run is None or (run != folder and folder.name != "model"):
        return None
    try:
        about = json.loads((run / ABOUT).read_text(encoding="utf-8"))
        if about["schema_version"] != VERSION:
            raise TrainingError(
                f"{run / ABOUT} has version {about['schema_version']}; this equiav reads {VERSION}: use the equiav "
                "that the run was made with"
            )
        clips = pq.read_table(run / CLIPS, schema=SCHEMA)
        found = TrainedOn(
            about["library"], about["library_fingerprint"], about["splits"], stored_modalities(about), clips
        )
        kept = about["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise TrainingError(f"{run}: what it was trained on cannot be read ({ABOUT}, {CLIPS}): {error}") from None
    if found.fingerprint != kept:
        raise TrainingError(
            f"{run}: {CLIPS} is not the table that {ABOUT} was written with: {kept} expected, found {found.fingerprint}"
        )
    return found


def _read(library: Library, split: str, modalities: Modalities, role: str, labelled: bool) -> pa.Table:
    columns = ["clip_id", "source", "file_size", *["labels"] * labelled]
    table = library.clips(split, columns, USABLE[modalities])
    labels: list[str | None] = [None] * len(table)
    if labelled:
        # they change with any label, whatever their order
        digests = (hashlib.sha256(json.dumps(sorted(own)).encode()) for own in table["labels"].to_pylist())
        labels = [digest.hexdigest()[:16] for digest in digests]
    found = {name: table[name] for name in ("clip_id", "source", "file_size")}
    return pa.table({**found, "role": [role] * len(table), "labels": pa.array(labels, pa.string())}, schema=SCHEMA)
