"""Find in a run's output what a person wants to read: its text and its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.utils.safestring import SafeString

from agents import markdown

#: Where programs put their text, in this order.
_TEXTS = ("report", "answer", "text", "message", "summary")
_SOURCES = ("citations", "sources")


@dataclass(frozen=True, slots=True)
class Source:
    """A page that the text rests on. ``url`` is empty when it is no web address."""

    number: int
    title: str
    url: str
    host: str
    quote: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An output as a person reads it. ``rest`` is what is neither text nor source, or None."""

    text: SafeString
    sources: Sequence[Source]
    rest: Any


def text(output: Any) -> str:
    """Return the text of an output, Markdown; empty where it holds none."""
    if isinstance(output, str):
        return output
    if not isinstance(output, Mapping):
        return ""
    name = _named(output)
    return output[name] if name is not None else ""


def read(output: Any, given: Any = None) -> Answer | None:
    """Return the text and the sources of an output, or None where it holds no text.

    Args:
        given: the input; what the output only repeats of it is left out of the rest.
    """
    if isinstance(output, str):
        return Answer(markdown.render(output), (), None)
    if not isinstance(output, Mapping):
        return None
    name = _named(output)
    if name is None:
        return None
    cited = next((key for key in _SOURCES if isinstance(output.get(key), list)), None)
    items = output[cited] if cited else []
    sources = [source for place, item in enumerate(items, 1) if (source := _source(item, place))]
    asked = [given, *(given.values() if isinstance(given, Mapping) else ())]
    empty: list[Any] = [None, "", [], {}, *(value for value in asked if isinstance(value, str))]
    rest = {key: value for key, value in output.items() if key not in (name, cited) and value not in empty}
    numbers = {source.number for source in sources}
    return Answer(markdown.render(output[name], sources=numbers), sources, rest or None)


def _named(output: Mapping[str, Any]) -> str | None:
    """Return the key of an output's text."""
    return next((name for name in _TEXTS if isinstance(output.get(name), str)), None)


def _source(item: Any, place: int) -> Source | None:
    if isinstance(item, str):
        item = {"url": item}
    if not isinstance(item, Mapping):
        return None
    url = str(item.get("url", ""))
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https"):
        url = ""
    title = str(item.get("title") or item.get("name") or item.get("url") or "Untitled")
    number = item.get("n")
    number = number if type(number) is int else place
    return Source(number, title, url, f"{parts.netloc}{parts.path}" if url else "", str(item.get("quote") or ""))
