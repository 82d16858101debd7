"""Two processes on the CPU, started by torchrun; one, started by `accelerate launch`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny
from safetensors.torch import load_file

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.folder import RunFolder
from sj_lang.manifest import read_json
from sj_lang.recipe import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SETTINGS = ["model.dropout=0.0", "train.max_steps=4", "train.eval_steps=2"]


def started(path: str, *changes: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    # else it leaves a folder among the temporary ones
    command += ["--log-dir", str(Path(path).parent)]
    environment = {**os.environ, **more, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(Path(tiny.__file__)), path, *changes],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def torchrun(path: str, *changes: str, **more: str) -> subprocess.CompletedProcess[str]:
    with started(path, *changes, **more) as process:
        output, errors = process.communicate(timeout=550)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def kill_at_once(launcher: subprocess.Popen[str]) -> None:
    """SIGKILL for torchrun and its workers; all stop first, since one would notice the other's end.

    The workers have sessions of their own, so a signal to the launcher's group does not reach them.
    """
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()


def test_two_processes_do_what_one_does_with_the_double_batch(tmp_path: Path) -> None:
    path = tiny.write_recipe(tmp_path)
    done = torchrun(path, *SETTINGS, "output=two", "train.per_device_train_batch_size=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1
    assert "2 processes" in done.stdout
    assert "destroy_process_group" not in done.stderr
    run.execute(load(path, [*SETTINGS, "output=one", "train.per_device_train_batch_size=8"]))
    two, one = (read_json(tmp_path / name / "metrics.json") for name in ("two", "one"))
    for name in ("test.loss", "validation.loss", "train.loss"):
        assert two[name] == pytest.approx(one[name], abs=2e-4)
    assert two["energy.macs"] == one["energy.macs"]
    assert two["firing_rate.mean"] == pytest.approx(one["firing_rate.mean"], abs=0.02)
    assert read_json(tmp_path / "two/manifest.json")["machine"]["world_size"] == 2
    weights = [load_file(tmp_path / name / "model/model.safetensors") for name in ("two", "one")]
    assert all(abs(weights[0][name] - weights[1][name]).max() < 2e-3 for name in weights[0])


def test_accelerate_launch_does_what_a_run_does(tmp_path: Path) -> None:
    """On the CPU it starts one process."""
    path = tiny.write_recipe(tmp_path)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [*command, str(Path(tiny.__file__)), path, *SETTINGS, "output=launched"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run.execute(load(path, [*SETTINGS, "output=run"]))
    launched, alone = (load_file(tmp_path / name / "model/model.safetensors") for name in ("launched", "run"))
    assert all(abs(launched[name] - alone[name]).max() < 1e-5 for name in alone)


def test_nan_ends_both_processes(tmp_path: Path) -> None:
    failed = torchrun(tiny.write_recipe(tmp_path), *SETTINGS, "output=r", "model.explode_at=2")
    assert failed.returncode == 1
    assert "stopped at step 2" in failed.stderr
    assert read_json(tmp_path / "r/manifest.json")["status"] == "failed"


def test_sigterm_to_one_process_stops_both_at_the_same_step(tmp_path: Path) -> None:
    path = tiny.write_recipe(tmp_path)
    stopped = torchrun(path, "output=r", TINY_STOP_AT="14", TINY_STOP_RANK="1")
    assert stopped.returncode != 0
    manifest = read_json(tmp_path / "r/manifest.json")
    assert (manifest["status"], manifest["exit_code"]) == ("interrupted", 143)
    assert len(list((tmp_path / "r").glob("checkpoint-*"))) >= 1
    resumed = torchrun(path, "output=r", TINY_RESUME="r")
    assert resumed.returncode == 0, resumed.stderr
    assert read_json(tmp_path / "r/manifest.json")["status"] == "done"
    assert read_json(tmp_path / "r/metrics.json")["train.steps"] == 12


def refused_alone() -> str:
    """Why one process cannot resume the run in r."""
    with pytest.raises(UserError) as refused:
        run.execute(load("r/recipe.yaml"), resume="r")
    return str(refused.value)


def test_killed_processes_go_on_bit_by_bit(tmp_path: Path) -> None:
    """All at once, then one of them, whose loss ends the other; resumed by two at a time."""
    path = tiny.write_recipe(tmp_path)
    assert torchrun(path, "output=straight").returncode == 0
    with started(path, "output=r") as killed:
        while not (tmp_path / "r/checkpoint-4").exists():
            assert killed.poll() is None
            time.sleep(0.01)
        kill_at_once(killed)
    assert read_json(tmp_path / "r/manifest.json")["status"] == "running"
    deadline = time.monotonic() + 60
    while "is still at work" in refused_alone() and time.monotonic() < deadline:
        time.sleep(0.1)  # a killed process holds its lock until the kernel has ended it
    assert "trained by 2 process(es); 1 would train on other batches" in refused_alone()
    failed = torchrun(path, "output=r", TINY_RESUME="r", TINY_STOP_AT="18", TINY_STOP_RANK="1", TINY_SIGNAL="SIGKILL")
    assert failed.returncode != 0
    assert read_json(tmp_path / "r/manifest.json")["status"] in ("failed", "running", "interrupted")
    with started(path, "output=r", TINY_RESUME="r") as first, started(path, "output=r", TINY_RESUME="r") as second:
        ends = [(one.communicate(timeout=550)[1], one.returncode) for one in (first, second)]
    (_, good), (refused, bad) = sorted(ends, key=lambda end: end[1])
    assert (good, bad > 0) == (0, True), ends
    assert "another process has begun a run in r and is still at work" in refused
    assert read_json(tmp_path / "r/manifest.json")["status"] == "done"
    for file in ("model/model.safetensors", "sample.txt"):
        assert (tmp_path / "r" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()
    histories = [
        [{k: v for k, v in line.items() if "second" not in k} for line in RunFolder(tmp_path / name).read_history()]
        for name in ("r", "straight")
    ]
    assert histories[0] == histories[1]
