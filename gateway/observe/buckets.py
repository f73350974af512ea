"""Upper bounds of histograms: times in seconds, sizes in bytes."""

from __future__ import annotations

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BYTES = (64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)
