"""Which text answers a question: plain lexical ranking (BM25 with coverage and cue words), no model and no network.

The crawler ranks links and passages with it, the demo model picks the sentences that it quotes, and the research
program the passages that a real model reads.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:_[^\W_]+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_VOWEL = re.compile(r"[aeiouy]")
_STOP = frozenset(
    _WORD.findall(
        "a about above after again all also am an and any are as at be because been before being below between both "
        "but by can cannot could did do does doing down each few for from further get had has have having he her here "
        "hers him his how i if in into is it its itself just let like me more most my no nor not of off on once only "
        "or other our ours out over own please same she should so some such than that the their them then there these "
        "they this those through to too under until up us very want was we were what when where which while who whom "
        "why will with would you your"
    )
)
# What questions are asked with and answers seldom say, as stems: "how does it decide when …", "what do I need to …".
_FAINT = frozenset(
    _WORD.findall(
        "answer decid determin choos handl happen work mean need know find tell explain describ show give get make "
        "help call way thing kind exactly best correct possibl cause reason differenc sure happens"
    )
)
# Words of an answer that questions of a kind ask for.
_CUES: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (re.compile(r"\bhow (many|much|long|often|big|large|far|old)\b", re.I), re.compile(r"\d")),
    (
        re.compile(r"\bwhen\b|\bdecide|\bunder what\b", re.I),
        re.compile(r"\b(when|if|once|after|before|until|whenever|every|exceed\w*|threshold)\b", re.I),
    ),
    (
        re.compile(r"\bwhy\b", re.I),
        re.compile(r"\b(because|since|so that|in order to|therefore|to avoid|reason)\b", re.I),
    ),
    (re.compile(r"\bhow\b", re.I), re.compile(r"\b(by|using|use|via|defined as|set|run|means)\b|=", re.I)),
    (
        re.compile(r"\bwhat (is|are)\b|\bdefine\b|\bmeaning\b", re.I),
        re.compile(r"\b(is|are|means|refers to|defined as|called)\b", re.I),
    ),
    (re.compile(r"\bwho\b", re.I), re.compile(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b")),
)
_DEFINITION = re.compile(r"\bwhat (?:is|are|does) (?:an? |the )?([\w -]{3,40}?)(?: and\b| mean\b|[?,.;]|$)", re.I)
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|fig|no|mr|mrs|ms|dr|st|sec|approx|resp)|\b[A-Z])\.$", re.I)
_SENTENCE_END = re.compile(r"[.!?][\"\u201d\u2019')\]]*(?=\s)|[\u3002\uff01\uff1f]|\n+")


def stem(word: str) -> str:
    """Return ``word`` without the endings that inflection adds in English. Light: never a dictionary form."""
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed"):
        bare = word.removesuffix(ending)
        if bare != word and len(bare) > 2 and _VOWEL.search(bare):
            word = bare[:-1] if len(bare) > 3 and bare[-1] == bare[-2] and bare[-1] not in "lsz" else bare
            break
    if len(word) > 6 and word.endswith(("tion", "sion")):
        word = word[:-3]
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def terms(text: str) -> list[str]:
    """Return the text's terms: stems without stop words; parts of identifiers count too, and pairs of CJK signs."""
    found: list[str] = []
    for match in _WORD.finditer(text):
        word = match.group()
        if _CJK.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
            continue
        parts = [part for piece in word.split("_") for part in _CAMEL.split(piece)]
        if len(parts) > 1:
            found.append(word.lower())
        found += [stem(part) for part in map(str.lower, parts) if part not in _STOP]
    return found


def query_terms(question: str) -> tuple[str, ...]:
    """Return the distinct terms of a question, in order; all its words when each of them is a stop word."""
    return tuple(dict.fromkeys(terms(question) or [word.lower() for word in _WORD.findall(question)]))


@dataclass(frozen=True, slots=True)
class Span:
    """A piece ``text[start:end]`` of a longer text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """Return the piece."""
        return text[self.start : self.end]


def sentences(text: str) -> list[Span]:
    """Split ``text`` into sentences, none of them blank; a line break ends one, a colon binds it to what follows."""
    spans: list[Span] = []
    begin: int | None = None
    last = seen = 0
    ends = [
        match.end()
        for match in _SENTENCE_END.finditer(text)
        if not _ABBREVIATION.search(text[max(0, match.end() - 12) : match.end()])
    ]
    for end in [*ends, len(text)]:
        piece = text[seen:end]
        bare = piece.strip()
        if bare:
            begin = seen + piece.index(bare[0]) if begin is None else begin
            last = seen + len(piece.rstrip())
        seen = end
        if begin is None or (text[last - 1] == ":" and end < len(text)):
            continue
        spans.append(Span(begin, last))
        begin = None
    return spans


def emphasis(term: str) -> float:
    """Return how much a question's word counts by its looks: an identifier doubly, a word of mere asking hardly."""
    return 2.0 if "_" in term else 0.35 if term in _FAINT else 1.0


