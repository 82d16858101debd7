"""The README's two commands, its tree and its links are true. Its code and other commands: test_docs.py."""

import re

import pytest
from pages import ROOT, blocks

from sj_lang import plugins

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL_AND_RUN, INSTALL_AND_TEST = [block.text.strip() for block in blocks(ROOT / "README.md", "bash")]


def tree() -> list[str]:
    """The paths in the README's tree: an indented name is inside the one above it."""
    (block,) = blocks(ROOT / "README.md", "text")
    stack: list[tuple[int, str]] = []
    paths = []
    for line in block.text.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        stack = [(depth, above) for depth, above in stack if depth < indent] + [(indent, name)]
        paths.append("".join(above for _, above in stack))
    return paths


def test_first_command_installs_all_three_and_runs_a_recipe_that_exists() -> None:
    install, run = INSTALL_AND_RUN.split(" && ")
    assert install == "pip install -e . -e plugins/neurons -e plugins/language"
    assert run.removeprefix("sj-lang run ") in plugins.recipes()


def test_second_command_is_what_ci_runs_word_by_word() -> None:
    assert INSTALL_AND_TEST.endswith(" && pytest")
    assert INSTALL_AND_TEST in [line.strip() for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("path", tree())
def test_tree(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_links(link: str) -> None:
    assert (ROOT / link).is_file()
