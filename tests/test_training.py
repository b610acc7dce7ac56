"""The loop: optimizer steps, averages, what stops a run; on networks of a few thousand weights."""

import contextlib
import logging
import math
import os
import re
import signal
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.utils import _recursive_to

import train_cond_ldm
from data import DataError
from data.samples.dataset import to_device
from data.samples.document import RadioUNet_c
from denoising_diffusion_pytorch import checkpoint as ck
from denoising_diffusion_pytorch.build import build_autoencoder
from denoising_diffusion_pytorch.errors import ConfigError, TrainingError
from denoising_diffusion_pytorch.losses import AutoencoderLoss
from denoising_diffusion_pytorch.randomness import KeyedRandom
from denoising_diffusion_pytorch.training import setup
from denoising_diffusion_pytorch.training.objectives import AutoencoderObjective
from denoising_diffusion_pytorch.training.run_folder import read_log
from denoising_diffusion_pytorch.training.setup import make_accelerator
from tests.processes import ROOT
from tests.tiny import tiny_batch, tiny_batches, tiny_config
from tests.training import OneScene, after_each_step, make_trainer, weights

WITH_DISCRIMINATOR = {"first_stage_config": {"lossconfig": {"discr_start": 1}}}


def test_figures_are_the_same_in_log_and_tensorboard(tmp_path):
    settings = {"num_samples": 1, "validate_every": 2, "sample_interval": 4}
    make_trainer(tmp_path, "vae", validation=OneScene([0.1, 0.05]), trainer=settings, **WITH_DISCRIMINATOR).train()
    events, figures = EventAccumulator(str(tmp_path)).Reload(), read_log(tmp_path / "train.log")
    expected = "loss l1 l2 kl generator adaptive_weight discriminator lr_autoencoder grad_norm_discriminator data_wait "
    expected += "memory_gib samples_per_second validation_thresholded_nmse validation_reconstruction_nmse"
    assert set(expected.split()) <= figures.keys()
    text = (ROOT / "docs" / "training.md").read_text()
    documented = {word.rpartition("/")[2] for word in re.findall(r"`([\w/]+)`", text)}
    plain = (re.sub(r"^validation_((thresholded|reconstruction)_)?", "", name) for name in figures)
    assert {re.sub(r"^(lr|grad_norm)_\w+", r"\1_NAME", name) for name in plain} <= documented
    for name, values in figures.items():
        tag = name.replace("validation_", "validation/") if name.startswith("validation_") else f"train/{name}"
        shown = {event.step: event.value for event in events.Scalars(tag)}
        assert shown == {step: pytest.approx(value, rel=1e-4) for step, value in values.items()}
    with (tmp_path / "train.log").open("a") as log:  # cut when the disk was full, and written to again
        log.write("2026-01-01T00:00:00 step=5\n2026-01-01T00:00:00 step=6 lo2026-01-01T00:00:00 step=4 event=start\n")
    assert read_log(tmp_path / "train.log") == figures
    assert figures["validation_nmse"][4] == pytest.approx(0.01, rel=1e-3)  # (0.05 / 0.5)^2
    assert figures["lr_discriminator"].keys() == {2, 3, 4}
    assert [event.step for event in events.Images("samples")] == [4]  # not at every validation


def test_trackers(tmp_path):
    """Steps that are taken again replace the first ones in TensorBoard; a tracker that is not there is an error."""
    make_trainer(tmp_path / "run").train()
    make_trainer(tmp_path / "run", trainer={"resume_milestone": 2, "learning_rate": 0.1}).train()
    events = EventAccumulator(str(tmp_path / "run")).Reload().Scalars("train/lr_diffusion")
    assert [(event.step, event.value > 0.01) for event in events] == [(1, False), (2, False), (3, True), (4, True)]
    make_trainer(tmp_path / "none", trainer={"log_with": []}).train()
    assert len(read_log(tmp_path / "none" / "train.log")["loss"]) == 4 and not [*tmp_path.glob("none/events*")]
    for name in ("wand", "mlflow"):  # unknown, not installed
        with pytest.raises(ConfigError, match=f"trainer.log_with: .*{name}"):
            make_trainer(tmp_path, trainer={"log_with": [name]})


