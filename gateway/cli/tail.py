"""`twinspan tail`: what a tenant's devices send and are sent, as it passes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import click

from gateway.cli import client
from gateway.cli.client import Api, service_options
from gateway.errors import GatewayError

KINDS = ("telemetry", "event", "command", "response")
COLOURS = {"telemetry": "cyan", "event": "blue", "command": "magenta", "response": "yellow"}
MAX_LINE = 1_000_000
"""Bytes of one line of the stream; the service shows far less of a payload."""


@click.command()
@click.argument("tenant")
@click.option("--device", help="Only this device.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    help="Only this kind; may be repeated.  [default: all]",
)
@click.option("-n", "--count", type=click.IntRange(1), help="Stop after so many messages.")
@click.option("--failed", is_flag=True, help="Only what was refused or reached nobody.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "wide", "json"]), default="table",
    show_default=True, help="How to print; json is one object a line.",
)  # fmt: skip
@service_options
def tail(
    tenant: str,
    device: str | None,
    kinds: tuple[str, ...],
    count: int | None,
    failed: bool,
    output: str,
    data_dir: Path | None,
    url: str | None,
    user: str | None,
) -> None:
    """Follow the messages of TENANT as they pass: uploads, commands and answers, each with its outcome.

    Watching takes nothing away: applications get every message as before, and a message that reached nobody
    is shown with the error that its device got. What was sent before is not shown.

    \b
    All of a tenant:                    twinspan tail DEFAULT_TENANT
    Why does this device not get in?    twinspan tail DEFAULT_TENANT --device 4711 --failed
    For a program:                      twinspan tail DEFAULT_TENANT --kind event -o json | jq .payload
    """
    service = client.find("hono.registry", "registry", data_dir, url, user)
    query = {"kind": ",".join(kinds), **({"device": device} if device else {})}

    async def work(api: Api) -> None:
        shown = 0
        path = f"/v1/traffic/{quote(tenant, '')}"
        async with api.stream(path, query, "application/x-ndjson") as response:
            async for line in _lines(response):
                if "missed" in line:
                    click.secho(f"... {line['missed']} not shown: too many at once", err=True)
                    continue
                if failed and line["status"] < 400:
                    continue
                click.echo(_printed(line, output))
                shown += 1
                if shown == count:
                    return
        raise GatewayError("the service ended the stream", status=503)

    try:
        client.run(service, work)
    except KeyboardInterrupt:  # the usual end of watching
        return


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:
            raise GatewayError(f"a line of more than {MAX_LINE} bytes came")
        for line in lines:
            if line:
                yield cast(dict[str, Any], json.loads(line))


def _printed(line: dict[str, Any], output: str) -> str:
    if output == "json":
        return json.dumps(line, ensure_ascii=False)
    kind, status = str(line["kind"]), int(line["status"])
    at = datetime.fromtimestamp(line["at"], UTC).astimezone()
    words = [
        f"{at:%H:%M:%S}.{at.microsecond // 1000:03}",
        click.style(f"{kind:<9}", fg=COLOURS.get(kind)),
        click.style(str(status), fg="green" if status < 400 else "red"),
        click.style(_device(line), bold=True),
    ]
    if "subject" in line:
        words.append(str(line["subject"]))
    if line.get("kept"):
        words.append("kept")
    if "response-status" in line:
        words.append(f"answered {line['response-status']}")
    words.append(_payload(line, None if output == "wide" else 120))
    if "error" in line:
        words.append(click.style(f"({line['error']})", fg="red"))
    if output == "wide":
        details = ("adapter", "qos", "content-type", "address", "correlation-id", "trace")
        words += [f"{name}={line[name]}" for name in details if name in line]
    return "  ".join(word for word in words if word)


def _device(line: dict[str, Any]) -> str:
    gateway = f" via {line['gateway']}" if "gateway" in line else ""
    return f"{line['device']}{gateway}"


def _payload(line: dict[str, Any], width: int | None) -> str:
    """One line of a payload; control characters do not reach the terminal."""
    value = line.get("payload")
    if line.get("encoding") == "json":
        text = json.dumps(value, ensure_ascii=False)
    elif line.get("encoding") == "base64":
        text = f"{line['size']} bytes, base64 {value}"
    else:
        text = str(value or "")
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"
