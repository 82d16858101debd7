"""Sphinx settings: Markdown pages and notebooks through MyST-NB, shown with furo.

Built with `sphinx-build -W docs docs/_build`, which draws the gallery and runs the notebooks. What
was built needs no network: equations are MathML, figures are SVG.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

from sj_lang.hf import shield

sys.path.insert(0, str(Path(__file__).parent))
shield()  # before autodoc imports models

project = "sj_lang"
author = "the sj_lang developers"
version = release = installed("sj-lang")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_copybutton",
    "extensions.docstrings",
    "extensions.mathml",
]
exclude_patterns = ["_build", "jupyter_execute"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars, and paths of this machine

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

plot_formats = [("svg", 100)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = False
plot_rcparams = {"svg.hashsalt": "sj_lang", "savefig.facecolor": "white"}

copybutton_prompt_text = "$ "

html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["extensions/static"]
html_css_files = ["pages.css"]
html_show_copyright = False
html_title = f"sj_lang {release}"
