"""Show JSON as nested HTML that opens and closes without a script."""

from __future__ import annotations

import json
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

#: Objects and lists with more than this many things in them start closed; the outermost does not close at all.
OPEN_UP_TO = 8
#: A longer text is cut in the page; the whole of it is one click away.
MAX_TEXT = 1_500
#: … and a longer key.
MAX_KEY = 200
#: As many members of one object or list are shown,
MAX_MEMBERS = 200
#: and as many values in all: a value of a megabyte can hold hundreds of thousands.
MAX_VALUES = 2_000
#: Once texts have so many characters together, the rest are cut like keys.
MAX_LETTERS = 150_000
#: What lies deeper is told, not shown: it would be no wider than a letter.
MAX_DEPTH = 30


def tree(value: Any, marker: SafeString) -> SafeString:
    """Return a JSON value as HTML. ``marker`` is the sign in front of a branch."""
    return format_html('<div class="json">{}</div>', _Tree(marker).node(value, None, depth=0))


class _Tree:
    """One value on its way to HTML, and how many more parts of it may be shown."""

    def __init__(self, marker: SafeString) -> None:
        self._marker = marker
        self._left = MAX_VALUES
        self._letters = MAX_LETTERS

    def node(self, value: Any, key: str | None, depth: int) -> SafeString:
        label = format_html('<span class="key">{}:</span> ', _short(key)) if key is not None else mark_safe("")
        if not isinstance(value, dict | list) or not value:
            return format_html("{}{}", label, self._leaf(value))
        noun = ("field" if isinstance(value, dict) else "item") + ("" if len(value) == 1 else "s")
        size = format_html('<span class="size">{} {}</span>', f"{len(value):,}", noun)
        if depth > MAX_DEPTH or self._left <= 0:
            return format_html('{}{} <span class="size">…</span>', label, size)
        members = [*value.items()] if isinstance(value, dict) else [(None, item) for item in value[:MAX_MEMBERS]]
        rows = []
        for name, item in members[:MAX_MEMBERS]:
            if self._left <= 0:
                break
            self._left -= 1
            rows.append((self.node(item, name, depth + 1),))
        shown: SafeString = format_html_join("", "<li>{}</li>", rows)
        if rest := len(value) - len(rows):
            shown += format_html('<li class="size">… and {} more</li>', f"{rest:,}")
        if depth == 0:
            return format_html("<ul>{}</ul>", shown)
        return format_html(
            "<details{}><summary>{}{}{}</summary><ul>{}</ul></details>",
            mark_safe(" open") if depth < 4 and len(value) <= OPEN_UP_TO else "",
            self._marker,
            label,
            size,
            shown,
        )

    def _leaf(self, value: Any) -> SafeString:
        if not isinstance(value, str):
            return format_html('<span class="literal">{}</span>', json.dumps(value))
        most = MAX_TEXT if self._letters > 0 else MAX_KEY
        self._letters -= min(len(value), most)
        if len(value) > most:
            cut = format_html(' <span class="size">… {} characters in all</span>', f"{len(value):,}")
            return format_html('<span class="string">{}</span>{}', value[:most], cut)
        return format_html('<span class="string">{}</span>', value or "“”")


def _short(key: str) -> str:
    return key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}…"
