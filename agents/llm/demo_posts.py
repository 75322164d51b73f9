"""The demo model as an author: blog posts about any topic, each from its own angle, written beforehand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

#: The title of the schema that asks for the plan of posts.
TITLES = "PostTitles"
_TAG = re.compile(r"<(topic|audience|posts|title|angle|post|comment)>\s*(.*?)\s*</\1>", re.S)
_SHORTER = re.compile(r"\b(?:short|shorter|brief|briefer|cut|too long|trim)\b", re.I)
_EXAMPLE = re.compile(r"\b(?:example|concrete|specific|practical)\b", re.I)


@dataclass(frozen=True, slots=True)
class Angle:
    """One way to write about a topic."""

    title: str
    angle: str
    lead: str
    points: tuple[str, str, str]
    close: str


ANGLES = (
    Angle(
        "Where to begin with {topic}",
        "The first hour, for somebody who has never tried.",
        "Most people put {topic} off because the beginning looks larger than it is. An hour is enough to find out "
        "whether you want a second one.",
        ("Pick one small thing that you can finish today.", "Use what you have before you buy anything.",
         "Write down what surprised you: that is your next question."),
        "After that hour you know more about {topic} than most who talk of it.",
    ),
    Angle(
        "What nobody tells you about {topic}",
        "The part that books leave out.",
        "Guides to {topic} show the finished thing. They rarely show the third attempt, which is the one that teaches.",
        ("The dull parts decide how good the rest can be.", "Advice contradicts itself; it is written for other cases.",
         "You will want to stop just before it becomes easy."),
        "Knowing this in advance does not spare you the work. It does spare you the doubt.",
    ),
    Angle(
        "The case for doing {topic} slowly",
        "Why fewer, better attempts win.",
        "Speed is easy to measure, so we measure it. In {topic} it tells little: what lasts is what you understood.",
        ("Change one thing at a time, or you learn nothing from the change.", "Leave a day between two attempts.",
         "Keep the failures where you can see them."),
        "Slow is not the opposite of productive. It is the opposite of starting over.",
    ),
    Angle(
        "Five minutes a day for {topic}",
        "A habit so small that it survives a bad week.",
        "A plan that needs a free Saturday is a plan for somebody else. Five minutes of {topic} fit "
        "between two others.",
        ("Tie it to something that you do anyway.", "Stop after five minutes even when it goes well.",
         "Count the days, never the results."),
        "In a month that is two and a half hours, and no single evening was lost.",
    ),
    Angle(
        "The mistakes that taught us {topic}",
        "What goes wrong first, and what to do then.",
        "Everybody makes the same few mistakes with {topic}. Knowing them does not prevent them; it shortens them.",
        ("Too much at once: halve the plan, then halve it again.", "The wrong tool: borrow before you buy.",
         "No record: without one you repeat what you forgot."),
        "A mistake that you can name is half repaired.",
    ),
    Angle(
        "How to explain {topic} to a friend",
        "The plain words, without the jargon.",
        "If you can explain {topic} at a kitchen table, you have understood it. If not, the gap shows "
        "where to look next.",
        ("Begin with what it is for, and only then say what it is.", "Use one picture and stay with it.",
         "Let your friend say it back to you."),
        "The words that your friend did not need are the ones that you can drop too.",
    ),
    Angle(
        "What {topic} costs, honestly",
        "Time, money and patience, added up.",
        "The price of {topic} is more than the price of things. It is worth knowing before, not after.",
        ("Money: set a limit and note each expense.", "Time: count the tidying up as well.",
         "Patience: the first weeks pay nothing back."),
        "Some find that too much. Better to find it out on paper.",
    ),
    Angle(
        "Tools for {topic} that earn their place",
        "What to have at hand, and what to leave in the shop.",
        "Every field sells more tools than it needs, and {topic} is no exception. A good tool is one you reach for "
        "without thinking.",
        ("Have one of each that you use weekly.", "Repair before you replace.",
         "Give away what you have not touched for a year."),
        "The best tool is the one that makes you forget it.",
    ),
    Angle(
        "{topic} in company",
        "Learning with others, without a course.",
        "Alone you choose your own pace with {topic}; with others you borrow their eyes. Both have their day.",
        ("Show work that is not finished.", "Ask what somebody would do next, not whether it is good.",
         "Return the favour in the same week."),
        "Two people at the same stage teach each other more than one expert teaches either.",
    ),
    Angle(
        "When {topic} stops being fun",
        "The plateau, and three ways off it.",
        "There comes a week in which {topic} gives nothing back. It is no sign of a lack of talent; it comes to all.",
        ("Go back to something easy and do it well.", "Change the place or the hour.",
         "Take a real pause, with a date on which it ends."),
        "Most who quit do so on a plateau. It looks the same just before the next rise.",
    ),
    Angle(
        "A notebook for {topic}",
        "What to write down so that it helps later.",
        "Memory keeps how {topic} felt and loses what you did. A notebook keeps what you did.",
        ("The date, what you tried, what happened.", "One line on what you would change.",
         "Nothing that takes longer than the thing itself."),
        "Read it after three months. It is the best teacher that you can afford.",
    ),
    Angle(
        "Good questions to ask about {topic}",
        "How to get answers that are worth having.",
        "Ask how to get better at {topic} and you hear opinions. Ask a smaller question and you hear what people know.",
        ("Say what you tried before you ask.", "Ask about one case, your own.",
         "Ask when the advice would be wrong."),
        "Small questions get long answers. Large ones get short ones.",
    ),
    Angle(
        "{topic} with little time",
        "What to keep when most has to go.",
        "Some weeks leave no room. Then {topic} needs a smallest form, decided in advance.",
        ("Choose the one part that everything else hangs on.", "Prepare it the evening before.",
         "Forgive the rest in advance."),
        "A thin thread is still a thread. It is far easier to pick up than a new one.",
    ),
    Angle(
        "How to tell good {topic} from bad",
        "Training your eye before your hand.",
        "Judgement comes before skill. In {topic} you see that something is off long before you can mend it.",
        ("Compare two things side by side, never one alone.", "Say why before you say which.",
         "Look again the next morning."),
        "That gap between eye and hand is uncomfortable. It is also where progress comes from.",
    ),
    Angle(
        "What {topic} was like before us",
        "Older ways that still work.",
        "People cared about {topic} long before there were pages on it. Some of what they did is only "
        "forgotten, not outdated.",
        ("Ask somebody who is older than you.", "Try the old way once, as it was meant.",
         "Keep what is better, and say why."),
        "New is a date, not a grade.",
    ),
    Angle(
        "Teaching {topic} to a child",
        "What remains when every detail is gone.",
        "A child asks why until only the reason is left. For {topic} that is a useful visitor.",
        ("Let small hands do the real thing.", "Answer one why more than you want to.",
         "Stop while it is still a game."),
        "What you could not explain you may not have needed.",
    ),
    Angle(
        "The quiet rules of {topic}",
        "What everybody does and nobody writes down.",
        "Each field has rules that are only noticed when they are broken. {Topic} has its share.",
        ("Tidy up as you go.", "Credit whoever showed you.",
         "Leave things so that the next person can begin."),
        "Learn them by watching. They cost nothing and open doors.",
    ),
    Angle(
        "A weekend for {topic}",
        "Two days, one result.",
        "A weekend is long enough to finish something small in {topic}, if the choice is made on Friday.",
        ("Friday: decide, and lay everything out.", "Saturday: the hard half, in the morning.",
         "Sunday: finish, tidy, show somebody."),
        "One finished thing beats five begun ones, and it fits into two days.",
    ),
    Angle(
        "What to read on {topic}, and when to stop",
        "Reading enough, and not instead.",
        "Reading about {topic} feels like doing it. Up to a point it is; past that point it is hiding.",
        ("One book that explains.", "One that disagrees with it.",
         "Then none until you have tried what they say."),
        "You will read the same pages differently afterwards.",
    ),
    Angle(
        "A year of {topic}",
        "What changes, month by month.",
        "The first month of {topic} is curiosity and the second is work. What comes later is quieter and better.",
        ("Spring: try widely.", "Summer and autumn: go deep in one part.",
         "Winter: look back, and choose anew."),
        "A year later the question is no longer how to begin. It is what to leave out.",
    ),
)  # fmt: skip


def titles(asked: str) -> dict[str, Any]:
    """Return the plan of posts that a request asks for."""
    told = _told(asked)
    count = int(told["posts"]) if told.get("posts", "").isdigit() else 10
    topic = told.get("topic", "this")
    return {
        "posts": [
            {"title": _with(one.title, topic)[:1].upper() + _with(one.title, topic)[1:], "angle": one.angle}
            for one in ANGLES[:count]
        ]
    }


def is_post(asked: str) -> bool:
    """Tell whether a request asks for a post, or for one to be written anew."""
    return {"topic", "title", "angle"} <= _told(asked).keys()


def post(asked: str) -> str:
    """Return a post; with a reviewer's comment, one that heeds it as far as the demo model can."""
    told = _told(asked)
    topic, audience = told["topic"], told.get("audience", "")
    found = next((one for one in ANGLES if one.angle == told["angle"]), ANGLES[0])
    comment = told.get("comment", "")
    points = "\n".join(f"- {point}" for point in found.points)
    parts = [_with(found.lead, topic), points, _with(found.close, topic)]
    if audience and not _SHORTER.search(comment):
        parts.insert(1, f"This is for {audience}. Take from it what fits, and leave the rest for later:")
    if _EXAMPLE.search(comment):
        first = found.points[0].rstrip(".")
        parts.insert(
            -1, f"For example: take “{first}” and try it once this week with {topic}. Note what happened, then decide."
        )
    elif comment and not _SHORTER.search(comment):
        said = " ".join(comment.split())
        parts.append(f"_Astra's demo model cannot follow the comment “{said}”; a real model would rewrite this._")
    return "\n\n".join(parts)


def _told(asked: str) -> dict[str, str]:
    return dict(_TAG.findall(asked))


def _with(text: str, topic: str) -> str:
    return text.replace("{topic}", topic).replace("{Topic}", topic[:1].upper() + topic[1:])
