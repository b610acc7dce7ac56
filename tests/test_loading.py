"""Weights from other runs and from other code."""

import os

import pytest
import torch

from denoising_diffusion_pytorch import checkpoint as ck
from denoising_diffusion_pytorch import weights as loading
from denoising_diffusion_pytorch.build import build_autoencoder, build_model
from denoising_diffusion_pytorch.checkpoint import save_checkpoint
from denoising_diffusion_pytorch.errors import CheckpointError
from denoising_diffusion_pytorch.weights import load_initial
from tests.tiny import merged, tiny_batch, tiny_config
from tests.training import make_trainer, same


def test_load_model_rebuilds_from_the_checkpoint_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    model, config, found = loading.load_model(tmp_path)
    assert found.step == 4 and config.unet_config.model_channels == 8
    batch = tiny_batch(0)
    expected = trainer.ema.ema_model.eval().sample(batch["cond"], keys=[1, 2])
    assert torch.equal(model.sample(batch["cond"], keys=[1, 2]), expected)
    last, _, _ = loading.load_model(tmp_path / "checkpoints" / "ckpt_4", use_ema=False)
    assert same(last.state_dict(), trainer.model.state_dict())
    with pytest.raises(CheckpointError, match="no checkpoint"):
        loading.load_model(tmp_path / "nowhere")


def foreign_file(tmp_path, kind, autoencoder):
    state = autoencoder.state_dict()
    prefixed = {
        "model": state | {"loss.discriminator.main.0.weight": torch.zeros(1)},
        "ema": {f"ema_model.{k}": v for k, v in state.items()} | {"initted": torch.tensor(True)},
        "state_dict": {f"first_stage_model.{k}": v for k, v in state.items()} | {"model.x": torch.zeros(1)},
    }[kind]
    torch.save({"step": 7} | ({"model": {}} if kind == "ema" else {}) | {kind: prefixed}, tmp_path / f"{kind}.pt")
    return tmp_path / f"{kind}.pt"


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


def test_original_checkpoints_and_our_own_load(tmp_path):
    config = tiny_config("vae")
    for kind in ("model", "ema", "state_dict"):
        source, target = build_autoencoder(config), build_autoencoder(config)
        loading.load_first_stage(target, foreign_file(tmp_path, kind, source))
        assert same(source.state_dict(), target.state_dict()), kind
    trainer = make_trainer(tmp_path / "vae", "vae")
    trainer.train()
    loading.load_first_stage(target, tmp_path / "vae")
    assert same(target.state_dict(), trainer.ema.ema_model.state_dict())


def test_a_run_is_continued_with_the_same_networks_and_the_same_trained_weights(tmp_path):
    make_trainer(tmp_path).train()
    with pytest.raises(CheckpointError, match="unet_config.model_channels"):
        make_trainer(tmp_path, unet_config={"model_channels": 16}).train()
    with pytest.raises(CheckpointError, match="other weights.*end_to_end.start_step"):
        changes = {"diffusion_config": {"end_to_end": {"start_step": 4}}, "trainer": {"training_steps": 6}}
        make_trainer(tmp_path, **changes).train()


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    trained_ldm(tmp_path / "first")
    other_order = {"data": {"cond_channels": ["transmitter", "buildings"]}}
    for changes, source, stage, message in (
        (other_order, "first", "ldm", r"\[buildings, transmitter\]; \[transmitter, buildings\]"),
        ({"unet_config": {"model_channels": 16}}, "first", "ldm", "another architecture: .*unet"),
        ({}, "nowhere", "ldm", "nowhere"),
        ({}, "first", "vae", "is of stage ldm, not vae"),
    ):
        _, config = trained_ldm(tmp_path / "other", **changes)
        config.trainer.init_from = str(tmp_path / source)
        with pytest.raises(CheckpointError, match=message):
            load_initial(build_model(config, "ldm"), config, stage)
