"""What the base class of nodes refuses, and how."""

from typing import Any

import pytest
import torch
from leaky import Leaky, random
from sj_lang_neurons import DSN
from torch import Tensor

from sj_lang import compat
from sj_lang.neuron import State

functional: Any = compat.spikingjelly("functional")

X = torch.zeros(5, 3, 4)


class WholeOnly(Leaky):
    def supported_step_mode(self) -> tuple[str, ...]:
        return ("m",)


def test_a_node_without_single_steps_says_so() -> None:
    node = WholeOnly(channels=4)
    assert node.step_mode == "m"
    functional.set_step_mode(node, "s")
    assert node.multi_step_forward(random(5, 2, 4)).shape == (5, 2, 4)
    node.reset()
    for attempt in (lambda: node(random(5, 2, 4)), lambda: WholeOnly(channels=4, step_mode="s")):
        with pytest.raises(ValueError, match='WholeOnly: step_mode "s" is not possible; this node has "m"'):
            attempt()


@pytest.mark.parametrize(
    ("x", "mask", "state", "error", "message"),
    [
        (torch.zeros(5, 4), None, None, ValueError, r"\[T, B, C, ...\], got shape \(5, 4\)"),
        (torch.zeros(5, 3, 7), None, None, ValueError, r"built for 4 channels, .* has 7"),
        (torch.zeros(0, 3, 4), None, None, ValueError, r"T = 0: \(0, 3, 4\)"),
        (torch.zeros(5, 3, 4).long(), None, None, TypeError, r"floating point, got torch.int64"),
        (X, torch.ones(5, 3), None, TypeError, r"must be bool, True = valid, got torch.float32"),
        (X, torch.ones(3, 5).bool(), None, ValueError, r"shape \(5, 3\) for this input, got \(3, 5\)"),
        (X, None, {"v": torch.zeros(2, 4), "count": torch.zeros(2, 1)}, ValueError, r"batch size 2, the input of 3"),
        (X, None, {"v": torch.zeros(3, 5), "count": torch.zeros(3, 1)}, ValueError, r"\(3, 4\), got \(3, 5\)"),
        (X, None, {"v": torch.zeros(3, 4)}, ValueError, r"\['v'\], it must have \['count', 'v'\]"),
        ([[1.0]], None, None, TypeError, "the input must be a tensor, got list"),
        (None, None, None, TypeError, "the input must be a tensor, got NoneType"),
        (X, [[True] * 3] * 5, None, TypeError, "the mask must be a tensor, got list"),
        (X, torch.ones(5, 3, dtype=torch.bool, device="meta"), None, ValueError, "mask is on meta, the input on cpu"),
        (X, None, (torch.zeros(3, 4),), TypeError, "the state must be a dict of tensors, got tuple"),
        (X, None, {"v": [0.0], "count": torch.zeros(3, 1)}, TypeError, "'v' must be a floating-point tensor, got list"),
        (X, None, {"v": torch.zeros(3, 4).long(), "count": torch.zeros(3, 1)}, TypeError, "got torch.int64"),
    ],
)
def test_input_that_does_not_fit(
    x: Tensor, mask: Tensor | None, state: State | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"Leaky: .*{message}"):
        Leaky(channels=4).functional(x, state, mask)


def test_single_step_of_wrong_rank() -> None:
    with pytest.raises(ValueError, match=r'in step_mode "s" the input is \[B, C, ...\], got shape \(4,\)'):
        Leaky(channels=4, step_mode="s")(torch.zeros(4))


def test_another_batch_size_is_no_silent_reset() -> None:
    node = Leaky(channels=4)
    node(torch.zeros(5, 3, 4))
    with pytest.raises(ValueError, match="batch size 3, the input of 2; reset the node"):
        node(torch.zeros(5, 2, 4))


def test_no_channels() -> None:
    with pytest.raises(ValueError, match="Leaky: channels is 0"):
        Leaky(channels=0)


def test_spikes_too_large_for_the_dtype() -> None:
    node = Leaky(channels=4)
    node.levels = 300
    node(torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match=r"spikes up to 300 are not exact in torch\.bfloat16"):
        node(torch.zeros(2, 1, 4).bfloat16())


def test_an_input_that_was_accepted_is_refused_by_another_node() -> None:
    x = torch.zeros(2, 4, 4)
    node = DSN(channels=4)
    node.functional(x)
    node.levels = 2**25
    with pytest.raises(ValueError, match="spikes up to 33554432 are not exact"):
        node.functional(x)
    node.levels = 4
    node.axis = 3
    with pytest.raises(ValueError, match="channels on axis 3"):
        node.functional(x)
    node.axis = 2
    node.functional(x)
    with pytest.raises(ValueError, match="the parameters are on meta"):
        node.to("meta").functional(x)
    with pytest.raises(ValueError, match="built for 3 channels"):
        DSN(channels=3).functional(x)


def test_a_state_of_inference_mode_cannot_be_learned_from() -> None:
    node, x = Leaky(channels=4), random(3, 2, 4)
    with torch.inference_mode():
        node(x)
        node(x)
    with pytest.raises(ValueError, match=r"'v' was made in torch\.inference_mode\(\).* reset the node"):
        node(x)
    functional.reset_net(node)
    node(x)
