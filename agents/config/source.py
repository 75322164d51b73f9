"""Read a YAML file into plain JSON values and remember on which line each stands."""

from __future__ import annotations

import math
import re
from pathlib import Path as FilePath
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agents.config.faults import ConfigError, Fault, Path, camel, shown, snake

#: Aliases may repeat a node; a file that unfolds into more than this is a mistake or a bomb.
MAX_NODES = 100_000
#: Reading takes a second for each of these.
MAX_BYTES = 1 << 20
#: Larger numbers mean nothing here, and Python refuses to write them out.
MAX_BITS = 256
MERGE = "tag:yaml.org,2002:merge"
#: PostgreSQL keeps neither U+0000 nor half of a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Source:
    """One YAML document: its values, and the line of each.

    Keys are text exactly as written, so that `on:` is "on" and not YAML 1.1's true.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.faults: list[Fault] = []
        self._nodes = 0
        self._lines: dict[Path, int] = {(): 1}
        try:
            self._loader = yaml.SafeLoader(text)
            root = self._loader.get_single_node()
            self.data = {} if root is None else self._value(root, (), ())
        except yaml.YAMLError as error:
            raise ConfigError([*self.faults, self._syntax_fault(error)]) from None
        except RecursionError:
            raise ConfigError([*self.faults, Fault(file, 1, (), "its values are nested too deep")]) from None

    def fault(self, path: Path, message: str) -> Fault:
        """Return a fault at a path, spelled as in the file; its line is that of the nearest thing that is there."""
        written: Path = ()
        for part in path:
            here = (*written, part)
            if here not in self._lines and isinstance(part, str) and (*written, camel(part)) in self._lines:
                here = (*written, camel(part))
            written = here
        there = written
        while there not in self._lines:
            there = there[:-1]
        return Fault(self.file, self._lines[there], written, message)

    def _value(self, node: Node, path: Path, around: tuple[Node, ...]) -> Any:
        self._nodes += 1
        self._lines.setdefault(path, node.start_mark.line + 1)
        if self._nodes > MAX_NODES:
            raise ConfigError([self.fault((), f"it unfolds into more than {MAX_NODES} values")])
        if any(node is outer for outer in around):
            raise ConfigError([self.fault(path, "this alias contains itself")])
        if isinstance(node, MappingNode):
            return self._mapping(node, path, (*around, node))
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, index), (*around, node)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path, around: tuple[Node, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            is_text = isinstance(key_node, ScalarNode) and not _UNSTORABLE.search(key_node.value)
            if not is_text or key_node.tag == MERGE:
                self.faults.append(Fault(self.file, line, path, "a key must be plain text; write merged keys out"))
                continue
            key = key_node.value
            here = (*path, key)
            twin = next((other for other in found if snake(other) == snake(key)), None)
            if twin is not None and (twin == key or _is_structure(path)):
                first = f"line {self._lines[(*path, twin)]}" + (f" as {twin}" if twin != key else "")
                self.faults.append(Fault(self.file, line, here, f"the same key stands already on {first}"))
                continue
            self._lines[here] = line
            found[key] = self._value(value_node, here, around)
        return found

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        try:
            value = self._loader.construct_object(node)
        except (ValueError, KeyError, OverflowError):  # a date of month 13, `!!int` of a word
            self.faults.append(self.fault(path, f"{shown(node.value)} is not what it looks like; put it in quotes"))
            return node.value
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            self.faults.append(self.fault(path, "the number is too large"))
            return 0
        if isinstance(value, float) and not math.isfinite(value):
            self.faults.append(self.fault(path, f"{node.value} is not a finite number"))
            return 0.0
        if not isinstance(value, str | int | float | bool | None):
            self.faults.append(
                self.fault(path, f"{shown(node.value)} reads as a {type(value).__name__}; put it in quotes")
            )
            return node.value
        if isinstance(value, str) and (unstorable := _UNSTORABLE.search(value)):
            self.faults.append(self.fault(path, f"text may not hold the character U+{ord(unstorable[0]):04X}"))
            return _UNSTORABLE.sub("", value)
        return value

    def _syntax_fault(self, error: yaml.YAMLError) -> Fault:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        return Fault(self.file, mark.line + 1 if mark else 1, (), f"this is not YAML: {what}")


def _is_structure(path: Path) -> bool:
    """Tell whether the keys at a path are Astra's own, where camelCase and snake_case are one key.

    The names of models, agents, endpoints and lanes are the writer's, and so is all inside a JSON schema.
    """
    names = len(path) == 1 and path[0] in ("models", "agents", "endpoints", "lanes")
    schema = len(path) >= 3 and path[0] == "endpoints" and path[2] in ("input", "output")
    return not names and not schema


def read(path: FilePath) -> Source:
    """Read the file.

    Raises:
        ConfigError: it is not there, too large, not UTF-8 or not YAML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError([Fault(path.name, 1, (), f"it is larger than {MAX_BYTES:,} bytes")])
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(path.name, 1, (), f"it is not UTF-8 text (byte {error.start})")]) from None
    except OSError as error:
        raise ConfigError([Fault(str(path), 1, (), f"it can't be read: {error.strerror}")]) from None
    return Source(path.name, text)
