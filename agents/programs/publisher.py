"""The program `publisher`: drafts posts, asks people about each of them, and publishes those that they approved."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.runtime.context import RunContext
from agents.runtime.errors import BadInput, BadReply
from agents.runtime.plans import Plan, PlannedCall, Rejected
from agents.runtime.program import program
from agents.runtime.types import ToolResult

DEFAULT_POSTS, MOST_POSTS = 10, 20
#: Posts that are written side by side.
AT_ONCE = 4
TITLES_TOKENS = 1_500
POST_TOKENS = 1_500
TOOL = "publish_post"
MAX_SLUG = 60

TITLES: dict[str, Any] = {
    "title": "PostTitles",
    "type": "object",
    "properties": {
        "posts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "title": {"type": "string", "description": "The post's title, at most 90 characters."},
                    "angle": {"type": "string", "description": "In a sentence, what this post says and no other."},
                },
                "required": ["title", "angle"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["posts"],
    "additionalProperties": False,
}
ASK_TITLES = """\
<topic>{topic}</topic>
<audience>{audience}</audience>
<posts>{posts}</posts>

Plan that many blog posts about the topic for that audience. Each has an angle of its own: no two say the same. Titles \
are plain and exact, without a colon and without a number of tips."""
ASK_POST = """\
<topic>{topic}</topic>
<audience>{audience}</audience>
<title>{title}</title>
<angle>{angle}</angle>

Write this post in Markdown, 200 to 350 words, without its title. Begin with what the reader gets. Be concrete; invent \
no facts, numbers or quotes."""
ASK_AGAIN = """\
<topic>{topic}</topic>
<audience>{audience}</audience>
<title>{title}</title>
<angle>{angle}</angle>
<post>
{body}
</post>
<comment>{comment}</comment>

A reviewer read this post and left the comment. Write the post anew, in Markdown, 200 to 350 words, without its title, \
so that the comment is met. Keep what the comment does not touch."""


class Commission(BaseModel):
    """What is to be written."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    topic: str = Field(min_length=1, max_length=300)
    posts: int = Field(default=DEFAULT_POSTS, ge=1, le=MOST_POSTS)
    audience: str = Field(default="", max_length=300)


@program("publisher")
async def publisher(ctx: RunContext) -> dict[str, Any]:
    """Draft posts about a topic: `{"topic", "posts"?: 1 to 20, "audience"?}`, or the topic alone.

    All posts are one plan. People decide on each by itself, or want them rewritten; what they approve is published.

    Returns `{"topic", "drafted", "published": [{"slug", "title", "file"}], "left_out": [{"slug", "title", "why"}]}`.
    """
    asked = commission(ctx.input)
    posts = await _draft(ctx, asked)

    async def rewrite(plan: Plan, comment: str) -> Plan:
        await ctx.progress(0, len(posts), "Rewriting the posts as the reviewer wants them")
        bodies = await ctx.gather(*(_rewritten(ctx, asked, call, comment) for call in plan.calls), limit=AT_ONCE)
        calls = zip(plan.calls, bodies, strict=True)
        return _plan(asked, [_with_body(call, body) for call, body in calls])

    output: dict[str, Any] = {"topic": asked.topic, "drafted": len(posts), "published": [], "left_out": []}
    try:
        plan = await ctx.approve(_plan(asked, posts), reason=_reason(asked, len(posts)), revise=rewrite)
    except Rejected as refusal:
        why = str(refusal.extra.get("comment") or "") or "All of them were rejected."
        output["left_out"] = [_named(post) | {"why": why} for post in posts]
        await ctx.compose(report(output))
        return output
    kept = {call.id for call in plan.calls}
    results = await ctx.tools(plan.calls)
    output["left_out"] = [_named(post) | {"why": "A reviewer left it out."} for post in posts if post.id not in kept]
    for call, result in zip(plan.calls, results, strict=True):
        if result.ok:
            output["published"].append(_named(call) | {"file": str(result.content["file"])})
        else:
            output["left_out"].append(_named(call) | {"why": _why(result)})
    await ctx.compose(report(output))
    return output


def commission(given: Any) -> Commission:
    """Return the input, a topic or an object.

    Raises:
        BadInput: it is neither.
    """
    try:
        return Commission.model_validate({"topic": given} if isinstance(given, str) else given)
    except ValidationError as error:
        faults = [{"loc": list(one["loc"]), "msg": one["msg"]} for one in error.errors(include_url=False)]
        where = ".".join(map(str, faults[0]["loc"])) or "input"
        raise BadInput(
            f'The input is a topic or {{"topic", "posts"?, "audience"?}}: {where}: {faults[0]["msg"]}.', errors=faults
        ) from None


