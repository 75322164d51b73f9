"""Run benchmarks and print tables of ratios: `python -m bench [--quick] [NAME …]`, or `make bench`.

Without a name all of them run, which takes about an hour; `--quick` takes five minutes and shows only that
they work.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import sys
from importlib.metadata import version

from bench.stage import ROOT, Stage
from bench.table import table

#: By the table that they fill.
TABLES = {
    "queue": ("submit_latency", "throughput", "io_bound", "claim_cost", "recovery"),
    "chat": ("chat_first_token", "chat_coalescing", "chat_reconnect"),
    "console": ("console_pages",),
    "approvals": ("approvals",),
}
BENCHMARKS = tuple(name for names in TABLES.values() for name in names)

PAGE = ROOT / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- `make bench`, the {}. -->\n", "<!-- Its end. -->\n"


def main(*names: str) -> None:
    """Run the benchmarks named, or those that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    if not names:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="few tasks, one round: to see that it works")
    parser.add_argument("--keep", action="store_true", help=f"put the tables into {PAGE.relative_to(ROOT)}")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds of each benchmark instead of the usual three to seven"
    )
    parser.add_argument("--explain", action="store_true", help="of pages: show the plans of slow statements")
    options = parser.parse_args()
    chosen = names or options.names or BENCHMARKS
    if unknown := set(chosen) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    load, _, _ = os.getloadavg()
    if load > 0.5:
        print(
            f"This machine is busy with other work (load {load:.1f}): the figures are the worse for it.",
            file=sys.stderr,
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the servers would go on
    with Stage(options.rounds, explain=options.explain) as stage:
        where = _where(stage)
        print(where)
        for kind, of_kind in TABLES.items():
            rows = []
            for name in of_kind:
                if name in chosen:
                    print(f"{name} …", file=sys.stderr)
                    rows += importlib.import_module(f"bench.{name}").measure(stage, quick=options.quick)
            if rows:
                print(f"\n{table(rows)}", flush=True)
                if options.keep:
                    _keep(kind, f"{where}\n\n{table(rows)}\n")


def _keep(kind: str, text: str) -> None:
    before, begin, rest = PAGE.read_text().partition(BEGIN.format(kind))
    if not begin:
        sys.exit(f"{PAGE} has no place for the table of the {kind}")
    PAGE.write_text(f"{before}{begin}{text}{END}{rest.partition(END)[2]}")


def _where(stage: Stage) -> str:
    servers = f"PostgreSQL {stage.postgres_version()}, Valkey {stage.valkey.info('server')['valkey_version']}"
    peers = stage.peers_versions("rq", "celery") | {name: version(name) for name in ("channels", "daphne")}
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}; "
        f"{servers}, psycopg {version('psycopg')}; {', '.join(f'{name} {number}' for name, number in peers.items())}"
    )


if __name__ == "__main__":
    main()
