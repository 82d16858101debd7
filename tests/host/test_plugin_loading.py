"""Plugins: found one by one, broken ones kept apart, and every mistake named."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from sj_lang import plugins
from sj_lang.errors import PluginError, UserError
from sj_lang.hookspecs import KINDS, Register
from sj_lang.plugins import Registry, chosen
from sj_lang.recipe.files import locate

HEAD = "from sj_lang.hookspecs import hookimpl\n"
SOUND = (
    HEAD + '@hookimpl\ndef sj_lang_register(register):\n    register.norm("{0}", "{0}_parts:Norm", summary="a norm")\n'
)

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one entry point on the path, as pip would leave it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install_distribution(name: str, code: str, module: str = "", version: str = "1.2") -> None:
        module = module or name
        info = tmp_path / f"sj_lang_{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sj-lang-{name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[sj_lang]\n{name} = {module}\n")
        (tmp_path / f"{module}.py").write_text(code)

    return install_distribution


def load(*names: str) -> Registry:
    registry = Registry()
    for entry in chosen(entry_points(group="sj_lang"), ",".join(names)):
        registry.load(entry)
    return registry


def test_a_plugin_is_listed_without_importing_what_it_offers(install: Install) -> None:
    install("pluga", SOUND.format("pluga"))
    (norm,) = load("pluga").all("norm")
    assert (norm.name, norm.plugin, norm.version) == ("pluga", "sj-lang-pluga", "1.2")
    with pytest.raises(PluginError, match="importing pluga_parts failed: ModuleNotFoundError"):
        norm.load()


def test_load_imports_the_target_and_says_what_is_missing_in_it(install: Install, tmp_path: Path) -> None:
    install("plugb", SOUND.format("plugb"))
    (tmp_path / "plugb_parts.py").write_text("class Nrm: pass\n")
    with pytest.raises(PluginError, match=r"norm 'plugb' of sj-lang-plugb 1.2: plugb_parts has no 'Norm'"):
        load("plugb").get("norm", "plugb").load()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("raises", "raise RuntimeError('bad wheel\\nsecond line')", "importing raises failed: RuntimeError: bad wheel"),
        ("leaves", "import sys; sys.exit(4)", "importing leaves failed: SystemExit: 4"),
        ("syntax", "def (", "importing syntax failed: SyntaxError"),
        ("undecorated", "def sj_lang_register(register): pass", "undecorated has no hook: decorate sj_lang_register"),
        (
            "misspelt",
            HEAD + "@hookimpl\ndef sj_lang_registre(register): pass",
            "'sj_lang_registre'; hooks: sj_lang_register",
        ),
        ("arguments", HEAD + "@hookimpl\ndef sj_lang_register(registry): pass", "registry"),
        ("halfway", SOUND.format("halfway") + "    raise OSError('no disk')", "OSError: no disk"),
        ("kind", HEAD + "@hookimpl\ndef sj_lang_register(register):\n    register.nrm('a', 'b:C')", "nrm"),
        (
            "undeclared",
            HEAD + "@hookimpl\ndef sj_lang_register(register):\n    register.neuron('a', 'b:C', summary='s', "
            "causal=True, steps=True, carries_state=True, takes_mask=True, any_length=True)",
            "missing 1 required keyword-only argument: 'parameters_per_channel'",
        ),
        ("target", SOUND.format("target").replace(":Norm", ".Norm"), "the target is 'package.module:Class'"),
        ("naming", SOUND.format("naming").replace('"naming"', '"My Norm"'), "use small letters"),
        ("silent", SOUND.format("silent").replace("a norm", " "), "the summary is empty"),
        (
            "twice",
            SOUND.format("twice") + SOUND.format("twice").splitlines()[-1],
            "registered twice by the same plugin",
        ),
        (
            "folder",
            HEAD + "@hookimpl\ndef sj_lang_register(register):\n    register.recipes('folder:none')",
            "does not exist",
        ),
    ],
)
def test_a_broken_plugin_is_kept_with_its_error_and_disturbs_no_other(
    install: Install, name: str, code: str, message: str
) -> None:
    install(name, code)
    install("sound" + name, SOUND.format("sound" + name))
    registry = load(name, "sound" + name)
    (broken,) = registry.broken()
    assert message in broken.error
    assert (broken.name, broken.distribution, broken.version) == (name, f"sj-lang-{name}", "1.2")
    assert [norm.name for norm in registry.all("norm")] == ["sound" + name]


def test_flags_of_a_neuron_are_checked() -> None:
    register = Register("x", "1")
    flags = {"causal": True, "steps": True, "carries_state": True, "takes_mask": True, "any_length": True}
    with pytest.raises(ValueError, match="causal='yes'"):
        register.neuron("a", "b:C", summary="s", parameters_per_channel="0", **{**flags, "causal": "yes"})
    with pytest.raises(ValueError, match="casual=False"):
        register.neuron(
            "a", "b:C", summary="s", parameters_per_channel="0", variants={"k=1": {"casual": False}}, **flags
        )
    with pytest.raises(ValueError, match="a variant is 'option=value'"):
        register.neuron("a", "b:C", summary="s", parameters_per_channel="0", variants={"k": {"causal": False}}, **flags)
    with pytest.raises(ValueError, match="neuron 'a': wraps is the name of an option, got 'of=lif'"):
        register.neuron("a", "b:C", summary="s", parameters_per_channel="0", wraps="of=lif", **flags)


def test_a_name_offered_twice_names_both_plugins_and_leaves_the_rest(install: Install) -> None:
    install("first", SOUND.format("same") + '    register.norm("own", "x:Y", summary="mine")\n')
    install("second", SOUND.format("same"), version="2.0")
    registry = load("first", "second")
    with pytest.raises(PluginError, match=r"'first' of sj-lang-first 1.2 and by plugin 'second' of sj-lang-second 2.0"):
        registry.get("norm", "same")
    assert [norm.name for norm in registry.all("norm")] == ["own"]
    assert list(registry.clashes()) == [("norm", "same")]
    assert not registry.broken()


def test_recipes_of_plugins(install: Install, tmp_path: Path) -> None:
    for name in ("reca", "recb"):
        install(
            name, HEAD + f"@hookimpl\ndef sj_lang_register(register):\n    register.recipes('{name}_files:inner')\n"
        )
        folder = tmp_path / f"{name}_files" / "inner" / "lm"
        folder.mkdir(parents=True)
        (tmp_path / f"{name}_files" / "__init__.py").touch()
        (folder / f"{name}.yaml").write_text("recipe: 1\n")
        (folder / "both.yaml").write_text("recipe: 1\n")
    registry = load("reca", "recb")
    assert not registry.broken()
    assert registry.recipes()["lm/reca"] == tmp_path / "reca_files" / "inner" / "lm" / "reca.yaml"
    assert list(registry.recipes()) == ["lm/reca", "lm/recb"]
    assert ("recipe", "lm/both") in registry.clashes()


def test_an_unknown_name_is_answered_with_the_nearest(toy: Registry) -> None:
    with pytest.raises(UserError, match="no neuron 'toy_lfi'; did you mean 'toy_lif' or 'toy_delay'"):
        plugins.get("neuron", "toy_lfi")
    with pytest.raises(UserError, match="no such kind of component: 'neurn'; did you mean 'neuron'"):
        plugins.get("neurn", "lif")
    with pytest.raises(UserError, match="no plugin offers any embedding"):
        plugins.get("embedding", "x")


def test_a_broken_plugin_that_may_offer_the_name_is_a_plugin_error(install: Install) -> None:
    install("sick", SOUND.format("wanted_norm") + "\nraise RuntimeError('no cuda')\n")
    install("well", SOUND.format("well_norm"))
    registry = load("sick", "well")
    with pytest.raises(PluginError, match=r"plugin 'sick' of sj-lang-sick 1.2, which may offer it.*no cuda"):
        registry.get("norm", "absent")
    with pytest.raises(UserError, match=r"no norm 'wel_norm'; did you mean 'well_norm'\?; plugin 'sick' .*no cuda"):
        registry.get("norm", "wel_norm")
    with (
        plugins.use(registry),
        pytest.raises(PluginError, match=r"no recipe 'sick/quickstart': plugin 'sick' .* failed to load: .*no cuda"),
    ):
        locate("sick/quickstart")


def test_what_is_missing_here_says_why(toy: Registry) -> None:
    with pytest.raises(UserError, match=r"neuron 'absent' of sj-lang-toy 1.0 is not available here: needs x 2"):
        plugins.get("neuron", "absent").load()


def test_the_switch(monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    install("plugc", SOUND.format("plugc"))
    monkeypatch.setattr(plugins, "_registry", None)
    monkeypatch.setenv("SJ_LANG_PLUGINS", "")
    assert plugins.registry().plugins == []
    monkeypatch.setattr(plugins, "_registry", None)
    monkeypatch.setenv("SJ_LANG_PLUGINS", " plugc ,")
    assert [plugin.name for plugin in plugins.registry().plugins] == ["plugc"]
    monkeypatch.setattr(plugins, "_registry", None)
    monkeypatch.setenv("SJ_LANG_PLUGINS", "plugd")
    with pytest.raises(
        UserError, match="SJ_LANG_PLUGINS names a plugin that is not installed: 'plugd'; did you mean 'plugc'"
    ):
        plugins.registry()


def test_the_table_is_plain_data(toy: Registry) -> None:
    table = plugins.table()
    assert list(table["components"]) == list(KINDS)
    delay = next(row for row in table["components"]["neuron"] if row["name"] == "toy_delay")
    assert delay["traits"]["causal"] is True
    assert delay["variants"] == {"direction=both": {"causal": False, "steps": False}}
    assert table["plugins"] == [
        {"name": "toy", "module": "toy", "distribution": "sj-lang-toy", "version": "1.0", "error": ""}
    ]


def test_what_ships_is_found_through_the_same_hook() -> None:
    registry = Registry()
    for entry in chosen(entry_points(group="sj_lang"), "spikingjelly"):
        registry.load(entry)
    assert not registry.broken()
    assert "lif" in [neuron.name for neuron in registry.all("neuron")]
