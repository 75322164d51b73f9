"""What a tool did, in the words of the person who waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from agents.runtime.verifying import VERIFY

#: A longer argument is cut in a line.
_LONG = 80
#: SQL, for the column of a step's output: what the line about it says. Of a tool's result whether it went well, and how
#: much came back, not the result itself; of a decision, who decided what.
TOLD = (
    "CASE WHEN jsonb_typeof({0}) = 'object' THEN jsonb_strip_nulls(jsonb_build_object("
    "'ok', {0} -> 'ok', 'approval_id', {0} -> 'approval_id',"
    "'decision', {0} -> 'decision', 'by', {0} -> 'by', 'comment', {0} -> 'comment',"
    "'content', jsonb_build_object("
    "'pages', CASE WHEN jsonb_typeof({0} #> '{{content,pages}}') = 'array'"
    " THEN jsonb_array_length({0} #> '{{content,pages}}') END,"
    "'entries', CASE WHEN jsonb_typeof({0} #> '{{content,entries}}') = 'array' THEN true END,"
    "'path', CASE WHEN jsonb_typeof({0} #> '{{content,path}}') = 'string' THEN {0} #> '{{content,path}}' END))) END"
)


def words(name: str, given: Any = None, output: Any = None) -> str:
    """Return one line about a tool's call: what it is doing, or, with its output, what came of it.

    Args:
        given: the call as the journal keeps it, ``{"tool", "arguments"}``; None where it is not known.
        output: its result as the journal keeps it, ``{"ok", "content", …}``; None while there is none.
    """
    arguments = given.get("arguments") if isinstance(given, Mapping) else None
    arguments = arguments if isinstance(arguments, Mapping) else {}
    result = output if isinstance(output, Mapping) else None
    known = _KNOWN.get(name)
    if result is not None and not result.get("ok", True):
        return f"{known[2] if known else f'{readable(name)} failed'}{_about(name, arguments, ': ')}"
    if result is None and given is None and name in _UNKNOWN:
        return _UNKNOWN[name]
    if result is None:
        return f"{known[0] if known else f'Using {readable(name, inside=True)}'}{_about(name, arguments, ' ')}"
    if name == "web_crawl":
        return _crawled(arguments, result)
    if name == "file_read" and "entries" in _content(result):
        return f"Listed the files of {_cut(str(_content(result).get('path') or 'the shared folder'))}"
    return f"{known[1] if known else f'Used {readable(name, inside=True)}'}{_about(name, arguments, ' ')}"


def has_words(kind: str, name: str) -> bool:
    """Tell whether `words` knows what to say of a step: of every tool, and of the check of an answer."""
    return kind == "tool" or (kind == "step" and name == VERIFY)


def readable(name: str, *, inside: bool = False) -> str:
    """Return a tool's or function's name as words: ``look_up_order`` is "Look up order"."""
    text = " ".join(name.replace("_", " ").replace("-", " ").split()) or "a tool"
    return text if inside else text[:1].upper() + text[1:]


#: While it runs, when it is done, when it failed.
_KNOWN: Mapping[str, tuple[str, str, str]] = {
    "web_crawl": ("Reading", "Read", "Could not read the web page"),
    "memory_read": ("Looking up what it remembers", "Looked up what it remembers", "Could not look up its memory"),
    "memory_write": ("Remembering", "Remembered", "Could not remember it"),
    "file_read": ("Reading", "Read", "Could not read the file"),
    "order_lookup": ("Looking up order", "Looked up order", "Could not find the order"),
    "refund": ("Refunding order", "Refunded order", "Did not refund the order"),
    "publish_post": ("Publishing", "Published", "Could not publish"),
    VERIFY: ("Checking the answer", "Checked the answer", "Replaced an answer that did not stand up to its check"),
}
#: While it runs on nobody knows what.
_UNKNOWN = {"web_crawl": "Reading web pages", "file_read": "Reading files"}
_OBJECT = {
    "memory_write": "text",
    "file_read": "path",
    "order_lookup": "order_id",
    "refund": "order_id",
    "publish_post": "title",
}
#: Whose object is a name, no words.
_NAMED = frozenset({"file_read", "order_lookup", "refund"})


def _about(name: str, arguments: Mapping[str, Any], before: str) -> str:
    if name == "web_crawl":
        return f"{before}{host}" if (host := _host(arguments)) else ""
    if name == "memory_read":
        return ""
    told = arguments.get(_OBJECT[name]) if name in _OBJECT else _first_text(arguments)
    if not isinstance(told, str) or not told.strip():
        return ""
    return f"{before}{_cut(told)}" if name in _NAMED else f"{before.rstrip()} “{_cut(told)}”"


def _crawled(arguments: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    pages = _content(result).get("pages")
    count = len(pages) if isinstance(pages, list) else pages if isinstance(pages, int) else None
    what = "pages" if count is None else f"{count} page{'' if count == 1 else 's'}"
    host = _host(arguments)
    return f"Read {what} of {host}" if host else f"Read {what}"


def _host(arguments: Mapping[str, Any]) -> str:
    url = arguments.get("url")
    if not isinstance(url, str):
        return ""
    try:
        return _cut(urlsplit(url if "//" in url else f"//{url}").hostname or "")
    except ValueError:
        return ""


def _content(result: Mapping[str, Any]) -> Mapping[str, Any]:
    content = result.get("content")
    return content if isinstance(content, Mapping) else {}


def _first_text(arguments: Mapping[str, Any]) -> Any:
    return next((value for value in arguments.values() if isinstance(value, str) and value.strip()), None)


def _cut(text: str) -> str:
    line = " ".join(text[: _LONG * 4].split())
    return line if len(line) <= _LONG else f"{line[: _LONG - 1]}…"


_DECIDED: Mapping[str, str] = {
    "approve": "Approved",
    "approve_with_changes": "Approved with changes",
    "request_changes": "Changes requested",
    "reject": "Rejected",
}


def is_decision(output: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a wait's output is what people decided."""
    return isinstance(output, Mapping) and {"approval_id", "decision"} <= set(output)


def decision_of(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people decided, out of what the journal keeps of it."""
    told = {"decision": str(output["decision"]).replace("_", " "), "by": output.get("by") or None}
    return {key: value for key, value in {**told, "comment": output.get("comment")}.items() if value}


def decision_words(output: Mapping[str, Any]) -> str:
    """Say what people decided, and who: "Approved by rita: looks right"."""
    by = ", ".join(str(name) for name in output.get("by") or ())
    decision = str(output["decision"])
    said = _DECIDED.get(decision, decision.replace("_", " ").capitalize()) + (f" by {by}" if by else "")
    comment = _cut(str(output.get("comment") or ""))
    return f"{said}: {comment}" if comment else said


def arguments_of(given: Any) -> Any:
    """Return what a tool was called with, out of what the journal keeps of the call."""
    return given["arguments"] if isinstance(given, Mapping) and set(given) == {"tool", "arguments"} else given


def result_of(output: Any) -> Any:
    """Return what a tool gave back, out of what the journal keeps of it."""
    if isinstance(output, Mapping) and {"ok", "content", "tool"} <= set(output):
        return output["content"] if output["ok"] else {"error": output.get("error"), "message": output["content"]}
    return output
