"""Which tools the demo model asks for: what the user writes is matched with patterns, nothing is understood."""

from __future__ import annotations

import re
from typing import Any

from agents.llm import demo_shop
from agents.llm.demo_talk import asks_for_earlier
from agents.relevance import query_terms, salient, terms
from agents.runtime.types import Message, ModelCall, ToolResult, ToolSpec

Wanted = tuple[str, dict[str, Any]]

_URL = re.compile(r"https?://[^\s<>\"'`]+|\bwww\.[\w-]+\.[^\s<>\"'`]+", re.I)
_TRAILING = ".,;:!?)]}>\u201d\u2019"
_PAGES = re.compile(r"\b(\d{1,2}) pages?\b", re.I)
_ONE_PAGE = re.compile(r"\b(only|just) (this|that|the one|one) page\b", re.I)
_CLAUSE = re.compile(
    r"(?<=[.!?;])\s+|\n+|,? and then |,? then |, and |; | and (?=(?:remember|read|open|list|what|crawl|note)\b)", re.I
)
_REMEMBER = re.compile(
    r"^\W*(?:(?:please|also|and|then|hey|ok|okay|can you|could you|would you|i want you to)[,\s]+)*"
    r"(?:remember|memori[sz]e|note(?: down)?|keep in mind|don'?t forget|save)\b"
    r"(?:\s+(?:that|this|the fact that))?[\s:,]+(.+)$",
    re.I | re.S,
)
_BACKWARDS = re.compile(r"^(it|this|that|them|the (result|answer|summary|content|gist)s?|what (it|they) says?)\b", re.I)
_RECALL = re.compile(
    r"\b(?:do|did|can|could|what do|what did) (?:you|i) (?:still )?(?:remember|recall|know|tell you|say|told)\b"
    r"|\bwhat have i told\b|\bremind me\b|\brecall\b|\bfrom (?:your )?memory\b|\bin your memory\b",
    re.I,
)
_ABOUT_ME = re.compile(r"^\W*(?:what|who|where|when|which|how)\b.*\b(my|mine|i|me)\b.*\?", re.I)
_RECALL_OBJECT = re.compile(
    r"\b(?:remember|recall|know|told you|tell you|memory)\b[\s,:]*(?:about|of|on|that|if)?\s+(.+)$", re.I
)
_FILE_VERB = re.compile(
    r"\b(read|open|show|summari[sz]e|look (?:at|into|in)|print|cat|what(?:'s| is| does)|tell me|load|check|find)\b",
    re.I,
)
_FILE = re.compile(
    r"[\"'`\u201c]([\w ./-]+\.\w{1,8})[\"'`\u201d]|(?<![\w/.:@])((?:[\w-]+/)*[\w.-]+\.[a-z]\w{0,7})(?![\w/@])", re.I
)
_NAMED_FILE = re.compile(r"\b(?:file|document)\s+(?:called |named )?[\"'`]?([\w./-]+)", re.I)
_LIST_FILES = re.compile(
    r"\b(?:list|show|which|what|see)\b[^.?!]{0,40}\b(?:files?|folders?|documents?|directory)\b(?!\s+[\w-]+\.\w)", re.I
)
_IN_FOLDER = re.compile(
    r"\bin (?:the )?(?:folder|directory)?\s*[\"'`]?([\w-]+(?:/[\w-]+)*)/?[\"'`]?(?: folder| directory)?\s*[?.!]*$", re.I
)
_LEAD = re.compile(
    r"^\W*(?:(?:please|can you|could you|would you|hey|and|then|also|i want you to|go|now)\b[,\s]*)*"
    r"(?:read|crawl|visit|open|fetch|look (?:at|into|through)|browse|check|search|scan|summari[sz]e|use)\b"
    r"(?:\s+(?:the|this|that|up|on|in|through|site|website|page|pages|documentation|docs|at|from|of))*\s*",
    re.I,
)
_GLUE = re.compile(
    r"^\W*(?:and|to|then)?\s*(?:tell me|find out|answer|explain|say|see|let me know|look for|for|about)\b[\s:,]*", re.I
)
# What is left of "compare A and B: …" or of "A (10 pages)" without the addresses.
_SAYS = re.compile(
    r"^\W*what (?:does|do|did)\s+(?:it |they |the \w+ )?(?:say|tell|mention|write)(?: us| me)? (?:about|on|of)\b", re.I
)
_EMPTY = re.compile(r"\(\s*\)|^\W*compare\s+and\b|^\W*and\b|^\W*with\b", re.I)
_TEXT_FILE = re.compile(r"\.(txt|md|rst|csv|tsv|json|ya?ml|toml|ini|cfg|conf|log|xml|html?|py|sql|tex)$", re.I)
_NOT_FILES = frozenset({"e.g", "i.e", "etc", "vs", "a.m", "p.m"})


