"""`twinspan` with devices that lie: `python -m tests.lying_core ...`."""

from __future__ import annotations

import edge.mappers.process
from gateway.cli.main import main
from tests.seen_core import prepare

if __name__ == "__main__":
    edge.mappers.process.PING_SECONDS = 0.5  # counts come with each
    edge.mappers.process.SILENT_PINGS = 40
    prepare("tests.lying_family:make_lying")
    main()
