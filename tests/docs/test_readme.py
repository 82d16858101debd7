"""The README's two commands, its tree and its links are
true. Its code and other commands: test_docs.py.
"""

import re

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
    code = [*ROOT.rglob("*.py"), *ROOT.rglob("*.yaml"), *ROOT.rglob("*.md"), ROOT / ".ci/run"]
    places = [
        path.relative_to(ROOT).parts for path in code if len(path.relative_to(ROOT).parts) > 2 or ".ci" in path.parts
    ]
    shipped = {parts[0] for parts in places if not parts[0].startswith((".", "_")) and "egg-info" not in parts[0]}
    folders = {f"{name}/" for name in shipped - {"plugins", "build", "dist"}} | {".ci/run"}
    folders |= {f"plugins/{path.parent.name}/" for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert sorted(folders - set(TREE)) == []


LINKS = {
    (page.name, link)
    for page in ROOT.glob("*.md")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize(("page", "link"), sorted(LINKS))
def test_links(page: str, link: str) -> None:
    """Of the pages outside docs/; Sphinx checks the others."""
    assert (ROOT / link).is_file()
