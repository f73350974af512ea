"""What `twinspan edge join` found, for people as it comes, for programs at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from edge.join import Check
from gateway.cli.output import print_data
from gateway.errors import GatewayError


class JoinReport:
    """Collects checks; `joined` is the node's name once it has joined."""

    key = "joined"
    """Of the document: whether all went well."""

    def __init__(self, output: str) -> None:
        self.is_data = output in ("json", "yaml")
        self.joined: str | None = None
        self._output = output
        self._checks: list[Check] = []

    def tell(self, check: Check) -> None:
        """Take a check that did not end the join."""
        self._checks.append(check)
        if self.is_data:
            return
        word = click.style("warn", fg="yellow") if check.mend else click.style("ok", fg="green")
        click.echo(f"{word}  {check.name}: {check.text}")
        if check.mend:
            click.echo(f"      {check.mend}")

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Print the report, where a program wants it, when the block ends, well or not."""
        try:
            yield
        except GatewayError as error:
            self._print(error)
            raise
        self._print(None)

    def _print(self, error: GatewayError | None) -> None:
        if not self.is_data:
            return
        checks = [
            {
                "name": check.name,
                "state": "warn" if check.mend else "ok",
                "text": check.text,
                **({"mend": check.mend} if check.mend else {}),
            }
            for check in self._checks
        ]
        document: dict[str, object] = {self.key: error is None}
        if self.key == JoinReport.key:
            document["node"] = self.joined
        document["checks"] = checks
        if error is not None:
            document["error"] = {"text": error.message, "mend": error.description}
        print_data(document, self._output)
