"""What this plugin offers. sj_lang reads it at every start, so it imports nothing heavy."""

from sj_lang.hookspecs import Register, hookimpl


@hookimpl
def sj_lang_register(register: Register) -> None:
    register.neuron(
        "ember",
        "sj_lang_ember.neuron:Ember",
        summary="leaky integration with a decay learned per channel",
        causal=True,
        steps=True,
        carries_state=True,
        takes_mask=True,
        any_length=True,
        parameters_per_channel="1 (decay)",
    )
    register.recipes("sj_lang_ember:recipes")
