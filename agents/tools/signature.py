"""From a function to the JSON schema of its arguments, and from a model's arguments to the function's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, NotRequired, Required, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from agents.runtime.ports import ToolContext


class BadArguments(ValueError):
    """The arguments do not fit. The message says which and why, in words for a model."""


def check(fn: Callable[..., Any]) -> None:
    """Raise TypeError when a function cannot be a tool: a parameter without a type hint, ``*args`` or ``**kwargs``."""
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{fn.__qualname__}: a tool takes no {parameter.kind.description} parameter")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{fn.__qualname__}: the parameter {parameter.name!r} needs a type hint")


class Signature:
    """What a tool's function takes. Worked out once, when it is first needed: type hints may name later things."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        hints = get_type_hints(fn, include_extras=True)
        self._parameters = {
            name: (hints[name], parameter)
            for name, parameter in inspect.signature(fn).parameters.items()
            if hints[name] is not ToolContext
        }
        #: The parameter that gets the caller, "" when there is none.
        self.context = next((name for name, hint in hints.items() if hint is ToolContext and name != "return"), "")

    @cached_property
    def _docstring(self) -> tuple[str, Mapping[str, str]]:
        from griffe import Docstring, DocstringSectionKind

        if not self._fn.__doc__:
            return "", {}
        text, described = "", {}
        for section in Docstring(inspect.getdoc(self._fn) or "").parse("google", warnings=False):
            if section.kind is DocstringSectionKind.text and not text:
                text = str(section.value)
            elif section.kind is DocstringSectionKind.parameters:
                described = {item.name: str(item.description) for item in section.value}
        return text, described

    @property
    def description(self) -> str:
        """The docstring without its sections."""
        return self._docstring[0]

    @cached_property
    def _adapter(self) -> TypeAdapter[dict[str, Any]]:
        fields: dict[str, Any] = {}
        for name, (hint, parameter) in self._parameters.items():
            optional = parameter.default is not parameter.empty
            extra = {"default": parameter.default} if optional and parameter.default is not None else None
            field: Any = Field(description=self._docstring[1].get(name), json_schema_extra=extra)
            described: Any = Annotated[hint, field]
            fields[name] = NotRequired[described] if optional else Required[described]
        make: Any = TypedDict
        arguments = make("Arguments", fields)
        arguments.__pydantic_config__ = ConfigDict(extra="forbid")
        return TypeAdapter(arguments)

    @cached_property
    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, an object, without pydantic's titles."""
        schema: dict[str, Any] = _untitled(self._adapter.json_schema())
        schema.setdefault("properties", {})
        return schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function wants them.

        Raises:
            BadArguments: they do not fit.
        """
        try:
            return self._adapter.validate_python(dict(arguments))
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc'])) or 'arguments'}: {_sentence(fault['type'], fault['msg'])}"
                for fault in error.errors(include_url=False, include_input=False, include_context=False)
            ]
            known = ", ".join(
                name if parameter.default is parameter.empty else f"{name} (optional)"
                for name, (_, parameter) in self._parameters.items()
            )
            raise BadArguments(f"{'; '.join(faults[:8])}. The tool takes: {known or 'nothing'}.") from None


def _sentence(kind: str, message: str) -> str:
    return {"missing": "is missing", "extra_forbidden": "is not a parameter of this tool"}.get(kind, message)


def _untitled(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: {name: _untitled(value) for name, value in inner.items()} if key == "properties" else _untitled(inner)
            for key, inner in schema.items()
            if not (key == "title" and isinstance(inner, str))
        }
    return [_untitled(item) for item in schema] if isinstance(schema, list) else schema
