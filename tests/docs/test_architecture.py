"""The tree of docs/architecture.md is true and complete, and what pages name exists."""

import ast
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest
from pages import DOCS, PAGES, ROOT, tree

PAGE = DOCS / "architecture.md"
TREE = tree(PAGE)
PACKAGES = ["sj_lang", *(f"plugins/{name}/sj_lang_{name}" for name in ("neurons", "language", "tasks"))]
TEXT = PAGE.read_text(encoding="utf-8")


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
    folders = {f"{folder.relative_to(ROOT)}/" for folder in folders_of_code(ROOT / package)}
    assert sorted(folders - set(TREE)) == []


def folders_of_code(package: Path) -> set[Path]:
    """The folders with a module, whether or not they have an `__init__.py`; none of templates'."""
    return {path.parent for path in package.rglob("*.py") if "template" not in path.parent.relative_to(package).parts}


def test_a_folder_without_init_is_seen(tmp_path: Path) -> None:
    for place in ("inner/module.py", "template/inner/module.py"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    assert folders_of_code(tmp_path) == {tmp_path / "inner"}


@pytest.mark.parametrize("place", ["recipes", "tests", "docs"])
def test_the_tree_shows_every_folder_beside_the_packages(place: str) -> None:
    generated = {"_build", "jupyter_execute", "__pycache__"}
    folders = {path.name for path in (ROOT / place).iterdir() if path.is_dir()} - generated
    assert sorted(name for name in folders if f"{place}/{name}/" not in TREE) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_shows_every_flat_file(package: str) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).glob("*.py")}
    assert sorted(path for path in files - set(TREE) if not path.rpartition("/")[2].startswith("__")) == []


@pytest.mark.parametrize(("word", "path"), re.findall(r"`(\w+)` (?:and `\w+` )?in `([\w/]+\.\w+)`", TEXT))
def test_a_file_has_what_is_said_to_be_in_it(word: str, path: str) -> None:
    folder = "" if "/" in path else "plugins/language/sj_lang_language/tasks/"
    assert re.search(rf"\b{word}\b", (ROOT / folder / path).read_text(encoding="utf-8"))


#: pages that tell of today; the others of the day when they were written
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md" and not {"log", "decisions"} & {*page.parts}]
CURRENT += sorted(ROOT.glob("plugins/*/README.md"))
EXAMPLES = ("NAME", "ember")  # what a contributor adds


def absent(text: str) -> list[str]:
    """The modules, what is in them, and the paths that a page names and that do not exist."""
    names = set(re.findall(r"`(sj_lang\w*(?:\.\w+)+)`", text))
    places = set(re.findall(r"`((?:sj_lang\w*|plugins|recipes|tests|docs|\.ci)/[\w./-]*)`", text))
    ours = {place for place in places if not any(example in place for example in EXAMPLES)}
    return sorted([name for name in names if not _resolves(name)] + [place for place in ours if not _exists(place)])


def _exists(place: str) -> bool:
    """From the top, or from a distribution."""
    return any((folder / place).exists() for folder in (ROOT, *ROOT.glob("plugins/*/")))


def _resolves(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", CURRENT, ids=[str(page.relative_to(ROOT)) for page in CURRENT])
def test_what_a_page_names_exists(page: Path) -> None:
    assert absent(page.read_text(encoding="utf-8")) == []


def test_what_does_not_exist_is_found() -> None:
    there = "`sj_lang.build.part`, `sj_lang/build.py`, `docs/`, `tests/neurons/test_NAME.py`"
    gone = ["sj_lang.build.whole", "sj_lang.gone", "sj_lang_neurons.gone", "plugins/gone", "sj_lang/gone.py"]
    assert absent(there + "".join(f"`{name}`" for name in gone)) == sorted(gone)
