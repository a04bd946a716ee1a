"""What clients send and get; the OpenAPI is made from it."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from equiav.config import Modalities
from equiav.library.records import HAS
from equiav.serve.decoding import UseAs

Word = Annotated[str, Field(max_length=500)]
Words = Annotated[list[Word], Field(max_length=50)]
ClipId = Annotated[str, Field(min_length=1, max_length=200)]
Real = Annotated[float, Field(allow_inf_nan=False)]
LABELS = 200  # of a library, that are named
RUN = "Name of a run; the first one that is served, if none is named."


class FileOptions(BaseModel):
    """What goes with a file."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    use_as: UseAs = Field(
        "auto", alias="as", description="auto: what the file has, sound, picture or both; else that of it alone."
    )
    run: Word | None = Field(None, description=RUN)


class Where(BaseModel):
    """Which clips are meant."""

    model_config = ConfigDict(extra="forbid")

    labels: Words = Field([], description="Find clips with one of these labels.")
    sources: Words = Field([], description="Find clips of files whose path or name matches: `dog*.mp4`, `pets/*`.")
    split: Word | None = Field(None, description="Find clips of this split.")
    start_s: Real | None = Field(None, description="Find clips that end after this second of their file.")
    end_s: Real | None = Field(None, description="Find clips that begin before this second of their file.")


class Filters(Where):
    """Which clips may be found, and how many."""

    by: Modalities | None = Field(
        None, description="Compare with the clips' sounds, pictures or both; default: the other one, of both both."
    )
    k: int = Field(5, ge=1, le=1000, description="Number of hits.")
    offset: int = Field(0, ge=0, le=100_000, description="Leave out so many of the first hits.")
    min_score: Real | None = Field(None, description="Leave out hits that score less.")
    group_by: Literal["source"] | None = Field(None, description="source: of each file its best clip alone.")
    exclude: Annotated[list[ClipId], Field(max_length=1000)] = Field([], description="Ids of clips not to be found.")

    def of_search(self) -> dict[str, Any]:
        """As arguments of `SearchIndex.search`, but `by`."""
        return self.model_dump(include=set(Filters.model_fields) - {"by"})


class FileQuery(Filters, FileOptions):
    """A search by a file."""


class JsonQuery(Filters):
    """A search by a clip of the library or by a vector: one of the two."""

    clip: ClipId | None = Field(None, description="Id of a clip.")
    vector: list[Real] | None = Field(None, min_length=1, max_length=16_384, description="An embedding.")
    vector_of: Modalities = Field("both", description="What the vector was made from.")
    run: Word | None = Field(None, description=RUN)


