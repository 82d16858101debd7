"""What the pages say: their code runs, their commands answer as shown,
and everything that is offered has its page.
"""

import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from pages import CHEAP, DOCS, PAGES, ROOT, Block, Command, blocks, commands, missing_lines, sj_lang

from sj_lang import cli, plugins, recipe
from sj_lang.errors import Interrupted, PluginError, RunFailed, SjLangError, UserError
from sj_lang.hookspecs import KINDS
from sj_lang.recipe.check import KEYS

FOLDERS = {"neuron": "neurons", "model": "models", "task": "tasks"}


def own() -> list[plugins.Registration]:
    """What this repository's three distributions offer."""
    ours = ("sj-lang", "sj-lang-neurons", "sj-lang-language", "sj-lang-tasks")
    return [found for kind in KINDS for found in plugins.all(kind) if found.plugin in ours]


WITH_PYTHON = [page for page in PAGES if any(not block.title for block in blocks(page, "python"))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=[str(page.relative_to(ROOT)) for page in WITH_PYTHON])
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run one after the other, as one program;
    a traceback has the page's line numbers.
    """
    monkeypatch.chdir(tmp_path)
    module = ModuleType("a_page")
    # where dataclasses and pickle look for a class's module
    monkeypatch.setitem(sys.modules, "a_page", module)
    for block in blocks(page, "python"):
        if not block.title:
            if "import onnxruntime" in block.text:
                pytest.importorskip("onnxruntime", reason="install ONNX with: pip install 'sj-lang[export]'")
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), vars(module))


RECIPES = [(page, block) for page in PAGES for block in blocks(page, "yaml") if block.text.startswith("recipe:")]


@pytest.mark.parametrize(("page", "block"), RECIPES, ids=[f"{page.stem}:{block.line}" for page, block in RECIPES])
def test_recipe_on_a_page_is_valid(page: Path, block: Block, tmp_path: Path) -> None:
    # the plugin that docs/plugins.md writes is not installed
    neuron = re.search(r"type: (ember)", block.text)
    (tmp_path / "page.yaml").write_text(block.text.replace("ember, decay: 0.5", "dsn") if neuron else block.text)
    recipe.load(str(tmp_path / "page.yaml"))


CASES = [(page, command) for page in PAGES for command in commands(page) if command.words[0] == "sj-lang"]


@pytest.mark.parametrize(
    ("page", "command"), CASES, ids=[f"{page.stem}: {' '.join(command.words)}" for page, command in CASES]
)
def test_command_answers_as_shown(
    page: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cheap command prints the lines shown; of `run`, the recipe and its changes are checked."""
    monkeypatch.chdir(tmp_path)
    verb, *rest = command.words[1:]
    for name in re.findall(r"=package:(\S+)", " ".join(rest)):
        if not list(metadata.distributions(name=name)):
            pytest.skip(f"{name} is not installed; install it with: pip install {name}")
    if verb in CHEAP:
        assert missing_lines(command.shown, sj_lang(*command.words[1:])) == []
    elif verb == "run" and not any("/shared/" in word or word.startswith("ember/") for word in rest):
        sj_lang("validate", *[word for word in rest if not word.startswith("-")])
    else:
        assert f"sj-lang {verb}" in (DOCS / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("component", own(), ids=lambda component: f"{component.kind}/{component.name}")
def test_every_component_has_its_page(component: plugins.Registration) -> None:
    """A neuron, model or task has a page of its own (SpikingJelly's nodes share one);
    any other is named on a page.
    """
    folder = FOLDERS.get(component.kind)
    if folder and component.plugin != "sj-lang":
        page = DOCS / folder / f"{component.name}.md"
        assert page.is_file(), f"{component.kind} '{component.name}' needs a page: {page.relative_to(ROOT)}"
    elif folder:
        page = DOCS / folder / "spikingjelly.md"
        assert page.is_file(), f"SpikingJelly's nodes need a page: {page.relative_to(ROOT)}"
        assert f"`{component.name}`" in page.read_text(encoding="utf-8"), (
            f"{page.name} does not name `{component.name}`"
        )
    else:
        assert any(f"`{component.name}`" in page.read_text(encoding="utf-8") for page in PAGES), "named on no page"


@pytest.mark.parametrize("kind", sorted(FOLDERS))
def test_no_page_without_its_component(kind: str) -> None:
    names = {component.name for component in own() if component.kind == kind} | {"index", "spikingjelly"}
    assert [page.stem for page in (DOCS / FOLDERS[kind]).glob("*.md") if page.stem not in names] == []


@pytest.mark.parametrize("method", [*KINDS, "recipes"])
def test_what_a_plugin_may_register_is_described(method: str) -> None:
    assert f"`register.{method}`" in (DOCS / "plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_recipe_is_described(key: str) -> None:
    assert f"`{key}`" in (DOCS / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", sorted(cli.COMMANDS))
def test_every_command_is_described(verb: str) -> None:
    assert f"| `sj-lang {verb}" in (DOCS / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [UserError, RunFailed, PluginError, Interrupted])
def test_every_exit_code_is_described(error: type[SjLangError]) -> None:
    assert f"| {error.exit_code} | " in (DOCS / "cli.md").read_text(encoding="utf-8")


def test_the_documentation_is_complete() -> None:
    """Each page is in a table of contents, by its name or by a pattern."""
    listed: set[Path] = set()
    for page in PAGES:
        for block in blocks(page, "{toctree}"):
            entries = [line for line in block.text.splitlines() if line and not line.startswith(":")]
            for entry in entries:
                matches = {match for kind in ("md", "ipynb") for match in page.parent.glob(f"{entry}.{kind}")}
                assert matches, f"{page.relative_to(ROOT)} lists {entry}, which is no page"
                listed |= matches
    pages = {page for page in PAGES if page.is_relative_to(DOCS)} - {DOCS / "index.md"}
    generated = {page for folder in ("_build", "jupyter_execute") for page in (DOCS / folder).rglob("*.ipynb")}
    pages |= {*DOCS.rglob("*.ipynb")} - generated
    assert [str(page.relative_to(ROOT)) for page in sorted(pages - listed)] == []
