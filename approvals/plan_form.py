"""The form in which a reviewer changes a plan: a field for each argument, and whether the step stays."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agents import registry, services
from agents.payload import BadJson, PayloadTooLarge, parse
from agents.runtime.errors import BadInput
from approvals.changing import MAX_PLAN
from approvals.errors import Undecidable
from approvals.plan_words import (
    MAX_LINE,
    CallWords,
    calls_of,
    currency_of,
    label_of,
    properties_of,
    tool_of,
    visible,
)

Control = Literal["line", "text", "integer", "number", "choice", "flag", "json"]

#: Django takes a thousand fields of a form; a plan that would have more is edited as JSON, a field for each step.
MAX_FIELDS = 800
#: … and a plan of more steps is not edited here at all.
MAX_STEPS = 400
#: What a field holds to say that the argument is left out.
_NOTHING = ""
_WHOLE = re.compile(r"[+-]?\d{1,400}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(slots=True)
class ArgumentField:
    """One argument: what it is, what was typed, and what is wrong with that."""

    html_name: str
    name: str
    label: str
    control: Control
    help: str = ""
    required: bool = False
    #: As the field shows what the plan has: a field that still says so changes nothing, to the last byte.
    original: str = ""
    value: str = ""
    choices: Sequence[str] = ()
    error: str = ""

    @property
    def is_code(self) -> bool:
        """Whether it is written as JSON."""
        return self.control == "json"

    @property
    def is_changed(self) -> bool:
        """Whether it says something else than the plan does."""
        return self.value != self.original


@dataclass(slots=True)
class StepFields:
    """One call: its words, its fields, and whether it is left out."""

    place: int
    call: CallWords
    fields: list[ArgumentField]
    dropped: bool = False
    error: str = ""

    @property
    def drop_name(self) -> str:
        """Return the name of the box that leaves it out."""
        return f"drop-{self.place}"


@dataclass(slots=True)
class PlanForm:
    """All steps of a plan, to be changed."""

    steps: list[StepFields] = field(default_factory=list)
    #: What is wrong with the whole.
    error: str = ""
    is_too_large: bool = False

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> PlanForm:
        """Draw the form of a plan as it stands."""
        calls = calls_of(plan)
        if len(calls) > MAX_STEPS or len(json.dumps(plan, ensure_ascii=False).encode()) > MAX_PLAN:
            return cls(is_too_large=True)
        toolbox = services.toolbox(registry.current().tool_overrides)
        steps = [
            StepFields(place, call, list(_fields(place, call, tool_of(toolbox, call.tool))))
            for place, call in enumerate(calls)
        ]
        if sum(len(step.fields) + 1 for step in steps) > MAX_FIELDS:
            for step in steps:
                step.fields = [_whole(step.place, step.call)]
        return cls(steps)

    def read(self, data: Mapping[str, str]) -> list[dict[str, Any]]:
        """Take what the browser sent; return the calls that it means, ``{"id", "arguments"}`` each.

        Raises:
            Undecidable: something cannot be read. The fields say so.
        """
        found = []
        for step in self.steps:
            step.dropped = bool(data.get(step.drop_name))
            arguments = dict(step.call.arguments)
            for item in step.fields:
                item.value = data.get(item.html_name, _NOTHING).replace("\r\n", "\n")
                if item.is_changed and not step.dropped:
                    _take(item, arguments)
            if not step.dropped:
                found.append({"id": step.call.id, "arguments": arguments})
        if any(item.error for step in self.steps for item in step.fields):
            raise Undecidable("Some fields cannot be read. Each says why.")
        if not found:
            self.error = "Nothing is left of the plan. Keep a step, or reject it instead."
            raise Undecidable(self.error)
        return found

    def fill(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """Show calls that were read before: on the way back from the preview."""
        given = {str(call.get("id", "")): call for call in calls}
        for step in self.steps:
            call = given.get(step.call.id)
            step.dropped = call is None
            arguments = call.get("arguments") if call is not None else None
            if not isinstance(arguments, Mapping):
                continue
            for item in step.fields:
                if item.name == "":
                    item.value = _json(arguments)
                elif arguments.get(item.name, _MISSING) != step.call.arguments.get(item.name, _MISSING):
                    item.value = _written(item.control, arguments.get(item.name, _MISSING))

    def refuse(self, problem: Undecidable, calls: Sequence[Mapping[str, Any]]) -> None:
        """Put each of a refusal's findings at its field; what belongs to none, at its step or above all."""
        by_id = {step.call.id: step for step in self.steps}
        told = False
        for fault in problem.extra.get("errors", ()):
            place = next((part for part in fault["loc"] if isinstance(part, int)), -1)
            step = by_id.get(calls[place]["id"]) if 0 <= place < len(calls) else None
            if step is not None:
                told = True
                _refuse_step(step, fault["msg"])
        if not told and not self.faults and not self.error:
            self.error = problem.detail

    @property
    def faults(self) -> int:
        """How many fields are wrong."""
        return sum(bool(item.error) for step in self.steps for item in step.fields) + sum(
            bool(step.error) for step in self.steps
        )


