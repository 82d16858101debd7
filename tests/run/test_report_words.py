"""What a report says in words: ratios to the twin, prompt and text, code, what to run next."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from sj_lang.folder import RunFolder
from sj_lang.manifest import Manifest, write_json
from sj_lang.report import page, words

SPIKING = {"test.loss": 1.6, "test.bits_per_char": 2.4, "energy.total_mj": 0.1, "firing_rate.mean": 0.25}
ANN = {"test.loss": 1.5, "test.bits_per_char": 2.0, "energy.total_mj": 0.4}
CARD = """# A card

```bash
pip install sj-lang
```

```python
import sj_lang_language
model = AutoModel.from_pretrained("FOLDER OR NAME ON THE HUB")
```
"""


def finished(root: Path, metrics: dict[str, Any], *, twin: bool = False, status: str = "done", **more: Any) -> Path:
    folder = RunFolder(root)
    folder.root.mkdir(parents=True)
    recipe = {"task": {"type": "causal_lm"}, "model": {"type": "spike_decoder", "twin": twin}, "seed": 0}
    Manifest(folder.manifest, {"id": "1", "name": root.name, "status": status, "recipe": recipe, **more}).write()
    write_json(folder.metrics, metrics)
    return root


def shown(path: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.write([path]).read_text(encoding="utf-8")))


def test_a_run_is_told_by_ratios_to_its_twin() -> None:
    runs = [words.Compared("spiking", "lm 0", False, SPIKING), words.Compared("ann", "lm 0", True, ANN)]
    assert words.headline(runs) == [
        "spiking: test.bits_per_char 2.4, 1.2 times that of ann; energy 0.1 mJ, 0.25 times that of ann; "
        "firing rate 0.25."
    ]


def test_a_twin_of_another_task_or_seed_is_none() -> None:
    runs = [
        words.Compared("spiking", "lm 0", False, SPIKING | {"energy.ratio": 0.5}),
        words.Compared("ann", "lm 1", True, ANN),
    ]
    assert words.headline(runs) == [
        "spiking: test.bits_per_char 2.4; energy 0.1 mJ, 0.5 times that of the same products with floats; "
        "firing rate 0.25."
    ]
    assert words.headline([words.Compared("begun", "lm 0", False, {})]) == []


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["validation.accuracy", "test.loss", "test.accuracy"], "test.accuracy"),
        (["test.loss", "train.loss"], "test.loss"),
        (["dev.loss", "dev.matthews"], "dev.matthews"),
        (["validation.loss", "train.steps"], "validation.loss"),
        (["train.loss"], ""),
    ],
)
def test_the_first_figure_is_the_tasks_own(names: list[str], first: str) -> None:
    assert words.first_figure(dict.fromkeys(names, 1.0)) == first


def test_the_page_of_a_finished_run(tmp_path: Path) -> None:
    run = finished(tmp_path / "a run", SPIKING, prompt="The cat")
    folder = RunFolder(run)
    folder.sample.write_text("The cat sat <there>\n", encoding="utf-8")
    for path, text in ((folder.model / "README.md", CARD), (folder.raster_text, "a dog & a log")):
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
    (folder.figures / "raster.png").write_bytes(b"png")
    text = shown(run)
    assert "a run: test.bits_per_char 2.4; energy 0.1 mJ; firing rate 0.25." in text
    assert f'AutoModel.from_pretrained("{run}/model")' in text
    assert f"sj-lang generate '{run}' --prompt 'TEXT'\nsj-lang eval '{run}'\nsj-lang push '{run}' --dry-run" in text
    assert "The text: a dog & a log" in text
    written = page.write([run]).read_text(encoding="utf-8")
    assert '<pre><span class="prompt">The cat</span> sat &lt;there&gt;' in written


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = finished(tmp_path / "r", {}, status="interrupted")
    text = shown(run)
    assert f"sj-lang run {run}/recipe.yaml --resume {run}" in text
    assert "Use it in Python" not in text


def test_a_sample_that_does_not_begin_with_the_prompt_is_shown_whole() -> None:
    assert words.split_sample("a <unk> b", "a ☃") == ("", "a <unk> b")
    assert words.split_sample("a b", "") == ("", "a b")


def test_a_series_begins_with_its_headline(tmp_path: Path) -> None:
    finished(tmp_path / "s", {}, children=["ann", "spiking"])
    finished(tmp_path / "s/ann", ANN, twin=True)
    finished(tmp_path / "s/spiking", SPIKING)
    (tmp_path / "s/metrics.json").unlink()
    written = page.write([tmp_path / "s"]).read_text(encoding="utf-8")
    assert written.index("spiking: test.bits_per_char 2.4, 1.2 times that of ann") < written.index("<h2>")
