"""The exchange itself: find, watch, build, put in, watch again."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from sj_lang import compat
from sj_lang.build import Make, part
from sj_lang.component import schema
from sj_lang.errors import UserError, describe
from sj_lang.swap.axis import Marks
from sj_lang.swap.find import classes_of, neurons_of
from sj_lang.swap.probes import carried_over, fed_the_same
from sj_lang.swap.replace import Old, modules_of, replacement
from sj_lang.swap.report import SwapPlace, SwapReport
from sj_lang.swap.watch import Example, Seen, run, watch

Neurons = list[tuple[str, nn.Module]]


def swap(
    net: nn.Module,
    neuron: str | Mapping[str, Any],
    *,
    example: Example,
    of: type[nn.Module] | Iterable[type[nn.Module]] | None = None,
    like: str | None = None,
    step_mode: Literal["s", "m"] | None = None,
    axis: int | None = None,
    **options: Any,
) -> SwapReport:
    """Replace neurons of `net` in place and report each of them.

    neuron: registered name, with `options` as its arguments (`sj-lang plugins neuron` lists both);
        a surrogate may also be a module.
    example: an input of the network (a tuple: positional arguments). It runs before and after,
        without gradient and in eval mode: the old nodes do not know their channels, and what they
        return must be something that the new ones can fire. The network is reset each time. A list
        holds several such inputs: an axis whose size differs between them is none of channels.
    of: classes to replace; by default every integrate-and-fire and parallel spiking node of
        SpikingJelly, those of `clock_driven` included.
    like: regular expression, searched in the place's name in `net.named_modules()`.
    step_mode: how the net calls nodes of classes that do not say it; by default a trial of each
        node decides, and an unclear one is left.
    axis: of the channels in `[T, B, ...]`, such as -1 for `[T, B, L, D]`; by default the axis of
        the features that the Linear, Conv or norm before a node makes, or of those that the one
        after it takes. If two fit, the place is left; a second call with `axis` swaps what was
        left. With `axis` a place is left if its features clearly lie on another one.

    Kept from the old node: step mode, train / eval, device, dtype of the parameters (its own, or
    those of the network), `store_v_seq`, hooks of its forward and backward. If the new node is
    binary and has such arguments: surrogate function, threshold and leak. DSN is binary here unless
    `n` is asked for. BPSN is of variant G unless another one is, or, in a net that is fed the same
    at each step, of variant A and forward. A place that cannot be swapped stays as it was and is in
    `report.left` with its reason.

    Only registered modules are replaced, those of `net.named_modules()`. A node that the net also
    holds elsewhere, such as in a plain list, is not replaced there.

    Warns if most places fall silent. Raises UserError for an unknown neuron or option, a
    value that the neuron refuses, an `of` that is no class, a `like` that is no regular expression
    or matches nothing, a net without such neurons, or a net that does not run with the new ones;
    the net is then as it was.
    """
    classes = classes_of(of)
    chosen = _chosen(neuron, options)
    axis = chosen.pop("axis", axis)
    _check(step_mode, axis, example)
    make = _factory(chosen)
    neurons = neurons_of(net, classes, like)
    compat.reset(net)
    pristine = {id(old): _kept(old) for _, old in neurons}
    seen = watch(net, {id(old): old for _, old in neurons}, example)
    steady = fed_the_same(net, {id(old): old for _, old in neurons}, example)
    still = any(node.inputs and node.repeats("") for node in steady.values())
    marks = Marks(net, example, [old for _, old in neurons])
    fresh: dict[int, tuple[SwapPlace, nn.Module | None]] = {}
    for name, old in neurons:
        if (key := id(old)) not in fresh:
            replaced = Old(old, pristine[key], seen[key], steady.get(key), still)
            fresh[key] = replacement(net, name, replaced, make, chosen, step_mode, axis, marks)
    nodes = {key: node for key, (_, node) in fresh.items() if node is not None}
    lengths = _lengths(neurons, nodes, seen)
    foreign = [old for _, old in neurons if id(old) in nodes and not isinstance(old, compat.node_classes())]
    carried = carried_over(net, foreign, example) if foreign else set()
    after = _exchanged(net, neurons, nodes, example)
    carried_now = carried_over(net, [nodes[id(old)] for old in foreign], example) if foreign else set()
    unlike = {id(old) for old in foreign if id(old) not in carried and id(nodes[id(old)]) in carried_now}
    places = []
    for name, old in neurons:
        place = replace(fresh[id(old)][0], name=name)
        node = nodes.get(id(old))
        if node is not None:
            place = _finished(place, seen[id(old)], after[id(node)], lengths, id(old) in unlike)
        places.append(place)
    report = SwapReport(tuple(places))
    if 2 * len(report.silenced) > len(report.swapped):
        count = f"{len(report.silenced)} of {len(report.swapped)}"
        warnings.warn(f"swap: {count} places fired on the example and are silent now; see the report", stacklevel=2)
    return report


def _chosen(neuron: str | Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The name and the options of the new neuron in one mapping."""
    if not isinstance(neuron, str | Mapping):
        raise UserError(f"swap: neuron={neuron!r}; expected a registered name, such as 'dsn', or a mapping with 'type'")
    return {"type": neuron, **options} if isinstance(neuron, str) else {**neuron, **options}