_MISSING: Any = object()
#: What a tool says to a model, as a person would be told.
_WORDS = {"is missing": "Fill this in.", "is not a parameter of this tool": "The tool does not take this: clear it."}


def _refuse_step(step: StepFields, message: str) -> None:
    """Share a tool's refusal out: ``amount_usd: should be a number; note: … The tool takes: …``."""
    rest = []
    for part in message.partition(" The tool takes:")[0].split("; "):
        name, _, said = part.partition(": ")
        item = next((item for item in step.fields if said and item.name == name.split(".")[0]), None)
        if item is None:
            rest.append(part)
        else:
            item.error = f"{item.error} {_WORDS.get(said.strip(' .'), _sentence(said))}".strip()
    if rest:
        whole = step.fields[0] if len(step.fields) == 1 and not step.fields[0].name else None
        words = _sentence("; ".join(rest))
        if whole is not None:
            whole.error = words
        else:
            step.error = words


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def _fields(place: int, call: CallWords, tool: Any) -> Iterator[ArgumentField]:
    properties = properties_of(tool)
    required = set(tool.signature.json_schema.get("required", ())) if tool is not None else set(call.arguments)
    # Known arguments first, in the tool's own order; then those that the call has beyond them.
    for at, name in enumerate(dict.fromkeys([*properties, *call.arguments])):
        schema = _plain_part(properties.get(name, {}))
        value = call.arguments.get(name, _MISSING)
        control = _control(schema, value)
        written = _written(control, value)
        yield ArgumentField(
            html_name=f"arg-{place}-{at}",
            name=name,
            label=visible(_label(name, call.arguments)),
            control=control,
            help=str(properties.get(name, {}).get("description", "")),
            required=name in required,
            original=written,
            value=written,
            choices=[str(choice) for choice in schema.get("enum", ())] if control == "choice" else (),
        )


def _label(name: str, arguments: Mapping[str, Any]) -> str:
    currency = currency_of(name, arguments)
    return f"{label_of(name)} ({currency})" if currency else label_of(name)


def _whole(place: int, call: CallWords) -> ArgumentField:
    written = _json(call.arguments)
    return ArgumentField(f"arg-{place}", "", "Arguments as JSON", "json", original=written, value=written)


def _plain_part(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema, or of ``text or nothing`` that of the text."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    return parts[0] if len(parts) == 1 else schema


def _control(schema: Mapping[str, Any], value: Any) -> Control:
    """Return the control that can hold the value as it is; JSON where none can."""
    kind = schema.get("type") if schema else _type(value)
    texts = schema.get("enum")
    if texts is not None:
        fits = all(isinstance(one, str) and one for one in texts) and (value is _MISSING or value in texts)
        return "choice" if fits else "json"
    found: Control = "json"
    if kind == "string" and (value is _MISSING or isinstance(value, str)):
        short = "\n" not in str(value) and len(str(value)) <= MAX_LINE if value is not _MISSING else True
        found = "line" if short and schema.get("maxLength", MAX_LINE) <= 1000 else "text"
        found = "text" if "\r" in str(value) else found
    elif kind == "boolean" and (value is _MISSING or isinstance(value, bool)):
        found = "flag"
    elif kind in ("integer", "number") and (value is _MISSING or _is_number(value)):
        found = "integer" if kind == "integer" else "number"
    return found


def _type(value: Any) -> str:
    kinds = ((bool, "boolean"), (str, "string"), (int, "integer"), (float, "number"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _written(control: Control, value: Any) -> str:
    if value is _MISSING:
        return _NOTHING
    if control == "flag":
        return "on" if value else ""
    if control in ("line", "text", "choice"):
        return str(value).replace("\r\n", "\n")
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, dict | list) else None)


def _take(item: ArgumentField, arguments: dict[str, Any]) -> None:
    """Write what a changed field says into the arguments, or say in the field why that cannot be."""
    text = item.value.strip()
    if item.name == "":
        given = _parsed(item, text)
        if isinstance(given, dict):
            arguments.clear()
            arguments.update(given)
        elif not item.error:
            item.error = "Write an object: the arguments by name, in curly brackets."
        return
    if item.control == "flag":
        arguments[item.name] = bool(text)
    elif item.control in ("line", "text") and (text or item.required or item.name in arguments):
        arguments[item.name] = item.value
    elif not text:
        if item.required:
            item.error = "Fill this in."
        else:
            arguments.pop(item.name, None)
    elif item.control == "choice":
        arguments[item.name] = item.value
    else:
        value = _parsed(item, text) if item.control == "json" else _number(item, text)
        if not item.error:
            arguments[item.name] = value


def _parsed(item: ArgumentField, text: str) -> Any:
    try:
        return parse(text.encode("utf-8", "replace"))
    except BadJson as error:
        item.error = f"This is not JSON: {error.detail}"
    except (BadInput, PayloadTooLarge) as error:
        item.error = error.detail
    return None


def _number(item: ArgumentField, text: str) -> Any:
    if _WHOLE.fullmatch(text):
        return int(text)
    if item.control == "number" and _DECIMAL.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    item.error = "Write a whole number." if item.control == "integer" else "Write a number, like 99.50."
    return None
