"""Runs that are killed, stopped or disturbed, as processes of their own."""

import os
import random
import shutil
import subprocess
import time
from signal import SIG_DFL, SIGHUP, SIGINT, SIGTERM, signal

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
        torch.testing.assert_close(everything(whole, steps), everything(killed, steps), rtol=0, atol=0)
        settings.append(f"first_stage_config.ckpt_path={whole}")  # of stage 2


def start(place, name, *overrides, until="loss=", launched_by=()):
    """A run whose log holds `until`, and its results folder."""
    folder, config = place
    results = folder / name
    overrides = ("data.num_workers=2", "trainer.training_steps=100000", *overrides)
    command = train_command("vae", config, results, *overrides, launcher=launched_by)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    how["preexec_fn"] = lambda: signal(SIGHUP, SIG_DFL)  # not ignored, even if the tests run under nohup
    process = subprocess.Popen(command, env=environment(), **how)
    while process.poll() is None and (not lives(results) or until not in (results / "train.log").read_text()):
        time.sleep(0.02)
    return process, results


@pytest.mark.parametrize("receiver, number", [("group", SIGTERM), ("group", SIGHUP), ("launcher", SIGTERM)])
def test_a_signal_saves_and_ends_the_run(place, receiver, number):
    """Ctrl-C and batch systems reach the loading workers too; `accelerate launch` passes nothing on to the run."""
    launched_by = launcher(1) if receiver == "launcher" else ()
    name, settings = f"{receiver}_{number}", "trainer.save_interval=50000"
    process, results = start(place, name, settings, launched_by=launched_by)
    if receiver == "group":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=60)  # the pipe is closed when the run has ended too
    assert process.returncode == (0 if receiver == "group" else -number), output
    assert "the same command continues from here" in output and "Traceback" not in output
    assert find_checkpoint(results).step > 0


def test_a_run_saves_without_a_reader_of_its_output(place):
    """Ctrl-C also ends `tee` in `2>&1 | tee log`."""
    process, results = start(place, "unread", "trainer.save_interval=50000")
    process.stdout.close()
    os.killpg(process.pid, SIGINT)
    assert process.wait(timeout=60) == 0 and find_checkpoint(results).step > 0


def test_the_second_signal_ends_at_once(place):
    process, results = start(place, "twice", "trainer.gradient_accumulation=4000", until="event=start")
    process.send_signal(SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None  # in the first step, which is long
    process.send_signal(SIGTERM)
    assert process.wait(timeout=20) == -SIGTERM
    process.communicate()
    assert not list((results / "checkpoints").iterdir())


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
