"""How long a text is for a model."""

from __future__ import annotations


def likely_tokens(text: str) -> int:
    """Return about how many tokens a text has: one for four bytes, at least one for each word."""
    return max(len(text.encode("utf-8", "replace")) // 4, len(text.split())) if text else 0