def exchange(call: ModelCall) -> tuple[str, list[Message]]:
    """Return what the user asked last, and the messages since."""
    for position in range(len(call.messages) - 1, -1, -1):
        message = call.messages[position]
        if message.role == "user" and message.text.strip():
            return message.text.strip(), list(call.messages[position + 1 :])
    return "", []


def results(since: list[Message]) -> list[ToolResult]:
    """Return the results of tools among messages."""
    return [result for message in since for result in message.results]


def wanted(call: ModelCall) -> list[Wanted]:
    """Return the calls to make now, none when it is time to answer."""
    asked, since = exchange(call)
    offered = {spec.name: spec for spec in call.tools}
    done = [(made.tool, made.arguments) for message in since for made in message.calls]
    if offered.keys() >= demo_shop.TOOLS:
        planned = demo_shop.wanted(asked, call.messages[: -len(since) - 1], since, frozenset(offered))
    elif done:
        planned = _after(asked, since, offered)
    else:
        planned = _first(asked, offered)
        if not planned and call.tool_choice == "required" and offered:
            name, spec = next(iter(offered.items()))
            planned = [(name, guess(spec, asked))]
    return _once(planned, done)


def _once(planned: list[Wanted], done: list[Wanted]) -> list[Wanted]:
    kept: list[Wanted] = []
    for one in planned:
        if one not in kept and one not in done:
            kept.append(one)
    return kept[:8]


def _first(asked: str, offered: dict[str, ToolSpec]) -> list[Wanted]:
    """Plan what the message asks for, clause by clause."""
    if asks_for_earlier(asked):
        return []
    planned: list[Wanted] = []
    if "web_crawl" in offered:
        planned += crawls(asked)
    rest = _URL.sub(" ", asked)
    for clause in filter(None, (part.strip() for part in _CLAUSE.split(rest))):
        planned += _clause(clause, offered)
    if not planned:
        planned = _named(asked, offered)
    return planned


def _clause(clause: str, offered: dict[str, ToolSpec]) -> list[Wanted]:
    noted = _REMEMBER.match(clause)
    if noted and "memory_write" in offered:
        fact = noted.group(1).strip().rstrip(".?!").removeprefix("to ")
        return [] if _BACKWARDS.match(fact) else [("memory_write", {"text": fact[:1].upper() + fact[1:] + "."})]
    if "memory_read" in offered and (_RECALL.search(clause) or _ABOUT_ME.match(clause)):
        subject = _RECALL_OBJECT.search(clause)
        query = (subject.group(1) if subject else "" if _RECALL.search(clause) else clause).strip(" ?.!")
        return [("memory_read", {"query": query} if query_terms(query) and not _is_all(query) else {})]
    return files(clause) if "file_read" in offered else []


def _is_all(query: str) -> bool:
    return bool(re.fullmatch(r"(me|us|everything|all|anything|myself|it)\b.*", query, re.I))


def crawls(asked: str) -> list[Wanted]:
    """Return a crawl for each address in a message."""
    found = [match.group().rstrip(_TRAILING) for match in _URL.finditer(asked)]
    pages = _PAGES.search(asked)
    most = 1 if _ONE_PAGE.search(asked) else min(20, max(1, int(pages.group(1)))) if pages else None
    question = about(asked)
    return [
        (
            "web_crawl",
            {"url": url, **({"question": question} if question else {}), **({"max_pages": most} if most else {})},
        )
        for url in dict.fromkeys(found)
    ]


