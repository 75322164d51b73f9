"""The tool `file_read`: text files of one folder, and nothing outside of it.

Every part of a path is opened by itself, relative to the folder opened before it and never through a link. So what was
checked is what is read, whatever happens to the folder meanwhile.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from django.conf import settings
from pydantic import Field

from agents.tools.registry import Refused, tool

MAX_BYTES = 64_000
MAX_ENTRIES = 500
#: Beyond this the kernel refuses to look, whatever the file.
MAX_OFFSET = 1 << 53
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def folder() -> Path:
    """Return the folder that agents may read: `ASTRA_FILES_DIR`, or `files` in the data directory."""
    return Path(getattr(settings, "FILES_DIR", None) or settings.DATA_DIR / "files")


@tool(idempotent=True)
def file_read(
    path: Annotated[str, Field(max_length=1000)] = ".",
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0,
    limit: Annotated[int, Field(ge=1, le=MAX_BYTES)] = 16_000,
) -> dict[str, Any]:
    """Read a text file of the shared folder, or list a folder of it.

    A long file comes in pieces: `next_offset` is where the next one begins, null at the end.

    Args:
        path: The file or folder, relative to the shared folder. "." lists the shared folder itself.
        offset: Where to begin, in bytes.
        limit: How much to return, in bytes, at most 64000.
    """
    parts = [part for part in path.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    if path.strip().startswith(("/", "~")) or ".." in parts or "\x00" in path:
        raise Refused("outside", f"{path} is outside of the shared folder. Give a path relative to it, without '..'.")
    with _opened(parts) as descriptor:
        kind = os.fstat(descriptor)
        if stat.S_ISDIR(kind.st_mode):
            return _listed(descriptor, parts)
        if not stat.S_ISREG(kind.st_mode):
            raise Refused("not-a-file", f"{path} is neither a file nor a folder.")
        return _text(descriptor, "/".join(parts), kind.st_size, offset, limit)


@contextmanager
def _opened(parts: list[str]) -> Iterator[int]:
    """Open the folder, then each part relative to the one before; no part may be a link."""
    try:
        descriptor = os.open(folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused("empty", "The shared folder is empty: nobody has put a file there yet.") from None
    except OSError as error:
        raise Refused("unreadable", f"The shared folder cannot be opened: {error.strerror}.") from None
    try:
        for position, part in enumerate(parts):
            try:
                inner = os.open(part, _OPEN, dir_fd=descriptor)
            except OSError as error:
                raise _refusal("/".join(parts[: position + 1]), error) from None
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _refusal(path: str, error: OSError) -> Refused:
    if isinstance(error, FileNotFoundError):
        return Refused("not-found", f"There is no {path} in the shared folder. List it with path '.'.")
    if isinstance(error, NotADirectoryError):
        return Refused("not-found", f"{path} cannot be reached: a part of its path is a file or a link.")
    if isinstance(error, PermissionError):
        return Refused("unreadable", f"{path} may not be read.")
    if error.errno == errno.ELOOP:  # what O_NOFOLLOW says (on Linux and macOS) when the part is a link
        return Refused("link", f"{path} cannot be opened: links are not followed.")
    return Refused("unreadable", f"{path[:200]} cannot be opened: {error.strerror}.")


def _listed(descriptor: int, parts: list[str]) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    with os.scandir(descriptor) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                entries.append({"name": entry.name, "kind": "folder"})
            elif entry.is_file(follow_symlinks=False):
                size = entry.stat(follow_symlinks=False).st_size
                entries.append({"name": entry.name, "kind": "file", "bytes": size})
            if len(entries) > MAX_ENTRIES:
                break
    entries.sort(key=lambda entry: str(entry["name"]))
    listed: dict[str, Any] = {"path": "/".join(parts) or ".", "entries": entries[:MAX_ENTRIES]}
    return listed | ({"note": f"Only {MAX_ENTRIES} of the entries are listed."} if len(entries) > MAX_ENTRIES else {})


def _text(descriptor: int, path: str, size: int, offset: int, limit: int) -> dict[str, Any]:
    head = os.pread(descriptor, 4096, 0)
    mark, encoding = next(((mark, name) for mark, name in _BOMS if head.startswith(mark)), (b"", "utf-8"))
    if not mark and b"\x00" in head:
        raise Refused("binary", f"{path} is not a text file.")
    begin = max(offset, len(mark))
    piece = os.pread(descriptor, limit, begin)
    # A sign that is cut at the end stays in the decoder, and is left for the next piece.
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    text = decoder.decode(piece, begin + len(piece) >= size)
    end = begin + len(piece) - len(decoder.getstate()[0])
    return {"path": path, "bytes": size, "text": text, "next_offset": end if begin < end < size else None}
