"""A fixture for tests of a neuron. pytest always loads this, so it imports torch on use only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from sj_lang.testing import Report


@pytest.fixture(scope="session")
def check_node() -> Callable[..., Report]:
    """`sj_lang.testing.check_node`: runs a node through the conformance kit."""
    from sj_lang.testing import check_node

    return check_node
