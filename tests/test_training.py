"""The loop and the checkpoints, on networks of a few thousand weights."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch.distributed.utils import _recursive_to

from data import DataError, RadioUNet_c, Scene, process_batch
from data.layout import Layout
from denoising_diffusion_pytorch import loading
from denoising_diffusion_pytorch.build import build_autoencoder, build_discriminator, build_loss, build_model
from denoising_diffusion_pytorch.errors import CheckpointError, ConfigError, TrainingError
from denoising_diffusion_pytorch.inference import Prediction
from denoising_diffusion_pytorch.loading import load_initial
from denoising_diffusion_pytorch.randomness import KeyedRandom, seed_global
from denoising_diffusion_pytorch.training import checkpoint as ck
from denoising_diffusion_pytorch.training.checkpoint import save_checkpoint
from denoising_diffusion_pytorch.training.objectives import (
    AutoencoderObjective,
    DiscriminatorObjective,
    LatentObjective,
)
from denoising_diffusion_pytorch.training.results import read_log
from denoising_diffusion_pytorch.training.setup import choose_precision, make_accelerator
from denoising_diffusion_pytorch.training.trainer import Trainer
from tests.conftest import save_grey
from tests.tiny import merged, tiny_batch, tiny_batches, tiny_config


@pytest.fixture(autouse=True)
def clean_state():
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, handlers[0])
    signal.signal(signal.SIGINT, handlers[1])
    logging.getLogger("radiodiff").handlers.clear()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def make_trainer(folder, stage="ldm", batches=tiny_batches, **changes):
    trainer = {"results_folder": str(folder)} | changes.pop("trainer", {})
    config = tiny_config(stage, trainer=trainer, **changes)
    accelerator = make_accelerator(config.trainer)  # seeds torch
    first = config.first_stage_config
    if stage == "ldm":
        model = build_model(config, "ldm")
        model.scale_factor.fill_(1.0)
        objectives = [LatentObjective(model, build_loss(config.first_stage_config), config.diffusion_config.end_to_end)]
    else:
        model, start = build_autoencoder(config), first.lossconfig.discr_start
        discriminator = build_discriminator(first)
        objectives = [
            AutoencoderObjective(model, build_loss(first), discriminator, start),
            DiscriminatorObjective(discriminator, start),
        ]
    return Trainer(config, stage, model, objectives, batches, accelerator=accelerator)


def weights(folder, step, name="model"):
    return ck.find_checkpoint(folder, step).weights(name)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("stage", ["ldm", "vae"])
def test_two_and_two_steps_equal_four(tmp_path, stage, accumulation):
    changes = {"first_stage_config": {"lossconfig": {"discr_start": 1}}, "unet_config": {"dropout": 0.1}}
    changes["trainer"] = {"gradient_accumulation": accumulation}
    make_trainer(tmp_path / "whole", stage, **changes).train()
    first = make_trainer(tmp_path / "parts", stage, **changes)
    first.stop.agreed = lambda: first.step == 2
    first.train()
    assert ck.find_checkpoint(tmp_path / "parts").step == 2
    second = make_trainer(tmp_path / "parts", stage, **changes)
    torch.manual_seed(99)  # what the process drew before must not matter
    second.train()
    for name in ("model", "ema"):
        assert same(weights(tmp_path / "whole", 4, name), weights(tmp_path / "parts", 4, name))
    whole, parts = (ck.find_checkpoint(tmp_path / f).training_state() for f in ("whole", "parts"))
    for objective, state in whole["optimizers"].items():
        for key, value in state["state"].items():
            assert same(value, parts["optimizers"][objective]["state"][key])
    for name, state in whole["extra"].items():
        assert same(state, parts["extra"][name])


class OneScene:
    """Stands in for Validation: a scene whose prediction is as good as `errors` says, validation by validation."""

    def __init__(self, errors):
        self.errors, self.asked, self.models = list(errors), [], []

    def predict(self, model, only_drawn=False):
        self.asked.append("drawn" if only_drawn else "all")
        self.models.append(model)
        truth = np.full((16, 16), 0.5, np.float32)
        truth[3, 3] = 0.501  # a flat map has no detail
        scene = Scene("s", Layout([], (16, 16)), (3, 3), truth)
        gain = truth + self.errors.pop(0)
        return {0: Prediction(scene, gain, gain, truth, reconstruction=truth + 0.001)}

    def draw(self, predictions, path):
        save_grey(path, predictions[0].gain * 255)


def test_results_folder(tmp_path):
    trainer = make_trainer(tmp_path, trainer={"num_samples": 1, "validate_every": 4})
    trainer.validation = OneScene([0.1, 0.05])
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["ckpt_2", "ckpt_4"]
    assert trainer.validation.asked == ["drawn", "all"]
    assert all(model is trainer.ema.ema_model for model in trainer.validation.models)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["sample_2.png", "sample_4.png"]
    assert "frozen" in (tmp_path / "model_report.txt").read_text()
    assert "training_steps: 4" in (tmp_path / "config.yaml").read_text()
    start = json.loads((tmp_path / "starts.jsonl").read_text())
    assert start["step"] == 0 and start["processes"] == 1 and "torch" in start["versions"] and "git" in start


def test_figures_are_the_same_in_log_and_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(
        tmp_path,
        "vae",
        first_stage_config={"lossconfig": {"discr_start": 1}},
        trainer={"num_samples": 1, "validate_every": 2},
    )
    trainer.validation = OneScene([0.1, 0.05])
    trainer.train()
    events = EventAccumulator(str(tmp_path)).Reload()
    figures = read_log(tmp_path / "train.log")
    expected = {"loss", "l1", "l2", "kl", "generator", "adaptive_weight", "discriminator", "lr_autoencoder"}
    expected |= {"lr_discriminator", "grad_norm_autoencoder", "grad_norm_discriminator", "samples_per_second"}
    expected |= {"data_wait", "memory_gib"}
    expected |= {f"validation_{name}" for name in ("nmse", "rmse", "ssim", "psnr", "detail")}
    expected |= {"validation_thresholded_nmse", "validation_ceiling_nmse", "validation_thresholded_nmse_whole_set"}
    assert expected <= figures.keys()
    for name, values in figures.items():
        tag = name.replace("validation_", "validation/") if name.startswith("validation_") else f"train/{name}"
        shown = {event.step: event.value for event in events.Scalars(tag)}
        assert shown.keys() == values.keys()
        assert all(shown[step] == pytest.approx(value, rel=1e-4) for step, value in values.items())
    assert figures["validation_nmse"][4] == pytest.approx(0.01, rel=1e-3)  # (0.05 / 0.5)^2
    assert figures["lr_discriminator"].keys() == {2, 3, 4}
    assert [event.step for event in events.Images("samples")] == [2, 4]


def test_learning_rate_of_every_step_under_accumulation(tmp_path):
    make_trainer(tmp_path).train()
    used = read_log(tmp_path / "train.log")["lr_diffusion"]
    for step in range(4):  # taken at `step`, logged behind it
        assert used[step + 1] == pytest.approx(max(1e-4, (1 - step / 4) ** 0.96 * 1e-3), rel=1e-5)


def test_ema_of_every_step_under_accumulation(tmp_path):
    trainer = make_trainer(tmp_path, trainer={"ema": {"start_step": 1, "update_interval": 2, "beta": 0.5}})
    history = []
    update = trainer.ema.update_after_step

    def watched(step):
        update(step)
        history.append(torch.cat([p.detach().flatten() for p in trainer.optimizations[0].parameters]))

    trainer.ema.update_after_step = watched
    trainer.train()
    shadow = dict(trainer.ema.ema_model.named_parameters())
    averaged = torch.cat([shadow[name].flatten() for name in trainer.ema.trainable])
    # a copy at step 1, then halfway at steps 2 and 4
    assert torch.allclose(averaged, (0.5 * history[0] + 0.5 * history[1]) * 0.5 + 0.5 * history[3], atol=1e-7)


def test_the_best_by_validation_is_kept_and_saved_between_intervals(tmp_path):
    settings = {"training_steps": 8, "save_interval": 2, "keep_last": 1, "validate_every": 1, "num_samples": 0}
    trainer = make_trainer(tmp_path, trainer=settings)
    trainer.validation = OneScene([0.5, 0.4, 0.1, 0.3, 0.2, 0.2, 0.2, 0.2])
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["ckpt_3", "ckpt_8"]
    assert ck.find_checkpoint(tmp_path, 3).meta["metrics"]["nmse"] == pytest.approx(0.04, rel=1e-4)
    assert ck.best_score(tmp_path) == pytest.approx(0.04, rel=1e-4)
    assert ck.find_checkpoint(tmp_path).step == 8


def test_a_score_that_is_no_number_is_no_new_best(tmp_path):
    trainer = make_trainer(tmp_path, trainer={"save_interval": 100, "validate_every": 1})
    trainer.validation = OneScene([float("nan")] * 4)
    trainer.train()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["ckpt_4"]


def test_an_optimizer_that_is_not_fused_trains_and_stops_as_well(tmp_path):
    """As on devices for which torch has no fused AdamW."""
    fused, plain = make_trainer(tmp_path / "fused"), make_trainer(tmp_path / "plain")
    spoilt = make_trainer(
        tmp_path / "spoilt", batches=spoiled("3_0", "images", 0, "nan"), trainer={"log_interval": 100}
    )
    for trainer in (plain, spoilt):
        trainer.fused = False
        for optimization in trainer.optimizations:
            optimization.optimizer.param_groups[0]["fused"] = False
    fused.train()
    plain.train()
    for name, value in weights(tmp_path / "fused", 4).items():
        assert torch.allclose(value, weights(tmp_path / "plain", 4)[name], rtol=1e-3, atol=2e-4)
    with pytest.raises(TrainingError, match="non-finite at step 1"):
        spoilt.train()
    assert spoilt.step == 1


def test_multiples_of_keep_every_are_kept(tmp_path):
    settings = {"training_steps": 9, "save_interval": 1, "keep_last": 2, "keep_every": 4, "resume_milestone": 0}
    make_trainer(tmp_path, trainer=settings).train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["ckpt_4", "ckpt_8", "ckpt_9"]


def test_going_back_to_a_milestone_sets_newer_checkpoints_aside(tmp_path):
    make_trainer(tmp_path, trainer={"save_interval": 1}).train()
    back = make_trainer(tmp_path, trainer={"save_interval": 1, "resume_milestone": 2, "learning_rate": 1e-2})
    back.train()
    (aside,) = (tmp_path / "checkpoints").glob("superseded_*")
    assert sorted(p.name for p in aside.iterdir()) == ["ckpt_3", "ckpt_4"]
    assert not same(ck.Checkpoint(aside / "ckpt_4", {}).weights("model"), weights(tmp_path, 4))
    assert {"ckpt_2", "ckpt_3", "ckpt_4"} <= {p.name for p in (tmp_path / "checkpoints").iterdir()}


def test_two_runs_in_one_folder_are_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    holder = "import sys, time; sys.path.insert(0, sys.argv[1])\n"
    holder += "from pathlib import Path; from denoising_diffusion_pytorch.training.results import Results\n"
    holder += "kept = Results(Path(sys.argv[2])); print('held', flush=True); time.sleep(60)"
    root = str(Path(__file__).resolve().parents[1])
    with subprocess.Popen([sys.executable, "-c", holder, root, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match="another process is training here"):
            make_trainer(tmp_path, trainer={"training_steps": 6}).train()
        other.kill()
    make_trainer(tmp_path, trainer={"training_steps": 6}).train()


@pytest.mark.parametrize("stage", ["ldm", "vae"])
def test_accumulation_equals_one_large_batch(tmp_path, stage):
    """8 x 16 accumulated samples give the gradient of 1 x 128, in double precision, before the adversarial term acts."""
    gradients = []
    parts = [tiny_batch(number, batch_size=16) for number in range(8)]
    whole = {
        key: torch.cat([p[key] for p in parts]) if torch.is_tensor(value) else [n for p in parts for n in p[key]]
        for key, value in parts[0].items()
    }
    for key in ("images", "conditions", "masks"):
        whole[key] = whole[key].double()
    for batch_size, accumulation in ((16, 8), (128, 1)):

        def batches(first, size=batch_size):
            for start in range(0, 128, size):
                yield {key: value[start : start + size] for key, value in whole.items()}

        torch.set_default_dtype(torch.double)
        try:
            trainer = make_trainer(
                tmp_path / str(batch_size),
                stage,
                batches=batches,
                trainer={"gradient_accumulation": accumulation, "batch_size": batch_size, "gradient_clip": 1e9},
            )
            trainer.model.double()
            captured = []
            trainer.guard.check = lambda step, values, t=trainer, c=captured: c.extend(
                p.grad.clone() for p in t.optimizations[0].parameters
            )
            trainer.train_step(iter(batches(0)))
        finally:
            torch.set_default_dtype(torch.float)
        gradients.append(captured)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-9) for a, b in zip(*gradients, strict=True))
    assert any(g.abs().max() > 1e-4 for g in gradients[0])


def test_steps_are_optimizer_steps(tmp_path):
    taken = []

    def counted(first):
        for batch in tiny_batches(first):
            taken.append(batch["names"][0])
            yield batch

    trainer = make_trainer(tmp_path, batches=counted)
    trainer.train()
    assert taken == [f"{number}_0" for number in range(8)]  # 4 steps x 2 micro-batches
    steps = [int(state["step"]) for state in trainer.optimizations[0].optimizer.state.values()]
    assert set(steps) == {4}


def test_clipping_happens_before_the_step(tmp_path):
    trainer = make_trainer(tmp_path, trainer={"gradient_clip": 1e-12, "optimizer": {"eps": 1.0, "weight_decay": 0.0}})
    before = [p.detach().clone() for p in trainer.optimizations[0].parameters]
    trainer.train()
    assert all(
        torch.allclose(a, b, atol=1e-9) for a, b in zip(before, trainer.optimizations[0].parameters, strict=True)
    )


def spoiled(name, key, row, value):
    """The tiny stream with one value of one micro-batch replaced."""

    def batches(first):
        for batch in tiny_batches(first):
            if batch["names"][0] == name:
                batch[key][row, 0, 0, 0] = float(value)
            yield batch

    return batches


def test_a_nonfinite_loss_stops_before_the_update(tmp_path):
    trainer = make_trainer(tmp_path, batches=spoiled("6_0", "images", 0, "nan"))
    with pytest.raises(TrainingError, match=r"step 3.*6_0.*ckpt_2"):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_nothing_is_updated_from_a_nonfinite_value_on_until_it_is_noticed(tmp_path):
    """The guard is read at the log line of step 6; the batch of step 1 is read again for the error."""
    settings = {"training_steps": 6, "save_interval": 100, "log_interval": 100}
    trainer = make_trainer(tmp_path, batches=spoiled("3_0", "images", 0, "nan"), trainer=settings)
    history = []
    step = trainer.train_step
    trainer.train_step = lambda batches: (step(batches), history.append(trainer.model.unet.conv_in.weight.clone()))[0]
    with pytest.raises(TrainingError, match=r"non-finite at step 1: .*2_0, 2_1, 3_0, 3_1.*step_1_rank_0"):
        trainer.train()
    assert len(history) == 6 and all(torch.equal(history[0], later) for later in history[1:])
    assert ck.find_checkpoint(tmp_path) is None


def test_a_nonfinite_last_step_is_not_saved(tmp_path):
    trainer = make_trainer(tmp_path, batches=spoiled("7_0", "conditions", 0, "nan"))
    with pytest.raises(TrainingError, match=r"step 3.*7_0"):
        trainer.train()
    assert ck.find_checkpoint(tmp_path).step == 2


def as_data_parallel_gives_it(batch, device):
    """What DistributedDataParallel hands to the module that it wraps: every tensor is on the device."""
    return _recursive_to((batch,), torch.device(device), False)[0][0]


def test_with_several_processes_nothing_is_asked_of_the_device_for_randomness(radiomapseer):
    """On the meta device nothing can be: values that the processor needs stay out of tensors."""
    loader = torch.utils.data.DataLoader(RadioUNet_c(radiomapseer), 2)
    batch = as_data_parallel_gives_it(process_batch(next(iter(loader)), "cpu"), "meta")
    assert batch["images"].device.type == "meta"
    assert KeyedRandom(batch["keys"]).randn(3).shape == (2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU works while the processor goes on")
@pytest.mark.parametrize("stage", ["ldm", "vae"])
def test_a_step_never_waits_for_the_gpu(tmp_path, stage):
    def on_device(first):
        for batch in tiny_batches(first):
            yield as_data_parallel_gives_it(batch, "cuda")

    trainer = make_trainer(tmp_path, stage, batches=on_device)
    batches = list(islice(on_device(0), 8))
    trainer.train_step(iter(batches[:2]))  # warms up
    trainer.train_step(iter(batches[2:4]))
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(iter(batches[4:6]))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_dump_reproduces_a_nonfinite_loss(tmp_path):
    trainer = make_trainer(tmp_path, batches=spoiled("3_0", "images", 1, "inf"), unet_config={"dropout": 0.2})
    with pytest.raises(TrainingError, match="step_1_rank_0.pt"):
        trainer.train()
    dump = torch.load(tmp_path / "nonfinite" / "step_1_rank_0.pt", weights_only=True)
    assert (
        dump["step"] == 1 and dump["nonfinite_gradients"] and [b["names"][0] for b in dump["batches"]] == ["2_0", "3_0"]
    )
    again = make_trainer(tmp_path / "other", unet_config={"dropout": 0.2}).optimizations[0].objective
    again.load_state_dict(dump["objectives"]["diffusion"])
    losses = []
    for number, batch in enumerate(dump["batches"]):
        seed_global(0, dump["step"], number, 0)
        losses.append(again(batch, dump["step"], {})[0].item() / 2)
    assert math.isfinite(losses[0]) and not math.isfinite(losses[1])
    assert [math.isfinite(values["loss"]) for values in dump["values"]] == [True, False]


def half_gradients(trainer, scaler):
    """Give a trainer a gradient scaler and gradients with the range of fp16, on any device."""
    trainer.accelerator.scaler = scaler
    for parameter in trainer.optimizations[0].parameters:
        parameter.register_hook(lambda gradient: gradient.half().float())
    return trainer


def test_fp16_overflow_skips_the_step_and_is_no_error(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**21, growth_interval=10**6)
    trainer = half_gradients(make_trainer(tmp_path, trainer={"training_steps": 6}), scaler)
    before = [p.detach().clone() for p in trainer.optimizations[0].parameters]
    unchanged = []
    step = trainer.train_step

    def watched(batches):
        logs = step(batches)
        unchanged.append(
            all(torch.equal(a, b) for a, b in zip(before, trainer.optimizations[0].parameters, strict=True))
        )
        return logs

    trainer.train_step = watched
    trainer.train()
    log = read_log(tmp_path / "train.log")
    skipped = [log["skipped"][number] for number in range(1, 7)]
    assert skipped[0] == 1 and skipped[-1] == 0 and skipped == sorted(skipped, reverse=True)
    assert unchanged == [flag == 1 for flag in skipped]
    assert all(math.isfinite(value) for value in log["loss"].values())
    assert log["grad_scale"][6] < 2.0**21
    resumed = make_trainer(tmp_path, trainer={"training_steps": 7})
    resumed.accelerator.scaler = torch.amp.GradScaler("cpu")
    resumed.checkpointer.resume()
    assert resumed.accelerator.scaler.get_scale() == log["grad_scale"][6]


def test_endless_overflow_stops(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=0.999)
    settings = {"training_steps": 60, "gradient_accumulation": 1}
    trainer = half_gradients(make_trainer(tmp_path, trainer=settings), scaler)
    with pytest.raises(TrainingError, match="steps in a row.*overflowed"):
        trainer.train()


def test_an_error_of_the_data_saves_first(tmp_path):
    def breaking(first):
        for batch in tiny_batches(first):
            if batch["names"][0] == "6_0":
                raise DataError("file.png: not a readable picture")
            yield batch

    with pytest.raises(DataError, match=r"file\.png"):
        make_trainer(tmp_path, batches=breaking).train()
    assert ck.find_checkpoint(tmp_path).step == 3
    make_trainer(tmp_path).train()
    whole = tmp_path / "whole"
    make_trainer(whole).train()
    assert same(weights(tmp_path, 4), weights(whole, 4))


def test_bad_samples_are_counted_once_and_across_a_resume(tmp_path):
    def noting(first):
        for number, batch in enumerate(tiny_batches(first), first):
            yield batch | {"problems": [f"bad{number // 2}.png: truncated"]}

    limit = {"max_bad_samples": 3, "training_steps": 2}
    make_trainer(tmp_path, batches=noting, trainer=limit).train()
    with pytest.raises(TrainingError, match=r"4 unreadable samples.*max_bad_samples.*bad3"):
        make_trainer(tmp_path, batches=noting, trainer=limit | {"training_steps": 8}).train()
    assert ck.find_checkpoint(tmp_path).step == 3


def test_adversarial_stage_starts_at_its_optimizer_step(tmp_path):
    changes = {"first_stage_config": {"lossconfig": {"discr_start": 2}}}
    trainer = make_trainer(tmp_path, "vae", **changes)
    before = [p.detach().clone() for p in trainer.optimizations[1].parameters]
    seen = []
    original = trainer.train_step

    def watched(batches):
        logs = original(batches)
        seen.append(
            (
                trainer.step - 1,  # the one just taken
                "generator" in logs,
                any(not torch.equal(a, b) for a, b in zip(before, trainer.optimizations[1].parameters, strict=True)),
            )
        )
        return logs

    trainer.train_step = watched
    trainer.train()
    assert seen == [(0, False, False), (1, False, False), (2, True, True), (3, True, True)]


def test_nothing_is_asked_of_masked_pixels():
    """Whatever the decoder says there counts as zero gain, as the image has it."""
    config = tiny_config("vae", first_stage_config={"lossconfig": {"kl_weight": 0.0}})
    first, model = config.first_stage_config, build_autoencoder(config)
    batch = tiny_batch(0)
    batch["masks"] = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    batch["images"] = torch.where(batch["masks"] > 0, -1.0, 0.2)
    model.decode = lambda z, cond: torch.full((2, 1, 16, 16), 0.2)
    loss, _, _ = AutoencoderObjective(model, build_loss(first))(batch, 0, {})
    assert loss.item() < 1e-6


def test_the_generator_does_not_move_the_discriminator(tmp_path):
    trainer = make_trainer(tmp_path, "vae", first_stage_config={"lossconfig": {"discr_start": 0}})
    loss, _, carry = trainer.optimizations[0].objective(tiny_batch(0), 0, {})
    loss.backward()
    assert all(p.grad is None for p in trainer.optimizations[1].objective.parameters())
    trainer.optimizations[1].objective(tiny_batch(0), 0, carry)[0].backward()
    assert all(p.grad is not None for p in trainer.optimizations[1].objective.parameters())


def test_milestones(tmp_path):
    make_trainer(tmp_path, trainer={"training_steps": 6}).train()
    with pytest.raises(CheckpointError, match="no ckpt_3.*2, 4, 6"):
        make_trainer(tmp_path, trainer={"resume_milestone": 3}).train()
    chosen = make_trainer(tmp_path, trainer={"resume_milestone": 4})
    assert chosen.checkpointer.resume() == 4


def test_existing_results_are_not_overwritten(tmp_path):
    make_trainer(tmp_path).train()
    with pytest.raises(CheckpointError, match="already holds checkpoints"):
        make_trainer(tmp_path, trainer={"enable_resume": False}).train()
    with pytest.raises(CheckpointError, match="stage ldm"):
        make_trainer(tmp_path, "vae").train()


def test_another_architecture_is_refused_by_name(tmp_path):
    make_trainer(tmp_path).train()
    with pytest.raises(CheckpointError, match="unet_config.model_channels"):
        make_trainer(tmp_path, unet_config={"model_channels": 16}).train()


def test_old_checkpoints_are_pruned(tmp_path):
    make_trainer(tmp_path, trainer={"training_steps": 8, "save_interval": 1, "keep_last": 3}).train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["ckpt_6", "ckpt_7", "ckpt_8"]


@pytest.mark.parametrize("victim", ["model.safetensors", "ema.safetensors", "training.pt", "meta.json"])
@pytest.mark.parametrize("how", ["truncated", "altered", "gone"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, victim, how):
    make_trainer(tmp_path).train()
    path = tmp_path / "checkpoints" / "ckpt_4" / victim
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "altered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    warnings = []
    assert ck.find_checkpoint(tmp_path, warn=warnings.append).step == 2
    assert "ckpt_4" in warnings[0]
    with pytest.raises(CheckpointError, match="ckpt_4"):
        ck.find_checkpoint(tmp_path, 4)


def test_the_log_tells_of_a_damaged_checkpoint_and_the_terminal_of_the_end(tmp_path, capsys):
    make_trainer(tmp_path).train()
    (tmp_path / "checkpoints" / "ckpt_4" / "ema.safetensors").unlink()
    make_trainer(tmp_path).train()
    assert "ckpt_4: ema.safetensors is missing; falling back" in (tmp_path / "train.log").read_text()
    assert "ldm: all 4 steps are taken; the result is" in capsys.readouterr().out
    before = (tmp_path / "checkpoints" / "ckpt_4" / "meta.json").read_bytes()
    make_trainer(tmp_path).train()  # nothing is left to do
    assert (tmp_path / "checkpoints" / "ckpt_4" / "meta.json").read_bytes() == before


def test_a_checkpoint_is_hashed_once(tmp_path):
    make_trainer(tmp_path).train()
    ck._digest_of.cache_clear()
    for _ in range(3):
        assert ck.find_checkpoint(tmp_path).step == 4
    assert ck._digest_of.cache_info().misses == 3  # model, average, training state


def test_networks_of_older_noise_objectives_are_refused(tmp_path):
    for objective, readable in (("pred_x0", True), ("pred_noise", False)):
        folder = tmp_path / objective
        make_trainer(folder, diffusion_config={"objective": objective}).train()
        path = folder / "checkpoints" / "ckpt_4"
        meta = json.loads((path / "meta.json").read_text()) | {"format": 2}
        ck._write_meta(path, meta)
        assert (ck.damage(path) is None) == readable
    with pytest.raises(CheckpointError, match="pred_noise.*train it anew"):
        ck.open_checkpoint(path)


def test_what_a_killed_save_left_is_swept_away(tmp_path):
    left = tmp_path / "checkpoints" / ".ckpt_2"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    make_trainer(tmp_path).train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["ckpt_2", "ckpt_4"]
    assert ck.damage(tmp_path / "checkpoints" / "ckpt_2") is None


def test_no_space_left_is_said_before_anything_is_written(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(ck.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="free some space"):
        trainer.train()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_signal_finishes_the_step_and_saves(tmp_path):
    def signalling(first):
        for batch in tiny_batches(first):
            if batch["names"][0] == "2_0":
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    make_trainer(tmp_path, batches=signalling).train()
    assert ck.find_checkpoint(tmp_path).step == 2


def test_load_model_rebuilds_from_the_checkpoint_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    model, config, found = loading.load_model(tmp_path)
    assert found.step == 4 and config.unet_config.model_channels == 8
    batch = tiny_batch(0)
    expected = trainer.ema.ema_model.eval().sample(batch["conditions"], keys=[1, 2])
    assert torch.equal(model.sample(batch["conditions"], keys=[1, 2]), expected)
    last, _, _ = loading.load_model(tmp_path / "checkpoints" / "ckpt_4", use_ema=False)
    assert same(last.state_dict(), trainer.model.state_dict())
    with pytest.raises(CheckpointError, match="no checkpoint"):
        loading.load_model(tmp_path / "nowhere")


def test_training_state_is_loadable_without_running_code(tmp_path):
    make_trainer(tmp_path, "vae").train()
    path = tmp_path / "checkpoints" / "ckpt_4"
    torch.load(path / "training.pt", weights_only=True)
    meta = json.loads((path / "meta.json").read_text())
    assert meta["step"] == 4 and meta["stage"] == "vae" and "torch" in meta["versions"]


def foreign_file(tmp_path, kind, autoencoder):
    state = autoencoder.state_dict()
    discriminator = {"loss.discriminator.main.0.weight": torch.zeros(1)}
    content = {
        "model": {"step": 7, "model": state | discriminator, "opt_ae": {}},
        "ema": {
            "step": 7,
            "model": {},
            "ema": {f"ema_model.{k}": v for k, v in state.items()} | {"initted": torch.tensor(True)},
        },
        "state_dict": {
            "state_dict": {f"first_stage_model.{k}": v for k, v in state.items()} | {"model.x": torch.zeros(1)}
        },
    }[kind]
    torch.save(content, tmp_path / f"{kind}.pt")
    return tmp_path / f"{kind}.pt"


@pytest.mark.parametrize("kind", ["model", "ema", "state_dict"])
def test_original_checkpoints_load(tmp_path, kind):
    config = tiny_config("vae")
    source, target = build_autoencoder(config), build_autoencoder(config)
    loading.load_first_stage(target, foreign_file(tmp_path, kind, source))
    assert same(source.state_dict(), target.state_dict())


def test_first_stage_from_our_own_runs(tmp_path):
    trainer = make_trainer(tmp_path / "vae", "vae")
    trainer.train()
    target = build_autoencoder(tiny_config("vae"))
    loading.load_first_stage(target, tmp_path / "vae")
    assert same(target.state_dict(), trainer.ema.ema_model.state_dict())


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_foreign_files_run_no_code_and_fail_clearly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x80\x04noise")
    torch.save([1], tmp_path / "list.pt")
    torch.save({"model": {"a": 1}}, tmp_path / "odd.pt")
    (tmp_path / "half.safetensors").write_bytes(b"\xff" * 40)
    target = build_autoencoder(tiny_config("vae"))
    for name in ("evil.pt", "noise.pt", "list.pt", "odd.pt", "half.safetensors", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            loading.load_first_stage(target, tmp_path / name)
    assert not (tmp_path / "executed").exists()
    other = build_autoencoder(tiny_config("vae", first_stage_config={"ddconfig": {"ch": 16}}))
    torch.save({"model": other.state_dict()}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="another architecture.*not"):
        loading.load_first_stage(target, tmp_path / "other.pt")


def test_the_seed_decides_the_first_weights(tmp_path):
    runs = {
        name: make_trainer(tmp_path / name, trainer={"seed": seed}) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    a, b, c = (run.model.state_dict() for run in runs.values())
    a, b, c = ({k: v for k, v in state.items() if k != "scale_factor"} for state in (a, b, c))
    assert same(a, b) and not same(a, c)


def test_precision(monkeypatch):
    assert choose_precision("no") == "no" and choose_precision("fp16") == "fp16"
    assert choose_precision("auto") in ("no", "bf16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert make_accelerator(tiny_config().trainer).mixed_precision == "bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has fp16")
def test_fp16_without_a_gpu_says_that_it_is_full_precision(caplog):
    accelerator = make_accelerator(tiny_config(trainer={"mixed_precision": "fp16"}).trainer)
    assert accelerator.mixed_precision == "no" and "needs a GPU" in caplog.text


def test_bf16_trains(tmp_path):
    trainer = make_trainer(
        tmp_path, "vae", trainer={"mixed_precision": "bf16"}, first_stage_config={"lossconfig": {"discr_start": 1}}
    )
    trainer.train()
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in trainer.model.parameters())


def test_unsupported_ways_to_distribute_are_refused(monkeypatch):
    from accelerate.utils import DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    with pytest.raises(ConfigError, match="FSDP"):
        make_accelerator(tiny_config().trainer)


def test_a_run_that_trains_other_weights_is_not_continued(tmp_path):
    make_trainer(tmp_path).train()
    end_to_end = {"end_to_end": {"start_step": 4}}
    with pytest.raises(CheckpointError, match="other weights.*end_to_end.start_step"):
        make_trainer(tmp_path, diffusion_config=end_to_end, trainer={"training_steps": 6}).train()


@pytest.mark.parametrize("stage", ["ldm", "vae"])
def test_memory_layout_changes_no_result(tmp_path, stage):
    changes = {"first_stage_config": {"lossconfig": {"discr_start": 1}}}
    for name, channels_last in (("last", True), ("first", False)):
        make_trainer(tmp_path / name, stage, trainer={"channels_last": channels_last}, **changes).train()
    last, first = (read_log(tmp_path / name / "train.log")["loss"] for name in ("last", "first"))
    assert all(math.isclose(last[step], first[step], rel_tol=1e-4) for step in range(1, 5))
    resumed = make_trainer(tmp_path / "first", stage, trainer={"channels_last": True, "training_steps": 5}, **changes)
    resumed.train()  # moments that were saved in the other layout
    for parameter, state in resumed.optimizations[0].optimizer.state.items():
        assert state["exp_avg"].stride() == parameter.stride()


@pytest.mark.parametrize("stage", ["ldm", "vae"])
def test_compile_changes_no_result_and_breaks_no_graph(tmp_path, stage, monkeypatch):
    """Nor does it end when the discriminator starts, at step 1."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # C++ would take minutes
    for name, compiled in (("eager", False), ("compiled", True)):
        changes = {"first_stage_config": {"lossconfig": {"discr_start": 1}}} if stage == "vae" else {}
        trainer = make_trainer(tmp_path / name, stage, trainer={"compile": compiled, "training_steps": 2}, **changes)
        if compiled:
            torch._dynamo.utils.counters.clear()
        trainer.train()
    eager, compiled = (read_log(tmp_path / name / "train.log")["loss"] for name in ("eager", "compiled"))
    assert all(math.isclose(eager[step], compiled[step], rel_tol=1e-4) for step in (1, 2))
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == {"ldm": 3, "vae": 2}[stage] and not counters["graph_break"]
    assert weights(tmp_path / "compiled", 2).keys() == weights(tmp_path / "eager", 2).keys()


