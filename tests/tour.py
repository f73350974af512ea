"""Runs a page of documentation: its bash blocks in order, in one shell, against a running Twinspan.

A block named `bash` is run as it stands. A block named `output` below it says what its output must
contain: each line somewhere, in order; `...` within a line stands for anything. A block named
`bash hosts` sets the addresses; the test replaces it by the ports really bound. A block `bash <what>` needs
something that not every machine has: it is run where the test has it. Blocks of other names are for readers.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "-- end of block --"
BLOCK_SECONDS = 60


@dataclass(frozen=True)
class Block:
    """One fenced block and the line it starts on."""

    name: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown page."""
    for match in FENCE.finditer(page):
        yield Block(match[1].strip(), match[2], page.count("\n", 0, match.start()) + 1)


def run_page(
    page: Path, hosts: Mapping[str, str], folder: Path, path: str, has: Collection[str] = ()
) -> int:
    """Run a page; return how many blocks ran.

    Shape:  `hosts` are shell variables for the `bash hosts` block; `folder` is the working directory;
            `has` names what this machine has of what blocks need.
    """
    runs = {"bash", *(f"bash {what}" for what in has)}
    shell = Shell(folder, path)
    ran = 0
    output: str | None = ""
    try:
        for block in blocks(page.read_text("utf-8")):
            where = f"{page.name}:{block.line}"
            if block.name == "bash hosts":
                shell.run("\n".join(f"export {k}={v!r}" for k, v in hosts.items()), where)
            elif block.name in runs:
                output = shell.run(block.text, where)
                ran += 1
            elif block.name.startswith("bash "):
                output = None
            elif block.name == "output" and output is not None:
                check(output, block.text, where)
    finally:
        shell.close()
    return ran


def check(output: str, expected: str, where: str) -> None:
    """Fail unless each expected line is found, in order."""
    at = 0
    for line in filter(None, map(str.strip, expected.splitlines())):
        pattern = ".*?".join(re.escape(part) for part in line.split("..."))
        match = re.compile(pattern).search(output, at)
        assert match, f"{where}: expected {line!r} in\n{output}"
        at = match.end()


class Shell:
    """One bash that keeps variables and background jobs between blocks."""

    def __init__(self, folder: Path, path: str) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "-u"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8"},
        )

    def run(self, text: str, where: str) -> str:
        """Run commands and return what they printed; fail when the last one failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f'{text}\n_code=$?; echo; echo "{MARK} $_code"\n')
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(MARK):
                code = line.removeprefix(MARK).strip()
                break
            lines.append(line)
        else:
            code = "the shell ended"
        output = "".join(lines)
        assert code == "0", f"{where}: exit {code}\n{text}\n{output}"
        return output

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes as well
