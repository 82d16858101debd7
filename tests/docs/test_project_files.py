"""Files for contributors say what CI does and distributions declare; prose has 100 columns."""

import ast
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, blocks, prose

from sj_lang import cli

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


FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_what_is_needed(path: Path) -> None:
    """Keys are those of the forms' format; files and commands that a form names exist."""
    text = path.read_text(encoding="utf-8")
    form = yaml.safe_load(text)
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    assert all((ROOT / name).is_file() for name in re.findall(r"[A-Z]+\.md", text))
    commands = re.findall(r"`sj-lang (\w+)", text)
    assert commands
    assert set(commands) <= set(cli.COMMANDS)


def test_there_are_issue_forms() -> None:
    assert [path.stem for path in FORMS] == ["bug", "wish"]


TEMPLATE = ROOT / "sj_lang/commands/template"
WRAPPED = [*PAGES, *sorted(ROOT.glob("plugins/*/README.md")), *sorted(TEMPLATE.rglob("*.md"))]


@pytest.mark.parametrize("page", WRAPPED, ids=[str(page.relative_to(ROOT)) for page in WRAPPED])
def test_prose_is_wrapped(page: Path) -> None:
    """At 100 characters; a single word, such as a long link, may be longer."""
    assert [number for number, line in prose(page) if len(line) > 100 and " " in line.strip()] == []


PLUGINS = [f"plugins/{name}/sj_lang_{name}" for name in ("neurons", "language", "tasks")]
PYTHON = ("sj_lang", *PLUGINS, "tests", "docs")
#: files that are not Python -> what a comment begins with; an empty text stands for every line
COMMENTS = {
    "CITATION.cff": "",
    ".github/ISSUE_TEMPLATE/*.yml": "",
    ".ci/run": "#",
    ".pre-commit-config.yaml": "#",
    "pyproject.toml": "#",
    "plugins/*/pyproject.toml": "#",
    "sj_lang/commands/template/pyproject.toml": "#",
    "recipes/**/*.yaml": "#",
    "plugins/*/*/recipes/**/*.yaml": "#",
    "sj_lang/commands/template/**/*.yaml": "#",
    "sj_lang/testing/*.h": "//",
    "plugins/neurons/sj_lang_neurons/*/*.cu*": "//",
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
DIRECTIVES = ("# type: ignore", "# noqa", "# fmt: ")


def documented(path: Path) -> Iterator[int]:
    """The numbers of a module's lines with a docstring, or with a comment for people."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            yield from range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT and not token.string.startswith(DIRECTIVES):
                yield token.start[0]


def wide(path: Path) -> list[int]:
    """The numbers of the lines of prose in a module that have more than 100 columns."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sorted({number for number in documented(path) if len(lines[number - 1]) > 100})


@pytest.mark.parametrize("folder", PYTHON)
def test_docstrings_and_comments_have_100_columns(folder: str) -> None:
    modules = sorted((ROOT / folder).rglob("*.py"))
    assert modules
    assert {str(path.relative_to(ROOT)): wide(path) for path in modules if wide(path)} == {}


def wide_comments(text: str, mark: str) -> list[int]:
    """The numbers of the lines that have a comment and more than 100 columns."""
    comment = re.compile(rf"(^|\s){re.escape(mark)}")
    return [n for n, line in enumerate(text.splitlines(), 1) if len(line) > 100 and comment.search(line)]


@pytest.mark.parametrize("pattern", COMMENTS)
def test_comments_of_other_files_have_100_columns(pattern: str) -> None:
    paths = sorted(ROOT.glob(pattern))
    assert paths
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    assert [name for name, text in texts.items() if wide_comments(text, COMMENTS[pattern])] == []


def test_a_wide_line_of_prose_is_caught(tmp_path: Path) -> None:
    tail = "x" * 100
    module = tmp_path / "module.py"
    text = f'"""Summary.\n\n{tail}.\n"""\nname = "{tail}"\ni = 1  # {tail}\nj = "{tail}"  # type: ignore[misc]\n'
    module.write_text(text, encoding="utf-8")
    assert wide(module) == [3, 6]
    assert wide_comments(f"# {tail}\nkey: {tail} # why\nkey: {tail}", "#") == [1, 2]
