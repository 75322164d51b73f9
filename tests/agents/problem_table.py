"""The rows of `docs/reference/problems.md`. Run it as `python -m tests.agents.problem_table` to print them."""

from __future__ import annotations


def rows() -> list[str]:
    """Return a row for each problem type, by slug."""
    from astra_site.problems import registry

    return [
        f"| `{it.slug}` | {it.status or 'task'} | {it.meaning} | {it.advice} |".replace("  |", " |")
        for it in registry().values()
    ]


if __name__ == "__main__":
    import os
    import sys

    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")
    django.setup()
    sys.stdout.write("\n".join(rows()) + "\n")