def _check(step_mode: str | None, axis: int | None, example: Example) -> None:
    if step_mode not in (None, "s", "m"):
        raise UserError(f'swap: step_mode={step_mode!r}; expected "s" or "m"')
    if not (axis is None or (type(axis) is int and axis not in (0, 1))):
        raise UserError(f"swap: axis={axis!r}; expected 2 or more, or -1 and so on from the end")
    if isinstance(example, list) and not example:
        raise UserError("swap: example=[]; expected an input of the network, or a list of several")


def _factory(chosen: Mapping[str, Any]) -> Make:
    """What builds the new neuron; arguments that are modules are handed over at the call."""
    modules = modules_of(chosen)
    make = part("neuron", {name: value for name, value in chosen.items() if name not in modules})
    if modules.keys() - schema.arguments("neuron", make.target).keys():
        part("neuron", chosen)  # says which argument there is not
    return make


def _kept(old: nn.Module) -> nn.Module:
    """A copy for the trials of the node; the node itself if it needs none or has none."""
    if compat.step_mode(old) and compat.leak_and_gain(old)[0] is not None:
        return old
    try:
        return copy.deepcopy(old)
    except Exception:  # foreign code; the trial, which copies it too, fails with this reason
        return old


def _exchanged(net: nn.Module, neurons: Neurons, nodes: Mapping[int, nn.Module], example: Example) -> dict[int, Seen]:
    """Put the new nodes in and watch them; if the example fails, put the old ones back."""
    _put(net, neurons, nodes)
    try:
        return watch(net, {id(node): node for node in nodes.values()}, example)
    except Exception as error:  # the net is foreign code
        _put(net, neurons, {})
        failing = [
            name for name, old in neurons if id(old) in nodes and _fails(net, name, old, nodes[id(old)], example)
        ]
        places = ", ".join(failing) or "any one place, but with all together"
        raise UserError(
            f"swap: the example does not run with the new nodes: {describe(error)}. It fails at: {places}. "
            "The network is as it was; `like` or `of` can leave these places out"
        ) from error


def _fails(net: nn.Module, name: str, old: nn.Module, node: nn.Module, example: Example) -> bool:
    """Whether the example fails with one new node alone. The old one is back afterwards."""
    _put(net, [(name, old)], {id(old): node})
    try:
        run(net, example)
    except Exception:  # as above
        return True
    finally:
        _put(net, [(name, old)], {})
    return False


def _put(net: nn.Module, neurons: Neurons, nodes: Mapping[int, nn.Module]) -> None:
    """Put the new nodes in their places, and the old ones in all others."""
    for name, old in neurons:
        parent, _, attribute = name.rpartition(".")
        setattr(net.get_submodule(parent), attribute, nodes.get(id(old), old))
    compat.forget_reset_cache(net)


def _lengths(neurons: Neurons, nodes: Mapping[int, nn.Module], seen: Mapping[int, Seen]) -> Counter[int]:
    """How many of the multi-step places were fed sequences of each length."""
    sequences = [old for _, old in neurons if id(old) in nodes and nodes[id(old)].step_mode == "m"]
    return Counter(len(seen[id(old)].inputs[0]) for old in sequences)


def _finished(place: SwapPlace, before: Seen, after: Seen, lengths: Counter[int], carries: bool) -> SwapPlace:
    """The place with its rates, and a note if its sequences are of another length than most, or
    if it carries a state to the next input and the old node did not."""
    notes = [place.note] if place.note else []
    if carries:
        notes.append(
            "unlike the old node it goes on from the state of the last input: "
            "call SpikingJelly's functional.reset_net(net) between inputs"
        )
    steps, (usual, number) = len(before.inputs[0]), lengths.most_common(1)[0] if lengths else (0, 0)
    if steps in lengths and steps != usual and lengths[steps] < number:
        notes.append(f"T is {steps} here and {usual} elsewhere: does axis 0 hold more than time?")
    if before.overwritten:
        notes.append("the net changes its input in place afterwards, so it keeps a copy for the backward pass")
    note = "; ".join(notes)
    return replace(place, note=note, rate_before=before.rate, rate_after=after.rate)
