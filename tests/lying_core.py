"""`twinspan` with devices that lie: `python -m tests.lying_core ...`."""

from __future__ import annotations

from gateway.cli.main import main
from tests.seen_core import prepare

if __name__ == "__main__":
    prepare("tests.lying_family:make_lying")
    main()
