"""Packs: one compressed file of many records without weights, which every reading command takes in place."""

import io
import tarfile
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from nasbench.errors import RecordError

SUFFIX = ".records.xz"
LARGEST = 2**30  # bytes that a pack may unfold to: a stranger's must not fill the disk


def write_pack(records: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """A tar archive, compressed by xz, of name → file → content; the same every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for name in sorted(records):
            for file in sorted(records[name]):
                member = tarfile.TarInfo(f"{name}/{file}")
                member.size = len(records[name][file])
                archive.addfile(member, io.BytesIO(records[name][file]))
    return buffer.getvalue()


def locate(path: Path) -> Path:
    """Where a path's files can be read: itself, or where the pack that it lies in is unfolded; RecordError: damaged."""
    for outer in (path, *path.parents):
        if outer.name.endswith(SUFFIX) and is_file(outer):
            return Path(_unfolded(outer.resolve(), outer.stat().st_mtime_ns).name) / path.relative_to(outer)
    return path


def is_inside(path: Path) -> bool:
    """Whether a path is of something in a pack."""
    return any(outer.name.endswith(SUFFIX) and is_file(outer) for outer in path.parents)


def is_file(path: Path) -> bool:
    """Whether there is a file; there is none under a name that no file can have, such as one that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


@cache  # which keeps the folder until the process ends
def _unfolded(pack: Path, changed: int) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="nasbench-")
    left = LARGEST
    try:
        with tarfile.open(pack, "r:xz") as archive:
            for member in archive:
                where = PurePosixPath(member.name)
                if not member.isfile() or where.is_absolute() or ".." in where.parts:
                    raise RecordError(f"{pack} is damaged: it holds {member.name!r}, which is no file of a record")
                left -= member.size
                if left < 0:
                    raise RecordError(f"{pack} unfolds to more than {LARGEST >> 20} MiB")
                target = Path(folder.name) / where
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                target.write_bytes(b"" if content is None else content.read())
    except (tarfile.TarError, OSError, EOFError, ValueError) as e:
        raise RecordError(f"{pack} is damaged: {e}") from e
    return folder
