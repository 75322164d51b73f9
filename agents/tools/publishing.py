"""The tool `publish_post`: Markdown files with front matter in the folder `published` of the data directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from django.conf import settings
from pydantic import Field

from agents.runtime.ports import ToolContext
from agents.tools.registry import Refused, tool

SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"
MAX_SLUG = 80
MAX_BODY = 50_000
_KEY = re.compile(r"^key: ([0-9a-f]{64})$", re.M)
#: The front matter ends within so many bytes.
_HEAD_BYTES = 4_096


def folder() -> Path:
    """Return where posts are published: a web server or a site generator may serve it."""
    return Path(settings.DATA_DIR) / "published"


@tool(idempotent=True, effect=True, touches=("the folder of published posts",), undoable=True)
def publish_post(
    slug: Annotated[str, Field(max_length=MAX_SLUG, pattern=f"^{SLUG}$")],
    title: Annotated[str, Field(min_length=1, max_length=200)],
    body_markdown: Annotated[str, Field(min_length=1, max_length=MAX_BODY)],
    context: ToolContext,
) -> dict[str, Any]:
    """Publish a post: a Markdown file named after its slug. A post that is there already is never overwritten.

    Args:
        slug: The post's name in addresses: small letters, digits and single hyphens.
        title: Its title.
        body_markdown: Its text, in Markdown, without the title.
    """
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    if not re.fullmatch(SLUG, slug):  # the schema's $ lets a line end pass
        raise Refused("bad-slug", f"{slug!r} is no slug: small letters, digits and single hyphens.")
    name = f"{slug}.md"
    # The whole file appears under its name at once, or not at all: nobody reads half a post.
    draft = place / f".{name}.{secrets.token_hex(6)}"
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(_written(slug, title, body_markdown, context))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, place / name)
        except FileExistsError:
            if _key_of(place / name) != context.idempotency_key:
                raise Refused("slug-taken", f"There is a post {slug} already. Choose another slug.") from None
            return {"slug": slug, "file": f"published/{name}", "note": "It was published before, by this same call."}
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
    return {"slug": slug, "file": f"published/{name}"}


def _written(slug: str, title: str, body: str, context: ToolContext) -> str:
    line = " ".join(title.split())
    head = {
        "title": json.dumps(line, ensure_ascii=False),
        "slug": slug,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "agent": json.dumps(context.agent),
        "run": context.run_id,
        "approval": context.approval_id or "none",
        "key": context.idempotency_key,
    }
    matter = "\n".join(f"{name}: {value}" for name, value in head.items())
    return f"---\n{matter}\n---\n\n# {line}\n\n{body.strip()}\n"


def _key_of(path: Path) -> str:
    """Return the key of the call that published a file, "" if it is none of ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    matter, ended, _ = head.removeprefix("---\n").partition("\n---\n")
    found = _KEY.search(matter) if ended else None
    return found[1] if found else ""
