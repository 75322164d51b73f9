"""Read Astra's settings from the environment, typed.

Every setting is declared by the call that reads it, so ``REGISTRY`` is the full list and the reference page can be
held against it. A secret ``NAME`` may also come from the file that ``NAME_FILE`` names.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import ImproperlyConfigured

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})

Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """One setting as it was declared: its name, kind, default as shown to people, and what it is for."""

    name: str
    kind: str
    default: str
    help: str

    @property
    def is_secret(self) -> bool:
        """Whether the value may also come from ``NAME_FILE`` and must never be shown."""
        return self.kind == "secret"


REGISTRY: dict[str, Setting] = {}


def _read(setting: Setting, parse: Callable[[str], Value], fallback: Value) -> Value:
    REGISTRY[setting.name] = setting
    raw = os.environ.get(setting.name, "").strip()
    return parse(raw) if raw else fallback


def text(name: str, default: str = "", *, shown: str | None = None, help: str) -> str:
    """Read a string. Blanks around it are dropped; an empty value counts as unset.

    ``shown`` is a default in the words of the docs.
    """
    kind, said = ("text", default) if shown is None else ("words", shown)
    return _read(Setting(name, kind, said, help), str, default)


def choice(name: str, default: str, choices: tuple[str, ...], *, help: str) -> str:
    """Read one of ``choices``, whatever its case."""

    def parse(raw: str) -> str:
        if raw.upper() not in choices:
            raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}, not {raw!r}.")
        return raw.upper()

    return _read(Setting(name, "text", default, help), parse, default)


def flag(name: str, default: bool = False, *, help: str) -> bool:
    """Read a yes or no: 1, true, yes, on or 0, false, no, off."""

    def parse(raw: str) -> bool:
        if raw.lower() in TRUE:
            return True
        if raw.lower() in FALSE:
            return False
        raise ImproperlyConfigured(f"{name} must be one of 1, true, yes, on, 0, false, no, off, not {raw!r}.")

    return _read(Setting(name, "flag", "1" if default else "0", help), parse, default)


def integer(name: str, default: int, *, minimum: int, maximum: int, help: str) -> int:
    """Read a whole number between ``minimum`` and ``maximum``."""

    def parse(raw: str) -> int:
        try:
            value = int(raw)
        except ValueError:
            raise ImproperlyConfigured(f"{name} must be a whole number, not {raw!r}.") from None
        if not minimum <= value <= maximum:
            raise ImproperlyConfigured(f"{name} must be from {minimum} to {maximum}, not {value}.")
        return value

    return _read(Setting(name, "number", str(default), help), parse, default)


def path(name: str, default: Path, *, shown: str, help: str) -> Path:
    """Read a path, made absolute against the current folder. ``shown`` is the default as the docs name it."""

    def parse(raw: str) -> Path:
        return _absolute(name, raw)

    return _read(Setting(name, "path", shown, help), parse, default)


def _absolute(name: str, raw: str) -> Path:
    """Return the whole path, and say it in the environment too: a child process may run in another folder."""
    found = Path(raw).expanduser().resolve()
    os.environ[name] = str(found)
    return found


def items(name: str, default: tuple[str, ...] = (), *, help: str) -> list[str]:
    """Read a list whose items are set apart by commas or blanks."""

    def parse(raw: str) -> list[str]:
        return raw.replace(",", " ").split()

    return _read(Setting(name, "list", ", ".join(default), help), parse, list(default))


def secret(name: str, *, shown: str = "", help: str) -> str:
    """Read a secret from ``NAME`` or, when that is unset, from the file that ``NAME_FILE`` names; else ``""``.

    ``shown`` says in the docs what happens without it.
    """
    value = _read(Setting(name, "secret", shown, help), str, "")
    file = os.environ.get(f"{name}_FILE", "").strip()
    if value or not file:
        return value
    try:
        value = _absolute(f"{name}_FILE", file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ImproperlyConfigured(f"{name}_FILE names {file!r}, which cannot be read: {reason}.") from None
    if not value:
        raise ImproperlyConfigured(f"{name}_FILE names {file!r}, which is empty.")
    return value


def secret_url(name: str, schemes: tuple[str, ...], *, shown: str, help: str) -> str:
    """Read an address that may carry a password, or ``""``; see ``secret`` and ``url``."""
    value = secret(name, shown=shown, help=help)
    return _held_to(schemes, name, value) if value else ""


def secret_addresses(name: str, *, help: str) -> tuple[tuple[str, str], ...]:
    """Read addresses that may carry passwords, each as the group that it is for, or ``""``, and the address.

    They are set apart by blanks or commas; commas within an address stay. See ``secret``.
    """
    found = []
    for place, item in enumerate(_ADDRESSES.split(secret(name, help=help).strip()), start=1):
        read = _ADDRESS.fullmatch(item)
        if read is not None:
            found.append((read["group"] or "", read["address"]))
        elif item:
            raise ImproperlyConfigured(f"{name}: number {place} is no address like scheme://… or group=scheme://….")
    return tuple(found)


_ADDRESSES = re.compile(r"\s+|,\s*(?=(?:[\w.-]+=)?[A-Za-z][\w+.-]*://)")
_ADDRESS = re.compile(r"(?:(?P<group>[\w.-]+)=)?(?P<address>[A-Za-z][\w+.-]*://.+)")


def signing_keys(name: str, *, help: str) -> tuple[bytes, ...]:
    """Read the keys of signed webhooks, as Standard Webhooks writes them: ``whsec_`` and base64. See ``secret``.

    Several are set apart by blanks or commas: any of them is good.
    """
    found = []
    for place, item in enumerate(secret(name, help=help).replace(",", " ").split(), start=1):
        try:
            if not item.startswith("whsec_"):
                raise ValueError
            key = base64.b64decode(item.removeprefix("whsec_"), validate=True)
        except (ValueError, binascii.Error):
            raise ImproperlyConfigured(f"{name}: key number {place} is not whsec_ and base64.") from None
        if len(key) < MIN_KEY:
            raise ImproperlyConfigured(f"{name}: key number {place} has fewer than {MIN_KEY} bytes.")
        found.append(key)
    return tuple(found)


#: Bytes of a key that signs. Standard Webhooks wants this many at least.
MIN_KEY = 24


def url(name: str, schemes: tuple[str, ...], default: str, *, shown: str, help: str) -> str:
    """Read an address whose scheme is one of ``schemes``."""
    return _read(Setting(name, "url", shown, help), lambda raw: _held_to(schemes, name, raw), default)


def _held_to(schemes: tuple[str, ...], name: str, value: str) -> str:
    if urlsplit(value).scheme not in schemes:
        raise ImproperlyConfigured(f"{name} must start with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
    return value


def time_zone(name: str, default: str, *, help: str) -> str:
    """Read the name of an IANA time zone."""

    def parse(raw: str) -> str:
        try:
            return str(ZoneInfo(raw))
        except (ValueError, OSError, ZoneInfoNotFoundError):
            raise ImproperlyConfigured(f"{name} must name a time zone, like Europe/Madrid, not {raw!r}.") from None

    return _read(Setting(name, "text", default, help), parse, default)