def test_steps_are_optimizer_steps(tmp_path):
    taken = []

    def counted(first):
        for batch in tiny_batches(first):
            taken.append(batch["names"][0])
            yield batch

    trainer = make_trainer(tmp_path, batches=counted)
    trainer.train()
    assert taken == [f"{number}_0" for number in range(8)]  # 4 steps x 2 micro-batches
    assert {int(state["step"]) for state in trainer.optimizations[0].optimizer.state.values()} == {4}
    used = read_log(tmp_path / "train.log")["lr_diffusion"]
    for step in range(4):  # taken at `step`, logged after it
        assert used[step + 1] == pytest.approx(max(1e-4, (1 - step / 4) ** 0.96 * 1e-3), rel=1e-5)


def test_ema_of_every_step_under_accumulation(tmp_path):
    trainer = make_trainer(tmp_path, trainer={"ema": {"start_step": 1, "update_interval": 2, "beta": 0.5}})
    trained = trainer.optimizations[0].parameters
    history = after_each_step(trainer, lambda logs: torch.cat([p.detach().flatten() for p in trained]))
    trainer.train()
    shadow = dict(trainer.ema.shadow.named_parameters())
    averaged = torch.cat([shadow[name].flatten() for name in trainer.ema.trainable])
    # a copy at step 1, then halfway at steps 2 and 4
    assert torch.allclose(averaged, (0.5 * history[0] + 0.5 * history[1]) * 0.5 + 0.5 * history[3], atol=1e-7)


@pytest.mark.parametrize("stage", ["ldm", "vae"])
def test_accumulation_equals_one_large_batch(tmp_path, stage):
    """4 x 8 accumulated samples give the gradient of 1 x 32, in double precision, before the adversarial term acts."""
    gradients, whole = [], tiny_batch(0, batch_size=32)
    whole |= {key: whole[key].double() for key in ("image", "cond", "ori_mask")}
    for size in (8, 32):
        parts = [{key: value[start : start + size] for key, value in whole.items()} for start in range(0, 32, size)]
        settings = {"gradient_accumulation": 32 // size, "batch_size": size}
        torch.set_default_dtype(torch.double)
        try:
            trainer = make_trainer(tmp_path / str(size), stage, trainer=settings)
            trainer.model.double()
            for number, part in enumerate(parts):
                trainer.backward(part, number)
        finally:
            torch.set_default_dtype(torch.float)
        gradients.append([p.grad for p in trainer.optimizations[0].parameters])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-9) for a, b in zip(*gradients, strict=True))
    assert any(g.abs().max() > 1e-4 for g in gradients[0])


def test_clipping_happens_before_the_step(tmp_path):
    trainer = make_trainer(tmp_path, trainer={"gradient_clip": 1e-12, "optimizer": {"eps": 1.0, "weight_decay": 0.0}})
    before = [p.detach().clone() for p in trainer.optimizations[0].parameters]
    trainer.train()
    pairs = zip(before, trainer.optimizations[0].parameters, strict=True)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in pairs)


def test_adversarial_stage_starts_at_its_optimizer_step(tmp_path):
    trainer = make_trainer(tmp_path, "vae", first_stage_config={"lossconfig": {"discr_start": 2}})
    weight = trainer.optimizations[1].parameters[0]
    before = weight.detach().clone()
    seen = after_each_step(trainer, lambda logs: ("generator" in logs, not torch.equal(before, weight)))
    trainer.train()
    assert seen == [(False, False), (False, False), (True, True), (True, True)]


