"""Markdown pages as the tests see them: their fenced blocks, and commands with their output."""

import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from sj_lang import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

#: verbs that answer within seconds and change nothing
CHEAP = {"ls", "plugins", "show", "validate", "--help", "--version"}


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first line of content. title: of `path`: in the line above,
    if that is all of it.
    """

    language: str
    text: str
    line: int
    title: str


@dataclass(frozen=True)
class Command:
    """One `$ ...` line of a console block, and the output shown below it."""

    words: tuple[str, ...]
    shown: str


def blocks(path: Path, language: str) -> list[Block]:
    """The page's fenced blocks in a language, in order."""
    found, fence, above, start = [], "", "", 0
    content: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        opened = re.match(r"(`{3,})(\S*)", line)
        if not fence and opened:
            fence, info, start, content = opened[1], opened[2], number + 1, []
        elif fence and line.strip() == fence:
            title = re.fullmatch(r"`([\w./-]+)`:", above)
            found.append(Block(info, "\n".join(content) + "\n", start, title[1] if title else ""))
            fence = above = ""
        elif fence:
            content.append(line)
        elif line.strip():
            above = line.strip()
    assert not fence, f"{path}:{start}: a block that never ends"
    return [block for block in found if block.language == language]


def commands(path: Path) -> list[Command]:
    """The commands in the page's console blocks."""
    found = []
    for block in blocks(path, "console"):
        for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            typed, _, shown = part.partition("\n")
            found.append(Command(tuple(shlex.split(typed, comments=True)), shown))
    return found


def sj_lang(*words: str) -> str:
    """Run `sj-lang ...` in this process, which has its imports, and return what it prints."""
    with patch.dict("os.environ", COLUMNS="100"), redirect_stdout(StringIO()) as out, redirect_stderr(out):
        try:
            code: object = cli.main(words)
        except SystemExit as done:  # argparse, of --help
            code = done.code
    assert not code, f"sj-lang {' '.join(words)}: exit code {code}\n{out.getvalue()}"
    return out.getvalue()


def tree(path: Path) -> list[str]:
    """The paths in the page's tree: an indented name is inside the folder above it;
    `a b  text` names two.
    """
    (block,) = blocks(path, "text")
    stack: list[tuple[int, str]] = []
    paths = []
    for line in block.text.splitlines():
        indent = len(line) - len(line.lstrip())
        names = line.strip().split("  ")[0].split()
        stack = [(depth, above) for depth, above in stack if depth < indent]
        inside = "".join(above for _, above in stack)
        paths += [inside + name for name in names]
        stack.append((indent, names[-1]))
    return paths


def prose(path: Path) -> list[tuple[int, str]]:
    """The page's numbered lines of prose: no blocks, indented code, tables or headings."""
    lines = []
    fence, indented, before = "", False, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        opened = re.match(r"`{3,}", line)
        indented = line.startswith("    ") and (indented or not before.strip())
        if fence:
            fence = "" if line.strip() == fence else fence
        elif opened:
            fence = opened[0]
        elif line.strip() and not indented and not line.startswith(("|", "#")):
            lines.append((number, line))
        before = line
    return lines


def missing_lines(shown: str, output: str) -> list[str]:
    """The lines of a page that the output lacks in this order; `...` stands for any lines."""
    rest = [" ".join(line.split()) for line in output.splitlines()]
    absent = []
    for line in (" ".join(line.split()) for line in shown.splitlines()):
        if not line or line == "...":
            continue
        if line in rest:
            rest = rest[rest.index(line) + 1 :]
        else:
            absent.append(line)
    return absent
