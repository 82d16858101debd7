"""The number of threads follows what the process may use, and is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import offered, write_recipe

from sj_lang import cli
from sj_lang.cpu import threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Eight idle cores, no container, nothing set."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr("os.getloadavg", lambda: (0.2, 0.2, 0.2))
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    return monkeypatch


def test_all_cores_of_an_idle_machine(machine: pytest.MonkeyPatch) -> None:
    assert threads.choose() == (8, "8 thread(s)")
    assert threads.choose(3) == (3, "3 thread(s), by --threads")


@pytest.mark.parametrize(("load", "number"), [(0.4, 8), (3.0, 5), (7.9, 1), (30.0, 1)])
def test_a_busy_machine(machine: pytest.MonkeyPatch, load: float, number: int) -> None:
    machine.setattr("os.getloadavg", lambda: (load, 0, 0))
    chosen, why = threads.choose()
    assert chosen == number
    assert ("others keep the machine busy" in why) == (number < 8)


def test_affinity_and_containers(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr("os.sched_getaffinity", lambda process: {1, 2, 3}, raising=False)
    assert threads.choose() == (3, "3 thread(s) of 8: the process may use no more")
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert threads.choose() == (2, "2 thread(s) of 3: the container has 2 cores")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.choose()[0] == 3
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert threads.choose()[0] == 1


def test_what_the_user_has_set_stays(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("OMP_NUM_THREADS", "5")
    assert threads.choose() == (None, "5 thread(s), by OMP_NUM_THREADS")


def test_a_run_uses_and_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        with offered():
            assert cli.main(["run", write_recipe(tmp_path), "--dry-run", "--threads", "2"]) == 0
        assert "2 thread(s)" in capsys.readouterr().out
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
