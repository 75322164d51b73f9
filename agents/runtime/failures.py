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
    frames: list[tuple[FrameType, int]] = []
    caller = trace.tb_frame.f_back if trace else None
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    ours = next((found for found in reversed(frames) if _is_ours(found[0])), None)
    if ours is not None:
        return ours
    while caller is not None:  # caught inside the runtime: whoever called it has not been passed yet
        if _is_ours(caller):
            return caller, caller.f_lineno
        caller = caller.f_back
    return frames[-1] if frames else (None, 0)


def _is_ours(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return not module.startswith(_RUNTIME) and not frame.f_code.co_filename.startswith(_LIBRARIES)
