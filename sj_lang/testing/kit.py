"""The checks of the conformance kit, all of them imported, so that `CHECKS` is complete."""

from sj_lang.testing import (  # noqa: F401
    autograd,
    declared,
    forward,
    kernels,
    lifecycle,
    numerics,
    padding,
    refuse,
    sequence,
    sizes,
    states,
)
from sj_lang.testing.check import CHECKS, Check, CheckFailed
from sj_lang.testing.runner import NodeFailed, Report, check_node
from sj_lang.testing.subject import Subject, Traits

__all__ = ["CHECKS", "Check", "CheckFailed", "NodeFailed", "Report", "Subject", "Traits", "check_node"]
