"""What the demo model says: quotes from what tools returned, from the conversation, and what it knows of Astra."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agents.llm import demo_posts, demo_shop, demo_showcase, demo_talk
from agents.llm.demo_calls import about, exchange, results, strings
from agents.relevance import Ranker, query_terms, salient, sentences, terms, top_sentences
from agents.runtime.types import Message, ModelCall, ToolResult

NOTE = (
    "_I am Astra's demo model: I pick tools by your words and quote what they find, but I do not reason. "
    "Set `ASTRA_MODEL` and a provider's key to talk to a real one._"
)
NO_TOOLS = "In a research task, give a `start_url`: then I read the site and quote what it says about your question."
SHORT_NOTE = "_(Astra's demo model. A real one answers once `ASTRA_MODEL` and a provider's key are set.)_"
_GREETING = re.compile(
    r"^\W*(hi|hello|hey|good (morning|afternoon|evening|day)|greetings|hola|moin|yo)\b[\w\s]{0,20}\W*$", re.I
)
_THANKS = re.compile(r"^\W*(thanks?|thank you|thx|great|perfect|cool|nice|well done|ok(ay)?)\b[\w\s,]{0,30}\W*$", re.I)
_BYE = re.compile(r"^\W*(bye|goodbye|see you|good night|ciao)\b", re.I)
_ABILITIES = re.compile(
    r"\b(what (can|do) you do|what are you able|how can you help|help me get started|"
    r"your (abilities|capabilities|tools|skills)|"
    r"what tools|which tools|how do (i|you) use (this|you|astra))\b|^\W*(help|\?)\W*$",
    re.I,
)
_WHO = re.compile(
    r"\b(who|what) are you\b|\byour name\b|\bare you (a |an )?(human|bot|ai|robot|real|person|demo|gpt|claude)\b", re.I
)
_SUMMARY = re.compile(
    r"\b(summari[sz]e|summary|gist|overview|key points|main points|tl;?dr|what does it say|what's in)\b", re.I
)
_PASTED = re.compile(
    r"^\W*(?:please )?(?:(?:can|could) you )?(?:summari[sz]e|sum up|tl;?dr)\b[^:\n]{0,40}[:\n]\s*(\S.*)", re.I | re.S
)
_TOOL_LINES = {
    "web_crawl": "**read web pages** – give me an address and a question: *What does https://… say about …?*",
    "memory_write": "**remember** things for you – *Remember that our release day is Tuesday.*",
    "memory_read": "**look up** what you had me remember – *What do you remember about the release?*",
    "order_lookup": "**look up an order** of the shop – give me its number",
    "refund": "**refund an order** – give me its number, the amount and what is wrong with it",
    "file_read": "**read files** of the shared folder – *Read file notes.txt*, or *list the files*",
}
_ASTRA = (
    (("astra",), "Astra runs AI agents in production: you define an agent once and invoke it in four ways."),
    (
        ("mode", "way", "invok", "stream", "batch"),
        "An agent answers a person live in the chat, takes tasks from a queue, works through millions of rows in a "
        "batch window, or is fired by a schedule. The agent itself does not know which.",
    ),
    (
        ("task", "queue", "submit", "api"),
        "Tasks are submitted with `POST /api/v1/tasks` or `manage.py submit ENDPOINT 'text'`, and watched in the "
        "console under /console/tasks/ or with `GET /api/v1/tasks/{id}`.",
    ),
    (
        ("crash", "kill", "die", "lost", "lose", "fail", "retry", "recover", "journal", "step", "resum"),
        "Every step of a run is recorded as it finishes. When a worker dies, another process goes on from the last "
        "recorded step: finished steps do not run again.",
    ),
    (
        ("dead", "letter", "redriv"),
        "A task that is out of attempts becomes a dead letter. It stays visible in the console until somebody redrives "
        "it, from its last step or from the start, or discards it.",
    ),
    (
        ("model", "key", "openai", "anthropic", "real", "gpt", "claud"),
        "To use a real model, set `OPENAI_API_KEY` or `ANTHROPIC_API_KEY`, and for one model for every agent "
        "`ASTRA_MODEL`, for example `openai:gpt-5.1`. With `OPENAI_BASE_URL` any compatible server will do.",
    ),
    (
        ("agent", "yml", "config", "tool", "program"),
        "Agents are declared in astra.yml: instructions, models, tools and limits. A tool is a Python function with "
        "type hints and a docstring; a program is an async function whose awaits on `ctx` are recorded.",
    ),
    (
        ("cost", "budget", "spend", "price", "cap", "money"),
        "Each run has budgets: turns, tokens, time and money. A call is made only if what it could cost at most still "
        "fits.",
    ),
)


def text(call: ModelCall) -> str:
    """Return the answer to a conversation."""
    asked, since = exchange(call)
    summed_up = demo_talk.summary(asked)
    if summed_up:
        return summed_up
    if demo_posts.is_post(asked):
        return demo_posts.post(asked)
    found = results(since)
    if found and all(result.tool in demo_shop.TOOLS for result in found):
        return f"{demo_shop.text(asked, since)}\n\n{SHORT_NOTE}"
    if found:
        return f"{of_results(asked, found)}\n\n{SHORT_NOTE}"
    return talk(asked, call)


def of_results(asked: str, found: Sequence[ToolResult]) -> str:
    """Return what the results say on the question: failures said plainly, the rest quoted."""
    parts = [_result(asked, result) for result in found]
    return "\n\n".join(part for part in parts if part) or "The tools returned nothing that I could quote."


def _result(asked: str, result: ToolResult) -> str:
    if not result.ok:
        said = result.content if isinstance(result.content, str) else str(result.content or "no reason given")
        return f"I could not use `{result.tool}`: {said}"
    content = result.content
    if result.tool == "web_crawl" and isinstance(content, dict):
        return _crawl(asked, content)
    if result.tool == "memory_read" and isinstance(content, dict):
        return _memories(content)
    if result.tool == "memory_write" and isinstance(content, dict):
        return f"I will remember: {content.get('remembered', '')}"
    if result.tool == "file_read" and isinstance(content, dict):
        return _file(asked, content)
    texts = strings(content)
    if texts:
        return "\n".join(f"- {_one_line(sentence)}" for _, sentence in _best(asked, texts, 4))
    return f"`{result.tool}` returned: {str(content)[:500]}"


def _best(asked: str, texts: Sequence[str], count: int) -> list[tuple[int, str]]:
    """Return the sentences that answer the question; where it has no subject, those that say most."""
    question = about(asked) or asked
    if not _SUMMARY.search(asked) and (found := top_sentences(question, texts, count=count)):
        return found
    return salient(texts, count=count)


def _crawl(asked: str, content: dict[str, Any]) -> str:
    pages = content.get("pages") or []
    passages = [(page, passage["text"]) for page in pages for passage in page.get("passages", [])]
    if not passages:
        read = f"I read {len(pages)} page{'s' if len(pages) != 1 else ''}"
        return f"{read}, and none of them says anything about that."
    question = about(asked)
    chosen = _best(question or "summary", [passage for _, passage in passages], 4)
    lines = [
        f"- {_one_line(sentence)} ([{_label(passages[at][0])}]({passages[at][0]['url']}))" for at, sentence in chosen
    ]
    read = ", ".join(f"[{_label(page)}]({page['url']})" for page in pages[:5])
    more = f" and {len(pages) - 5} more" if len(pages) > 5 else ""
    head = f"On “{question}” I found:" if question else "The page says:"
    return f"{head}\n\n" + "\n".join(lines) + f"\n\nPages read: {read}{more}."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _label(page: dict[str, Any]) -> str:
    return re.sub(r"[\[\]]", "", str(page.get("title") or page["url"]))[:80]


def _memories(content: dict[str, Any]) -> str:
    memories = content.get("memories") or []
    if not memories:
        return str(content.get("note") or "I do not remember anything yet.")
    return "You had me remember:\n\n" + "\n".join(f"- {memory['text']}" for memory in memories)


def _file(asked: str, content: dict[str, Any]) -> str:
    if "entries" in content:
        entries = content["entries"]
        if not entries:
            return "The folder is empty."
        names = [f"- `{entry['name']}`" + ("/" if entry["kind"] == "folder" else "") for entry in entries[:50]]
        return f"In `{content['path']}` there are:\n\n" + "\n".join(names)
    body = str(content.get("text", ""))
    more = f" (the first part: it has {content['bytes']} bytes)" if content.get("next_offset") else ""
    if len(body) <= 600:
        return f"`{content['path']}`{more} says:\n\n{_quoted(body)}"
    lines = "\n".join(
        f"- {_one_line(sentence)}" for _, sentence in _best(_without_path(asked, content["path"]), [body], 4)
    )
    return f"From `{content['path']}`{more}:\n\n{lines}"


def _without_path(asked: str, path: str) -> str:
    return re.sub(re.escape(path), " ", asked, flags=re.I)


def _quoted(body: str) -> str:
    return "\n".join(f"> {line}" for line in body.strip().splitlines()) or "> (nothing)"


def talk(asked: str, call: ModelCall) -> str:
    """Return an answer where no tool was used."""
    tools = [spec.name for spec in call.tools]
    note = SHORT_NOTE if _has_introduced_itself(call.messages) else NOTE
    if not asked:
        return f"Hello! Ask me something.\n\n{NOTE}"
    if _GREETING.match(asked):
        return f"Hello! {abilities(tools)}\n\n{note}"
    if _THANKS.match(asked):
        return f"You are welcome.\n\n{SHORT_NOTE}"
    if _BYE.match(asked):
        return f"Goodbye! What you had me remember stays remembered.\n\n{SHORT_NOTE}"
    if _WHO.search(asked) or _ABILITIES.search(asked):
        return f"I am the demo model that comes with Astra. {abilities(tools)}\n\n{NOTE}"
    if demo_talk.asks_for_earlier(asked):
        return f"{demo_talk.earlier(asked, call.messages)}\n\n{SHORT_NOTE}"
    if demo_showcase.wanted(asked):
        return demo_showcase.TEXT
    found = (
        demo_talk.calculation(asked) or _of_pasted(asked) or _of_astra(asked) or _of_conversation(asked, call.messages)
    )
    if found:
        return f"{found}\n\n{SHORT_NOTE}"
    return _at_a_loss(tools, note)


def _has_introduced_itself(messages: Sequence[Message]) -> bool:
    return any(NOTE in message.text for message in messages if message.role == "assistant")


def _at_a_loss(tools: Sequence[str], note: str) -> str:
    """Say that there is no answer, and what can be asked instead: at length the first time only."""
    if not tools:
        return f"I cannot answer that: I know nothing but what I am given to read. {NO_TOOLS}\n\n{note}"
    if note == SHORT_NOTE:
        return f"I cannot answer that from what I know. Ask *What can you do?* to see what I can.\n\n{note}"
    return f"I cannot answer that from what I know. {abilities(tools)}\n\n{note}"


def abilities(tools: Sequence[str]) -> str:
    """Say what can be asked, with the tools at hand."""
    lines = [f"- {_TOOL_LINES.get(tool) or f'use the tool `{tool}` when you name it'}" for tool in tools]
    lines.append("- **summarise** a text that you paste here, by its own sentences")
    lines.append("- **recall** this conversation – *What did I say before?*")
    lines.append("- **write at length**, with a table and code – *Show me a long answer*, to try Stop and reload with")
    return "I can\n\n" + "\n".join(lines)


def _of_astra(asked: str) -> str:
    words = set(terms(asked))
    if "astra" not in words and not words & {"redriv", "dead-letter"}:
        return ""
    lines = [line for keys, line in _ASTRA if any(key in word for key in keys[:] for word in words if key != "astra")]
    return " ".join(lines[:3]) or _ASTRA[0][1]


def _of_pasted(asked: str) -> str:
    """Summarise a text that came with the message: one that it is asked to, or a long one."""
    pasted = match[1] if (match := _PASTED.match(asked)) else asked
    count = len(sentences(pasted))
    if count < 2 or (match is None and (count <= 3 or len(asked) <= 300)):
        return ""
    chosen = salient([pasted], count=min(3, (count + 1) // 2))
    return "In its own words:\n\n" + "\n".join(f"- {_one_line(sentence)}" for _, sentence in chosen)


def _of_conversation(asked: str, messages: Sequence[Message]) -> str:
    """Quote what was said or found before."""
    before = [text for message in messages[:-1] if message.role != "system" for text in _texts(message)]
    wanted = query_terms(asked)
    if not before or len(wanted) < 1:
        return ""
    ranker = Ranker(asked, before)
    found = [sentence for _, sentence in top_sentences(asked, before, count=3) if ranker.coverage(sentence) >= 0.5]
    return "From what was said before:\n\n" + "\n".join(f"- {sentence}" for sentence in found) if found else ""


def _texts(message: Message) -> list[str]:
    said = [line for line in message.text.splitlines() if not line.startswith("_") and line.strip()]
    return ["\n".join(said)] + [text for result in message.results if result.ok for text in strings(result.content)]
