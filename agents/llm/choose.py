"""Which model a name means here: an alias, an override for all, or the demo model where a key is missing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

DEMO = "demo"
#: What each provider's models need, as the names of settings: one of them is enough.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "openai-chat": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "openai-responses": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "anthropic": ("ANTHROPIC_API_KEY",),
}
SETTINGS = ("ASTRA_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY")


class UnknownModel(ValueError):
    """The name is neither an alias nor ``provider:name`` of a provider that Astra speaks to. The message says which."""


def environment() -> Mapping[str, str]:
    """Return the site's settings that decide on models; secrets may have come from files."""
    from django.conf import settings

    return {name: str(getattr(settings, name, "") or "") for name in SETTINGS}


def expand(name: str, aliases: Mapping[str, str] | None = None) -> str:
    """Return ``demo`` or ``provider:name`` for an alias or a full name, whatever keys there are.

    Raises:
        UnknownModel: it is none of these, or its aliases go round in circles.
    """
    aliases = aliases or {}
    seen: list[str] = []
    while name in aliases and name not in seen:
        seen.append(name)
        name = aliases[name]
    if name in seen:
        raise UnknownModel(f"the model aliases go round in circles: {' → '.join([*seen, name])}")
    if name == DEMO:
        return name
    provider, colon, model = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, [*aliases, DEMO], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"write provider:name, like openai:{name or 'gpt-5.1'}"
        raise UnknownModel(f"{name!r} is neither an alias nor a model; {hint}")
    if provider not in NEEDS:
        near = difflib.get_close_matches(provider, NEEDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(NEEDS)} and {DEMO}"
        raise UnknownModel(f"{name!r}: there is no provider {provider!r}; {hint}")
    if not model.strip():
        raise UnknownModel(f"{name!r} names a provider and no model")
    return name


def missing(model: str, env: Mapping[str, str]) -> str | None:
    """Return the name of the setting that a model needs and lacks, None when it has what it needs."""
    needs = NEEDS.get(model.partition(":")[0], ())
    return None if not needs or any(env.get(name) for name in needs) else needs[0]


def resolve(name: str, aliases: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None) -> str:
    """Return the model to use for ``name``: ``provider:name`` or ``demo``.

    `ASTRA_MODEL` overrides every name. Without it, a model whose provider has no key here is the demo model.

    Args:
        name: An alias or a full name.
        aliases: The `models:` section of astra.yml.
        env: The settings; by default the site's (:func:`environment`).

    Raises:
        UnknownModel: the name, or `ASTRA_MODEL`, means no model.
    """
    env = environment() if env is None else env
    override = env.get("ASTRA_MODEL", "").strip()
    if override:
        return expand(override, aliases)
    model = expand(name, aliases)
    return DEMO if missing(model, env) else model
