"""What one section alone can't know: whether the names it uses exist, whether its schemas are schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import referencing.exceptions
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from agents.config.faults import Path, nearest
from agents.config.sections import Agent, Endpoint, Model, RequestSize, Tools
from agents.llm import choose
from agents.runtime import program

#: A fault before its file and line are known.
Found = Iterator[tuple[Path, str]]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_ENDPOINT = re.compile(r"[a-z][a-z0-9_-]*\.v[1-9][0-9]*")
NAME_LENGTH = 60


def names(section: str, keys: Sequence[str]) -> Found:
    """Check the names that the writer chose."""
    pattern, like = (_ENDPOINT, "research.v1") if section == "endpoints" else (_NAME, "assistant")
    for key in keys:
        if not pattern.fullmatch(key) or len(key) > NAME_LENGTH:
            yield (
                (section, key),
                f"a name here looks like {like}: small letters, digits, - and _, at most {NAME_LENGTH} of them",
            )


def aliases(declared: Mapping[str, Model]) -> dict[str, str]:
    """Return the `models` section as `agents.llm.choose` reads it."""
    return {alias: model.model for alias, model in declared.items()}


def models(declared: Mapping[str, Model], names: Sequence[str]) -> Found:
    """Check that every alias leads to a provider's model."""
    for alias, model in declared.items():
        if ":" in alias or alias == choose.DEMO:
            yield ("models", alias), "this name would hide a provider's model; an alias has no colon and is not `demo`"
        elif not _is_unsayable(model.model, declared, names):
            try:
                choose.expand(alias, aliases(declared))
            except choose.UnknownModel as error:
                yield ("models", alias), str(error)


def agent(
    name: str,
    it: Agent,
    declared: Mapping[str, Model],
    names: Sequence[str],
    tools: Sequence[str],
    programs: Sequence[str],
) -> Found:
    """Check the names that an agent uses."""
    here: Path = ("agents", name)
    chain = [(("default",), it.model.default), *((("fallback", i), ref) for i, ref in enumerate(it.model.fallback))]
    downshift = [(("downshift",), it.model.downshift)] if it.model.downshift else []
    seen: dict[str, str] = {}
    for where, reference in [*chain, *downshift]:
        if _is_unsayable(reference, declared, names):
            continue  # the model's own section is at fault, and says so
        try:
            model = choose.expand(reference, aliases(declared))
        except choose.UnknownModel as error:
            yield (*here, "model", *where), str(error)
            continue
        if where != ("downshift",) and model in seen:
            yield (*here, "model", *where), f"the fallback comes back to {model}, which was tried as {seen[model]}"
        seen.setdefault(model, str(where[0]) if where != ("downshift",) else "downshift")
    for index, tool in enumerate(it.tools):
        if tool not in tools:
            yield (*here, "tools", index), f"there is no tool {tool!r}; {nearest(tool, tools)}"
        elif tool in it.tools[:index]:
            yield (*here, "tools", index), f"{tool} stands here twice"
    if it.program not in programs:
        yield (*here, "program"), f"there is no program {it.program!r}; {nearest(it.program, programs)}"
    elif it.verify != "none" and not program.get(it.program).verifies:
        yield (
            (*here, "verify"),
            f"the program {it.program} brings no check of its answers, which verify: {it.verify} needs",
        )


def catalog(it: Tools, known: Sequence[str]) -> Found:
    """Check that the catalogue speaks of tools there are, once of each."""
    ids = [entry.id for entry in it.catalog]
    for index, name in enumerate(ids):
        if name not in known:
            yield ("tools", "catalog", index, "id"), f"there is no tool {name!r}; {nearest(name, known)}"
        elif name in ids[:index]:
            yield ("tools", "catalog", index, "id"), f"{name} stands here twice"


def endpoint(name: str, it: Endpoint, agents: Sequence[str]) -> Found:
    """Check an endpoint's agent, schemas and size."""
    here: Path = ("endpoints", name)
    if it.agent not in agents:
        yield (*here, "agent"), f"there is no agent {it.agent!r}; {nearest(it.agent, agents)}"
    yield from schema((*here, "input"), it.input)
    if it.output is not None:
        yield from schema((*here, "output"), it.output)
    if it.request_size is not None:
        yield from _size((*here, "request_size"), it.request_size, it.input)


def schema(here: Path, it: Any) -> Found:
    """Check that ``it`` is a JSON schema of the draft 2020-12 whose references all stay inside it."""
    if isinstance(it, dict) and it.get("$schema", DIALECT).rstrip("#") != DIALECT:
        yield (*here, "$schema"), f"only {DIALECT} is supported"
        return
    try:
        Draft202012Validator.check_schema(it, format_checker=Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as error:
        yield (*here, *error.absolute_path), f"this is no JSON schema: {error.message}"
        return
    resource = Resource.from_contents(it, default_specification=DRAFT202012)
    resolver = Registry().with_resource("", resource).resolver()
    for path, reference in _references(it):
        try:
            resolver.lookup(reference)
        except (referencing.exceptions.Unresolvable, referencing.exceptions.NoSuchResource):
            yield (*here, *path), f"{reference!r} is not in this schema; references to elsewhere are not followed"


def _references(it: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(it, dict):
        for key, value in it.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield (*path, key), value
            elif key not in ("const", "enum", "default", "examples"):
                yield from _references(value, (*path, key))
    elif isinstance(it, list):
        for index, value in enumerate(it):
            yield from _references(value, (*path, index))


def _size(here: Path, it: RequestSize, input_schema: Any) -> Found:
    """A field that the input schema does not have would make the limit one that nothing reaches."""
    fields = [name for name, _ in _properties(input_schema)]
    if it.of is not None and fields and it.of not in fields:
        yield (*here, "of"), f"the input has no field {it.of!r}; {nearest(it.of, fields)}"


def _properties(it: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(it, dict):
        yield from it.get("properties", {}).items()
        for keyword in ("anyOf", "oneOf", "allOf"):
            for part in it.get(keyword, []):
                yield from _properties(part)


def _is_unsayable(reference: str, declared: Mapping[str, Model], names: Sequence[str]) -> bool:
    """Tell whether an alias was written but its section is at fault, so that nothing can be said about its use."""
    seen: set[str] = set()
    while reference in declared and reference not in seen:
        seen.add(reference)
        reference = declared[reference].model
    return reference in names and reference not in declared
