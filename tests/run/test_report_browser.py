"""report.html in a real browser: three widths, both colour schemes. Skips without a browser.

A page of our own holds the report in frames of each width and writes down what a reader would see:
what reaches beyond the page, text that is cut, and text that is hard to read on its ground.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny import offered, write_recipe

from sj_lang import run
from sj_lang.recipe import load
from sj_lang.report import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
pytestmark = [
    pytest.mark.draws,
    pytest.mark.skipif(not BROWSER, reason="needs chromium or google-chrome"),
]

WIDTHS = (360, 768, 1280)
#: number of the scheme in Chromium's own settings
SCHEMES = {"dark": 0, "light": 1}
MEASURE = """
function luminance(colour) {
  const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function ground(window, element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = window.getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
}
function look(frame) {
  const view = frame.contentWindow, root = view.document.documentElement, faults = [];
  for (const details of root.querySelectorAll("details")) details.open = true;
  if (root.scrollWidth > root.clientWidth) faults.push(`the page is ${root.scrollWidth} wide`);
  for (const e of view.document.body.querySelectorAll("*")) {
    const style = view.getComputedStyle(e), name = e.tagName + " " + e.textContent.trim().slice(0, 30);
    if (style.overflowX === "hidden" && e.scrollWidth > e.clientWidth) faults.push("cut: " + name);
    if (!e.closest(".wide") && e.getBoundingClientRect().right > root.clientWidth + 1) faults.push("beyond: " + name);
    if ([...e.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) {
      const [low, high] = [luminance(style.color), luminance(ground(view, e))].sort((a, b) => a - b);
      if ((high + .05) / (low + .05) < 4.5) faults.push(`hard to read: ${name} ${style.color}`);
    }
  }
  return {faults, ground: luminance(ground(view, view.document.body)), texts: root.innerText.length,
          pictures: [...view.document.images].filter(image => image.naturalWidth && image.alt).length};
}
window.onload = () => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
};
"""


def looked_at(report: str, scheme: str, folder: Path) -> list[dict[str, Any]]:
    """What the browser sees, for each width."""
    text = html.escape(report, quote=True)
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{text}"></iframe>' for width in WIDTHS)
    outer = folder / "frames.html"
    outer.write_text(f"<!doctype html><title>none</title>{frames}<script>{MEASURE}</script>", encoding="utf-8")
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
        *(f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--virtual-time-budget=10000"),
        *("--dump-dom", outer.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    seen: list[dict[str, Any]] = json.loads(html.unescape(title[1]))
    assert len(seen) == len(WIDTHS)
    return seen


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The report of a run, and of two runs side by side."""
    folder = tmp_path_factory.mktemp("reports")
    with offered(), contextlib.redirect_stdout(io.StringIO()):
        path = write_recipe(folder)
        for name in ("one", "another-run-with-a-very-long-name-and-no-place-to-break"):
            run.execute(load(path, [f"output={folder / name}", "train.max_steps=4", "train.eval_steps=2"]))
    runs = sorted(path.parent for path in folder.glob("*/manifest.json"))
    return {"one": page.write([folder / "one"]).read_text("utf-8"), "both": page.write(runs).read_text("utf-8")}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("which", ["one", "both"])
def test_nothing_is_cut_or_beyond_the_page_or_hard_to_read(
    reports: dict[str, str], which: str, scheme: str, tmp_path: Path
) -> None:
    seen = looked_at(reports[which], scheme, tmp_path)
    assert [one["faults"] for one in seen] == [[], [], []]
    assert all((one["ground"] < 0.1) == (scheme == "dark") for one in seen)
    assert all(one["texts"] > 1000 for one in seen)
    assert all(one["pictures"] >= 3 for one in seen)


def test_faults_are_seen(tmp_path: Path) -> None:
    wide = '<p style="width: 2000px">wide</p>'
    cut = '<p style="width: 2em; overflow: hidden; white-space: nowrap">a text that is cut</p>'
    pale = '<p style="color: #ccc; background: #fff">pale</p>'
    for text, fault in ((wide, "wide"), (cut, "cut: P a text"), (pale, "hard to read: P pale")):
        for one in looked_at(f"<!doctype html><body>{text}", "light", tmp_path):
            assert any(fault in told for told in one["faults"])
