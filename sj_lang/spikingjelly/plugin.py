"""SpikingJelly's own neurons and our recipes, offered through the same hook as everybody's. Imports nothing heavy."""

from __future__ import annotations

from functools import partial

from sj_lang import compat
from sj_lang.hookspecs import Register, hookimpl

NODES = "sj_lang.spikingjelly.nodes"
VARIANTS = "sj_lang.spikingjelly.variants"
PSNS = "sj_lang.spikingjelly.psn"
PSN = "arXiv 2304.12760"


@hookimpl
def sj_lang_register(register: Register) -> None:
    register.recipes("sj_lang_recipes:")
    causal = partial(register.neuron, causal=True, steps=True, carries_state=True, takes_mask=True, any_length=True)
    nodes = {
        "if": (f"{NODES}:IF", "integrate and fire", "", "0"),
        "lif": (f"{NODES}:LIF", "leaky integrate and fire", "", "0"),
        "plif": (
            f"{NODES}:PLIF",
            "LIF whose time constant is learned, one for all neurons",
            "arXiv 2007.05785",
            "0 (1 in all)",
        ),
        "klif": (
            f"{VARIANTS}:KLIF",
            "LIF whose potential is scaled by a learned k, one for all",
            "arXiv 2302.09238",
            "0 (1 in all)",
        ),
        "qif": (f"{VARIANTS}:QIF", "quadratic integrate and fire", "", "0"),
        "eif": (f"{VARIANTS}:EIF", "exponential integrate and fire", "", "0"),
    }
    for name, (target, summary, cite, parameters) in nodes.items():
        summary = f"{summary}; SpikingJelly's, serial in time"
        causal(name, target, summary=summary, cite=cite, parameters_per_channel=parameters)
    missing = compat.why_no_psn()
    fixed_length = partial(
        register.neuron, cite=PSN, missing=missing, causal=False, steps=False, carries_state=False, takes_mask=False,
        any_length=False, parameters_per_channel="0 (T * T + T in all)",
    )  # fmt: skip
    fixed_length(
        "psn", f"{PSNS}:PSN", summary="parallel neuron, H = W X over a fixed number of steps T; SpikingJelly's"
    )
    fixed_length(
        "masked_psn",
        f"{PSNS}:MaskedPSN",
        summary="PSN whose W is pulled to a band of k diagonals by lambda; SpikingJelly's, sequences only",
        variants={"lambda_init=1.0": {"causal": True}},
    )
    causal(
        "sliding_psn",
        f"{PSNS}:SlidingPSN",
        summary="parallel neuron, a weighted sum of the last k inputs; SpikingJelly's",
        cite=PSN,
        parameters_per_channel="0 (k + 1 in all)",
        missing=missing,
    )