def test_nothing_is_asked_of_masked_pixels():
    """Whatever the decoder says there counts as zero gain, as the image has it."""
    config = tiny_config("vae", first_stage_config={"lossconfig": {"kl_weight": 0.0}})
    first, model = config.first_stage_config, build_autoencoder(config)
    batch = tiny_batch(0)
    batch["ori_mask"] = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    batch["image"] = torch.where(batch["ori_mask"] > 0, -1.0, 0.2)
    model.decode = lambda z, cond: torch.full((2, 1, 16, 16), 0.2)
    loss, _, _ = AutoencoderObjective(model, AutoencoderLoss(first.lossconfig))(batch, 0, {})
    assert loss.item() < 1e-6


def test_the_generator_does_not_move_the_discriminator(tmp_path):
    trainer = make_trainer(tmp_path, "vae", first_stage_config={"lossconfig": {"discr_start": 0}})
    generator, discriminator = (o.objective for o in trainer.optimizations)
    loss, _, carry = generator(tiny_batch(0), 0, {})
    loss.backward()
    assert all(p.grad is None for p in discriminator.parameters())
    discriminator(tiny_batch(0), 0, carry)[0].backward()
    assert all(p.grad is not None for p in discriminator.parameters())


def test_joint_training_measures_the_latent_scale_at_every_save(tmp_path, capsys):
    settings = {"results_folder": str(tmp_path), "save_interval": 1, "validate_every": 0}
    config = tiny_config("ldm", first_stage_config={"trainable": True}, trainer=settings)
    batches = [tiny_batch(number, batch_size=1) for number in range(24)]
    own = [{key: batch[key][0] for key in ("image", "cond", "ori_mask")} for batch in batches]
    with pytest.raises(ConfigError, match="data.map_size: is not set"):
        train_cond_ldm.train(config, own)
    config.data.map_size = 32
    train_cond_ldm.train(config, own)
    scales = [line for line in capsys.readouterr().out.splitlines() if "latent scale factor" in line]
    assert len(scales) == 5 and len(set(scales)) > 1


def test_nothing_is_updated_from_a_nonfinite_value(tmp_path):
    def spoiled(first):
        for batch in tiny_batches(first):
            if batch["names"][0] == "7_0":
                batch["cond"][0, 0, 0, 0] = math.nan
            yield batch

    trainer = make_trainer(tmp_path, batches=spoiled)
    history = after_each_step(trainer, lambda logs: trainer.model.unet.conv_in.weight.clone())
    with pytest.raises(TrainingError, match=r"non-finite at step 3: loss, .* 6_0, 6_1, 7_0, 7_1; nothing .*ckpt_2"):
        trainer.train()
    assert torch.equal(history[-1], trainer.model.unet.conv_in.weight) and torch.isfinite(history[-1]).all()
    assert ck.find_checkpoint(tmp_path).step == 2


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fp16_overflow_skips_the_step_and_is_no_error(tmp_path, optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**21, growth_interval=10**6)
    settings = {"optimizer": {"type": optimizer}}
    trainer = make_trainer(tmp_path, trainer=settings | {"training_steps": 6})
    trainer.accelerator.scaler, trained = scaler, trainer.optimizations[0].parameters
    for parameter in trained:  # gradients with the range of fp16, on any device
        parameter.register_hook(lambda gradient: gradient.half().float())
    before = [p.detach().clone() for p in trained]
    unchanged = after_each_step(trainer, lambda logs: all(map(torch.equal, before, trained)))
    trainer.train()
    log = read_log(tmp_path / "train.log")
    skipped = [log["skipped"][number] for number in range(1, 7)]
    assert skipped[0] == 1 and skipped[-1] == 0 and skipped == sorted(skipped, reverse=True)
    assert unchanged == [flag == 1 for flag in skipped]
    assert all(math.isfinite(value) for value in log["loss"].values())
    assert log["grad_scale"][6] < 2.0**21
    resumed = make_trainer(tmp_path, trainer=settings | {"training_steps": 7})
    resumed.accelerator.scaler = torch.amp.GradScaler("cpu")
    resumed.checkpointer.resume()
    assert resumed.accelerator.scaler.get_scale() == log["grad_scale"][6]


