"""Losses, EMA, learning rate and keyed randomness against closed forms."""

import math

import pytest
import torch
from torch import nn

from denoising_diffusion_pytorch.config.schema import LossConfig
from denoising_diffusion_pytorch.errors import CheckpointError
from denoising_diffusion_pytorch.losses import (
    AutoencoderLoss,
    LPIPSLoss,
    PatchDiscriminator,
    adaptive_weight,
    hinge_gan_loss,
)
from denoising_diffusion_pytorch.networks.autoencoder import AutoencoderKL, Layers
from denoising_diffusion_pytorch.randomness import KeyedRandom
from denoising_diffusion_pytorch.training.ema import EMAModel
from denoising_diffusion_pytorch.training.schedule import learning_rate


def test_hinge():
    generator, discriminator = hinge_gan_loss(torch.tensor([0.5, -2.0]), torch.tensor([2.0, 0.0]))
    assert generator == 0.75 and discriminator == (0 + 1) / 2 + (1.5 + 0) / 2


def test_autoencoder_loss_terms():
    """The adversarial term reaches the decoder, and its weight is finite."""
    torch.manual_seed(0)
    model, x = AutoencoderKL(2, [1, 8, 16], Layers(1, mid_attention=False)), torch.rand(2, 1, 16, 16) * 2 - 1
    posterior, criterion = model.encode(x), AutoencoderLoss(LossConfig(l1_weight=2.0, l2_weight=3.0, kl_weight=0.5))
    y = model.decode(posterior.sample())
    plain, logs = criterion(x, y, posterior)
    e = y - x
    assert torch.allclose(plain, 2 * e.abs().mean() + 3 * e.square().mean() + 0.5 * posterior.kl().mean() / 256)
    assert torch.allclose(logs["reconstruction"] + 0.5 * logs["kl"], plain)
    fake, last = PatchDiscriminator(1, 8, 2)(y), model.decoder.last_layer.weight
    loss, logs = criterion(x, y, posterior, fake_pred=fake, last_weight=last)
    assert torch.isfinite(logs["adaptive_weight"]) and logs["adaptive_weight"] > 0
    assert torch.allclose(loss, plain + 0.5 * logs["adaptive_weight"] * logs["generator"])


def test_adaptive_weight_is_the_ratio_of_gradients():
    w = torch.tensor([3.0], requires_grad=True)
    y = 5 * w
    assert torch.allclose(adaptive_weight(4 * y.sum(), 2 * y.sum(), y, w), torch.tensor(20 / (10 + 1e-4)))
    assert adaptive_weight(1e9 * y.sum(), 1e-9 * y.sum(), y, w) == 1e4
    assert adaptive_weight(y.sum(), 0 * y.sum(), y, w) == 1e4


@pytest.mark.parametrize("dtype,within", [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_adaptive_weight_in_half_precision(dtype, within):
    """A good reconstruction of many pixels: each one's share of the mean is far below what fp16 can tell from zero."""
    torch.manual_seed(0)
    conv, discriminator = nn.Conv2d(8, 1, 3, padding=1), PatchDiscriminator(1, 8, 2)
    h = torch.randn(4, 8, 128, 128)
    error = 1e-3 * torch.randn(4, 1, 128, 128)

    def weight():
        y = conv(h).float()
        nll = (y - (y - error).detach()).square().mean()
        return adaptive_weight(nll, -discriminator(y).float().mean(), y, conv.weight)

    exact = weight()
    with torch.autocast("cpu", dtype):
        assert weight() == pytest.approx(exact.item(), rel=within)


def test_lpips_reads_vgg16_from_a_file(tmp_path, monkeypatch):
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in make_layers(cfgs["D"]).state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    loss = LPIPSLoss(str(tmp_path / "vgg16.pth")).train()
    assert not loss.lpips.training and not any(p.requires_grad for p in loss.parameters())
    assert torch.equal(loss.lpips.net.slice5[-2].weight, state["features.28.weight"])
    x = torch.rand(1, 1, 64, 64, requires_grad=True)
    assert loss(x, x.detach()) == 0
    distance = loss(x, 1 - x.detach())
    distance.backward()
    assert distance > 0 and x.grad.abs().sum() > 0
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where there is none
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    for path, message in ((None, "download vgg16-397923af.pth"), (tmp_path / "odd.pth", "not a torchvision VGG16")):
        with pytest.raises(CheckpointError, match=message):
            LPIPSLoss(path)


def test_ema_shares_frozen_weights_and_copies_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    ema = EMAModel(model, 0.5)
    assert ema.shadow[0].weight is model[0].weight and ema.shadow[1].weight is not model[1].weight
    nn.init.zeros_(model[1].weight)
    model[2].running_mean.fill_(7)
    ema.update()
    assert "0.weight" not in ema.state_dict() and (ema.state_dict()["2.running_mean"] == 7).all()


def test_learning_rate_is_the_documents_formula():
    def rate(step, **kw):
        return learning_rate(step, lr=5e-5, min_lr=5e-6, total_steps=50000, **kw)

    assert rate(0) == 5e-5
    assert math.isclose(rate(25000), 5e-5 * 0.5**0.96)
    assert rate(49999) == 5e-6 == rate(50000) == rate(60000)  # an absolute floor; no complex numbers behind T
    warm = [rate(step, warmup_steps=99) for step in range(101)]
    assert warm[0] == 5e-6 and math.isclose(warm[49], rate(49) / 2) and warm[99:] == [rate(99), rate(100)]


def test_keyed_randomness_does_not_depend_on_the_batch_and_every_bit_of_a_key_counts():
    together, alone = KeyedRandom([5, -7, 2**63 - 1]), KeyedRandom([-7])
    assert torch.equal(together.rand()[1:2], alone.rand())
    assert torch.equal(together.randn(2, 3)[1], alone.randn(2, 3)[0])
    assert not torch.equal(together.randn(4)[0], together.randn(4)[0])
    drawn = KeyedRandom([1, 1 + 2**32, 1 + 2**40, 1 + 2**62]).randn(8)
    assert all(not torch.equal(drawn[a], drawn[b]) for a in range(4) for b in range(a))
