"""The demo model's structured answers: whatever the schema asks for, filled from the text at hand."""

from __future__ import annotations

import re
from typing import Any

from agents.llm import demo_posts
from agents.llm.demo_answers import NOTE
from agents.llm.demo_calls import exchange, results, strings
from agents.relevance import Ranker, best_quote, query_terms, salient, terms, top_sentences
from agents.runtime.types import ModelCall

Schema = dict[str, Any]

_SOURCE = re.compile(r"<source n=\"(\d+)\"([^>]*)>\n?(.*?)\n?</source>", re.S)
_TITLE = re.compile(r"title=\"([^\"]*)\"")
_QUESTION = re.compile(r"<question>\s*(.*?)\s*</question>", re.S)
_KINDS = (
    (re.compile(r"e-?mail", re.I), re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+\w")),
    (re.compile(r"url|link|website|homepage", re.I), re.compile(r"https?://[^\s<>\"']+")),
    (re.compile(r"date|day|when", re.I), re.compile(r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2} [A-Z][a-z]+ \d{4}\b")),
    (re.compile(r"phone|tel", re.I), re.compile(r"\+?\d[\d ()/-]{6,}\d")),
    (re.compile(r"name|author|person|company|title", re.I), re.compile(r"\b[A-Z][\w'-]+(?: [A-Z][\w'-]+)+\b")),
)
_NO = re.compile(r"\b(no|not|never|none|n't|without|cannot|fail\w*|wrong|false|spam)\b", re.I)
MAX_QUOTES = 6


def fill(schema: Schema, call: ModelCall) -> Any:
    """Return a value of the schema."""
    asked, since = exchange(call)
    fields = schema.get("properties", {})
    if "report" in fields and "citations" in fields and _SOURCE.search(asked):
        return cited(asked)
    if schema.get("title") == demo_posts.TITLES:
        return demo_posts.titles(asked)
    texts = [text for result in results(since) for text in strings(result.content)] or [asked]
    return _value(schema, schema, "", asked, texts, 0)


def cited(asked: str) -> dict[str, Any]:
    """Return a report whose sentences are quotes of the sources in the message, each with its citation."""
    question = (_QUESTION.search(asked) or re.match(r"(.*)", asked)).group(1)  # type: ignore[union-attr]
    sources = [
        (int(number), (_TITLE.search(rest) or re.match(r"()", "")).group(1), body)  # type: ignore[union-attr]
        for number, rest, body in _SOURCE.findall(asked)
    ]
    chosen = _quotes(question, sources)
    if not chosen:
        return {"report": f"The sources do not say anything about this.\n\n{NOTE}", "citations": []}
    parts, citations, under = [], [], ""
    for position, (number, title, quote) in enumerate(chosen, 1):
        citations.append({"n": position, "source": number, "quote": quote})
        if title != under:
            parts.append(f"**{title}** says:" if title else "A page says:")
            under = title
        lines = quote.splitlines()
        parts.append("\n".join([*(f"> {line}  " for line in lines[:-1]), f"> {lines[-1]} [{position}]"]))
    return {"report": "\n\n".join([*parts, NOTE]), "citations": citations}


def _quotes(question: str, sources: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Return the best quotes as (source, title, quote): those of one page together, the best page first.

    The sources come best first: a quote counts by its own words, and by the place of its source.
    """
    ranker = Ranker(question, [body for _, _, body in sources])
    found = []
    for place, (number, title, body) in enumerate(sources):
        score, quote = best_quote(ranker, body, limit=560)
        if quote and ranker.coverage(f"{title} {body}") >= 0.34:
            found.append((score + 1.2 / (1 + 0.15 * place), number, title, quote))
    found.sort(key=lambda item: (-item[0], item[1]))
    kept: list[tuple[float, int, str, str]] = []
    for item in found:
        words = set(terms(item[3]))
        alike = any(len(words & (other := set(terms(one[3])))) > 0.6 * len(words | other) for one in kept)
        if alike or (kept and item[0] < 0.4 * kept[0][0]):
            continue
        kept.append(item)
        if len(kept) == MAX_QUOTES:
            break
    order = list(dict.fromkeys(title for _, _, title, _ in kept))
    return [(number, title, quote) for _, number, title, quote in sorted(kept, key=lambda item: order.index(item[2]))]


def _value(schema: Schema, root: Schema, name: str, asked: str, texts: list[str], depth: int) -> Any:
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _option(schema["enum"], asked, texts)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object":
        fields = schema.get("properties", {})
        return (
            {key: _value(inner, root, key, asked, texts, depth + 1) for key, inner in fields.items()}
            if depth < 6
            else {}
        )
    if kind == "array":
        return _items(schema, root, name, asked, texts, depth)
    if kind == "boolean":
        return not _NO.search(" ".join(texts))
    if kind in ("integer", "number"):
        return _number(schema, name, texts, whole=kind == "integer")
    return None if kind == "null" else _string(schema, name, asked, texts)


def _resolved(schema: Schema, root: Schema) -> Schema:
    for _ in range(10):
        if "$ref" in schema:
            found: Any = root
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found.get(part, {})
            schema = found
        elif options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
            schema = next((one for one in options if one.get("type") != "null"), options[0])
        else:
            break
    return schema


def _option(options: list[Any], asked: str, texts: list[str]) -> Any:
    words = set(terms(" ".join(texts)))
    said = " ".join([*texts, asked]).lower()
    return max(
        enumerate(options),
        key=lambda item: (str(item[1]).lower() in said, len(set(terms(str(item[1]))) & words), -item[0]),
    )[1]


def _items(schema: Schema, root: Schema, name: str, asked: str, texts: list[str], depth: int) -> list[Any]:
    inner = _resolved(schema.get("items", {}), root)
    count = max(schema.get("minItems", 0), min(3, schema.get("maxItems", 3)))
    if inner.get("type", "string") == "string" and not {"enum", "const"} & set(inner):
        if re.search(r"tag|keyword|topic|label", name, re.I):
            words = [term for text in texts for term in query_terms(text)]
            found = sorted(dict.fromkeys(words), key=lambda term: (-words.count(term), words.index(term)))[:count]
        else:
            found = [sentence for _, sentence in salient(texts, count=count)]
        filled = (found + [name or "item"] * count)[: max(len(found), schema.get("minItems", 0))]
        return [_fitted(inner, text) for text in filled]
    pieces = [[sentence] for _, sentence in salient(texts, count=count)] or [texts]
    return [_value(inner, root, name, asked, piece, depth + 1) for piece in pieces] if depth < 6 else []


def _number(schema: Schema, name: str, texts: list[str], *, whole: bool) -> float:
    low, high = schema.get("minimum"), schema.get("maximum")
    pattern = re.compile(re.escape(name.replace("_", " ")) + r"\D{0,30}?(-?\d+(?:\.\d+)?)", re.I)
    text = " ".join(texts)
    found = pattern.search(text) or re.search(r"(-?\d+(?:\.\d+)?)", text)
    value = float(found.group(1)) if found else float(low or 0)
    if low is not None and high is not None and not low <= value <= high:
        value = (low + high) / 2
    value = max(value, low) if low is not None else value
    value = min(value, high) if high is not None else value
    return int(value) if whole else value


def _string(schema: Schema, name: str, asked: str, texts: list[str]) -> str:
    text = " ".join(texts)
    for names, pattern in _KINDS:
        if names.search(name) and (found := pattern.search(text)):
            return _fitted(schema, found.group())
    wanted = f"{name.replace('_', ' ')} {schema.get('description', '')}"
    best = top_sentences(wanted, texts, count=1) or top_sentences(asked, texts, count=2) or salient(texts, count=1)
    return _fitted(schema, " ".join(sentence for _, sentence in best) or text)


def _fitted(schema: Schema, text: str) -> str:
    return text[: schema.get("maxLength", 2000)].ljust(schema.get("minLength", 0), ".")
