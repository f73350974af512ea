"""Lists of kubectl calls and what each must say: how they are written, and how one is played.

A list is a text file. Lines of `#` are for people. The rest are calls, each followed by what it says:

    $ get pods -l app=web         a call of kubectl; words before it may set the environment (`A=b get ...`)
    ~ get endpoints web           the same, asked again until it says so (what control loops do takes a while)
    > text                        a line of the call's standard input
    exit 1                        first line of the answer: the exit code, 0 where there is none
    NAME   READY                  lines of the answer, standard output first, then standard error

In an answer `...` is anything within a line, and a line `...` is any number of lines. Where blanks stand
together they count as one, except at the beginning of a line. Empty lines count for nothing. In a call
only `'` quotes; `$NS` is the namespace of the list, `$PWD` its copy of the folder `files`.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.kubectl import Kubectl, Ran

FOLDER = Path(__file__).parent / "clients" / "kubectl"
MORE = "..."
PATIENCE = 20.0
GLANCE = 0.1
EXIT = "exit "
VARIABLE = re.compile(r"[A-Z_]+=")


@dataclass(slots=True)
class Call:
    """One call and what it must say."""

    line: int
    words: list[str]
    patient: bool
    stdin: list[str] = field(default_factory=list)
    code: int = 0
    answer: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Variables set in front of the call."""
        return dict(word.split("=", 1) for word in self.words[: self._variables()])

    @property
    def arguments(self) -> list[str]:
        """What kubectl is called with."""
        return self.words[self._variables() :]

    def _variables(self) -> int:
        return next((i for i, word in enumerate(self.words) if not VARIABLE.match(word)), 0)

    def fits(self, ran: Ran) -> bool:
        """Return whether the answer is the one that is expected."""
        return ran.code == self.code and bool(_pattern(self.answer).fullmatch(_plain(ran.text)))


def read_list(path: Path) -> list[Call]:
    """Read the calls of a list."""
    calls: list[Call] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark, _, rest = line.partition(" ")
        if not line.strip() or mark == "#":
            continue
        if mark in ("$", "~"):
            calls.append(Call(number, _words(rest), mark == "~"))
        elif mark == ">":
            calls[-1].stdin.append(rest)
        elif line.startswith(EXIT) and not calls[-1].answer:
            calls[-1].code = int(line.removeprefix(EXIT))
        else:
            calls[-1].answer.append(line)
    return calls


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, "'", "", ""
    return list(lexer)


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        body = line.strip()
        if body:
            indent = line[: len(line) - len(line.lstrip())]
            yield indent + re.sub(r"\s+", " ", body)


def _plain(text: str) -> str:
    return "".join(f"{line}\n" for line in _lines(text))


def _pattern(answer: list[str]) -> re.Pattern[str]:
    parts = []
    for line in _lines("\n".join(answer)):
        if line == MORE:
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(re.escape(line).replace(re.escape(MORE), r"[^\n]*?") + r"\n")
    return re.compile("".join(parts))


@dataclass(slots=True)
class Player:
    """Plays lists with one kubectl: each in a namespace of its own and a copy of the files beside it."""

    binary: Path
    kubeconfig: Path
    home: Path

    async def play(self, path: Path) -> list[str]:
        """Play a list to its end; return what was not as expected, readable."""
        kubectl, folder = await self.settle(path)
        faults = []
        for call in read_list(path):
            ran = await self.ask(kubectl, folder, call)
            if not call.fits(ran):
                faults.append(_fault(path, call, ran))
        await kubectl.ok("delete", "namespace", kubectl.environment["NS"], "--timeout=30s")
        return faults

    async def settle(self, path: Path) -> tuple[Kubectl, Path]:
        """Make the namespace and the folder of a list."""
        folder = self.home / path.stem
        shutil.copytree(FOLDER / "files", folder)
        namespace = f"{path.stem}-{self.binary.name.rpartition('-')[2].replace('.', '-')}"
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["contexts"][0]["context"]["namespace"] = namespace
        config["contexts"][0]["name"] = config["current-context"] = "test"
        own = folder / "kubeconfig"
        own.write_text(yaml.safe_dump(config))
        kubectl = Kubectl(self.binary, own, self.home)
        kubectl.environment |= {"NS": namespace, "TMPDIR": str(folder)}
        await kubectl.ok("create", "namespace", namespace)
        return kubectl, folder

    async def ask(self, kubectl: Kubectl, folder: Path, call: Call) -> Ran:
        """Make a call, a patient one until it says what is expected."""
        words = [
            word.replace("$NS", kubectl.environment["NS"]).replace("$PWD", str(folder))
            for word in call.arguments
        ]
        stdin = "".join(f"{line}\n" for line in call.stdin)
        deadline = time.monotonic() + (PATIENCE if call.patient else 0)
        while True:
            ran = await kubectl.run(*words, stdin=stdin, **call.environment)
            told = ran.text.replace(kubectl.environment["NS"], "$NS").replace(str(folder), "$PWD")
            ran = Ran(ran.code, told, "")
            if call.fits(ran) or time.monotonic() >= deadline:
                return ran
            await asyncio.sleep(GLANCE)


def _fault(path: Path, call: Call, ran: Ran) -> str:
    return (
        f"{path.name}:{call.line}: {shlex.join(call.words)}\n"
        f"--- expected, exit {call.code}\n" + "\n".join(call.answer) + "\n"
        f"--- said, exit {ran.code}\n{ran.text}"
    )
