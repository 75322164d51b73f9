"""The tool `file_read`: what is in the folder, and nothing else."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from agents.tools.files import file_read
from agents.tools.registry import Refused


@pytest.fixture
def folder(tmp_path: Path, settings: Any) -> Path:
    inside = tmp_path / "files"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    settings.FILES_DIR = inside
    return inside


def test_a_file_is_read(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("Grüße\n")
    assert file_read("notes/a.txt") == {"path": "notes/a.txt", "bytes": 8, "text": "Grüße\n", "next_offset": None}


def test_a_folder_is_listed(folder: Path) -> None:
    (folder / "b.txt").write_text("four")
    (folder / "a").mkdir()
    (folder / "link").symlink_to("/etc")
    assert file_read()["entries"] == [
        {"name": "a", "kind": "folder"},
        {"name": "b.txt", "kind": "file", "bytes": 4},
    ]


def test_a_long_file_comes_in_pieces_that_join_without_a_seam(folder: Path) -> None:
    text = "Ωμέγα 🙂 and plain words. " * 400
    (folder / "long.txt").write_text(text)
    pieces: list[str] = []
    offset: int | None = 0
    while offset is not None:
        piece = file_read("long.txt", offset=offset, limit=1001)
        pieces.append(piece["text"])
        offset = piece["next_offset"]
    assert len(pieces) > 10
    assert "".join(pieces) == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_understood(folder: Path, encoding: str) -> None:
    (folder / "bom.txt").write_bytes("Ωμέγα".encode(encoding))
    assert file_read("bom.txt")["text"] == "Ωμέγα"


def test_bytes_that_are_no_text_do_not_break_it(folder: Path) -> None:
    (folder / "latin.txt").write_bytes(b"caf\xe9 noir")
    assert file_read("latin.txt")["text"] == "caf\ufffd noir"


ESCAPES = [
    "../secret.txt",
    "/etc/passwd",
    "notes/../../secret.txt",
    "..",
    "~/secret.txt",
    "link.txt",
    "folder/secret.txt",
    "inner/../../secret.txt",
    "..\\secret.txt",
    "a\x00b",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out(folder: Path, path: str) -> None:
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "folder").symlink_to(folder.parent)
    (folder / "inner").mkdir()
    with pytest.raises(Refused) as caught:
        file_read(path)
    assert caught.value.slug in ("outside", "link", "not-found")


def test_a_link_swapped_in_meanwhile_never_leads_out(folder: Path) -> None:
    """A racer swaps a folder for a link to the outside as fast as it can: what is read is never the secret."""
    (folder / "real").mkdir()
    (folder / "real" / "secret.txt").write_text("harmless")
    (folder / "swap").symlink_to(folder / "real")
    stop = threading.Event()

    def race() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            fresh = folder / f"new{number}"
            if number % 2:
                fresh.symlink_to(folder.parent)
                fresh.replace(folder / "swap")
            else:
                (folder / "swap").unlink()
                (folder / "real").rename(folder / "swap")
                (folder / "swap").rename(folder / "real")
                (folder / "swap").symlink_to(folder / "real")

    racer = threading.Thread(target=race)
    racer.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                seen.add(file_read("swap/secret.txt")["text"])
            except Refused as refusal:
                seen.add(refusal.slug)
    finally:
        stop.set()
        racer.join()
    assert "secret" not in seen
    assert seen & {"link", "not-found"}, "the racer was there"


def test_what_is_no_file_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        for name in ("pipe", "socket"):
            with pytest.raises(Refused) as caught:
                file_read(name)
            assert caught.value.slug in ("not-a-file", "unreadable")


def test_a_binary_file_is_refused(folder: Path) -> None:
    (folder / "data.bin").write_bytes(b"\x00\x01\x02")
    with pytest.raises(Refused, match="not a text file"):
        file_read("data.bin")


def test_a_missing_file_and_a_missing_folder_say_so(folder: Path, settings: Any) -> None:
    with pytest.raises(Refused, match=r"There is no nope\.txt"):
        file_read("nope.txt")
    settings.FILES_DIR = folder / "gone"
    with pytest.raises(Refused, match="nobody has put a file there"):
        file_read()


def test_a_name_that_no_folder_can_hold_is_no_link(folder: Path) -> None:
    with pytest.raises(Refused) as caught:
        file_read("a" * 300)
    assert caught.value.slug == "unreadable"


def test_a_path_through_a_file_says_so(folder: Path) -> None:
    (folder / "a.txt").write_text("x")
    with pytest.raises(Refused) as caught:
        file_read("a.txt/b")
    assert caught.value.slug == "not-found"


def test_a_long_folder_is_cut_and_says_so(folder: Path) -> None:
    for number in range(505):
        (folder / f"{number:04}").touch()
    listed = file_read()
    assert len(listed["entries"]) == 500
    assert "500" in listed["note"]
