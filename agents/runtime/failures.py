"""Turning whatever a program raises into a `RunError` that says where."""

from __future__ import annotations

import hashlib
import sysconfig
from types import FrameType, TracebackType

from agents.runtime.errors import ProgramError, RunError
from agents.runtime.plain import one_line

_RUNTIME = __name__.rpartition(".")[0] + "."
_LIBRARIES = (*{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}, "<frozen ")


def as_run_error(error: BaseException, kind: type[ProgramError] = ProgramError, **extra: object) -> RunError:
    """Return ``error`` itself when it is a RunError, else one of ``kind`` caused by it.

    Its extra `fingerprint` is the same for the same fault: the exception's type and our innermost frame without its
    line, which moves with every edit. `at` names that frame with its line. Of several exceptions that were raised
    together the first speaks for all.
    """
    if isinstance(error, RunError):
        return error
    fault = _first(error)
    name = type(fault).__qualname__
    message = one_line(str(fault), 500)
    found = kind(
        f"{name}: {message}" if message else name, **extra, error=name, **_trail(fault, _our_frame(fault.__traceback__))
    )
    found.__cause__ = error
    return found


def locate(error: ProgramError) -> None:
    """Note in which of the program's frames a misuse of the runtime was, if it was in one."""
    if "fingerprint" not in error.extra and (found := _passed(error.__traceback__)) is not None:
        error.extra |= _trail(error, found)


def _first(error: BaseException) -> BaseException:
    fault = error
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return error if isinstance(fault, RunError) else fault  # which says itself what it is


def _trail(error: BaseException, found: tuple[FrameType | None, int]) -> dict[str, str]:
    frame, line = found
    where = f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}" if frame else "?"
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return {"at": f"{where}:{line}", "fingerprint": hashlib.sha256(f"{name} {where}".encode()).hexdigest()[:16]}


def _passed(trace: TracebackType | None) -> tuple[FrameType, int] | None:
    """Return the innermost frame of the trace that is neither a library's nor the runtime's."""
    found = None
    while trace is not None:
        if _is_ours(trace.tb_frame):
            found = trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next
    return found


def _our_frame(trace: TracebackType | None) -> tuple[FrameType | None, int]:
    """Return the innermost frame that is neither a library's nor the runtime's, or the innermost of all."""
    passed = _passed(trace)
    if passed is not None:
        return passed
    caller = trace.tb_frame.f_back if trace else None
    while caller is not None:  # caught inside the runtime: whoever called it has not been passed yet
        if _is_ours(caller):
            return caller, caller.f_lineno
        caller = caller.f_back
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame, trace.tb_lineno) if trace is not None else (None, 0)


def _is_ours(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return not module.startswith(_RUNTIME) and not frame.f_code.co_filename.startswith(_LIBRARIES)
