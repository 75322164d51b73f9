"""What is finished of an answer that is being written, and what may still change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.chat.blocks import MAX_BLOCK, MAX_TEXT, Block, Blocks

TEXT = """# Rivers

They *end* 😀 in the sea.

- one

  still one

- two

```py
a = 1

b = 2
```

The end"""


def written(text: str) -> list[Block]:
    """Let a text grow letter by letter."""
    blocks = Blocks()
    return [block for end in range(1, len(text) + 1) if (block := blocks.grow(text[:end])) is not None]


def test_each_block_is_rendered_as_soon_as_the_next_one_begins() -> None:
    assert [block.html for block in written(TEXT)] == [
        "<h3>Rivers</h3>\n",
        "<p>They <em>end</em> 😀 in the sea.</p>\n",
        "<ul>\n<li>\n<p>one</p>\n<p>still one</p>\n</li>\n</ul>\n",
        "<ul>\n<li>two</li>\n</ul>\n",
        "<pre><code>a = 1\n\nb = 2\n</code></pre>\n",
    ]


def test_blocks_count_in_the_units_of_a_browser_and_leave_nothing_out() -> None:
    found = written(TEXT)
    units = TEXT.encode("utf-16-le")
    assert [found[0].start, *(block.end for block in found)] == [block.start for block in found] + [found[-1].end]
    assert units[2 * found[-1].end :].decode("utf-16-le") == "The end"
    assert units[2 * found[1].start : 2 * found[1].end].decode("utf-16-le") == "They *end* 😀 in the sea.\n\n"


@pytest.mark.parametrize(
    "text",
    [
        "Not yet",
        "Not yet\n",
        "Not yet\n\n",
        "- an item\n\n  and more of it",
        "```\ncode\n\nmore",
        "~~~~\ncode\n\n~~~\n\nmore",
        "````\n```\n\nmore",
        "\n\n\n",
    ],
)
def test_what_may_still_change_is_not_finished(text: str) -> None:
    assert written(text) == []
    assert Blocks().grow(text) is None


def test_headings_stay_below_each_other_across_blocks() -> None:
    assert [block.html for block in written("# One\n\n## Two\n\n### Three\n\nend")] == [
        "<h3>One</h3>\n",
        "<h4>Two</h4>\n",
        "<h5>Three</h5>\n",
    ]


def test_html_of_a_model_is_text() -> None:
    (block,) = written("<b onclick=x>bold</b> [a](javascript:alert(1))\n\nend")
    assert block.html == "<p>&lt;b onclick=x&gt;bold&lt;/b&gt; [a](javascript:alert(1))</p>\n"


def test_a_block_that_is_too_long_waits_for_the_end_with_all_that_follows() -> None:
    blocks = Blocks()
    text = "One.\n\n" + "x" * (MAX_BLOCK + 1) + "\n\nTwo.\n\nThree."
    assert blocks.grow("One.\n\nx") is not None
    assert blocks.grow(text) is None
    assert blocks.grow(text + "\n\nFour.") is None
    assert blocks.end == 6


def test_of_a_very_long_answer_nothing_more_is_rendered() -> None:
    blocks = Blocks()
    assert blocks.grow("One.\n\n" + "x" * MAX_TEXT) is None


def test_another_text_begins_anew() -> None:
    blocks = Blocks()
    blocks.grow("# One\n\nTwo")
    blocks.reset()
    assert (blocks.html, blocks.end) == ("", 0)
    assert blocks.grow("### Three\n\nFour") == Block("<h3>Three</h3>\n", 0, 11)


@given(st.lists(st.sampled_from(["a", " ", "\n", "\n\n", "- ", "```", "~~~", "# ", "😀", "\t", "1. ", "|", "\u2028"])))
def test_whatever_comes_blocks_follow_each_other_and_end_where_a_line_begins(pieces: list[str]) -> None:
    text, blocks, end = "", Blocks(), 0
    for piece in pieces:
        text += piece
        block = blocks.grow(text)
        if block is not None:
            assert (block.start, block.end) == (end, blocks.end)
            end = block.end
            rest = text.encode("utf-16-le")[2 * end :].decode("utf-16-le")
            assert rest and not rest[0].isspace()
    assert blocks.end == end
