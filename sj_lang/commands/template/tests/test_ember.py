"""ember keeps what it declares: sj_lang's conformance kit."""

from sj_lang.build import part
from sj_lang.testing import check_node


def test_ember() -> None:
    check_node(part("neuron", "ember"))
