"""Put the sections together: each is validated by itself, so that one fault hides no other."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agents import modes
from agents.config import approvals, chat, checks, source
from agents.config.approvals import Approval
from agents.config.faults import ConfigError, Fault, Path, nearest, shown, snake, unknown_key
from agents.config.sections import Agent, Endpoint, Lane, Model, Section, Tools
from agents.config.source import Source
from agents.llm import choose
from agents.runtime import program
from agents.tools import catalog
from jobs import lanes

DEFAULT_PROGRAMS = ("agents.programs",)
#: Sections of the contract that are not built yet: refused by name, never ignored.
LATER = frozenset({"subscriptions", "quotas", "rubrics", "breaker", "retention", "hooks", "time_zone"})
KNOWN = frozenset({"models", "programs", "tools", "agents", "endpoints", "lanes", "approvals"})
NOT_YET = "not supported yet"
#: The ways in that are built (`agents.modes.Concurrency.entrance`); a mode whose way in is not is refused by name.
ENTRANCES = frozenset({"tasks", "chat"})

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration."""

    models: Mapping[str, Model] = field(default_factory=dict)
    programs: Sequence[str] = DEFAULT_PROGRAMS
    agents: Mapping[str, Agent] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    tools: Tools = field(default_factory=Tools)
    approvals: Sequence[Approval] = ()
    source: Source | None = None

    def fault(self, path: Path, message: str) -> Fault:
        """Return a fault at a place of the file, for checks that need more than the file."""
        assert self.source is not None
        return self.source.fault(path, message)

    def model(self, reference: str) -> str:
        """Return the provider:name that an alias stands for; a provider:name stands for itself."""
        return choose.expand(reference, checks.aliases(self.models))


def load_config(path: FilePath) -> Config:
    """Read and validate a configuration file.

    Importing the modules that it names under `programs` registers their programs in this process.

    Raises:
        ConfigError: with all that is wrong, in the order of the file.
    """
    reading = _Reading(source.read(path))
    config = reading.config()
    if reading.faults:
        raise ConfigError(reading.faults)
    return config


