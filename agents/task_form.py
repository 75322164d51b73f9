"""The form of a new task: fields drawn from the endpoint's input schema, or its JSON as it is."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.payload import BadJson, parse
from agents.registry import EndpointInfo
from agents.runtime.errors import BadInput

#: What the names of fields begin with, so that none takes the name of a control.
PREFIX = "in-"

#: Formats that one line is enough for.
_LINES = ("uri", "url", "email", "date", "date-time")

_TOKEN = re.compile(r"[\w-]{16,40}", re.ASCII)

Control = Literal["line", "text", "integer", "number", "choice", "flag"]
_ORDER: tuple[Control, ...] = ("text", "line", "choice", "integer", "number", "flag")
_CAPITALS = frozenset({"api", "id", "html", "json", "pdf", "sql", "url", "usd"})


@dataclass(slots=True)
class FormField:
    """One field: what it asks for, what was typed, and what is wrong with that."""

    name: str
    label: str
    control: Control
    required: bool
    help: str = ""
    value: str = ""
    type: str = "text"
    minimum: Any = None
    maximum: Any = None
    choices: Sequence[str] = ()
    errors: list[str] = field(default_factory=list)

    @property
    def html_name(self) -> str:
        """Return the name that the browser sends."""
        return PREFIX + self.name


class TaskForm:
    """The input of one endpoint, as fields where its schema is a flat object or a text, else as JSON.

    Attributes:
        fields: what to ask for.
        as_json: the one field is JSON, because the person or the schema wants it so.
        only_json: there is no other way to write this input.
        problem: what is wrong with the whole.
    """

    def __init__(
        self, endpoint: EndpointInfo, *, as_json: bool | None = False, initial: Any = None, token: str = ""
    ) -> None:
        """Draw the form. With ``as_json`` None it is JSON only if ``initial`` has what no field can hold."""
        self.endpoint = endpoint
        #: Goes with the form, so that one that is sent twice is known.
        self.token = token if _TOKEN.fullmatch(token) else secrets.token_urlsafe(12)
        self.problem = ""
        shape = _object(endpoint.definition["input"])
        drawn = _fields(shape) if shape is not None else []
        self._is_text = not drawn and _takes_text(endpoint.definition["input"])
        self.only_json = not drawn and not self._is_text
        if as_json is None:
            as_json = initial is not None and not (isinstance(initial, str) or _holds(drawn, initial))
        self.as_json = as_json or self.only_json
        if self.as_json:
            example = {item.name: "" for item in drawn if item.required} if drawn else None
            start = initial if initial is not None else example
            written = "" if start is None else json.dumps(start, ensure_ascii=False, indent=2)
            self.fields = [FormField("json", "Input as JSON", "text", required=True, value=written)]
        elif self._is_text:
            written = initial if isinstance(initial, str) else ""
            self.fields = [FormField("text", "Input", "text", required=True, value=written)]
        else:
            self.fields = drawn
            self._fill(initial)

    def _fill(self, initial: Any) -> None:
        if isinstance(initial, str):
            # The short form of the input: the text goes where the schema asks for one.
            first = next((item for item in self.fields if item.required and item.control in ("text", "line")), None)
            if first is not None:
                first.value = initial
        elif isinstance(initial, Mapping):
            for item in self.fields:
                if item.name in initial:
                    item.value = _written(initial[item.name])

    def read(self, data: Mapping[str, str]) -> Any:
        """Take what the browser sent and return the input that it means, as JSON.

        Raises:
            BadInput: a field is missing or is no number, or the JSON can't be read. The fields say so.
        """
        for item in self.fields:
            item.value = data.get(item.html_name, "")
        if self.as_json:
            return self._read_json(self.fields[0])
        if self._is_text:
            return self.fields[0].value.strip()
        found: dict[str, Any] = {}
        for item in self.fields:
            text = item.value.strip()
            if item.control == "flag":
                found[item.name] = bool(text)
            elif text:
                found[item.name] = _number(item, text) if item.control in ("integer", "number") else text
            elif item.required:
                item.errors.append("Fill this in.")
        if any(item.errors for item in self.fields):
            raise BadInput("Some fields are missing or wrong.")
        return found

    def _read_json(self, item: FormField) -> Any:
        if not item.value.strip():
            item.errors.append("Write the input, like {} or a text in double quotes.")
            raise BadInput("There is no input.")
        try:
            return parse(item.value.encode())
        except BadJson as error:
            item.errors.append(f"This is not JSON: {error.detail}")
            raise BadInput("The input is not JSON.") from None

    def idempotency_key(self, given: Any) -> str:
        """Return the key of this form with this input: a second click is the same, another input another."""
        written = json.dumps(given, sort_keys=True, separators=(",", ":"))
        return f"form:{self.token}:{hashlib.sha256(written.encode()).hexdigest()}"

    def refuse(self, error: BadInput) -> None:
        """Put each of an error's findings at its field, and the rest above the form."""
        told = False
        by_name = {item.name: item for item in self.fields}
        for finding in error.extra.get("errors", ()):
            place = [part for part in finding["loc"] if part != "input"]
            item = self.fields[0] if self._is_one else by_name.get(str(place[0])) if place else None
            if item is not None:
                where = f"{'.'.join(map(str, place))}: " if self.as_json and place else ""
                item.errors.append(f"{where}{finding['msg']}")
                told = True
        if not told and not any(item.errors for item in self.fields):
            self.problem = error.detail

    @property
    def first_wrong(self) -> str:
        """Return the name of the first field that is wrong, where the focus goes; empty if none is."""
        return next((item.html_name for item in self.fields if item.errors), "")

    @property
    def _is_one(self) -> bool:
        return self.as_json or self._is_text