class Ranker:
    """Scores texts for one question. How rare a term is, and what goes with the question, is learnt from ``corpus``."""

    def __init__(self, question: str, corpus: Iterable[str] = (), *, learn: bool = False) -> None:
        """Take the question and the texts that it is asked of.

        With ``learn``, words that mark the best texts count a little as if they had been asked for (pseudo-relevance
        feedback, Rocchio 1971): "threshold" for a question of when something happens.
        """
        self.query = query_terms(question)
        self._cues = [answer for asked, answer in _CUES if asked.search(question)]
        subject = _DEFINITION.search(question)
        self._definition = (
            re.compile(rf"\b(?:an?|the)\s+{re.escape(subject.group(1))}\s+(?:is|are|means|refers)\b", re.I)
            if subject
            else None
        )
        self._pairs = set(itertools.pairwise(self.query))
        documents = [terms(text) for text in corpus]
        size = len(documents)
        self._mean_length = (sum(map(len, documents)) / size) if size else 60.0
        frequency: Counter[str] = Counter()
        for document in documents:
            frequency.update(set(document) if learn else set(document).intersection(self.query))
        # Between 1 and 2: a word that stands everywhere on a page about it is what the question is about.
        self._weights = {
            term: (1 + math.log((size + 1) / (frequency[term] + 1)) / math.log(size + 1) if size else 1.0)
            * emphasis(term)
            for term in self.query
        }
        self._whole = sum(self._weights.values()) or 1.0
        self._learnt: dict[str, float] = {}
        if learn and size >= 8:
            self._learn(documents, frequency)

    def _learn(self, documents: Sequence[list[str]], frequency: Counter[str]) -> None:
        best = sorted(documents, key=self._score, reverse=True)[:8]
        among_best: Counter[str] = Counter()
        for document in best:
            among_best.update(set(document))
        # A term must be a word, be in three of the best, and be twice as common there as everywhere.
        typical = {
            term: count * math.log(len(documents) / frequency[term])
            for term, count in among_best.items()
            if count >= 3
            and term not in self._weights
            and len(term) > 3
            and term.isalpha()
            and count * len(documents) >= 2 * frequency[term] * len(best)
        }
        chosen = sorted(typical, key=lambda term: (-typical[term], term))[:6]
        self._learnt = dict.fromkeys(chosen, 0.35)

    def coverage(self, text: str) -> float:
        """Return which part of the question's weight occurs in ``text`` at all, 0 to 1."""
        present = set(terms(text))
        return sum(weight for term, weight in self._weights.items() if term in present) / self._whole

    def carries_on(self, text: str, after: str) -> bool:
        """Tell whether ``after`` goes on about what ``text`` brought up, in words an answer has ("… is defined as")."""
        brought_up = set(terms(text)).difference(self.query)
        return any(cue.search(after) for cue in self._cues) and not brought_up.isdisjoint(terms(after))

    def score(self, text: str, *, heading: str = "") -> float:
        """Return how well ``text`` (under ``heading``) answers the question; 0 means no word in common."""
        score = self._score(terms(text), set(terms(heading)))
        if score and self._definition is not None and self._definition.search(text):
            score *= 1.6
        return score * (1 + sum(0.12 for cue in self._cues if cue.search(text)))

    def _score(self, document: list[str], above: Set[str] = frozenset()) -> float:
        counts = Counter(document)
        length = 0.4 + 0.6 * max(len(document), 1) / max(self._mean_length, 1.0)

        def saturated(count: float) -> float:
            return count * 2.2 / (count + 1.2 * length)

        total = covered = 0.0
        for term, weight in self._weights.items():
            count = counts[term] + (1.0 if term in above else 0.0)
            if count:
                total += weight * saturated(count)
                covered += weight
        if not total:
            return 0.0
        total += sum(weight * saturated(counts[term]) for term, weight in self._learnt.items() if counts[term])
        pairs = len(self._pairs.intersection(itertools.pairwise(document)))
        return (total / self._whole) * (0.3 + 0.7 * covered / self._whole) + 0.05 * min(pairs, 3)


_LEANS_BACK = re.compile(
    r"(This|That|These|Those|It|They|Such|Otherwise|However|Therefore|Thus|Then|Also|But|And|So)\b"
)


