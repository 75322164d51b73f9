"""Static files: collected into the data directory when they changed, and served before Django is asked."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from whitenoise import WhiteNoise
from whitenoise.responders import Response

from astra_site.embedded.lock import Lock

# The part that the manifest storage puts into a name: such a file never changes.
HASHED = r"\.[0-9a-f]{12}\.[a-z0-9]+$"
COLLECT_SECONDS = 120.0


class ManifestStorage(ManifestStaticFilesStorage):
    """Names files by their content. A file that was not collected keeps its plain name, so that pages still render."""

    manifest_strict = False

    def hashed_name(self, name: str, content: Any = None, filename: str | None = None) -> str:
        """Return the name with the hash of the content in it."""
        try:
            return str(super().hashed_name(name, content, filename))
        except ValueError:
            return name


def collect() -> bool:
    """Collect the static files into ``STATIC_ROOT`` unless that was done; tell whether there was something to do."""
    from django.core.management import call_command

    root = Path(settings.STATIC_ROOT)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = root.parent / "static.stamp"
    lock = Lock(root.parent / "static.lock")
    try:
        lock.wait_exclusive(COLLECT_SECONDS)
        wanted = _fingerprint()
        if stamp.exists() and stamp.read_text() == wanted:
            return False
        call_command("collectstatic", interactive=False, verbosity=0)
        stamp.write_text(wanted)
        return True
    finally:
        lock.close()


def _fingerprint() -> str:
    """Return a digest of the names, sizes and times of all static files."""
    found = hashlib.sha256()
    for finder in finders.get_finders():
        for name, storage in finder.list(None):
            status = Path(storage.path(name)).stat()
            found.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return found.hexdigest()


class StaticFiles:
    """An ASGI application over the collected files. With ``DEBUG`` it looks for each file anew, collected or not."""

    def __init__(self) -> None:
        self.prefix = str(settings.STATIC_URL)

    @cached_property
    def noise(self) -> WhiteNoise:
        """WhiteNoise's index of the files, made at the first request."""
        noise = WhiteNoise(None, allow_all_origins=False, immutable_file_test=HASHED)
        if Path(settings.STATIC_ROOT).is_dir():
            noise.add_files(str(settings.STATIC_ROOT), prefix=self.prefix)
        return noise

    def matches(self, scope: HTTPScope) -> bool:
        """Whether this application answers for the path."""
        return scope["path"].startswith(self.prefix)

    async def __call__(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request."""
        headers = {
            f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}": value.decode("latin-1")
            for name, value in scope["headers"]
        }
        status, found, body = await asyncio.to_thread(self._answer, scope["path"], scope["method"], headers)
        pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in found]
        pairs.append((b"x-content-type-options", b"nosniff"))
        await send({"type": "http.response.start", "status": status, "headers": pairs, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _answer(self, path: str, method: str, headers: dict[str, str]) -> tuple[int, Iterable[tuple[str, str]], bytes]:
        file = self._find(path)
        if file is None:
            missing = b"There is no such file.\n"
            head = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(missing)))]
            return HTTPStatus.NOT_FOUND, head, missing
        response: Response = file.get_response(method, headers)
        if response.file is None:
            return int(response.status), response.headers, b""
        with response.file:
            return int(response.status), response.headers, response.file.read()

    def _find(self, path: str) -> Any:
        if settings.DEBUG and (source := finders.find(path.removeprefix(self.prefix))):
            return self.noise.get_static_file(os.fspath(source), path)
        return self.noise.files.get(path)
