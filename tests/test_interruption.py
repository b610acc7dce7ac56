"""Runs that are killed, stopped or disturbed, as processes of their own."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from denoising_diffusion_pytorch.training.checkpoint import find_checkpoint
from scripts.chaos import chaos, compare, environment, lives, set_up, train_command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder, configuration): cities and tiny networks."""
    folder = tmp_path_factory.mktemp("chaos")
    return folder, set_up(folder)


def test_killed_runs_end_with_the_same_bits(place):
    """Both stages, accumulation and loading workers, three SIGKILLs each, one of them during a save."""
    folder, config = place
    settings = ["trainer.gradient_accumulation=4", "data.num_workers=2"]
    vae = chaos("vae", config, folder, 3, 0, 120, settings)
    assert vae["kills"] >= 2 and vae["bits_equal"], vae
    ldm = chaos("ldm", config, folder, 3, 1, 120, [*settings, f"first_stage_config.ckpt_path={folder / 'vae_whole'}"])
    assert ldm["kills"] >= 2 and ldm["bits_equal"], ldm
    assert max(vae["most_steps_lost"], ldm["most_steps_lost"]) <= 10
    # loading in the training process gives the same bits as loading workers
    alone = train_command(
        "vae", config, folder / "alone", settings[0], "data.num_workers=0", "trainer.training_steps=120"
    )
    subprocess.run(alone, env=environment(), check=True, capture_output=True)
    assert compare(folder / "vae_whole", folder / "alone") == []


def start(place, name, *overrides, until="loss="):
    """A run whose log holds `until`, and its results folder."""
    folder, config = place
    results = folder / name
    command = train_command("vae", config, results, "data.num_workers=2", "trainer.training_steps=100000", *overrides)
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
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
    assert "the same command goes on from here" in output and "Traceback" not in output
    assert find_checkpoint(results).step > 0


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