def test_resuming_takes_the_new_settings_of_the_optimizer(tmp_path):
    make_trainer(tmp_path).train()
    resumed = make_trainer(
        tmp_path, trainer={"training_steps": 5, "optimizer": {"weight_decay": 0.5, "betas": [0.8, 0.9]}}
    )
    resumed.train()
    group = resumed.optimizations[0].optimizer.param_groups[0]
    assert group["weight_decay"] == 0.5 and group["betas"] == (0.8, 0.9) and group["fused"] == resumed.fused


def trained_ldm(folder, **changes):
    """A results folder of a short stage-2 run with a decoder that sees the condition."""
    sections = {
        "first_stage_config": {"ddconfig": {"decoder_cond": True}},
        "data": {"cond_channels": ["buildings", "transmitter"]},
    }
    config = tiny_config("ldm", **merged(sections, changes))
    config.trainer.results_folder = str(folder)
    model = build_model(config, "ldm")
    model.scale_factor.fill_(1.5)
    ema = {name: value + 0.1 for name, value in model.state_dict().items() if value.is_floating_point()}
    save_checkpoint(folder, step=7, stage="ldm", config=config, model=model.state_dict(), ema=ema, training={})
    return model, config


def test_a_conditioned_decoder_keeps_the_order_of_its_channels(tmp_path):
    model, config = trained_ldm(tmp_path)
    channels = config.data.cond_channels
    target = build_model(config, "ldm").first_stage_model
    loading.load_first_stage(target, tmp_path, channels)
    ema = ck.find_checkpoint(tmp_path).weights("ema")
    assert torch.equal(target.decoder.conv_in.weight, ema["first_stage_model.decoder.conv_in.weight"])
    with pytest.raises(CheckpointError, match=r"\[buildings, transmitter\], not with \[transmitter, buildings\]"):
        loading.load_first_stage(target, tmp_path, channels[::-1])


