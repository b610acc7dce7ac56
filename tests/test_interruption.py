"""Runs that are killed, stopped or disturbed, as processes of their own."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.training.run_folder import read_log
from tests.processes import environment, launcher, set_up, train_command, train_here


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder, configuration): cities and tiny networks."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, set_up(folder)


def lives(results):
    """How many times training has begun in this folder."""
    path = results / "starts.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


def being_written(results):
    """Saves in progress, or left unfinished by a killed process."""
    return {path.name for path in (results / "checkpoints").glob(".ckpt_*")}


def kill(command, results, moment):
    """Start a run and end it with SIGKILL `moment` seconds after training began, or during a save if that is None."""
    before, left_behind = lives(results), being_written(results)
    with (results.parent / f"{results.name}.log").open("a") as output:
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
    while process.poll() is None and lives(results) == before:
        time.sleep(0.005)
    if moment is None:
        while process.poll() is None and being_written(results) <= left_behind:
            time.sleep(0.0005)
    else:
        time.sleep(moment)
    assert process.poll() is None, "the run ended before it was killed"
    process.kill()
    process.wait()


def differences(a, b, name):
    """Dotted names at which two trees of tensors, lists and numbers are not equal."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{name}.{i}")]
    return [] if a == b else [name]


def everything(results, step):
    """What the newest checkpoint of a finished run holds: weights, averages, optimizers and random states."""
    checkpoint = find_checkpoint(results)
    assert checkpoint.step == step
    return [checkpoint.weights("model"), checkpoint.weights("ema"), checkpoint.training_state()]


def test_killed_runs_end_with_the_same_bits(place):
    """Both stages: processes with loading workers are killed, and continued without; other runs are whole."""
    folder, config = place
    steps, dice = 19, random.Random(0)
    settings = [f"trainer.training_steps={steps}"]
    for stage, moments in (("vae", (None, dice.uniform(0, 0.5))), ("ldm", (dice.uniform(0, 0.5),))):
        whole, killed = folder / f"{stage}_whole", folder / f"{stage}_killed"
        train_here(stage, config, whole, *settings)
        for moment in moments:
            kill(train_command(stage, config, killed, *settings, "data.num_workers=2"), killed, moment)
            reached, saved = max(read_log(killed / "train.log").get("loss", {0: 0})), find_checkpoint(killed)
            assert reached - (saved.step if saved else 0) <= 5  # the interval between saves
        train_here(stage, config, killed, *settings)
        assert differences(everything(whole, steps), everything(killed, steps), stage) == []
        settings.append(f"first_stage_config.ckpt_path={whole}")  # of stage 2


def start(place, name, *overrides, until="loss=", launched_by=()):
    """A run whose log holds `until`, and its results folder."""
    folder, config = place
    results = folder / name
    overrides = ("data.num_workers=2", "trainer.training_steps=100000", *overrides)
    command = train_command("vae", config, results, *overrides, launcher=launched_by)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=environment(), start_new_session=True, **pipes)
    while process.poll() is None and (not lives(results) or until not in (results / "train.log").read_text()):
        time.sleep(0.02)
    return process, results


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_and_exits_with_0(place, number):
    """Ctrl-C and batch systems reach the loading workers too."""
    process, results = start(place, f"stopped_{number}", "trainer.save_interval=50000")
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "the same command continues from here" in output and "Traceback" not in output
    assert find_checkpoint(results).step > 0


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a run follows its launcher on Linux")
def test_a_run_stops_when_its_launcher_is_stopped(place):
    """`accelerate launch` passes no signal on; its pipe is closed when the run has ended too."""
    process, results = start(place, "launched", "trainer.save_interval=50000", launched_by=launcher(1))
    process.terminate()  # the launcher alone
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert "the same command continues from here" in output and find_checkpoint(results).step > 0


def test_the_second_signal_ends_at_once(place):
    process, results = start(place, "twice", "trainer.gradient_accumulation=4000", until="event=start")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None  # in the first step, which is long
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    process.communicate()
    assert not (results / "checkpoints").exists()


def test_a_file_that_turns_unreadable_while_training(place):
    folder, config = place
    data = shutil.copytree(folder / "data", folder / "copy")
    process, results = start(place, "broken", f"data.train.data_root={data}")
    broken = min((data / "gain" / "DPM").glob("[0-3]_*.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(broken) in output.splitlines()[-1]
    assert find_checkpoint(results).step > 0
