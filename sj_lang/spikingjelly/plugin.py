"""SpikingJelly's own neurons and our recipes, offered through the hook. Imports nothing heavy."""

from __future__ import annotations

from functools import partial

from sj_lang import compat
from sj_lang.hookspecs import Register, hookimpl

PLACE = "sj_lang.spikingjelly"
PLIF, KLIF, PSN = "arXiv 2007.05785", "arXiv 2302.09238", "arXiv 2304.12760"


@hookimpl
def sj_lang_register(register: Register) -> None:
    register.recipes("sj_lang_recipes:")
    causal = partial(register.neuron, causal=True, steps=True, carries_state=True, takes_mask=True, any_length=True)
    learned = "0 (1 in all)"
    for name, target, summary, parameters, cite in (
        ("if", "nodes:IF", "integrate and fire", "0", ""),
        ("lif", "nodes:LIF", "leaky integrate and fire", "0", ""),
        ("plif", "nodes:PLIF", "LIF whose time constant is learned, one for all neurons", learned, PLIF),
        ("klif", "variants:KLIF", "LIF whose potential is scaled by a learned k, one for all", learned, KLIF),
        ("qif", "variants:QIF", "quadratic integrate and fire", "0", ""),
        ("eif", "variants:EIF", "exponential integrate and fire", "0", ""),
    ):
        summary = f"{summary}; SpikingJelly's, serial in time"
        causal(name, f"{PLACE}.{target}", summary=summary, cite=cite, parameters_per_channel=parameters)
    missing = compat.why_no_psn()
    fixed_length = partial(
        register.neuron, cite=PSN, missing=missing, causal=False, steps=False, carries_state=False, takes_mask=False,
        any_length=False, parameters_per_channel="0 (T * T + T in all)",
    )  # fmt: skip
    summary = "parallel neuron, H = W X over a fixed number of steps T; SpikingJelly's"
    fixed_length("psn", f"{PLACE}.psn:PSN", summary=summary)
    summary = "PSN whose W is pulled to a band of k diagonals by lambda; SpikingJelly's, sequences only"
    causal_at_1 = {"lambda_init=1.0": {"causal": True}}
    fixed_length("masked_psn", f"{PLACE}.psn:MaskedPSN", summary=summary, variants=causal_at_1)
    summary, parameters = "parallel neuron, a weighted sum of the last k inputs; SpikingJelly's", "0 (k + 1 in all)"
    target = f"{PLACE}.psn:SlidingPSN"
    causal("sliding_psn", target, summary=summary, cite=PSN, parameters_per_channel=parameters, missing=missing)
