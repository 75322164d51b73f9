"""Run benchmarks and print one table of ratios: `python -m bench [--quick] [NAME …]`, or `make bench`.

Without a name all of them run, which takes about half an hour; `--quick` takes two minutes and shows only that they
work.
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

BENCHMARKS = ("submit_latency", "throughput", "io_bound", "claim_cost", "recovery")


PAGE = ROOT / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- The table of `make bench`. -->\n", "<!-- Its end. -->\n"


def main(*names: str) -> None:
    """Run the benchmarks named, or those that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    if not names:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="few tasks, one round: to see that it works")
    parser.add_argument("--keep", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds of each benchmark instead of the usual three to seven"
    )
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
    rows = []
    with Stage(options.rounds) as stage:
        where = _where(stage)
        for name in chosen:
            print(f"{name} …", file=sys.stderr)
            rows += importlib.import_module(f"bench.{name}").measure(stage, quick=options.quick)
    text = f"{where}\n\n{table(rows)}\n"
    print(text, end="")
    if options.keep:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}")


def _where(stage: Stage) -> str:
    servers = f"PostgreSQL {stage.postgres_version()}, Valkey {stage.valkey.info('server')['valkey_version']}"
    peers = ", ".join(f"{name} {number}" for name, number in stage.peers_versions("rq", "celery").items())
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}; "
        f"{servers}, psycopg {version('psycopg')}; {peers}"
    )


if __name__ == "__main__":
    main()
