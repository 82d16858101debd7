"""The wheels, installed where the repository is not."""

import zipfile
from pathlib import Path

import pytest
from environments import ROOT, Environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: package in the wheel -> its folder in the repository
PACKAGES = {
    "sj_lang": ROOT / "sj_lang",
    "sj_lang_recipes": ROOT / "recipes",
    "sj_lang_neurons": ROOT / "plugins/neurons/sj_lang_neurons",
    "sj_lang_language": ROOT / "plugins/language/sj_lang_language",
    "sj_lang_tasks": ROOT / "plugins/tasks/sj_lang_tasks",
}


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_wheel_holds_every_file_of_its_package(wheels: Path, package: str) -> None:
    held: set[str] = set()
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        held |= {name.removeprefix(f"{package}/") for name in names if name.startswith(f"{package}/")}
        tops = {name.split("/")[0] for name in names}
        assert all(top in PACKAGES or top.endswith(".dist-info") for top in tops), f"{wheel.name} installs {tops}"
    assert held == files(PACKAGES[package])


def test_nothing_comes_from_the_repository(installed: Environment) -> None:
    places = "; ".join(f"import {name}; print({name}.__path__[0])" for name in sorted(PACKAGES))
    for place in installed.run("python", "-c", places).splitlines():
        assert Path(place).is_relative_to(installed.folder)


def test_listing(installed: Environment) -> None:
    recipes = {
        path.relative_to(ROOT / "recipes").with_suffix("").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")
    }
    assert recipes
    listed = installed.run("sj-lang", "ls")
    assert [name for name in sorted(recipes) if name not in listed] == []
    assert "dsn" in installed.run("sj-lang", "plugins", "neuron")


def test_doctor_finds_nothing_broken(installed: Environment) -> None:
    assert "Runs work here." in installed.run("sj-lang", "doctor")


def test_a_recipe_runs(installed: Environment) -> None:
    tiny = ["train.max_steps=2", "model.hidden_size=16", "model.num_hidden_layers=1", "output=out"]
    installed.run("sj-lang", "run", "lm/quickstart", *tiny)
    assert list((installed.work / "out").rglob("metrics.json"))
