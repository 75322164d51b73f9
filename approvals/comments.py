"""What people say with a decision: the agent reads it, and so does whoever asked."""

from __future__ import annotations

from agents.runtime.plain import plain
from approvals.errors import Undecidable
from jobs.actions import MAX_NOTE


def comment_of(text: str) -> str:
    """Return a comment as it is kept: the database takes neither NULs nor halves of surrogate pairs.

    Raises:
        Undecidable: it is too long. Half of what somebody said is not what they said.
    """
    said = str(plain(text.replace("\0", ""))).strip()
    if len(said) > MAX_NOTE:
        raise Undecidable(f"The comment has {len(said):,} characters. {MAX_NOTE:,} is as long as it may be.")
    return said