def about(asked: str) -> str:
    """Return what a message wants to know of an address in it, "" when nothing in particular."""
    question = _PAGES.sub(" ", _ONE_PAGE.sub(" ", _URL.sub(" ", asked)))
    for clause in [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", question)]:
        bare = _GLUE.sub("", _LEAD.sub("", _SAYS.sub(" ", _EMPTY.sub(" ", clause))))
        bare = " ".join(bare.split()).strip(" .,:;-?")
        if query_terms(bare) and terms(bare) and not _REMEMBER.match(clause):
            return bare[:500]
    return ""


def files(clause: str) -> list[Wanted]:
    """Return a reading for each file that a clause names, or a listing."""
    named = [(match.group(1) or match.group(2)).strip() for match in _FILE.finditer(clause)]
    named = [name for name in named if name.lower() not in _NOT_FILES and not re.fullmatch(r"[\d.]+\w?", name)]
    if named and (_FILE_VERB.search(clause) or any(_TEXT_FILE.search(name) for name in named)):
        return [("file_read", {"path": name}) for name in dict.fromkeys(named)]
    if _LIST_FILES.search(clause):
        inside = _IN_FOLDER.search(clause)
        general = inside is None or inside.group(1).lower() in ("shared", "the", "there", "folder", "sandbox", "here")
        return [("file_read", {"path": "." if general or inside is None else inside.group(1)})]
    plain = _NAMED_FILE.search(clause)
    if plain and _FILE_VERB.search(clause):
        return [("file_read", {"path": plain.group(1).rstrip(".")})]
    return []


def _after(asked: str, since: list[Message], offered: dict[str, ToolSpec]) -> list[Wanted]:
    """Plan what had to wait for the first results: "read notes.txt and remember what it says"."""
    if "memory_write" not in offered or any(call.tool == "memory_write" for message in since for call in message.calls):
        return []
    waits = any(
        (noted := _REMEMBER.match(clause.strip())) and _BACKWARDS.match(noted.group(1))
        for clause in _CLAUSE.split(_URL.sub(" ", asked))
    )
    texts = [text for result in results(since) if result.ok for text in strings(result.content)]
    if not waits or not texts:
        return []
    gist = " ".join(sentence for _, sentence in salient(texts, count=2))
    return [("memory_write", {"text": gist[:1000]})] if gist else []


def _named(asked: str, offered: dict[str, ToolSpec]) -> list[Wanted]:
    """Plan calls of tools that the message names: "use shell_exec to run 'ls'"."""
    words = set(terms(asked))
    return [
        (name, guess(spec, asked))
        for name, spec in offered.items()
        if name.lower() in asked.lower() or (len(parts := set(terms(name.replace("_", " ")))) > 1 and parts <= words)
    ]


def guess(spec: ToolSpec, asked: str) -> dict[str, Any]:
    """Fill a tool's required parameters from a message: quoted words, numbers, else the message itself."""
    quoted = re.findall(r"[\"'`\u201c]([^\"'`\u201d]+)[\"'`\u201d]", asked)
    numbers = re.findall(r"-?\d+(?:\.\d+)?", asked)
    urls = [match.group().rstrip(_TRAILING) for match in _URL.finditer(asked)]
    filled: dict[str, Any] = {}
    for name in spec.parameters.get("required", []):
        wanted_kind = spec.parameters.get("properties", {}).get(name, {})
        kind = wanted_kind.get("type", "string")
        if wanted_kind.get("enum"):
            options = wanted_kind["enum"]
            filled[name] = next((one for one in options if str(one).lower() in asked.lower()), options[0])
        elif kind in ("integer", "number"):
            number = float(numbers.pop(0)) if numbers else 1.0
            filled[name] = int(number) if kind == "integer" else number
        elif kind == "boolean":
            filled[name] = True
        elif kind == "array":
            filled[name] = quoted
        elif kind == "object":
            filled[name] = {}
        else:
            filled[name] = urls.pop(0) if "url" in name and urls else quoted.pop(0) if quoted else asked
    return filled


def strings(content: Any) -> list[str]:
    """Return the texts in a result that hold sentences, in order."""
    if isinstance(content, str):
        return [content] if " " in content.strip() else []
    if isinstance(content, dict):
        return [
            text
            for key, value in content.items()
            if key not in ("url", "frontier", "skipped")
            for text in strings(value)
        ]
    return [text for value in content for text in strings(value)] if isinstance(content, list) else []
