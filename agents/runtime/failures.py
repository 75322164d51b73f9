"""Turning whatever a program raises into a `RunError` that says where."""

from __future__ import annotations

import hashlib
import sysconfig
from types import FrameType, TracebackType

from agents.runtime.errors import ProgramError, RunError
from agents.runtime.plain import one_line

_RUNTIME = __name__.rpartition(".")[0] + "."
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def as_run_error(error: BaseException, kind: type[ProgramError] = ProgramError, **extra: object) -> RunError:
    """Return ``error`` itself when it is a RunError, else one of ``kind`` caused by it.

    Its extra `fingerprint` is the same for the same fault: the exception's type and our innermost frame without its
    line, which moves with every edit. `at` names that frame with its line.
    """
    if isinstance(error, RunError):
        return error
    name = type(error).__qualname__
    frame, line = _our_frame(error.__traceback__)
    where = f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}" if frame else "?"
    fingerprint = hashlib.sha256(f"{type(error).__module__}.{name} {where}".encode()).hexdigest()[:16]
    message = one_line(str(error), 500)
    found = kind(
        f"{name}: {message}" if message else name, **extra, error=name, at=f"{where}:{line}", fingerprint=fingerprint
    )
    found.__cause__ = error
    return found


def _our_frame(trace: TracebackType | None) -> tuple[FrameType | None, int]:
    """Return the innermost frame that is neither a library's nor the runtime's, or the innermost of all."""
    best: tuple[FrameType | None, int] = (None, 0)
    ours: tuple[FrameType | None, int] = (None, 0)
    while trace is not None:
        best = (trace.tb_frame, trace.tb_lineno)
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if not module.startswith(_RUNTIME) and not trace.tb_frame.f_code.co_filename.startswith(_LIBRARIES):
            ours = best
        trace = trace.tb_next
    return ours if ours[0] is not None else best