def _holds(fields: Sequence[FormField], initial: Any) -> bool:
    """Tell whether these fields can show an input whole, so that nothing of it is lost when it is edited."""
    by_name = {item.name: item for item in fields}
    if not isinstance(initial, Mapping) or not set(initial) <= set(by_name):
        return False
    return all(_fits(by_name[name], value) for name, value in initial.items())


def _fits(item: FormField, value: Any) -> bool:
    if item.control in ("flag", "integer", "number"):
        return isinstance(value, bool) == (item.control == "flag") and isinstance(value, int | float)
    if not isinstance(value, str):
        return False
    return value in item.choices if item.control == "choice" else item.control == "text" or "\n" not in value


def _number(item: FormField, text: str) -> Any:
    try:
        return int(text) if item.control == "integer" else float(text)
    except ValueError:
        item.errors.append("Write a whole number." if item.control == "integer" else "Write a number.")
        return None


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else ""
    return "" if value is None else str(value)


def _alternatives(schema: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for word in ("anyOf", "oneOf"):
            for part in schema.get(word, ()):
                yield from _alternatives(part)


def _object(schema: Any) -> Mapping[str, Any] | None:
    return next(
        (part for part in _alternatives(schema) if part.get("type") == "object" and part.get("properties")), None
    )


def _takes_text(schema: Any) -> bool:
    return any(part.get("type") == "string" for part in _alternatives(schema))


def _fields(shape: Mapping[str, Any]) -> list[FormField]:
    """Return a field for each property; none at all if one of them is no plain value."""
    required = set(shape.get("required", ()))
    found = []
    for name, schema in shape["properties"].items():
        control = _control(schema)
        if control is None:
            return []
        found.append(
            FormField(
                name=name,
                label=schema.get("title") or _label(name),
                control=control,
                required=name in required,
                help=schema.get("description", ""),
                value=_written(schema.get("default")),
                type="url" if schema.get("format") in ("uri", "url") else "text",
                minimum=schema.get("minimum"),
                maximum=schema.get("maximum"),
                choices=[str(choice) for choice in schema.get("enum", ())],
            )
        )
    # The database keeps no order of keys: what must be filled in comes first, then what is long, then the rest.
    return sorted(found, key=lambda item: (not item.required, _ORDER.index(item.control)))


def _label(name: str) -> str:
    words = " ".join(word.upper() if word in _CAPITALS else word for word in name.split("_"))
    return words[:1].upper() + words[1:]


def _control(schema: Any) -> Control | None:
    if not isinstance(schema, Mapping):
        return None
    kind = schema.get("type")
    if kind == "string":
        if schema.get("enum"):
            return "choice"
        return "line" if schema.get("format") in _LINES or schema.get("maxLength", 1000) <= 200 else "text"
    return {"integer": "integer", "number": "number", "boolean": "flag"}.get(str(kind))  # type: ignore[return-value]