def best_quote(ranker: Ranker, text: str, *, limit: int = 420) -> tuple[float, str]:
    """Return the score and the piece of ``text`` that answers best, word for word: a sentence and what it needs.

    What defines a term comes with the term, over a gap (" … ") where the two stand apart. ``limit`` is in characters.
    An empty text, or one without a word in common, gives ``(0.0, "")``.
    """
    spans = [span for span in sentences(text) if len(span.of(text)) <= limit]
    heads = _heads(spans, text)
    scores = [
        0.0 if _is_head(span.of(text)) else ranker.score(span.of(text), heading=head.of(text) if head else "")
        for span, head in zip(spans, heads, strict=True)
    ]
    best = max(range(len(spans)), key=lambda i: (scores[i], -i), default=0)
    if not spans or not scores[best]:
        return 0.0, ""
    first = last = best
    if best and _LEANS_BACK.match(spans[best].of(text)) and spans[best].end - spans[best - 1].start <= limit:
        first = best - 1
    while last + 1 < len(spans) and spans[last + 1].end - spans[first].start <= limit:
        after = spans[last + 1].of(text)
        near = scores[last + 1] >= 0.45 * scores[best] or ranker.carries_on(spans[last].of(text), after)
        if not near or heads[last + 1] != heads[best]:
            break
        last += 1
    head, start = heads[best], spans[first].start
    quote = text[start : spans[last].end]
    if head is None or head.start >= start:
        return scores[best], quote
    whole = text[head.start : spans[last].end]
    return scores[best], whole if len(whole) <= limit else f"{head.of(text)} … {quote}"


def _is_head(line: str) -> bool:
    """Tell whether a line names what the lines below it are about: short, and no sentence."""
    return len(line) <= 80 and line[-1] not in ".!?:;," and len(line.split()) <= 8


def _heads(spans: Sequence[Span], text: str) -> list[Span | None]:
    """Return for each sentence the line above that names what it is about, if there is one in this text."""
    heads: list[Span | None] = []
    head: Span | None = None
    for span in spans:
        heads.append(head)
        own_line = (not span.start or text[span.start - 1] == "\n") and text[span.end : span.end + 1] == "\n"
        if own_line and _is_head(span.of(text)):
            head = heads[-1] = span
    return heads


def top_sentences(question: str, texts: Sequence[str], *, count: int, limit: int = 320) -> list[tuple[int, str]]:
    """Return the ``count`` best sentences as (index of the text, sentence), best first, without near repeats."""
    found = [(index, span.of(text)) for index, text in enumerate(texts) for span in sentences(text)]
    found = [(index, sentence) for index, sentence in found if 20 <= len(sentence) <= limit]
    ranker = Ranker(question, [sentence for _, sentence in found])
    ranked = sorted(enumerate(found), key=lambda item: (-ranker.score(item[1][1]), item[0]))
    chosen: list[tuple[int, str]] = []
    seen: list[list[str]] = []
    for _, (index, sentence) in ranked:
        words = terms(sentence)
        if not ranker.score(sentence) or any(_alike(words, other) for other in seen):
            continue
        chosen.append((index, sentence))
        seen.append(words)
        if len(chosen) == count:
            break
    return chosen


def _alike(words: Sequence[str], others: Sequence[str]) -> bool:
    one, other = set(words), set(others)
    return len(one & other) > 0.6 * max(1, len(one | other))


def salient(texts: Sequence[str], *, count: int, limit: int = 320) -> list[tuple[int, str]]:
    """Return the sentences that say most of what texts are about, as (index of the text, sentence), in reading order.

    A sentence weighs what its words weigh on average, and words of chosen sentences weigh less after (SumBasic,
    Nenkova and Vanderwende 2005); the beginning of a text counts a little more.
    """
    found = [(index, at, span.of(text)) for index, text in enumerate(texts) for at, span in enumerate(sentences(text))]
    found = [item for item in found if 25 <= len(item[2]) <= limit] or [item for item in found if len(item[2]) <= limit]
    words = [[term for term in terms(sentence) if not term.isdigit()] for _, _, sentence in found]
    weights = Counter(itertools.chain.from_iterable(words))
    total = sum(weights.values()) or 1
    share = {term: number / total for term, number in weights.items()}
    chosen: list[int] = []
    left = set(range(len(found)))
    while left and len(chosen) < count:
        best = max(
            left,
            key=lambda position: (
                sum(share[term] for term in words[position])
                / max(6, len(words[position]))
                * (1.3 if found[position][1] == 0 else 1.0),
                -position,
            ),
        )
        chosen.append(best)
        for term in set(words[best]):
            share[term] **= 2
        left = {position for position in left if not _alike(words[position], words[best])}
    return [(found[position][0], found[position][2]) for position in sorted(chosen)]
