"""What the apps above add to a process that runs jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version


def _version() -> str:
    try:
        return version("astra")
    except PackageNotFoundError:
        return "0.1.0"


@dataclass(slots=True)
class Hooks:
    """Filled once, when the apps above are set up."""

    #: What this process has loaded; asked every two seconds, in a thread of its own.
    capabilities: Callable[[], Sequence[str]] = tuple
    #: Called once in a process that forks others for jobs: what it imports here, none of them imports again.
    before_forks: list[Callable[[], None]] = field(default_factory=list)
    #: Begun on the loop, beside each other, once a web server listens. One may go on for as long as it needs, and
    #: imports in a thread what takes long to import: pages are answered meanwhile.
    on_web_start: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    #: Awaited when a web server stops and listens no more: what runs may finish within the seconds given, then it is
    #: handed back. Awaited also if the start did not come to its end: it is cancelled afterwards.
    on_web_stop: list[Callable[[float], Awaitable[None]]] = field(default_factory=list)
    #: Awaited on the loop when the process stops, last of all: pooled clients are closed here.
    on_shutdown: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    version: str = field(default_factory=_version)

    def prepare_forks(self) -> None:
        """Import what every fork will need."""
        for prepare in self.before_forks:
            prepare()

    async def shut_down(self) -> None:
        """Close what the apps above have opened."""
        for close in self.on_shutdown:
            await close()


hooks = Hooks()
