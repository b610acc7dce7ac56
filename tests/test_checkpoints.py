"""Checkpoints: resuming, what is kept, damaged ones."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from denoising_diffusion_pytorch import checkpoint as ck
from denoising_diffusion_pytorch.errors import CheckpointError
from denoising_diffusion_pytorch.training import checkpointer
from tests.processes import ROOT
from tests.training import OneScene, make_trainer, same, weights


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_results_folder(tmp_path):
    left = tmp_path / "checkpoints" / ".ckpt_2"  # by a run that was killed while it saved
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    validation = OneScene([0.1, 0.05])
    trainer = make_trainer(tmp_path, validation=validation, trainer={"num_samples": 1, "validate_every": 4})
    umask = os.umask(0o022)
    trainer.train()
    os.umask(umask)
    assert kept(tmp_path) == ["ckpt_2", "ckpt_4"]
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "checkpoints" / "ckpt_4").iterdir()]
    assert modes == [0o644] * 4  # the umask's: others may read them
    assert validation.asked == ["drawn", "all"]
    assert all(model is trainer.ema.shadow for model in validation.models)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["sample_2.png", "sample_4.png"]
    report = (tmp_path / "model_report.txt").read_text().splitlines()
    assert [line.endswith("frozen") for line in report if line.startswith("model.first_stage_model ")] == [True]
    assert "training_steps: 4" in (tmp_path / "config.yaml").read_text()
    start = json.loads((tmp_path / "starts.jsonl").read_text())
    assert start["step"] == 0 and start["processes"] == 1 and "torch" in start["versions"] and "git" in start


def test_the_best_by_validation_milestones_and_the_last_ones_are_kept(tmp_path):
    settings = {"training_steps": 8, "save_interval": 2, "keep_last": 2, "keep_every": 4, "validate_every": 1}
    nan = float("nan")
    trainer = make_trainer(tmp_path, validation=OneScene([0.5, nan, 0.1, nan, 0.2, 0.2, 0.2, nan]), trainer=settings)
    trainer.train()
    assert kept(tmp_path) == ["ckpt_3", "ckpt_4", "ckpt_6", "ckpt_8"]
    assert ck.find_checkpoint(tmp_path, 3).meta["metrics"]["nmse"] == pytest.approx(0.04, rel=1e-4)
    text = (tmp_path / "checkpoints" / "ckpt_8" / "meta.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["nmse"] is None  # NaN is no JSON


def test_a_run_that_died_during_its_validation_repeats_it(tmp_path):
    settings = {"save_interval": 2, "validate_every": 2}
    with pytest.raises(IndexError):
        make_trainer(tmp_path, validation=OneScene([]), trainer=settings).train()
    make_trainer(tmp_path, validation=OneScene([0.1, 0.2]), trainer=settings).train()
    scores = [ck.find_checkpoint(tmp_path, step).meta["metrics"]["nmse"] for step in (2, 4)]
    assert scores == pytest.approx([0.04, 0.16], rel=1e-4)


def test_going_back_to_a_milestone_sets_newer_checkpoints_aside_and_says_that_every_start_does(tmp_path):
    make_trainer(tmp_path, trainer={"save_interval": 1}).train()
    make_trainer(tmp_path, trainer={"save_interval": 1, "resume_milestone": 2, "learning_rate": 1e-2}).train()
    (aside,) = (tmp_path / "checkpoints").glob("superseded_*")
    assert kept(aside.parent.parent) == ["ckpt_1", "ckpt_2", "ckpt_3", "ckpt_4", aside.name]
    assert sorted(path.name for path in aside.iterdir()) == ["ckpt_3", "ckpt_4"]
    assert not same(ck.Checkpoint(aside / "ckpt_4", {}).weights("model"), weights(tmp_path, 4))
    said = (tmp_path / "train.log").read_text()
    assert said.count("as long as trainer.resume_milestone is set, every start goes back to that step") == 1
    assert "changed since the checkpoint: trainer.learning_rate: 0.001 -> 0.01" in said


def test_two_runs_in_one_folder_are_refused(tmp_path):
    holder = "import sys, time; from pathlib import Path\n"
    holder += "from denoising_diffusion_pytorch.training.run_folder import RunFolder\n"
    holder += "kept = RunFolder(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match="another process is training here"):
            make_trainer(tmp_path).train()
        other.kill()
    make_trainer(tmp_path).train()


def test_what_a_user_keeps_in_the_folder_is_not_replaced(tmp_path):
    (tmp_path / "config.yaml").write_text("# mine")
    with pytest.raises(CheckpointError, match="its config.yaml is not a run's"):
        make_trainer(tmp_path).train()
    assert (tmp_path / "config.yaml").read_text() == "# mine"
    (tmp_path / "config.yaml").unlink()
    own = tmp_path / "checkpoints" / ".ckpt_backup"
    own.mkdir(parents=True)
    make_trainer(tmp_path).train()
    assert own.is_dir() and "training_steps" in (tmp_path / "config.yaml").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (other / "checkpoints").write_text("a file")
    with pytest.raises(FileExistsError):  # before the first step
        make_trainer(other).train()


def test_a_run_is_continued_only_as_it_was(tmp_path):
    make_trainer(tmp_path).train()
    end_to_end = {"diffusion_config": {"end_to_end": {"start_step": 4}}, "trainer": {"training_steps": 6}}
    for stage, changes, message in (
        ("ldm", {"trainer": {"enable_resume": False}}, "already holds checkpoints"),
        ("ldm", {"trainer": {"resume_milestone": 9}}, "no ckpt_9; there are: 2, 4"),
        ("ldm", {"unet_config": {"model_channels": 16}}, "unet_config.model_channels"),
        ("ldm", end_to_end, "other weights.*end_to_end.start_step"),
        ("vae", {}, "stage ldm"),
    ):
        with pytest.raises(CheckpointError, match=message):
            make_trainer(tmp_path, stage, **changes).train()


def test_a_full_gpu_is_not_taken_for_other_weights(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    make_trainer(tmp_path).train()
    monkeypatch.setattr(checkpointer, "load_optimizer", full)
    with pytest.raises(torch.OutOfMemoryError):
        make_trainer(tmp_path).train()


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    make_trainer(tmp_path).train()
    path = tmp_path / "checkpoints" / "ckpt_4"
    torch.load(path / "training.pt", weights_only=True)  # runs no code
    for victim in ("model.safetensors", "ema.safetensors", "training.pt", "meta.json"):
        whole = (path / victim).read_bytes()
        middle = len(whole) // 2
        for content in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], None):
            (path / victim).unlink()
            if content is not None:
                (path / victim).write_bytes(content)
            warnings = []
            assert ck.find_checkpoint(tmp_path, warn=warnings.append).step == 2 and "ckpt_4" in warnings[0]
            with pytest.raises(CheckpointError, match="ckpt_4"):
                ck.find_checkpoint(tmp_path, 4)
            (path / victim).write_bytes(whole)
    (path / "ema.safetensors").unlink()
    make_trainer(tmp_path).train()
    assert "ckpt_4: ema.safetensors is missing; falling back" in (tmp_path / "train.log").read_text()
    assert "ldm: finished at step 4; the result is" in capsys.readouterr().out
    before = (path / "meta.json").read_bytes()
    make_trainer(tmp_path).train()  # nothing is left to do
    assert (path / "meta.json").read_bytes() == before


FULL = "ckpt_6: could not be written.*free some space"


@pytest.mark.parametrize("largest, message", [(2**10, "large"), (2**12, FULL), (2**17, FULL)])
def test_a_full_disk_leaves_no_half_file_and_takes_none(tmp_path, largest, message):
    """As files that may not grow further: the configuration, the weights, or the optimizer's moments."""
    make_trainer(tmp_path).train()
    before, config = kept(tmp_path), (tmp_path / "config.yaml").read_bytes()
    trainer = make_trainer(tmp_path, trainer={"training_steps": 6})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
        with pytest.raises((CheckpointError, OSError), match=message):
            trainer.train()
        with pytest.raises(CheckpointError, match="shared: could not be written .*free some space"):
            ck.export_model(ck.find_checkpoint(tmp_path), tmp_path / "shared")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept(tmp_path) == before and ck.find_checkpoint(tmp_path).step == 4 and not list(tmp_path.glob("*shared*"))
    assert largest > 2**10 or (tmp_path / "config.yaml").read_bytes() == config


def test_resuming_takes_the_new_settings_of_the_optimizer_and_says_another_number_of_processes(tmp_path):
    make_trainer(tmp_path).train()
    path = tmp_path / "checkpoints" / "ckpt_4"
    ck.write_meta(path, ck.read_meta(path) | {"processes": 2})
    optimizer = {"weight_decay": 0.5, "betas": [0.8, 0.9]}
    resumed = make_trainer(tmp_path, trainer={"training_steps": 5, "optimizer": optimizer})
    resumed.train()
    assert "processes: 2 -> 1, and with them the samples per step" in (tmp_path / "train.log").read_text()
    group = resumed.optimizations[0].optimizer.param_groups[0]
    assert group["weight_decay"] == 0.5 and group["betas"] == (0.8, 0.9) and group["fused"]
