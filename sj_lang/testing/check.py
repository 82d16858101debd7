"""The checks of the kit by name, and what it means that one fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from textwrap import shorten
from typing import TypeAlias

from sj_lang.testing.subject import Subject

Body: TypeAlias = Callable[[Subject], None]


class CheckFailed(AssertionError):
    """A node breaks a promise. check: its name. reason: what it found. where: on what."""

    def __init__(self, check: str, reason: str, where: str) -> None:
        super().__init__(f"{check}: {reason} [{where}]")
        self.check = check
        self.reason = reason
        self.where = where


@dataclass(frozen=True)
class Check:
    """One check. needs: the trait without which it does not apply. once: in one precision only."""

    name: str
    run: Body
    needs: str
    once: bool

    @property
    def summary(self) -> str:
        """What it checks, in a line."""
        return (self.run.__doc__ or "").strip().splitlines()[0]

    def applies(self, subject: Subject) -> bool:
        """Whether the node declares what this check is about."""
        return not self.needs or bool(getattr(subject.traits, self.needs))


CHECKS: dict[str, Check] = {}


def check(*, needs: str = "", once: bool = False) -> Callable[[Body], Body]:
    """Make a function of a subject a check of the kit: what it raises becomes a CheckFailed."""

    def register(body: Body) -> Body:
        name = body.__name__

        @wraps(body)
        def run(subject: Subject) -> None:
            try:
                body(subject)
            except AssertionError as error:
                text = str(error).partition("\nassert ")[0]  # without what pytest adds to it
                raise CheckFailed(name, text, str(subject)) from error
            except Exception as error:  # it should have worked
                text = shorten(str(error), width=400, placeholder=" ...")
                raise CheckFailed(name, f"raised {type(error).__name__}: {text}", str(subject)) from error

        CHECKS[name] = Check(name, run, needs, once)
        return run

    return register