class OnePage(BaseModel):
    """A part of a list."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(0, ge=0, le=1_000_000_000, description="Leave out so many of the first ones.")
    k: int = Field(50, ge=1, le=200, description="So many at most.")


class ClipsQuery(OnePage, Where):
    """Clips of the library."""


class RejectsQuery(OnePage):
    """What gave no clip."""

    reason: Word | None = Field(None, description="For this reason alone.")


class Run(BaseModel):
    """A model that is served."""

    name: str
    fingerprint: str
    width: int = Field(description="E, of its vectors.")
    clip_s: float = Field(description="Length of its windows, in seconds.")
    clips: int = Field(description="Clips of the library.")
    not_embedded: int = Field(description="Those of them that cannot be found yet.")


class Runs(BaseModel):
    """All of them, the default one first."""

    runs: list[Run]


class MapQuery(BaseModel):
    """Which vectors are mapped."""

    model_config = ConfigDict(extra="forbid")

    of: Modalities = Field("both", description="Vectors of sounds, of pictures, or the mean of what a clip has.")


class Point(BaseModel):
    """A clip on the map."""

    clip_id: str
    x: float
    y: float
    label: str | None = Field(description="Its first one.")
    source: str
    start_s: float
    end_s: float


class Map(BaseModel):
    """Clips in the plane in which their vectors differ most."""

    of: Modalities
    explained: tuple[float, float] = Field(description="Share of the variance along x and y.")
    clips: int = Field(description="On the map: of many, some that are spread evenly over their ids.")
    points: list[Point]


class ReportState(str, Enum):
    """Whether a report may be believed."""

    CURRENT = "current"
    STALE = "stale"
    DAMAGED = "damaged"


STATE = "stale: measured with other weights than are served; damaged: the file cannot be read, and nothing is shown."


class NamedFigure(BaseModel):
    """A figure with its 95 % interval over sources."""

    name: str
    way: str | None = Field(default=None, description="Of retrieval: audio_to_visual or visual_to_audio.")
    value: Real
    low: Real | None = None
    high: Real | None = None
    chance: Real | None = Field(default=None, description="Its expected value for a random order.")
    n: int | None = Field(default=None, description="Clips or queries.")


class Retrieval(BaseModel):
    """Whether a sound finds its own picture, and a picture its own sound."""

    state: ReportState = Field(default=ReportState.CURRENT, description=STATE)
    split: str | None = None
    clips: int | None = None
    protocol: str | None = None
    figures: list[NamedFigure] = []
    warnings: list[str] = []


class Displacement(BaseModel):
    """How well the predictor knows what a transformation does."""

    modality: str
    question: str = Field(description="alone, in context, all together.")
    transform: str
    cosine: NamedFigure | None = Field(description="Of predicted and true displacement: 1 right, 0 no prediction.")
    beats_all: bool | None = Field(description="Whether it is above every yardstick, beyond the interval.")


class Equivariance(BaseModel):
    """The equivariance report."""

    state: ReportState = Field(default=ReportState.CURRENT, description=STATE)
    split: str | None = None
    clips: int | None = None
    figures: list[NamedFigure] = []
    transforms: list[Displacement] = []
    alarms: dict[str, str] = Field(default={}, description="Measures that are out of bounds, each with a sentence.")
    warnings: list[str] = []


class Report(BaseModel):
    """What was measured of a run; null for what was not."""

    retrieval: Retrieval | None
    equivariance: Equivariance | None


class Embedding(BaseModel):
    """Unit vectors of a file; null for what it does not have."""

    run: str
    fingerprint: str = Field(description="Of the model: vectors of other models cannot be compared.")
    kind: Modalities
    windows: int
    audio: list[float] | None
    visual: list[float] | None


class FoundClip(BaseModel):
    """A clip of a ranking."""

    clip_id: str
    source: str = Field(description="The file, from the folder on that was ingested.")
    start_s: float
    end_s: float
    frame_s: float | None = Field(description="When the picture that it is embedded by is shown.")
    labels: list[str]
    split: str
    score: float
    percentile: float | None = Field(description="Percent of the library's pairs of clips that score less.")
    thumbnail: str = Field(description="Where its picture is.")
    spectrogram: str | None = Field(description="Where a picture of its sound is; null where it has none.")
    media: str = Field(description="Where its file is.")


class Ranking(BaseModel):
    """Hits, best first."""

    run: str
    kind: Modalities = Field(description="What the query was made from.")
    by: Modalities = Field(description="What it was compared with.")
    hits: list[FoundClip]


class ClipInfo(BaseModel):
    """A clip of the library."""

    clip_id: str
    source: str
    start_s: float
    end_s: float
    labels: list[str]
    split: str
    status: str = Field(description="ok, or what it lacks: silent, still, no_audio, no_video.")
    frame_times_s: list[float]
    thumbnail: str
    spectrogram: str | None
    media: str


class ClipPage(BaseModel):
    """Clips by their files and times."""

    total: int = Field(description="Clips that match, on this page or not.")
    clips: list[ClipInfo]


class LabelCount(BaseModel):
    """How many clips have a label."""

    label: str
    clips: int


class LibraryInfo(BaseModel):
    """What the library holds."""

    name: str
    clips: int
    files: int
    hours: float
    shortest_s: float
    median_s: float
    longest_s: float
    status: dict[str, int] = Field(description="Clips by what they lack.")
    splits: dict[str, int]
    labels: list[LabelCount] = Field(description=f"The {LABELS} most frequent ones.")
    labels_in_all: int
    unlabelled: int = Field(description="Clips without a label.")
    copies: int = Field(description="Windows that were left out, because the same content was there.")
    rejects: dict[str, int] = Field(description="What gave no clip, by reason.")


class RejectInfo(BaseModel):
    """A file, or a window of one, that gave no clip."""

    source: str
    stage: str
    reason: str
    detail: str


class RejectPage(BaseModel):
    """Rejects by their files."""

    total: int = Field(description="Those of the reason that was asked for.")
    reasons: dict[str, int] = Field(description="Of all of them.")
    rejects: list[RejectInfo]


class State(BaseModel):
    """Whether the service is up."""

    status: str


def file_and(options: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a multipart body: a file and these fields."""
    schema = options.model_json_schema()
    schema["properties"] = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
    return {"multipart/form-data": {"schema": schema | {"required": ["file"]}}}


def in_json(options: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a JSON body."""
    return {"application/json": {"schema": options.model_json_schema()}}


def links(clip_id: str, status: str) -> dict[str, str | None]:
    """Where a clip's pictures and file are; None where it has no sound to make a picture of."""
    place = f"/v1/clips/{quote(clip_id, safe='')}"
    spectrogram = f"{place}/spectrogram" if status in HAS["audio"] else None
    return {"thumbnail": f"{place}/thumbnail", "spectrogram": spectrogram, "media": f"{place}/media"}
