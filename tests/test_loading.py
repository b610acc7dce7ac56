"""Weights from other runs and from other code."""

import os

import pytest
import torch

from denoising_diffusion_pytorch import checkpoint as ck
from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.errors import CheckpointError
from denoising_diffusion_pytorch.weights import load_first_stage, load_initial, load_model
from tests.tiny import merged, tiny_batch, tiny_config
from tests.training import make_trainer, same


def test_load_model_rebuilds_from_the_checkpoint_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    model, config, found = load_model(tmp_path)
    assert found.step == 4 and config.unet_config.model_channels == 8
    batch = tiny_batch(0)
    expected = trainer.ema.shadow.eval().sample(batch["cond"], keys=[1, 2])
    assert torch.equal(model.sample(batch["cond"], keys=[1, 2]), expected)
    last, _, _ = load_model(tmp_path / "checkpoints" / "ckpt_4", use_ema=False)
    assert same(last.state_dict(), trainer.model.state_dict())


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_foreign_files_run_no_code_and_fail_clearly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = build_model(tiny_config("vae", first_stage_config={"ddconfig": {"ch": 16}}), "vae").state_dict()
    files = {"evil": {"model": Evil()}, "list": [1], "odd": {"model": {"a": 1}}, "other": {"model": other}}
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x80\x04noise")
    (tmp_path / "half.safetensors").write_bytes(b"\xff" * 40)
    target = build_model(tiny_config("vae"), "vae")
    for name in ("evil.pt", "noise.pt", "list.pt", "odd.pt", "half.safetensors", "absent.pt", "other.pt"):
        message = "different architecture.*conv_in" if name == "other.pt" else name
        with pytest.raises(CheckpointError, match=message):
            load_first_stage(target, tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_original_checkpoints_and_our_own_load(tmp_path):
    config = tiny_config("vae")
    source = build_model(config, "vae").state_dict()
    for content in (
        {"step": 7, "model": source | {"loss.discriminator.main.0.weight": torch.zeros(1)}},
        {"model": {}, "ema": {f"ema_model.{k}": v for k, v in source.items()} | {"initted": torch.tensor(True)}},
        {"state_dict": {f"first_stage_model.{k}": v for k, v in source.items()} | {"model.x": torch.zeros(1)}},
    ):
        torch.save(content, tmp_path / "foreign.pt")
        target = build_model(config, "vae")
        load_first_stage(target, tmp_path / "foreign.pt")
        assert same(source, target.state_dict())
    trainer = make_trainer(tmp_path / "vae", "vae")
    trainer.train()
    load_first_stage(target, tmp_path / "vae")
    assert same(target.state_dict(), trainer.ema.shadow.state_dict())


PLAIN = {
    "first_stage_config": {"ddconfig": {"decoder_cond": True}},
    "data": {"cond_channels": ["buildings", "simulated"]},
}
RESIDUAL = merged(PLAIN, {"first_stage_config": {"ddconfig": {"decoder_residual": True}}})
END_TO_END = merged(RESIDUAL, {"diffusion_config": {"end_to_end": {"start_step": 0}}})


def trained_ldm(folder, changes):
    """The model and settings of a short stage-2 run with a decoder that sees the condition."""
    config = tiny_config("ldm", **changes, trainer={"results_folder": str(folder)})
    model = build_model(config, "ldm")
    model.scale_factor.fill_(1.5)
    ema = {name: value + 0.1 for name, value in model.state_dict().items() if value.is_floating_point()}
    ck.save_checkpoint(folder, step=7, stage="ldm", config=config, model=model.state_dict(), ema=ema, training={})
    return model, config


def started(changes, source, stage="ldm"):
    """A new run's model that starts from the weights of another run."""
    config = tiny_config(stage, **changes, trainer={"init_from": str(source)})
    model = build_model(config, stage)
    assert "step 7" in load_initial(model, config, stage)
    return model.eval()


def test_a_run_starts_from_the_weights_of_another_one(tmp_path):
    """The averaged ones; further channels change nothing until they are learnt."""
    model, _ = trained_ldm(tmp_path, PLAIN)
    same = started(PLAIN, tmp_path)
    assert all(torch.allclose(value, model.state_dict()[name] + 0.1) for name, value in same.state_dict().items())
    grown = started(merged(PLAIN, {"data": {"cond_channels": ["buildings", "simulated", "cars"]}}), tmp_path)
    cond = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, after = (m.sample(c, keys=[1, 2]) for m, c in ((same, cond[:, :2]), (grown, cond)))
    assert torch.allclose(before, after, atol=1e-5) and float(grown.scale_factor) == pytest.approx(1.6)


def test_a_decoder_becomes_residual_where_it_is_trained(tmp_path):
    for name, changes in (("plain", PLAIN), ("residual", RESIDUAL)):
        trained_ldm(tmp_path / name, changes)
    z, cond = torch.randn(2, 2, 8, 8), torch.rand(2, 2, 16, 16)
    assert torch.equal(started(END_TO_END, tmp_path / "plain").decode_first_stage(z, cond), cond[:, -1:])
    kept = started(RESIDUAL, tmp_path / "residual")
    assert not torch.equal(kept.decode_first_stage(z, cond), cond[:, -1:])  # its last layer is a trained one
    plain = started(PLAIN, tmp_path / "plain")
    for target, channels, message in (
        (plain, ["simulated", "buildings"], r"'simulated'\], not with \['simulated"),
        (kept, ["buildings", "simulated"], "another first_stage_config.ddconfig.decoder_residual"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_first_stage(target.first_stage_model, tmp_path / "plain", channels)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    trained_ldm(tmp_path / "plain", PLAIN)
    trained_ldm(tmp_path / "residual", RESIDUAL)
    for changes, source, message in (
        ({"data": {"cond_channels": ["simulated", "buildings"]}}, "plain", "data.cond_channels .* must begin with its"),
        ({"unet_config": {"model_channels": 16}}, "plain", "different architecture: .*unet"),
        ({"diffusion_config": {"objective": "pred_v"}}, "plain", "for ddpm pred_x0, not ddpm pred_v"),
        (RESIDUAL, "plain", "decoder_residual: false; only a decoder that is trained"),
        ({}, "residual", "decoder_residual: true; keep it"),
        ({}, "nowhere", "nowhere: no checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            started(merged(PLAIN, changes), tmp_path / source)
    with pytest.raises(CheckpointError, match="is of stage ldm, not vae"):
        started(PLAIN, tmp_path / "plain", "vae")
