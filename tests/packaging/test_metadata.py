"""What the four pyproject.toml say, against what is in the folders."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[2]
PLUGINS = ("neurons", "language", "tasks")
FOLDERS = {"sj-lang": ROOT, **{f"sj-lang-{name}": ROOT / "plugins" / name for name in PLUGINS}}
NAMES = sorted(FOLDERS)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def metadata(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDERS[name] / "pyproject.toml").read_text(encoding="utf-8"))


def test_host_lists_its_packages() -> None:
    """The host's list is written by hand, as setuptools cannot
    both search and map recipes/ to sj_lang_recipes.
    """
    packages = find_packages(str(ROOT), include=["sj_lang", "sj_lang.*"])
    assert metadata("sj-lang")["tool"]["setuptools"]["packages"] == [*sorted(packages), "sj_lang_recipes"]


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_of_modules_is_a_package(name: str) -> None:
    """A folder without __init__.py would be left out of the wheel,
    and work all the same where it is editable.
    """
    package = FOLDERS[name] / name.replace("-", "_")
    modules = [path for path in package.rglob("*.py") if not {"template", "template_parts"} & {*path.parts}]
    assert modules
    assert [path for path in modules if not (path.parent / "__init__.py").exists()] == []


def test_versions_agree() -> None:
    tree = ast.parse((ROOT / "sj_lang/__init__.py").read_text(encoding="utf-8"))
    written = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    assert [metadata(name)["project"]["version"] for name in NAMES] == written * len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_distribution(name: str) -> None:
    project = metadata(name)["project"]
    assert project["name"] == name
    assert project["license"] == "Apache-2.0"
    assert (FOLDERS[name] / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (FOLDERS[name] / project["readme"]).is_file()
    assert project["requires-python"] == ">=3.11"
    assert list(project["entry-points"]["sj_lang"].values()) in (
        ["sj_lang.spikingjelly.plugin"],
        [name.replace("-", "_") + ".plugin"],
    )


def test_all_means_the_plugins() -> None:
    extra = metadata("sj-lang")["project"]["optional-dependencies"]["all"]
    assert extra == [f"sj-lang-{name}>={VERSION}" for name in PLUGINS]


def test_host_depends_on_no_plugin() -> None:
    assert [name for name in metadata("sj-lang")["project"]["dependencies"] if name.startswith("sj-lang")] == []


def test_plugins_depend_on_the_host_and_not_on_each_other() -> None:
    for name in (f"sj-lang-{plugin}" for plugin in PLUGINS):
        of_ours = [other for other in metadata(name)["project"]["dependencies"] if other.startswith("sj-lang")]
        assert of_ours == [f"sj-lang>={VERSION}"]


def test_the_plugin_that_new_writes_has_the_same_bound() -> None:
    template = tomllib.loads((ROOT / "sj_lang/commands/template/pyproject.toml").read_text(encoding="utf-8"))
    assert template["project"]["dependencies"] == [f"sj-lang>={VERSION}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_an_index_can_say_what_it_is(name: str) -> None:
    """It has links, and the Pythons for which all dependencies have wheels."""
    project = metadata(name)["project"]
    assert project["urls"]["SpikingJelly"] == "https://github.com/fangwei123456/spikingjelly"
    assert all(url.startswith("https://") for url in project["urls"].values())
    minors = [text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text]
    assert minors == ["3.11", "3.12", "3.13", "3.14"]


#: imported only where it is installed; `sj-lang doctor`, or the task that needs it, says so
OPTIONAL = {"cupy", "numba", "torchaudio", "torchvision"} | {"gymnasium", "stable_baselines3"}
# where a module's name is not its distribution's
DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn"}


def imported(package: Path) -> dict[str, str]:
    """Top-level modules that a package's files import -> one of those files."""
    modules: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                continue
            modules |= {name.partition(".")[0]: str(path.relative_to(package)) for name in names}
    return modules


@pytest.mark.parametrize("name", NAMES)
def test_what_is_imported_is_a_dependency(name: str) -> None:
    """A library that another one happens to bring today may be gone tomorrow."""
    project = metadata(name)["project"]
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in project["dependencies"]}
    package = FOLDERS[name] / name.replace("-", "_")
    missing = {}
    for module, path in imported(package).items():
        of_ours = module == package.name or path.startswith("commands/template/") or path == "testing/pytest_plugin.py"
        distribution = DISTRIBUTIONS.get(module, module).replace("_", "-")
        if not of_ours and module not in OPTIONAL | sys.stdlib_module_names and distribution not in declared:
            missing[module] = path
    assert missing == {}


def test_what_tests_import_is_in_the_test_extra() -> None:
    project = metadata("sj-lang")["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
    ours = {"sj_lang", *(f"sj_lang_{plugin}" for plugin in PLUGINS)}
    ours |= {one.stem for path in (ROOT / "tests").rglob("*.py") for one in (path, path.parent)}
    ours |= {"extensions"}  # of the documentation
    missing = {}
    for module, path in imported(ROOT / "tests").items():
        distribution = DISTRIBUTIONS.get(module, module).replace("_", "-")
        if module not in ours | OPTIONAL | sys.stdlib_module_names and distribution not in declared:
            missing[module] = path
    assert missing == {}


def test_the_lowest_versions_are_those_that_the_page_names() -> None:
    """Those that pip can choose: transformers itself asks for newer ones than the other bounds."""
    lines = (ROOT / "docs/install.md").read_text(encoding="utf-8").splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("| accelerate |"))
    names, versions = ([cell.strip() for cell in lines[at].strip("|").split("|")] for at in (row, row + 2))
    declared = {}
    for name in NAMES:
        for requirement in metadata(name)["project"]["dependencies"]:
            match = re.match(r"([\w-]+)>=([\d.]+)", requirement)
            if match:
                declared.setdefault(match[1], set()).add(match[2])
    assert {name: declared[name] for name in names} == {n: {v} for n, v in zip(names, versions, strict=True)}