def test_endless_overflow_stops(tmp_path):
    trainer = make_trainer(tmp_path, trainer={"gradient_accumulation": 1, "training_steps": 60})
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    trainer.optimizations[0].parameters[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="overflowed in fp16 at step 41 and many before"):
        trainer.train()


@pytest.mark.parametrize("end", ["whole", "signal", "error"])
def test_a_run_leaves_no_handlers_however_it_ends(tmp_path, end):
    """A signal finishes the step and saves; afterwards Ctrl-C is the caller's again."""

    def batches(first):
        for batch in tiny_batches(first):
            if batch["names"][0] == "2_0" and end == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            if batch["names"][0] == "2_0" and end == "error":
                raise DataError("broken")
            yield batch

    def handlers():
        return [*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)), *logging.getLogger("radiodiff").handlers]

    before = handlers()
    trainer = make_trainer(tmp_path, batches=batches)
    with pytest.raises(DataError) if end == "error" else contextlib.nullcontext():
        trainer.train()
    assert handlers() == before and len(before) == 2
    assert ck.find_checkpoint(tmp_path).step == {"whole": 4, "signal": 2, "error": 1}[end]


def test_no_value_that_the_processor_needs_is_moved_to_the_device(radiomapseer):
    """DistributedDataParallel moves every tensor of a batch; on the meta device nothing can be asked."""
    loader = torch.utils.data.DataLoader(RadioUNet_c(radiomapseer), 2)
    batch = _recursive_to((to_device(next(iter(loader)), "cpu"),), torch.device("meta"), False)[0][0]
    assert batch["image"].device.type == "meta" and KeyedRandom(batch["keys"]).randn(3).shape == (2, 3)


def test_precision(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(setup, "has_bfloat16", lambda device: True)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    accelerator = make_accelerator(tiny_config(trainer={"mixed_precision": "auto"}).trainer)
    assert accelerator.mixed_precision == "bf16" and accelerator.gradient_accumulation_steps != 7
    if not torch.cuda.is_available():
        accelerator = make_accelerator(tiny_config(trainer={"mixed_precision": "fp16"}).trainer)
        assert accelerator.mixed_precision == "no" and "needs a GPU" in caplog.text
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    trainer = make_trainer(tmp_path, "vae", **WITH_DISCRIMINATOR)
    assert trainer.accelerator.mixed_precision == "bf16"
    trainer.train()
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in trainer.model.parameters())
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    with pytest.raises(ConfigError, match="FSDP"):
        make_accelerator(tiny_config().trainer)


@pytest.mark.parametrize("stage", ["ldm", "vae"])
def test_memory_layout_and_compiling_change_no_result(tmp_path, stage, monkeypatch):
    """Compiling breaks no graph, nor does it end when the discriminator starts, at step 1."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # C++ would take minutes
    torch._dynamo.utils.counters.clear()

    def run(name, **how):
        settings = {"gradient_accumulation": 1, "training_steps": 2} | how
        trainer = make_trainer(tmp_path / name, stage, trainer=settings, **WITH_DISCRIMINATOR)
        trainer.train()
        return trainer.optimizations[0].optimizer.state, read_log(tmp_path / name / "train.log")["loss"]

    first, last = run("first", channels_last=False)[1], run("last", channels_last=True)[1]
    assert first.keys() == {1, 2} and last == pytest.approx(first, rel=1e-4)
    assert run("compiled", compile=True)[1] == pytest.approx(first, rel=1e-4)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == {"ldm": 3, "vae": 2}[stage] and not counters["graph_break"]
    assert weights(tmp_path / "compiled", 2).keys() == weights(tmp_path / "first", 2).keys()
    states, _ = run("first", channels_last=True, training_steps=3)  # moments that were saved in the other layout
    assert all(state["exp_avg"].stride() == parameter.stride() for parameter, state in states.items())
