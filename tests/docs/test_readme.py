"""The README's two commands, its tree and its links are
true. Its code and other commands: test_docs.py.
"""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from pages import ROOT, blocks, tree

from sj_lang import plugins

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL_AND_RUN, INSTALL_AND_TEST = [block.text.strip() for block in blocks(ROOT / "README.md", "bash")]


def test_first_command_installs_all_three_and_runs_a_recipe_that_exists() -> None:
    install, run = INSTALL_AND_RUN.split(" && ")
    assert install == "pip install -e . -e plugins/neurons -e plugins/language"
    assert run.removeprefix("sj-lang run ") in plugins.recipes()


def test_second_command_is_what_ci_runs_word_by_word() -> None:
    assert INSTALL_AND_TEST.endswith(" && pytest")
    assert INSTALL_AND_TEST in [line.strip() for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()]


TREE = tree(ROOT / "README.md")


@pytest.mark.parametrize("path", TREE)
def test_tree(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_the_tree_shows_every_folder_at_the_top_and_every_distribution() -> None:
    folders = {f"{name}/" for name in folders_at_the_top(ROOT) - {"plugins"}} | {".ci/run"}
    folders |= {f"plugins/{path.parent.name}/" for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert sorted(folders - set(TREE)) == []


def folders_at_the_top(root: Path) -> set[str]:
    """Those that hold a file, without hidden ones and what Git ignores at the top."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    ignored = [line.strip("/") for line in lines]
    names = {path.name for path in root.iterdir() if any(inner.is_file() for inner in path.rglob("*"))}
    return {name for name in names if not any(fnmatch(name, pattern) for pattern in (".*", *ignored))}


def test_a_folder_with_one_file_is_seen(tmp_path: Path) -> None:
    for name in ("notes", ".hidden", "build", "a.egg-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.txt").touch()
    assert folders_at_the_top(tmp_path) == {"notes"}


LINKS = {
    (page.name, link)
    for page in ROOT.glob("*.md")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize(("page", "link"), sorted(LINKS))
def test_links(page: str, link: str) -> None:
    """Of the pages outside docs/; Sphinx checks the others."""
    assert (ROOT / link).is_file()
