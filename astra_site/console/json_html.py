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
#: As many members of one object or list are shown.
MAX_MEMBERS = 200


def tree(value: Any, marker: SafeString) -> SafeString:
    """Return a JSON value as HTML. ``marker`` is the sign in front of a branch."""
    return format_html('<div class="json">{}</div>', _node(value, None, marker, depth=0))


def _node(value: Any, key: str | None, marker: SafeString, depth: int) -> SafeString:
    label = format_html('<span class="key">{}:</span> ', key) if key is not None else mark_safe("")
    if not isinstance(value, dict | list) or not value:
        return format_html("{}{}", label, _leaf(value))
    members = list(value.items()) if isinstance(value, dict) else [(None, item) for item in value]
    shown: SafeString = format_html_join(
        "", "<li>{}</li>", ((_node(item, name, marker, depth + 1),) for name, item in members[:MAX_MEMBERS])
    )
    rest = len(members) - MAX_MEMBERS
    if rest > 0:
        shown += format_html('<li class="size">… and {} more</li>', rest)
    if depth == 0:
        return format_html("<ul>{}</ul>", shown)
    noun = ("field" if isinstance(value, dict) else "item") + ("" if len(members) == 1 else "s")
    return format_html(
        '<details{}><summary>{}{}<span class="size">{} {}</span></summary><ul>{}</ul></details>',
        mark_safe(" open") if depth < 4 and len(members) <= OPEN_UP_TO else "",
        marker,
        label,
        len(members),
        noun,
        shown,
    )


def _leaf(value: Any) -> SafeString:
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            cut = format_html(' <span class="size">… {} characters in all</span>', f"{len(value):,}")
            return format_html('<span class="string">{}</span>{}', value[:MAX_TEXT], cut)
        return format_html('<span class="string">{}</span>', value or "“”")
    return format_html('<span class="literal">{}</span>', json.dumps(value))
