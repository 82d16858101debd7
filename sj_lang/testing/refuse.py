"""Checks: wrong input is refused, with a message that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sj_lang.errors import UserError
from sj_lang.testing.check import check
from sj_lang.testing.compare import stepwise, whole
from sj_lang.testing.subject import Subject

REFUSALS = (ValueError, TypeError, UserError)


def assert_refuses(call: Callable[[], object], what: str, *mentions: object) -> None:
    """`call` raises one of REFUSALS, and the message holds all `mentions`: numbers, or a name."""
    message = None
    try:
        call()
    except REFUSALS as error:
        message = str(error)
    except Exception as error:  # refused by accident, somewhere deep
        names = ", ".join(kind.__name__ for kind in REFUSALS)
        raise AssertionError(f"{what}: raised {type(error).__name__}, not one of {names}: {error}") from error
    assert message is not None, f"{what}: not refused"
    missing = [str(word) for word in mentions if str(word) not in message]
    assert not missing, f"{what}: the message does not say {', '.join(missing)}: {message}"


@check(once=True)
def wrong_input_is_refused(subject: Subject) -> None:
    """Wrong rank, channels, T = 0, mask, foreign state, device, backend or mode: each raises."""
    node, x = subject.node(), subject.x(7, 3)
    assert_refuses(lambda: whole(node, x[0, 0]), "x of one dimension")
    assert_refuses(lambda: whole(node, x[:0]), "T = 0")
    if getattr(node, "channels", None) is not None:
        wrong = torch.cat([x, x[:, :, :1]], dim=2)
        count = subject.channels
        assert_refuses(lambda: whole(node, wrong), "a wrong number of channels", count, count + 1)
    if subject.traits.takes_mask:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        assert_refuses(lambda: whole(node, x, None, mask[:-1]), "a mask shorter than x", len(x), len(x) - 1)
        assert_refuses(lambda: whole(node, x, None, mask.T), "a mask [B, T]")
        for dtype in (torch.float32, torch.int64, torch.uint8):
            assert_refuses(lambda dtype=dtype: whole(node, x, None, mask.to(dtype)), f"a mask of {dtype}", "bool")  # type: ignore[misc]
        assert_refuses(lambda: whole(node, x, None, mask[:, :1]), "a mask of one row for a batch of 3")
        if subject.traits.steps:
            assert_refuses(
                lambda: stepwise(node, x, None, mask[:, :1]), "a mask of one row for a batch of 3, single step"
            )
    if subject.traits.carries_state:
        state = subject.state(node, x)
        for form in (whole, stepwise) if subject.traits.steps else (whole,):
            for size in (1, 2):
                short = {name: value[:size] for name, value in state.items()}
                what = f"{form.__name__}, a state of another batch size"
                assert_refuses(lambda form=form, short=short: form(node, x, short), what, size, 3)  # type: ignore[misc]
        narrow = {name: value[:, :1] for name, value in state.items() if value.dim() > 1 and value.shape[1] > 1}
        if narrow:
            assert_refuses(lambda: whole(node, x, {**state, **narrow}), "a state of one channel")
        first = next(iter(state))
        partial = {name: value for name, value in state.items() if name != first}
        assert_refuses(lambda: whole(node, x, partial or {"nothing": x}), f"a state without '{first}'", first)
    assert_refuses(lambda: whole(node, x, {"unheard_of": x[0]}), "a state of unknown names", "unheard_of")
    elsewhere = subject.node().to("meta")
    if any(True for _ in elsewhere.parameters()):
        assert_refuses(lambda: whole(elsewhere, x), "parameters on another device than the input", "meta", x.device)
    fresh = subject.node()
    if hasattr(fresh, "backend"):
        assert_refuses(lambda: setattr(fresh, "backend", "abacus"), "an unknown backend", "abacus")
    assert_refuses(lambda: setattr(fresh, "step_mode", "x"), "an unknown step mode")
