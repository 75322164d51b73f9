"""The table of settings as the reference page has to show it."""

from __future__ import annotations

from astra_site import env

# Their default is said in words.
WORDED = frozenset({"path", "secret", "url", "words"})


def rows() -> list[str]:
    """Return a line of the table for every setting, in the order in which they are read."""
    return [row(setting) for setting in env.REGISTRY.values()]


def row(setting: env.Setting) -> str:
    """Return the line for one setting."""
    default = f"`{setting.default}`" if setting.default and setting.kind not in WORDED else setting.default or "none"
    mark = " *(secret)*" if setting.is_secret else ""
    return f"| `{setting.name}`{mark} | {default} | {setting.help} |"
