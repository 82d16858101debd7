"""What this distribution offers. Imports nothing heavy."""

from sj_lang.hookspecs import Register, hookimpl


@hookimpl
def sj_lang_register(register: Register) -> None:
    register.neuron(
        "dsn",
        "sj_lang_neurons.dsn.node:DSN",
        summary="dynamic decay neuron: the leak follows the last k inputs; no reset, trains in parallel over time",
        cite="arXiv 2602.01133",
        causal=True,
        steps=True,
        carries_state=True,
        takes_mask=True,
        any_length=True,
        parameters_per_channel="k + 1 (conv, 5 by default), channels + 1 (linear), 1 (static)",
    )
    register.neuron(
        "bpsn",
        "sj_lang_neurons.bpsn.node:BPSN",
        summary="bidirectional parallel neuron: leaky means of both sides of a sequence of any length, bounded firing",
        cite="Su et al., Neural Networks 180:106630 (2024); a reconstruction",
        causal=False,
        steps=False,
        carries_state=False,
        takes_mask=True,
        any_length=True,
        parameters_per_channel="7 (R), 6 (A, G, K); 2 fewer in one direction; 1 more with an offset",
        variants={"direction=forward": {"causal": True, "steps": True, "carries_state": True}},
    )
    register.neuron(
        "sub_steps",
        "sj_lang_neurons.sub_steps.node:SubSteps",
        summary="m sub-steps of another neuron a step: each is shown the step's current, and their sum is fired",
        causal=True,
        steps=True,
        carries_state=True,
        takes_mask=True,
        any_length=True,
        parameters_per_channel="as the neuron in `of`",
        wraps="of",
    )
