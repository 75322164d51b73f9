"""Ranking texts for a question, and picking what to quote of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.relevance import Ranker, best_quote, query_terms, salient, sentences, stem, terms, top_sentences

VACUUM = (
    "Tables whose age is more than autovacuum_freeze_max_age are always vacuumed. Otherwise, if the number of tuples "
    "obsoleted since the last VACUUM exceeds the “vacuum threshold”, the table is vacuumed. The vacuum threshold is "
    "defined as:\nvacuum threshold = base threshold + scale factor * number of tuples"
)


@pytest.mark.parametrize(
    "words",
    [
        ("vacuum", "vacuums", "vacuumed", "vacuuming"),
        ("decide", "decides", "decided", "deciding"),
        ("query", "queries"),
        ("index", "indexes"),
        ("run", "runs", "running"),
        ("replicate", "replication"),
        ("set", "sets", "setting", "settings"),
    ],
)
def test_forms_of_a_word_have_one_stem(words: tuple[str, ...]) -> None:
    assert len({stem(word) for word in words}) == 1


def test_identifiers_count_whole_and_in_parts() -> None:
    assert terms("shared_buffers") == ["shared_buffers", "shar", "buffer"]
    assert terms("camelCase") == ["camelcase", "camel", "case"]


def test_a_question_of_stop_words_only_still_asks_for_something() -> None:
    assert query_terms("what is it?") == ("what", "is", "it")


def test_chinese_is_taken_in_pairs() -> None:
    assert terms("数据库") == ["数据", "据库"]


@given(st.text(max_size=300))
def test_sentences_are_pieces_of_the_text_in_order_and_none_is_blank(text: str) -> None:
    spans = sentences(text)
    assert all(span.of(text).strip() for span in spans)
    assert all(one.end <= two.start for one, two in itertools.pairwise(spans))
    assert "".join("".join(span.of(text).split()) for span in spans) == "".join(text.split())


def test_abbreviations_and_numbers_do_not_end_a_sentence() -> None:
    text = "Use tools, e.g. psql. The factor is 0.2 by default. See Fig. 3!"
    assert [span.of(text) for span in sentences(text)] == [
        "Use tools, e.g. psql.",
        "The factor is 0.2 by default.",
        "See Fig. 3!",
    ]


def test_a_colon_binds_a_formula_to_its_sentence() -> None:
    assert [span.of(VACUUM) for span in sentences(VACUUM)][-1].startswith("The vacuum threshold is defined as:\nvacuum")


def test_the_text_that_answers_ranks_first() -> None:
    corpus = ["Tables hold rows.", "The table is vacuumed when the threshold is exceeded by autovacuum.", "Unrelated."]
    ranker = Ranker("How does autovacuum decide when to vacuum a table?", corpus)
    assert max(corpus, key=ranker.score) == corpus[1]
    assert ranker.score("Unrelated.") == 0


def test_a_word_of_mere_asking_counts_less_than_the_subject() -> None:
    ranker = Ranker("How does autovacuum decide?")
    assert ranker.score("The autovacuum daemon.") > ranker.score("You must decide.")


def test_what_goes_with_the_question_is_learnt() -> None:
    relevant = [f"The kettle whistles when steam builds up, part {number}." for number in range(8)]
    other = [f"Chairs and lamps stand about, part {number}." for number in range(40)]
    learnt = Ranker("kettle", relevant + other, learn=True)
    plain = Ranker("kettle", relevant + other)
    with_steam, without = "The kettle lets steam out.", "The kettle is on the shelf."
    assert learnt.score(with_steam) / learnt.score(without) > plain.score(with_steam) / plain.score(without)


def test_a_definition_is_preferred_for_a_question_of_what_something_is() -> None:
    ranker = Ranker("What is a partial index?")
    assert ranker.score("A partial index is an index over a part.") > ranker.score("Partial index, partial index!")


def test_a_quote_is_word_for_word_and_brings_what_it_leans_on() -> None:
    ranker = Ranker("How does autovacuum decide when to vacuum a table?")
    _, quote = best_quote(ranker, VACUUM, limit=560)
    assert quote in VACUUM
    assert "exceeds the “vacuum threshold”" in quote
    assert quote.endswith("vacuum threshold = base threshold + scale factor * number of tuples")


def test_a_definition_comes_with_its_term() -> None:
    text = "shared_buffers (integer)\nSets how much memory is used. The default is typically 128 megabytes."
    assert best_quote(Ranker("What is the default of shared_buffers?"), text)[1].startswith("shared_buffers (integer)")


def test_nothing_in_common_gives_no_quote() -> None:
    assert best_quote(Ranker("zebra"), VACUUM) == (0.0, "")
    assert best_quote(Ranker("zebra"), "") == (0.0, "")


@given(st.text(max_size=200), st.text(max_size=400))
def test_no_text_breaks_the_ranking(question: str, text: str) -> None:
    ranker = Ranker(question, [text, question], learn=True)
    score, quote = best_quote(ranker, text)
    assert score >= 0
    assert all(part in text for part in quote.split(" … ")) or "…" in text
    for found in (top_sentences(question, [text], count=3), salient([text], count=3)):
        assert all(sentence in text for _, sentence in found)


def test_near_repeats_are_told_once() -> None:
    texts = [
        "The harbour opens at dawn each day.",
        "The harbour opens at dawn every day.",
        "The harbour has two piers.",
    ]
    found = top_sentences("harbour", texts, count=3)
    assert len(found) == 2
    assert {index for index, _ in found} & {2}


def test_a_summary_takes_the_sentences_that_say_most_in_reading_order() -> None:
    text = (
        "The release is planned for December. The weather was fine that day. "
        "The release needs the migration of the database. The migration takes two weeks."
    )
    found = [sentence for _, sentence in salient([text], count=2)]
    assert "The weather was fine that day." not in found
    assert found == sorted(found, key=text.index)
