"""Whatever key of a recipe is misspelt, the answer names the right one:
a letter doubled in every key, in turn. A key that several recipes have in one place is misspelt in
the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from sound_recipe import SOUND

from sj_lang import recipe
from sj_lang.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPES = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("plugins/*/*/recipes/**/*.yaml")])

EVERY_SECTION = (
    SOUND
    + """\
  max_new_tokens: 20
measure: {firing_rate: true, raster: false, energy: true}
output: somewhere
seeds: [1, 2]
runs:
  plain: {summary: nothing changed}
  other:
    model.twin: true
    model.neuron: {v_threshold: 0.5}
    train:
      warmup_steps: 3
    generate.top_k: 4
    seed: 3
averages:
  mine: {plain: test.loss, other: [test.loss, dev.loss]}
"""
)


Place = tuple[str, ...]  # the keys above, each with the `type` beside it, and the key


def keys(node: yaml.Node | None, above: Place = ()) -> Iterator[tuple[Place, yaml.Node]]:
    """Every key with its place; the names of runs and averages are free, so they are left out."""
    if isinstance(node, yaml.MappingNode):
        beside = {key.value: value.value for key, value in node.value if isinstance(value, yaml.ScalarNode)}
        kind = beside.get("base" if not above else "type", "")
        free = above[::2] in (("runs",), ("averages",))
        for key, value in node.value:
            place = (*above, "any" if free else key.value)
            if not free:
                yield (*place, kind), key
            yield from keys(value, (*place, kind))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from keys(item, above)


def misspellings(text: str) -> Iterator[tuple[Place, str, int, str]]:
    """(place of a key, text with one letter doubled in it, its line,
    the right word). Keys with dots are several words.
    """
    for path, node in keys(yaml.compose(text, Loader=yaml.BaseLoader)):
        start = node.start_mark.index
        for match in re.finditer(r"[^.]+", node.value):
            word, place = match[0], start + match.start()
            if len(word) >= 3:
                letter = place + len(word) // 2
                yield (*path, word), text[: letter + 1] + text[letter:], node.start_mark.line + 1, word


@cache
def first_recipe() -> dict[Place, Path]:
    """Each place of a key -> the first recipe that has it."""
    first: dict[Place, Path] = {}
    for path in RECIPES:
        for place, *_ in misspellings(path.read_text(encoding="utf-8")):
            first.setdefault(place, path)
    return first


def assert_right_key_is_named(path: Path, shipped: Path | None = None) -> int:
    """Of all keys, or of those that no recipe before the shipped one has. The count is of all."""
    text, count = path.read_text(encoding="utf-8"), 0
    for place, wrong, line, word in misspellings(text):
        count += 1
        if shipped and first_recipe()[place] != shipped:
            continue
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(UserError) as caught:
            recipe.load(str(path))
        lines = [
            t for t in str(caught.value).splitlines() if t.strip().startswith(f"{path}:{line}:") and "unknown key" in t
        ]
        suggested = [re.findall(r"'([^']+)'", t.partition("did you mean")[2].partition("?")[0])[:3] for t in lines]
        assert any(word in names for names in suggested), f"line {line}: '{word}' is not named in\n{caught.value}"
    return count


def test_recipes_are_shipped() -> None:
    assert RECIPES


def test_in_a_recipe_with_every_section(toy: object, write: Callable[..., str]) -> None:
    path = Path(write(EVERY_SECTION))
    assert len(recipe.load(str(path)).children()) == 4
    assert assert_right_key_is_named(path) > 30


@pytest.mark.parametrize("shipped", RECIPES, ids=lambda path: path.relative_to(path.parents[1]).as_posix())
def test_in_every_recipe_that_is_shipped(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("shipped.yaml")
    path.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    assert assert_right_key_is_named(path, shipped) > 3  # some are little more than a `base`


@pytest.mark.parametrize("shipped", RECIPES, ids=lambda path: path.relative_to(path.parents[1]).as_posix())
def test_every_recipe_that_is_shipped_is_valid_and_so_is_its_resolved_copy(shipped: Path, tmp_path: Path) -> None:
    loaded = recipe.load(str(shipped))
    assert loaded.summary
    copy = tmp_path / "copy.yaml"
    copy.write_text(loaded.dump_yaml())
    assert recipe.load(str(copy)).dump_yaml() == loaded.dump_yaml()
