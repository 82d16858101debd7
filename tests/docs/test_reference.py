"""The gallery shows every neuron, the API reference every component, and docstrings become valid
pages; the notebooks are kept without outputs; the home page repeats results.
"""

import json
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import torch
from pages import DOCS, PAGES, blocks
from test_docs import own

from sj_lang import plugins

sys.path.insert(0, str(DOCS))

from extensions import docstrings, gallery, mathml

GALLERY = DOCS / "gallery.md"
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def shown_in_gallery() -> list[tuple[object, str]]:
    """The arguments of every call of `answer` on the page."""
    calls: list[tuple[object, str]] = []
    for block in blocks(GALLERY, "{eval-rst}"):
        code = block.text.splitlines()[-1]
        eval(code.strip(), {"answer": lambda neuron, name: calls.append((neuron, name))})
    return calls


def test_the_gallery_shows_every_neuron() -> None:
    shown = {neuron if isinstance(neuron, str) else neuron["type"] for neuron, _ in shown_in_gallery()}  # type: ignore[index]
    registered = {component.name for component in own() if component.kind == "neuron"}
    assert sorted(registered - shown - {"lif"}) == []


@pytest.mark.parametrize(("neuron", "name"), shown_in_gallery(), ids=str)
def test_a_neuron_of_the_gallery_fires_and_answers_alike_twice(neuron: str, name: str) -> None:
    once, twice = ([gallery.answers(neuron, x) for x in gallery.inputs().values()] for _ in range(2))
    assert sum(float(spikes.abs().sum()) for spikes in once) > 0
    assert all(torch.equal(*both) for both in zip(once, twice, strict=True))


def test_a_picture_of_the_gallery_has_twelve_panels() -> None:
    figure = gallery.answer("dsn", "DSN")
    assert len(figure.axes) == 12
    assert [axes.get_title() for axes in figure.axes[:4]] == [*gallery.inputs()]
    gallery.plt.close(figure)


def imported_on_pages() -> dict[str, str]:
    """Modules of ours that the code of pages and notebooks imports names from -> one page."""
    texts = {path: path.read_text(encoding="utf-8") for path in (*PAGES, *NOTEBOOKS)}
    pattern = re.compile(r"(?m)^(?: *\"|)from (sj_lang[\w.]*) import")
    return {module: path.name for path, text in texts.items() for module in pattern.findall(text)}


def test_the_reference_has_what_pages_import() -> None:
    modules = set(re.findall(r"automodule:: (\S+)", REFERENCE))
    absent = {
        module: page
        for module, page in imported_on_pages().items()
        if not any(f"{one}.".startswith(f"{module}.") or f"{module}.".startswith(f"{one}.") for one in modules)
    }
    assert len(imported_on_pages()) > 20
    assert absent == {}


@pytest.mark.parametrize("module", re.findall(r"automodule:: (\S+)\n(?! +:imported)", REFERENCE))
def test_a_package_that_offers_what_is_elsewhere_is_shown_with_it(module: str) -> None:
    offered = [getattr(import_module(module), name) for name in getattr(import_module(module), "__all__", ())]
    assert [one for one in offered if getattr(one, "__module__", module) != module] == []


@pytest.mark.parametrize("component", own(), ids=lambda component: f"{component.kind}/{component.name}")
def test_the_reference_has_the_module_of_every_component(component: plugins.Registration) -> None:
    modules = re.findall(r"automodule:: (\S+)", REFERENCE)
    module = component.target.partition(":")[0]
    packages = [module.rsplit(".", depth)[0] for depth in range(3)]
    assert any(package in modules for package in packages), f"docs/api names no `{module}`"


def test_a_docstring_becomes_fields_equations_lists_and_prose() -> None:
    text = "What `x` is, and *y*.\n\n    a = b * c\n\n"
    text += "c_out: size of `axis`,\n    2 or -1.\n*more: others.\n\n* one\n  two"
    converted = docstrings.convert(text)
    assert converted[:2] == ["What ``x`` is, and \\*y\\*.", ""]
    assert converted[2:5] == ["::", "", "        a = b * c"]
    assert converted[6:9] == ["* **c_out**: size of ``axis``,", "  2 or -1.", "* **\\*more**: others."]
    assert converted[-3:] == ["* one", "  two", ""]


def test_arguments_in_one_line_become_fields_of_their_own() -> None:
    text = "name: as in\n`net`. was, now: classes. None: nothing. rate_before,\nrate_after: shares."
    assert docstrings.convert(text, ["name", "was", "now", "rate_before", "rate_after"]) == [
        *("* **name**: as in", "  ``net``."),
        *("* **was, now**: classes. None: nothing.", "* **rate_before, rate_after**: shares.", ""),
    ]
    assert docstrings.convert("Words. name: no field here.", ["name"]) == ["Words. name: no field here.", ""]


EQUATIONS = [
    (path, equation)
    for path in sorted(DOCS.rglob("*.md"))
    for equation in re.findall(r"^ *\$\$\n(.*?)\n *\$\$$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(
    ("path", "equation"), EQUATIONS, ids=[f"{path.stem}-{n}" for n, (path, _) in enumerate(EQUATIONS)]
)
def test_equations_become_mathml(path: Path, equation: str) -> None:
    written = mathml.tex2mathml(equation, as_block=True)
    assert written.startswith("<math")
    assert "<merror" not in written
    assert "\\" not in written


def plain_equations(text: str) -> list[str]:
    """Indented blocks of a page, outside fences, that set something equal and are no Python."""
    unfenced = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    equal = [block for block in re.findall(r"(?<=\n\n)(?: {4}.*\n)+", unfenced) if " = " in block]
    return [block for block in equal if not _is_python(textwrap.dedent(block))]


def _is_python(text: str) -> bool:
    try:
        compile(text, "page", "exec")
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize("path", [path for path in sorted(DOCS.rglob("*.md")) if "log" not in path.parts], ids=str)
def test_no_equation_is_left_as_it_is_typed(path: Path) -> None:
    assert plain_equations(path.read_text(encoding="utf-8")) == []


def test_a_typed_equation_is_caught() -> None:
    assert plain_equations("Words\n\n    y = mean over T of x\n\nwords\n\n    again = f(x)\n") == [
        "    y = mean over T of x\n"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    """The documentation runs it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert [cell["outputs"] for cell in code] == [[]] * len(code)
    for cell in code:
        compile("".join(cell["source"]), str(path), "exec")
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert all((path.parent / link).is_file() for link in re.findall(r"\]\((\S+\.md)\)", text))


def test_the_home_page_repeats_results() -> None:
    home = (DOCS / "index.md").read_text(encoding="utf-8")
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    figures = re.findall(r"\*\*(.+?)\*\*", home)
    assert len(figures) == 4
    assert [figure for figure in figures if f"**{figure}**" not in results] == []


def test_both_languages_have_the_same_results() -> None:
    english, chinese = (
        [re.findall(r"[\d.]+", bold) for bold in re.findall(r"\*\*(\d.+?)\*\*", path.read_text(encoding="utf-8"))]
        for path in (DOCS / "index.md", DOCS / "zh/index.md")
    )
    assert len(english) == 4
    assert english == chinese


def test_both_languages_swap_alike() -> None:
    """The start page in Chinese has the code of the README, with comments of its own."""
    readme, chinese = (
        next(block.text for block in blocks(path, "python") if "swap(net" in block.text)
        for path in (DOCS.parent / "README.md", DOCS / "zh/index.md")
    )
    code = [re.sub(r" *#.*", "", text) for text in (readme, chinese)]
    assert code[0] == code[1]
