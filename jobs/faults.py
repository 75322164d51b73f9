"""Turning whatever a handler raises into a problem that groups with its like."""

from __future__ import annotations

import hashlib
import sysconfig
from types import FrameType
from typing import Any

_LIBRARIES = (*{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}, "<frozen ")
#: What every job's work and statements pass through: it says nothing of the fault.
_PLUMBING = frozenset({"jobs.pool", "jobs.runner", "jobs.script"})


def problem_of(error: BaseException) -> dict[str, Any]:
    """Turn an unexpected exception into a problem: words for people, and a fingerprint that groups its like.

    The fingerprint is the exception's class and the innermost frame of our own code, without its line, which moves with
    every edit, and without the text, which may hold ids. `at` names that frame with its line. Of several exceptions
    that were raised together the first speaks for all.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    kind = type(error)
    where, line = _place(error)
    said = _storable(str(error)[:500])
    return {
        "type": "/problems/unexpected-error",
        "title": "An unexpected error",
        "detail": f"{kind.__qualname__}: {said}" if said else kind.__qualname__,
        "error": kind.__qualname__,
        "at": f"{where}:{line}" if line else where,
        "fingerprint": hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {where}".encode()).hexdigest()[:16],
        "retriable": True,
    }


def _place(error: BaseException) -> tuple[str, int]:
    """Return the innermost frame that is neither a library's nor plumbing, as module and function, and its line."""
    frames: list[tuple[FrameType, int]] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    own = [found for found in frames if not found[0].f_code.co_filename.startswith(_LIBRARIES)]
    ours = [found for found in own if _module(found[0]) not in _PLUMBING]
    for frame, line in reversed(ours or own or frames):
        return f"{_module(frame)}:{frame.f_code.co_qualname}", line
    return "?", 0


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _storable(text: str) -> str:
    """Return the text as PostgreSQL takes it, without NULs and halves of surrogate pairs: it may be anybody's."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
