"""The second stage as one module: scale, losses, sampling."""

import numpy as np
import pytest
import torch

from data import Scene
from data.geometry.layout import Layout
from data.prepare import prepare
from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.losses import AutoencoderLoss
from denoising_diffusion_pytorch.predictor import predict_prepared
from denoising_diffusion_pytorch.processes import PROCESSES
from denoising_diffusion_pytorch.training.objectives import AutoencoderObjective, JointObjective, LatentObjective
from tests.tiny import tiny_batch, tiny_config

VARIANTS = [(name, objective) for name, process in PROCESSES.items() for objective in process.objectives]


def tiny_model(model_type="ddpm", objective="pred_x0", **changes):
    torch.manual_seed(0)
    config = tiny_config(diffusion_config={"model_type": model_type, "objective": objective}, **changes)
    return build_model(config, "ldm")


@pytest.mark.parametrize("model_type,objective", VARIANTS)
def test_loss_and_sample(model_type, objective):
    model, batch = tiny_model(model_type, objective).train(), tiny_batch(0)
    loss = model(batch["image"], batch["cond"], keys=batch["keys"])
    loss.backward()
    assert torch.isfinite(loss) and model.unet.training and not model.first_stage_model.training  # frozen
    assert all(p.grad is not None for p in model.unet.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.first_stage_model.parameters())
    batch["ori_mask"][:, :, 4:9, 2:7] = 1
    maps = model.eval().sample(batch["cond"], batch["ori_mask"], keys=[1, 2])
    assert maps.shape == (2, 1, 16, 16) and maps.min() >= 0 and maps.max() <= 1
    assert (maps[batch["ori_mask"] == 1] == 0).all() and maps.sum() > 0


def predicted(model, scenes, **how):
    samples = [prepare(scene, 16, 8, ["buildings", "transmitter", "cars"]) for scene in scenes]
    return predict_prepared(model, scenes, samples, torch.device("cpu"), **how)


def test_seeds_and_names_draw_different_maps_and_the_reconstruction_is_asked_for():
    model, how = tiny_model().eval(), {"sampler": "ddpm", "steps": 2}
    model.unet.conv_out.weight.data.normal_()  # an untrained one puts out nothing
    calls = []
    model.first_stage_model.encoder.register_forward_hook(lambda *_: calls.append(1))
    scenes = [Scene(name, Layout([], (16, 16)), (3.0, 4.0), np.zeros((16, 16), np.float32)) for name in ("a", "b")]
    (a, b), (again, _), (other, _) = (predicted(model, scenes, seed=seed, **how) for seed in (1, 1, 2))
    assert not np.array_equal(a.gain, b.gain) and not np.array_equal(a.gain, other.gain)
    assert np.array_equal(a.gain, again.gain) and a.reconstruction is None and not calls
    unknown = Scene("c", Layout([], (16, 16)), (3.0, 4.0))
    found = predicted(model, [unknown, *scenes], reconstruct=True, **how)
    assert [each.reconstruction is not None for each in found] == [False, True, True]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_noise_is_scaled_where_it_is_drawn(sampler):
    """With a network that puts out nothing, a sample is linear in the noise."""
    model, cond = tiny_model(objective="pred_noise").eval(), tiny_batch(0)["cond"]
    model.first_stage_model.decode = lambda z, cond: 0.1 * z
    how = {"keys": [5, 6], "sampler": sampler, "steps": 3}
    plain, wide = (model.sample(cond, noise_scale=scale, **how) - 0.5 for scale in (None, 2.0))
    assert torch.allclose(wide, 2 * plain, atol=1e-5) and 1e-3 < plain.abs().max() < 0.25


def test_pixel_noise_widens_draws_and_leaves_their_mean_and_zeros():
    model = tiny_model().eval()
    layout = Layout([np.array([[2.5, 2.5], [9.5, 2.5], [9.5, 9.5], [2.5, 9.5]])], (16, 16))
    scene = Scene("a", layout, (12.0, 12.0))
    plain, noisy, again = (predicted(model, [scene], num_samples=24, pixel_noise=dB)[0] for dB in (0.0, 3.0, 3.0))
    assert np.array_equal(plain.gain, noisy.gain) and np.array_equal(noisy.samples, again.samples)
    received = (plain.samples > 0.2).all(0) & (plain.samples < 0.8).all(0)
    added = noisy.samples - plain.samples
    assert received.sum() > 50 and added[:, received].std() * 99.16 == pytest.approx(3, rel=0.05)
    assert noisy.std[received].mean() > plain.std[received].mean() and not noisy.samples[:, scene.ori_mask].any()


def test_the_scale_factor_is_one_until_it_is_measured():
    model, images = tiny_model(), [tiny_batch(number)["image"] for number in range(50)]
    assert model.scale_factor == 1
    scale = model.set_scale(map(model.posterior, images))
    assert model.state_dict()["scale_factor"] == scale != 1
    torch.manual_seed(0)
    z = torch.cat([model.encode_first_stage(image).sample() for image in images])
    assert abs((z * scale).std() - 1) < 0.02
    posterior = model.encode_first_stage(images[0])
    assert torch.allclose(model.latent(posterior, torch.zeros(1)), scale * posterior.mode())


def test_end_to_end_phase_trains_unet_and_decoder_on_the_decoded_map():
    config = tiny_config(diffusion_config={"end_to_end": {"start_step": 3, "latent_weight": 0.5}})
    model, batch = build_model(config, "ldm"), tiny_batch(0)
    loss = AutoencoderLoss(config.first_stage_config.lossconfig)
    objective = LatentObjective(model, loss, config.diffusion_config.end_to_end)
    decoder = model.first_stage_model.decoder.conv_in.weight
    loss, logs, _ = objective(batch, 2, {})
    loss.backward()
    assert decoder.grad is None and loss == logs["latent"]
    loss, logs, _ = objective(batch, 3, {})
    loss.backward()
    assert decoder.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.first_stage_model.encoder.parameters())
    assert torch.isclose(loss, logs["l1"] + logs["l2"] + 0.5 * logs["latent"])
    model.train()
    assert model.first_stage_model.decoder.training and not model.first_stage_model.encoder.training


def test_joint_objective_trains_both():
    config, model = tiny_config(), tiny_model(first_stage_config={"trainable": True})
    pixel = AutoencoderObjective(model.first_stage_model, AutoencoderLoss(config.first_stage_config.lossconfig))
    loss, logs, _ = JointObjective(model, pixel)(tiny_batch(0), 0, {})
    loss.backward()
    assert {"latent", "reconstruction", "kl"} <= logs.keys()
    assert all(p.grad is not None for p in model.parameters())
    # the encoder's gradient is the pixel terms' alone
    encoder = model.first_stage_model.encoder.conv_in.weight
    together = encoder.grad.clone()
    model.zero_grad()
    pixel(tiny_batch(0), 0, {})[0].backward()
    assert torch.allclose(together, encoder.grad)


def test_sampling_depends_on_the_keys_alone_and_calls_each_network_as_often_as_it_must():
    model, cond, calls = tiny_model().eval(), tiny_batch(0)["cond"], []
    model.unet.conv_out.weight.data.fill_(0.1)
    for name in ("unet", "cond_stage_model"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    found = []
    for sampler in ("ddpm", "ddim"):
        found.append(model.sample(cond, keys=[5, 6], steps=3, sampler=sampler))
        assert sorted(calls) == ["cond_stage_model"] + 3 * ["unet"]
        assert torch.allclose(found[-1][1:], model.sample(cond[1:], keys=[6], steps=3, sampler=sampler), atol=1e-5)
        calls.clear()
    assert not torch.equal(*found)
