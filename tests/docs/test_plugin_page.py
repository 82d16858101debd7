"""The plugin of docs/plugins.md: it is the template of `sj-lang new`,
and it installs and runs from the page alone.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, Block, blocks

from sj_lang.commands import new


def listings() -> list[Block]:
    languages = ("python", "toml", "yaml", "markdown")
    return [block for language in languages for block in blocks(DOCS / "plugins.md", language) if block.title]


def test_the_page_shows_every_file_of_the_template() -> None:
    template = {path.relative_to(new.TEMPLATE).as_posix(): path for path in new.TEMPLATE.rglob("*") if path.is_file()}
    template = {name: path for name, path in template.items() if "__pycache__" not in name}
    shown = {block.title: block.text for block in listings()}
    assert sorted(shown) == sorted(template)
    for name, text in shown.items():
        assert text == template[name].read_text(encoding="utf-8"), (
            f"{name} differs between docs/plugins.md and template"
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_works_from_the_page_alone(tmp_path: Path) -> None:
    """Write the listings to files, build and install them, run the tests and the recipe."""
    source, site, work = tmp_path / "source", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    for block in listings():
        path = source / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def python(*arguments: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site, source)
    assert "ember" in python("-m", "sj_lang", "plugins", "neuron")
    python("-m", "pytest", "-q", source / "tests")
    python("-m", "sj_lang", "run", "ember/quickstart", "output=out")
    resolved = (work / "out" / "recipe.yaml").read_text(encoding="utf-8")
    assert "type: ember" in resolved
    assert (work / "out" / "metrics.json").is_file()
