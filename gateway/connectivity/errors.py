"""The errors of connections, under Ditto's codes."""

from __future__ import annotations

from gateway.errors import BadRequest, GatewayError, NotFound


def invalid(reason: str) -> GatewayError:
    """A document that cannot be a connection."""
    return BadRequest(
        "The configuration of the connection is not valid.",
        code="connectivity:connection.configuration.invalid",
        description=reason,
    )


def not_found(connection_id: str) -> GatewayError:
    """No such connection."""
    return NotFound(
        f"The Connection with ID '{connection_id[:100]}' could not be found.",
        code="connectivity:connection.notfound",
        description="Check if the ID of your requested Connection was correct.",
    )


def mapping_failed(mapper: str, reason: str) -> GatewayError:
    """A message that a mapper cannot read."""
    return BadRequest(
        f"The external message could not be mapped by '{mapper}': {reason}",
        code="connectivity:message.mapping.failed",
        description="Check the payload, and the payload mapping of the connection.",
    )


def mapper_invalid(mapper: str, reason: str) -> GatewayError:
    """A mapper whose options make no sense."""
    return BadRequest(
        f"The mapper '{mapper}' is not configured right: {reason}",
        code="connectivity:message.mapper.config.invalid",
        description="Check 'mappingDefinitions' of the connection.",
    )


def not_enforced(wanted: str | None) -> GatewayError:
    """A signal for a thing that its sender may not speak for."""
    return BadRequest(
        "The configured filters could not be matched against the given target.",
        code="connectivity:connection.id.enforcement.failed",
        description=f"The sender speaks for '{(wanted or 'nobody')[:256]}'.",
    )
