"""What a text may cost that a model wrote: it is rendered again for each page that shows it."""

from __future__ import annotations

from agents import markdown


def test_cells_that_rows_leave_out_are_added_in_small_numbers_only() -> None:
    columns, rows = 500, 1000

    html = markdown.render("|a" * columns + "\n" + "|-" * columns + "\n" + "|\n" * rows)

    assert html.count("<td>") <= markdown.MAX_ADDED_CELLS + columns


def test_a_row_may_leave_cells_out() -> None:
    html = markdown.render("| a | b | c |\n|---|---|---|\n| 1 |\n| 2 | 3 |\n")

    assert html.count("<tr>") == 3
    assert html.count("<td>") == 6
    assert "<td>3</td>" in html
