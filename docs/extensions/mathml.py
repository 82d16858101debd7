"""Equations as MathML, which browsers draw themselves: pages need no script and no network."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def visit_math(translator: Any, node: nodes.Node) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.Node) -> None:
    """Wide ones can be scrolled, as tables can; fractions have their full size in every row."""
    written = tex2mathml(node.astext(), as_block=True).replace("<mtable ", '<mtable displaystyle="true" ')
    translator.body.append(f'<div class="table-wrapper equation">{written}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
