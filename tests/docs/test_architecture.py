"""docs/architecture.md: its tree is true and complete, and what it names exists."""

import ast
import re
from pkgutil import resolve_name

import pytest
from pages import DOCS, ROOT, tree

PAGE = DOCS / "architecture.md"
TREE = tree(PAGE)
PACKAGES = ["sj_lang", *(f"plugins/{name}/sj_lang_{name}" for name in ("neurons", "language", "tasks"))]
TEXT = PAGE.read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(sj_lang\w*(?:\.\w+)+)`", TEXT)))
PATHS = sorted(set(re.findall(r"`((?:sj_lang|plugins|tests|docs)/[\w./]*)`", TEXT)))


def test_the_folders_open_to_plugins_are_those_of_the_import_rules() -> None:
    rules = ast.parse((ROOT / "tests/host/test_import_rules.py").read_text(encoding="utf-8"))
    (folders,) = [ast.literal_eval(line.value) for line in rules.body if ast.unparse(line).startswith("OPEN =")]
    *first, last = [f"`{folder}`" for folder in folders]
    listed = f"{', '.join(first)} and {last}"
    assert " ".join(TEXT.split()).count(listed) == 2


@pytest.mark.parametrize("path", TREE)
def test_what_the_tree_shows_exists(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_shows_every_folder(package: str) -> None:
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in (ROOT / package).rglob("__init__.py")}
    shipped = {folder for folder in folders if "/template/" not in folder}
    assert sorted(shipped - set(TREE)) == []


@pytest.mark.parametrize("place", ["recipes", "tests", "docs"])
def test_the_tree_shows_every_folder_beside_the_packages(place: str) -> None:
    generated = {"_build", "__pycache__"}
    folders = {path.name for path in (ROOT / place).iterdir() if path.is_dir()} - generated
    assert sorted(name for name in folders if f"{place}/{name}/" not in TREE) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_shows_every_flat_file(package: str) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).glob("*.py")}
    assert sorted(path for path in files - set(TREE) if not path.rpartition("/")[2].startswith("__")) == []


@pytest.mark.parametrize("path", PATHS)
def test_the_paths_in_the_text_exist(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("word", "path"), re.findall(r"`(\w+)` (?:and `\w+` )?in `([\w/]+\.\w+)`", TEXT))
def test_a_file_has_what_is_said_to_be_in_it(word: str, path: str) -> None:
    folder = "" if "/" in path else "plugins/language/sj_lang_language/tasks/"
    assert re.search(rf"\b{word}\b", (ROOT / folder / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_exists(name: str) -> None:
    assert resolve_name(name)
