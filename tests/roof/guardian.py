"""Hold the tests' servers for as long as the pytest that started this process lives, however it ends; then clean up.

``python -m tests.roof.guardian FOLDER``: standard input is the sign of life.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from astra_site import embedded


def main(folder: Path) -> None:
    """Start the servers, wait for the end of the input, stop them and remove the folder."""
    with embedded.servers(folder, durable=False):
        sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
