"""What an AMQP 1.0 server allows its peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    container_id: str
    mechanisms: tuple[str, ...] = ("PLAIN",)
    """SASL mechanisms on offer; EXTERNAL only where the shell has seen a client certificate."""
    allow_without_sasl: bool = False
    """True lets a peer begin with AMQP itself."""
    max_frame_size: int = 16_384
    channel_max: int = 63
    handle_max: int = 255
    incoming_window: int = 2_048
    """Transfer frames."""
    idle_timeout: float = 60.0
    """Silence after which the peer counts as gone; half of it is what the peer is told."""
    handshake_timeout: float = 10.0
    """From the first byte's chance to the open frame."""
    offered_capabilities: tuple[str, ...] = ("ANONYMOUS-RELAY",)