def test_a_run_starts_from_the_weights_of_another_one(tmp_path):
    """The averaged ones; further channels change nothing until they are learnt."""
    model, config = trained_ldm(tmp_path / "first")
    config.trainer.init_from = str(tmp_path / "first")
    same = build_model(config, "ldm")
    assert "step 7" in load_initial(same, config, "ldm")
    assert all(torch.allclose(value, model.state_dict()[name] + 0.1) for name, value in same.state_dict().items())
    config.data.cond_channels = ["buildings", "transmitter", "simulated"]
    config.cond_stage_config.in_channels = 3
    grown = build_model(config, "ldm")
    load_initial(grown, config, "ldm")
    cond = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, after = (m.eval().sample(c, keys=[1, 2]) for m, c in ((same, cond[:, :2]), (grown, cond)))
    assert torch.allclose(before, after, atol=1e-5) and float(grown.scale_factor) == pytest.approx(1.6)


def test_a_decoder_becomes_residual_only_where_it_is_trained(tmp_path):
    simulated = {"data": {"cond_channels": ["buildings", "simulated"]}}
    residual = merged(simulated, {"first_stage_config": {"ddconfig": {"decoder_residual": True}}})
    end_to_end = merged(residual, {"diffusion_config": {"end_to_end": {"start_step": 0}}})
    for name, changes in (("plain", simulated), ("residual", residual), ("end_to_end", end_to_end)):
        trained_ldm(tmp_path / name, **changes)

    def start(changes, source):
        _, config = trained_ldm(tmp_path / "new", **changes)
        config.trainer.init_from = str(tmp_path / source)
        model = build_model(config, "ldm")
        load_initial(model, config, "ldm")
        return model.eval(), config

    model, config = start(end_to_end, "plain")
    z, cond = torch.randn(2, config.first_stage_config.embed_dim, 8, 8), torch.rand(2, 2, 16, 16)
    assert torch.equal(model.decode_first_stage(z, cond), cond[:, -1:])
    kept, _ = start(residual, "residual")
    assert not torch.equal(kept.decode_first_stage(z, cond), cond[:, -1:])  # its last layer is a trained one
    for changes, source, message in (
        (residual, "plain", "which nothing trains"),
        (simulated, "residual", "keep first_stage_config.ddconfig.decoder_residual: true"),
    ):
        with pytest.raises(CheckpointError, match=message):
            start(changes, source)
    with pytest.raises(CheckpointError, match="another first_stage_config.ddconfig.decoder_residual"):
        loading.load_first_stage(model.first_stage_model, tmp_path / "plain", ["buildings", "simulated"])


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    trained_ldm(tmp_path / "first")
    changes = [
        (
            {"data": {"cond_channels": ["transmitter", "buildings"]}},
            r"\[buildings, transmitter\]; \[transmitter, buildings\]",
        ),
        ({"unet_config": {"model_channels": 16}}, "another architecture: .*unet"),
    ]
    for change, message in changes:
        _, config = trained_ldm(tmp_path / "other", **change)
        config.trainer.init_from = str(tmp_path / "first")
        with pytest.raises(CheckpointError, match=message):
            load_initial(build_model(config, "ldm"), config, "ldm")
    config.trainer.init_from = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        load_initial(build_model(config, "ldm"), config, "ldm")
    config.trainer.init_from = str(tmp_path / "first")
    with pytest.raises(CheckpointError, match="is of stage ldm, not vae"):
        load_initial(build_model(config, "ldm"), config, "vae")
