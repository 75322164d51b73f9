"""A long answer of the demo model's, to try the chat with: Stop, a dropped line, headings, a table, code."""

from __future__ import annotations

import re

_WANTED = re.compile(
    r"\b(?:long|longer|lengthy|big) (?:answer|text|reply|response|message|one)\b"
    r"|\b(?:show|write|give|send|try|test)\b[^.?!]{0,30}\b(?:markdown|code block|a table)\b"
    r"|\bmarkdown (?:example|demo|sample|test)\b|\bwrite (?:a lot|something long|an essay)\b",
    re.I,
)

TEXT = """\
# A long answer

You asked for something long, so here is one. It comes from Astra's demo model, which wrote it beforehand; it is there \
so that you can watch an answer stream, press **Stop** in the middle of it, reload the page while it is being written, \
or open the same conversation in a second tab. Whatever you try, the text stays whole and nothing is doubled.

## What happens while you read this

1. Your message was written down together with a *run* that answers it, in one transaction.
2. The run asked a model, and the model began to stream.
3. Each piece of text went to every page that shows this conversation, in frames of about 30 milliseconds.
4. Once a second the text so far is saved, so that another process can show it if this one is gone.

> Generation belongs to the run, not to the socket. If your connection drops, the run goes on, and your page catches \
up as soon as it is back.

## One agent, four ways to run it

The same agent that talks to you here can be run in other ways. It does not know which; only the policy around it \
differs.

| mode | who waits | where the answer goes | when something fails |
|---|---|---|---|
| streaming | a person, in the chat | a WebSocket, piece by piece | one more attempt, at once |
| queue | nobody | the result store, and a webhook | retries, then a dead letter |
| batch | nobody, for hours | Parquet files and a manifest | the shard is tried again |
| schedule | nobody, a clock fires it | a durable target | it fires again next time |

## What an agent looks like

A program is ordinary Python. Every `await` on `ctx` is a step that is recorded once, so that a crash in the middle \
costs nothing that was finished:

```python
from agents.runtime.program import program


@program("loop")
async def loop(ctx):
    messages = conversation(ctx.input)
    while True:
        reply = await ctx.compose(messages)      # streams; no tool runs in here
        if not reply.calls:
            return {"text": reply.text}
        results = await ctx.tools(reply.calls)   # each call is a step of its own
        messages += [reply.as_message(), Message(role="tool", results=results)]
```

And this is how a task is submitted from a shell, to the same agent under another endpoint:

```sh
python manage.py submit answer.v1 "What do you remember about the release?"
```

## Things to try now

- **Stop.** Press it: the text that you see stays, and the request to the model is closed.
- **Drop the line.** Switch the network off for ten seconds and on again. The page says so, and then catches up.
- **A second tab.** Open this conversation in another tab. Both show the same text, at the same time.
- **Tools.** Ask me to *remember that our release day is Tuesday*, and later *what do you remember about the release?*
- **A web page.** Give me an address and a question, and I quote what the page says about it.
- **The console.** Every run is there with its steps, what they took and what they cost.

## And what I am not

I am no language model. I pick tools by the words of your message and quote what they return; what you are reading now \
is a fixed text. Set `ANTHROPIC_API_KEY` or `OPENAI_API_KEY`, restart Astra, and the same agent answers with a real \
model: same tools, same limits, same journal, same page.

That was all. If you read it to the end without pressing anything, ask for it again and press something."""


def wanted(asked: str) -> bool:
    """Tell whether a message asks for something long, or for markdown."""
    return bool(_WANTED.search(asked))
