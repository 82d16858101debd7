"""The conformance kit: what every spiking neuron of sj_lang promises, as checks that anybody can run on his own node.

    from sj_lang.testing import check_node

    def test_my_neuron():
        check_node(lambda channels: MyNeuron(channels=channels),
                   traits=dict(causal=True, steps=True, carries_state=True, takes_mask=True, any_length=True))

Each check is also a function of a `Subject`, found by name in `CHECKS`; what a failure says begins with that name.
Needs torch and SpikingJelly, no test framework.
"""

from sj_lang.testing import autograd, declared, kernels, lifecycle, numerics, padding, refuse, sequence
from sj_lang.testing.check import CHECKS, Check, CheckFailed
from sj_lang.testing.runner import NodeFailed, Report, check_node
from sj_lang.testing.subject import Subject, Traits

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailed",
    "NodeFailed",
    "Report",
    "Subject",
    "Traits",
    "autograd",
    "check_node",
    "declared",
    "kernels",
    "lifecycle",
    "numerics",
    "padding",
    "refuse",
    "sequence",
]