class _Reading:
    """One pass over a source that collects every fault."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.faults: list[Fault] = list(source.faults)
        self.top: dict[str, Any] = self._top_level()

    def config(self) -> Config:
        programs = self._programs()
        config = Config(
            models=self._section("models", Model),
            programs=programs,
            agents=self._section("agents", Agent),
            endpoints=self._section("endpoints", Endpoint),
            lanes=self._section("lanes", Lane),
            tools=self._tools(),
            approvals=self._approvals(),
            source=self.source,
        )
        aliases, agents = self._names("models"), self._names("agents")
        for section in ("models", "agents", "endpoints"):
            if section != "models":
                self._add(checks.names(section, self._names(section)))
        self._add(checks.models(config.models, aliases))
        tools = catalog.load()
        known_tools, known_programs = sorted(tools), sorted(program.names())
        self._add(checks.catalog(config.tools, known_tools))
        for name, agent in config.agents.items():
            self._add(checks.agent(name, agent, config.models, aliases, known_tools, known_programs))
        for name, endpoint in config.endpoints.items():
            self._add(checks.endpoint(name, endpoint, agents))
            self._add(self._mode(name, endpoint))
            self._add(chat.endpoint(name, endpoint, config.endpoints, self._names("endpoints")))
        schemas = {name: tool.spec.parameters for name, tool in tools.items()}
        self._add(approvals.check(config.approvals, schemas, config.agents, config.endpoints))
        always = {name for name, tool in tools.items() if tool.approval}
        always |= {entry.id for entry in config.tools.catalog if entry.approval}
        for name, endpoint in config.endpoints.items():
            self._add(approvals.endpoint(name, endpoint, config.agents, config.approvals, always))
        for name, lane in config.lanes.items():
            if not lanes.is_lane(name):
                self._add([(("lanes", name), f"there is no lane {name!r}; {nearest(name, lanes.DEFAULT_SLOTS)}")])
            self._add(chat.lane(name, lane))
        return config

    def _top_level(self) -> dict[str, Any]:
        data = self.source.data
        if not isinstance(data, dict):
            self._add([((), "the file must be a mapping of sections: models, agents, endpoints …")])
            return {}
        top: dict[str, Any] = {}
        for key, value in data.items():
            name = snake(key)
            if name in KNOWN:
                top[name] = value
            elif name in LATER:
                self._add([((key,), f"{key} is {NOT_YET}")])
            else:
                self._add([((key,), unknown_key(key, KNOWN))])
        return top

    def _names(self, section: str) -> list[str]:
        entries = self.top.get(section)
        return list(entries) if isinstance(entries, dict) else []

    def _section(self, name: str, model: type[S]) -> dict[str, S]:
        """Validate each entry of a section by itself and return those that are valid."""
        entries = self.top.get(name)
        if entries is None:
            return {}
        if not isinstance(entries, dict):
            self._add([((name,), f"this must be a mapping from names, not {shown(entries)}")])
            return {}
        valid: dict[str, S] = {}
        for key, entry in entries.items():
            try:
                valid[key] = model.model_validate(entry)
            except ValidationError as error:
                self._add(_say((name, key), model, fault) for fault in error.errors(include_url=False))
        return valid

    def _tools(self) -> Tools:
        try:
            return Tools.model_validate(self.top.get("tools") or {})
        except ValidationError as error:
            self._add(_say(("tools",), Tools, fault) for fault in error.errors(include_url=False))
            return Tools()

    def _approvals(self) -> list[Approval]:
        """Validate each rule by itself. Their order is that of the file."""
        rules = self.top.get("approvals") or []
        if not isinstance(rules, list):
            self._add([(("approvals",), f"this must be a list of rules, not {shown(rules)}")])
            return []
        valid = []
        for place, rule in enumerate(rules):
            try:
                valid.append(Approval.model_validate(rule))
            except ValidationError as error:
                self._add(_say(("approvals", place), Approval, fault) for fault in error.errors(include_url=False))
        return valid

    def _programs(self) -> Sequence[str]:
        """Import the modules that define programs."""
        modules = self.top.get("programs", list(DEFAULT_PROGRAMS))
        if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
            self._add([(("programs",), "this must be a list of Python modules")])
            return DEFAULT_PROGRAMS
        for index, module in enumerate(modules):
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever it raises is for its author to read
                self._add([(("programs", index), f"{module} can't be imported: {type(error).__name__}: {error}")])
        return modules

    def _mode(self, name: str, endpoint: Endpoint) -> checks.Found:
        here: Path = ("endpoints", name, "mode")
        if endpoint.mode not in modes.POLICIES:
            yield here, f"there is no mode {endpoint.mode!r}; {nearest(endpoint.mode, list(modes.POLICIES))}"
            return
        policy = modes.policy(endpoint.mode)
        if policy.concurrency.entrance not in ENTRANCES:
            yield here, f"mode {endpoint.mode} is {NOT_YET}"

    def _add(self, found: Iterable[tuple[Path, str]]) -> None:
        self.faults += [self.source.fault(path, message) for path, message in found]


def _say(prefix: Path, model: type[Section], fault: ErrorDetails) -> tuple[Path, str]:
    """Turn one of pydantic's errors into a path and a sentence."""
    loc: Path = fault["loc"]
    path = (*prefix, *loc)
    if fault["type"] == "extra_forbidden":
        key, section = str(loc[-1]), _section_at(model, loc[:-1])
        if snake(key) in section.later:
            return path, f"{key} is {NOT_YET}"
        return path, unknown_key(key, section.model_fields)
    if fault["type"] == "missing":
        return path[:-1], f"the key {loc[-1]} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = fault["input"]
    return path, message if isinstance(value, dict | list) else f"{message}, not {shown(value)}"


def _section_at(model: type[Section], loc: Path) -> type[Section]:
    """Return the section that a path inside ``model`` leads to."""
    for part in loc:
        field = model.model_fields.get(snake(str(part)))
        inner = _section_in(field.annotation) if field is not None else None
        model = inner or model
    return model


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)
