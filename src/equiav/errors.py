"""Every error that equiav raises on purpose.

EquiAVError
├── ConfigError      a recipe, an override or an argument is wrong
├── MediaError       one media file cannot be used; `reason` is what ingest records as the reject
├── LibraryError     a library or an embeddings table is missing, foreign or damaged
├── ModelError       weights, sizes or inputs do not fit the model
├── WorkerError      worker processes cannot be started, so that no file was looked at
└── TrainingError    a run cannot go on: non-finite loss, nothing to train on, a foreign run folder

Messages say what was found, what was expected and what to do. The command line prints them and exits 1.
"""

from __future__ import annotations


class EquiAVError(Exception):
    """Base class: catch this to catch everything equiav raises on purpose."""


class ConfigError(EquiAVError):
    """A recipe, an override or an argument is wrong."""


class MediaError(EquiAVError):
    """One media file cannot be used.

    Args:
        reason: short machine-readable reason, one of `equiav.media.probe.REASONS`, e.g. "no_audio".
        detail: one sentence for people: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        # file names may hold bytes that are no UTF-8, which neither a table nor a terminal takes
        detail = detail.encode("utf-8", "backslashreplace").decode()
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        """Survive the trip from a worker process (the default pickles the formatted message only)."""
        return type(self), (self.reason, self.detail)


class LibraryError(EquiAVError):
    """A library or an embeddings table is missing, foreign or damaged."""


class ModelError(EquiAVError):
    """Weights, sizes or inputs do not fit the model."""


class WorkerError(EquiAVError):
    """Worker processes cannot be started, so that no file was looked at."""


class TrainingError(EquiAVError):
    """A run cannot go on."""


def explain(error: Exception) -> str:
    """One line for people: of an error of ours its message, of one of the system (a full disk) the file and why."""
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return where + (error.strerror or str(error))
