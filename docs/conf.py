"""Sphinx settings: Markdown pages through MyST, shown with furo.

Built with `sphinx-build -W docs docs/_build`.
"""

from importlib.metadata import version as installed

project = "sj_lang"
author = "the sj_lang developers"
version = release = installed("sj-lang")
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_show_copyright = False
html_title = f"sj_lang {release}"