async def _draft(ctx: RunContext, asked: Commission) -> list[PlannedCall]:
    await ctx.progress(0, asked.posts, "Planning the posts")
    prompt = ASK_TITLES.format(topic=asked.topic, audience=_audience(asked), posts=asked.posts)
    reply = await ctx.model("titles", prompt, output=TITLES, max_tokens=TITLES_TOKENS)
    planned = [one for one in reply.data["posts"] if one["title"].strip()][: asked.posts]
    if not planned:
        raise BadReply("The model planned no posts.")
    await ctx.progress(0, len(planned), f"Writing {len(planned)} posts")
    bodies = await ctx.gather(*(_written(ctx, asked, one) for one in planned), limit=AT_ONCE)
    slugs: list[str] = []
    posts = []
    for number, (one, body) in enumerate(zip(planned, bodies, strict=True), 1):
        slugs.append(slug(one["title"], slugs))
        title = " ".join(one["title"].split())[:200]
        arguments = {"slug": slugs[-1], "title": title, "body_markdown": body}
        posts.append(_call(str(number), arguments, why=" ".join(one["angle"].split())))
    return posts


async def _written(ctx: RunContext, asked: Commission, one: dict[str, str]) -> str:
    prompt = ASK_POST.format(topic=asked.topic, audience=_audience(asked), title=one["title"], angle=one["angle"])
    return _body((await ctx.model("write post", prompt, max_tokens=POST_TOKENS)).text)


async def _rewritten(ctx: RunContext, asked: Commission, call: PlannedCall, comment: str) -> str:
    prompt = ASK_AGAIN.format(
        topic=asked.topic,
        audience=_audience(asked),
        title=call.arguments["title"],
        angle=call.why,
        body=call.arguments["body_markdown"],
        comment=comment,
    )
    return _body((await ctx.model("rewrite post", prompt, max_tokens=POST_TOKENS)).text)


def _body(text: str) -> str:
    """Return a post's text without the title that a model may put above it all the same."""
    body = re.sub(r"\A\s*# [^\n]*\n+", "", text).strip()
    if not body:
        raise BadReply("The model wrote an empty post.")
    return body


def _audience(asked: Commission) -> str:
    return asked.audience or "people who are new to it"


def _call(id: str, arguments: dict[str, Any], why: str) -> PlannedCall:
    touches = (f"published/{arguments['slug']}.md",)
    return PlannedCall(id=id, tool=TOOL, arguments=arguments, why=why, touches=touches, undoable=True)


def _with_body(call: PlannedCall, body: str) -> PlannedCall:
    return _call(call.id, {**call.arguments, "body_markdown": body}, call.why)


def _plan(asked: Commission, posts: Sequence[PlannedCall]) -> Plan:
    title = f"Publish {_count(len(posts))} about {asked.topic}"
    return Plan(title=title, summary=f"For {_audience(asked)}.", calls=tuple(posts))


def _reason(asked: Commission, posts: int) -> str:
    return f"{_count(posts)} about {asked.topic} {'is' if posts == 1 else 'are'} drafted: decide which go out"


def _count(posts: int) -> str:
    return f"{posts} post{'' if posts == 1 else 's'}"


def _named(call: PlannedCall) -> dict[str, Any]:
    return {"slug": call.arguments["slug"], "title": call.arguments["title"]}


def _why(result: ToolResult) -> str:
    return str(result.content or result.error or "It could not be published.")


def slug(title: str, taken: Sequence[str] = ()) -> str:
    """Return a title as it stands in an address, and in no other post's."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    found = "-".join(re.findall(r"[a-z0-9]+", plain.replace("'", "")))
    found = found[:MAX_SLUG].rsplit("-", 1)[0] if len(found) > MAX_SLUG else found
    found = found or "post"
    number = 2
    unique = found
    while unique in taken:
        unique, number = f"{found}-{number}", number + 1
    return unique


def report(output: dict[str, Any]) -> str:
    """Say what was published and what was not, in Markdown."""
    published, left_out = output["published"], output["left_out"]
    lines = [f"**{_count(len(published))}** of {output['drafted']} published about {output['topic']}."]
    if published:
        lines += ["", *(f"- {post['title']} (`{post['file']}`)" for post in published)]
    if left_out:
        lines += ["", "Left out:", "", *(f"- {post['title']}: {post['why']}" for post in left_out)]
    return "\n".join(lines)
