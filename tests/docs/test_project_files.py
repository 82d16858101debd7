"""Files for contributors say what CI does and what the distributions declare; prose on pages is wrapped."""

import tomllib
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, blocks, prose

CI = (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_checks_that_contributors_run_are_those_of_ci() -> None:
    install, checks = [block.text for block in blocks(ROOT / "CONTRIBUTING.md", "bash")]
    assert install.strip() in CI
    commands = [command.strip() for line in checks.splitlines() for command in line.split("&&")]
    assert commands
    assert [command for command in commands if command not in CI] == []


def test_the_hooks_of_pre_commit_are_checks_of_ci() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert entries
    assert [entry for entry in entries if entry not in CI] == []


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert len(citation["references"]) == 3


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_prose_is_wrapped(page: Path) -> None:
    """At 100 characters; a single word, such as a long link, may be longer."""
    assert [number for number, line in prose(page) if len(line) > 100 and " " in line.strip()] == []
