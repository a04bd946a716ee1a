"""WebDataset tars:  uncompressed .tar  →  one item per sample (`KEY.mp4`, or `KEY.wav` + `KEY.jpg`, with `KEY.json`).

A tar from elsewhere is hostile input. Nothing is unpacked by the names in it: a member is a stretch of bytes, copied
under a name of ours when it is read. Links, devices, sparse files and names that lead out of the tar become rejects.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from equiav.errors import ConfigError
from equiav.library.items import MEDIA, PICTURES, SOUNDS, SYSTEM_FOLDERS, VIDEOS, Item, Member, sample_key
from equiav.library.names import composed
from equiav.library.rows import labels_of, parse_json, split_of
from equiav.words import counted

MAX_JSON_BYTES = 1 << 20

Fault = tuple[str, str]


def read_tars(tars: Sequence[Path], split: str) -> tuple[list[Item], Counter[str]]:
    """The samples of tars, in their order, and the system's folders that were left out, by name.

    `split` holds where a sample's JSON names none.

    Raises:
        ConfigError: nothing in them.
    """
    left_out = Counter[str]()
    items = [item for tar in tars for item in _read_tar(tar, split, left_out)]
    if not items:
        raise ConfigError(f"{', '.join(map(str, tars))}: no samples (members KEY.mp4, or KEY.wav and KEY.jpg)")
    return items, left_out


def _read_tar(tar: Path, split: str, left_out: Counter[str]) -> list[Item]:
    samples: dict[str, list[Member]] = {}
    faults: dict[str, Fault] = {}
    systems: set[PurePosixPath] = set()
    for member, fault in _members(tar):
        system = _system_folder(PurePosixPath(member.name))
        if system:
            systems.add(system)
            continue
        samples.setdefault(sample_key(member.name), []).append(member)
        if fault:
            faults.setdefault(sample_key(member.name), fault)
    items = []
    for key, members in _joined(samples).items():
        fault = next((faults[one] for one in (sample_key(member.name) for member in members) if one in faults), None)
        media, labels, part = (), (), split
        if fault is None:
            media, fault = _media(members)
        if fault is None:
            labels, part, fault = _described(tar, members, split)
        name = f"{tar.absolute()}#{key}"
        items.append(Item(tar, labels, part, name=name, members=media or tuple(members[:1]), fault=fault))
    left_out.update(sorted(folder.name for folder in systems))
    return items


def _joined(samples: dict[str, list[Member]]) -> dict[str, list[Member]]:
    """Samples whose keys look the same (composed, decomposed) are one if they have no file of the same kind twice.

    It is called what its first media file is.
    """
    alike: dict[str, list[str]] = {}
    for key in samples:
        alike.setdefault(composed(key), []).append(key)
    joined: dict[str, list[Member]] = {}
    for keys in alike.values():
        members = [member for key in keys for member in samples[key]]
        endings = [composed(member.name) for member in members]
        if len(keys) > 1 and len(set(endings)) == len(endings):
            media = (sample_key(member.name) for member in members if _suffix(member) in MEDIA)
            joined[next(media, keys[0])] = members
        else:
            joined |= {key: samples[key] for key in keys}
    return joined


def _system_folder(member: PurePosixPath) -> PurePosixPath | None:
    """The folder of a system that a member lies in, the outermost."""
    return next((folder for folder in reversed(member.parents) if SYSTEM_FOLDERS.fullmatch(folder.name)), None)


def _members(tar: Path) -> Iterator[tuple[Member, Fault | None]]:
    """The files in a tar, each with what is wrong with it; damage to the tar itself is the fault of a last one."""
    at = 0
    try:
        size = tar.stat().st_size
        with tarfile.open(tar, "r:") as file:
            while (info := file.next()) is not None:
                if file.offset <= at:  # a header with a negative size would lead back
                    raise tarfile.ReadError("a member's size is negative")
                at = file.offset
                # hidden files are no clips: macOS packs a `._NAME` beside every file
                if not info.isdir() and not PurePosixPath(info.name).name.startswith("."):
                    yield Member(info.name, info.offset_data, info.size), _member_fault(info, size)
        with tar.open("rb") as file:  # tarfile takes a bad header behind good ones for the end
            file.seek(at)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end mark where the members end")
            while block := file.read(1 << 20):
                if block.strip(b"\0"):
                    raise tarfile.ReadError("more behind its end mark: several tars in one file; give each its own")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            fault = ("unreadable", f"{tar} cannot be read: {error.strerror}")
        else:
            fault = ("corrupt", f"{tar} is damaged, or no uncompressed tar, at byte {at}: {error}")
        yield Member("", at, 0), fault


def _member_fault(info: tarfile.TarInfo, tar_size: int) -> Fault | None:
    name = PurePosixPath(info.name)
    if not info.isreg() or info.issparse():
        return "unsupported", f"member {info.name!r} is no plain file but a link, a device or sparse"
    if name.is_absolute() or ".." in name.parts or "\0" in info.name:
        return "unsupported", f"member {info.name!r} has a name that leads out of the tar"
    if info.size < 0 or info.offset_data + info.size > tar_size:
        return "truncated", f"member {info.name!r} says {info.size} bytes, the tar ends before"
    return None


def _media(members: list[Member]) -> tuple[tuple[Member, ...], Fault | None]:
    """The files that make the clip: a video alone, or a sound and its pictures in the order of their names."""
    kinds = (VIDEOS, SOUNDS, PICTURES)
    video, sound, pictures = ([member for member in members if _suffix(member) in kind] for kind in kinds)
    if len(video) > 1 or len(sound) > 1:
        return (), (
            "unsupported",
            f"{counted(len(video), 'video')} and {counted(len(sound), 'sound')} in one sample, expected one",
        )
    media = video or sound + sorted(pictures, key=lambda member: (len(member.name), member.name))
    if not media:
        return (), ("not_media", f"no video, sound or picture among {[member.name for member in members]}")
    if len(media) > 1 and not sound:
        return (), ("no_audio", f"{len(media)} pictures without a sound")
    return tuple(media), None


def _suffix(member: Member) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _described(tar: Path, members: list[Member], split: str) -> tuple[tuple[str, ...], str, Fault | None]:
    """Labels and split out of a sample's JSON; what else stands there means nothing here."""
    described = next((member for member in members if _suffix(member) == ".json"), None)
    if described is None:
        return (), split, None
    if described.size > MAX_JSON_BYTES:
        return (), split, ("unsupported", f"{described.name!r} has {described.size} bytes, at most {MAX_JSON_BYTES}")
    try:
        with tar.open("rb") as file:
            file.seek(described.offset)
            row = parse_json(file.read(described.size))
        return labels_of(row, repr(described.name)), split_of(row, split, described.name), None
    except (OSError, ValueError, RecursionError, AttributeError, ConfigError) as error:
        return (), split, ("corrupt", f"{described.name!r} is no JSON object with labels: {error}")
