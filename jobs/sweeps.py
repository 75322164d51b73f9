"""Periodic work that other apps register: `jobs` calls upwards only through registries like this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sweep:
    """A function that looks for due work and does it, safe to run any number of times at once."""

    name: str
    run: Callable[[], object]
    every_s: float


_sweeps: dict[str, Sweep] = {}


def register_sweep(name: str, run: Callable[[], object], *, every_s: float) -> None:
    """Run ``run`` about every ``every_s`` seconds in each scheduler process."""
    _sweeps[name] = Sweep(name, run, every_s)


def registered() -> list[Sweep]:
    """Return all sweeps, in the order of their registration."""
    return list(_sweeps.values())
