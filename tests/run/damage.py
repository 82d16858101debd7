"""Ways in which a run folder breaks: each takes the folder and a random source,
and changes one file.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILES = (
    "manifest.json", "recipe.yaml", "metrics.json", "metrics.jsonl", "ledger.json", "sample.txt", "log.txt",
    "report.html", "model/config.json", "model/generation_config.json", "model/model.safetensors",
    "model/tokenizer.json", "model/tokenizer_config.json", "figures/learning_curves.png",
    "figures/raster.png", "predictions/test.npz",
)  # fmt: skip
#: What may stand in JSON or YAML where something else is expected.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, -1e300, 10**30, 2**63, "", "x", "\x1b[31m", [], [1, [2]], {}, {"type": "x"}, "../..",
    ["../x"], "9" * 5000,
)  # fmt: skip
DEEP = "[" * 3000 + "]" * 3000


def places(tree: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The key paths of all values in nested mappings and lists, that of the whole among them."""
    yield keys
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*keys, key))


def replaced(tree: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """The tree with another value at a key path."""
    if not keys:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[keys[0]] = replaced(copy[keys[0]], keys[1:], value)
    return copy


def _cut(path: Path, source: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: source.randrange(len(data))])


def _flip(path: Path, source: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(source.choice((1, 8, 64))):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    path.write_bytes(bytes(data))


def _noise(path: Path, source: random.Random) -> None:
    path.write_bytes(source.randbytes(source.choice((0, 1, 100, 5000))))


def _other(path: Path, source: random.Random) -> None:
    path.write_text(source.choice(("{}", "[]", "null", "5", '"x"', '{"a": NaN}', DEEP, '{"a": ' + "9" * 5000 + "}")))


def _folder(path: Path, source: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, source: random.Random) -> None:
    elsewhere = path.parents[1] / "elsewhere"
    shutil.copy(path, elsewhere)
    path.unlink()
    path.symlink_to(elsewhere)


def _value(path: Path, source: random.Random) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    which = source.randrange(len(lines))
    tree = json.loads(lines[which])
    keys = source.choice(list(places(tree)))
    lines[which] = json.dumps(replaced(tree, keys, source.choice(ODD)))
    path.write_text("\n".join(lines) + "\n")


def _key(path: Path, source: random.Random) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    which = source.randrange(len(lines))
    tree = json.loads(lines[which])
    lost = source.choice(list(tree))
    value = tree.pop(lost)
    if source.random() < 0.5:
        tree[source.choice((lost + "x", "\x1b[2J", "a.b", "layers"))] = value
    lines[which] = json.dumps(tree)
    path.write_text("\n".join(lines) + "\n")


Damage = Callable[[Path, random.Random], None]
ANY: dict[str, Damage] = {
    "lost": lambda path, source: path.unlink(), "cut": _cut, "flipped": _flip, "noise": _noise, "other": _other,
    "folder": _folder, "link": _link,
}  # fmt: skip
JSON: dict[str, Damage] = {"value": _value, "key": _key}


def spoil(root: Path, seed: int) -> str:
    """Damage one file of a run, chosen by the seed; returns what was done."""
    source = random.Random(seed)
    name = source.choice([file for file in FILES if (root / file).is_file()])
    ways = ANY | (JSON if name.endswith(("json", "jsonl")) else {})
    weighted = [*ways, *(["value"] * 4 if "value" in ways else [])]
    way = source.choice(weighted)
    ways[way](root / name, source)
    return f"seed {seed}: {name} {way}"
