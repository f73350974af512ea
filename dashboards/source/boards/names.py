"""Metrics that several dashboards ask for."""

from __future__ import annotations

from typing import Final

TELEMETRY: Final = "hono_telemetry_processing_duration_seconds"
TELEMETRY_BYTES: Final = "hono_telemetry_payload_bytes"
COMMANDS: Final = "hono_command_processing_duration_seconds"
COMMAND_BYTES: Final = "hono_command_payload_bytes"
DELIVERY: Final = "hono_amqp_delivery_duration_seconds"
THING_COMMANDS: Final = "twinspan_thing_commands_total"
THING_SECONDS: Final = "twinspan_thing_command_duration_seconds"
LAG: Final = "twinspan_event_loop_lag_seconds"
COMMIT: Final = "twinspan_store_commit_duration_seconds"
TO_DEVICES: Final = 'direction=~"one-way|request"'
"""Hono counts responses of devices in the same metric."""
