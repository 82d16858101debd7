"""Run a node through all checks that its declaration calls for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sj_lang.testing import usage
from sj_lang.testing.check import CHECKS, CheckFailed
from sj_lang.testing.settings import put_back, settings
from sj_lang.testing.states import nothing_global_changes
from sj_lang.testing.subject import Subject, Traits

PURE = "arguments_are_not_changed"  # a node that is not may fail any check
WATCH = nothing_global_changes.__name__


class NodeFailed(AssertionError):
    """A node failed checks. failures: one CheckFailed each; the text tells equal ones once."""

    def __init__(self, failures: list[CheckFailed], total: int) -> None:
        lines = "\n".join(f"  {line}" for line in _failure_lines(failures))
        super().__init__(f"{len(failures)} of {total} checks failed\n{lines}")
        self.failures = failures


def _failure_lines(failures: list[CheckFailed]) -> Iterator[str]:
    """The lines about them: first what others may follow from; like reasons once."""
    pure = [failure for failure in failures if failure.check == PURE and not failure.reason.startswith("raised ")]
    rest = [failure for failure in failures if failure not in pure]
    for line in _alike(pure):
        yield f"{line} (others may follow from it)" if rest else line
    groups: dict[str, list[CheckFailed]] = {}
    for failure in rest:
        groups.setdefault(re.sub(r"\d+", "0", failure.reason), []).append(failure)
    for group in groups.values():
        names = list(dict.fromkeys(failure.check for failure in group))
        if len(names) == 1:
            yield from _alike(group)
            continue
        other = " (in some with other numbers)" if len({failure.reason for failure in group}) > 1 else ""
        yield f"{len(names)} checks: {group[0].reason}{other} [{_places(group)}]"
        yield f"  {', '.join(names)}"


def _alike(failures: list[CheckFailed]) -> Iterator[str]:
    """A line for each check and reason."""
    groups: dict[tuple[str, str], list[CheckFailed]] = {}
    for failure in failures:
        groups.setdefault((failure.check, failure.reason), []).append(failure)
    for (check, reason), group in groups.items():
        yield f"{check}: {reason} [{_places(group)}]"


def _places(failures: list[CheckFailed]) -> str:
    return "; ".join(dict.fromkeys(failure.where for failure in failures))


@dataclass(frozen=True)
class Report:
    """A node that passed. passed: "check [backend, device, dtype]". skipped: check -> why."""

    passed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def check_node(
    make: Callable[..., nn.Module],
    *,
    traits: Any = None,
    backends: Iterable[str | None] = (None,),
    dtypes: Iterable[torch.dtype] = (torch.float64, torch.float32),
    only: Iterable[str] = (),
    skip: Mapping[str, str] | None = None,
    **options: Any,
) -> Report:
    """Run `CHECKS` on a node; raises NodeFailed, an AssertionError, naming each that failed.

    make: `make(channels=C)` returns a fresh node.
    traits: its declaration: a mapping of the five flags, a registration, or None if `make` has
        `traits`, as what `sj_lang.build.part` returns has.
    backends: values for the node's `backend`; None leaves it as built.
    dtypes: precisions for the checks that depend on it.
    only: names of the checks to run; none means all.
    skip: check -> the reason why it does not hold for this node.
    options: other fields of `Subject`: device, channels, length, inputs, reference, smooth, ops,
        compilers, ...

    What cannot be run as it is called raises TypeError or ValueError before the first check.
    """
    usage.assert_known(options)
    before = settings()
    usage.assert_makes_nodes(make, options.get("channels", Subject.channels))
    declared = Traits.of(make if traits is None else traits)
    selected, skipped = usage.selection(only, skip)
    precisions, tried = usage.precisions(dtypes), usage.backends(backends)
    report, failures = Report(skipped=skipped), []

    def watch(what: str, where: str) -> None:
        """A change that a call leaves behind, whatever its size and form, is a failure too."""
        changed = put_back(before)
        if changed and WATCH not in skipped:
            failures.append(CheckFailed(WATCH, f"{what} changes {', '.join(changed)}", where))

    watch("building the node", f"channels {options.get('channels', Subject.channels)}")
    for backend in tried:
        for dtype in precisions:
            subject = Subject(make=make, traits=declared, backend=backend, dtype=dtype, **options)
            for name, check in CHECKS.items():
                if name in skipped or (selected and name not in selected) or (check.once and dtype != precisions[0]):
                    continue
                if not check.applies(subject):
                    report.skipped[name] = f"{check.needs} is not declared"
                    continue
                try:
                    check.run(subject)
                except CheckFailed as failure:
                    failures.append(failure)
                else:
                    report.passed.append(f"{name} [{subject}]")
                watch(f"a call in {name}", str(subject))
    if failures:
        raise NodeFailed(failures, len(failures) + len(report.passed))
    return report
