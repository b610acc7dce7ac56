"""Autoencoder, condition encoder and U-Net: shapes, names, and what attention may see."""

import pytest
import torch

from denoising_diffusion_pytorch import Encoder
from denoising_diffusion_pytorch.networks.autoencoder import AutoencoderKL, DiagonalGaussianDistribution, Layers
from denoising_diffusion_pytorch.networks.blocks import AttnBlock, timestep_embedding
from denoising_diffusion_pytorch.networks.swin import SwinConditionEncoder, WindowAttention
from denoising_diffusion_pytorch.networks.unet import Unet

TINY = {"num_heads": 2, "window_size": 4}


def weights(module):
    """Their number."""
    return sum(parameter.numel() for parameter in module.parameters())


def wake(network):
    """Give layers that begin at zero random weights."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module.weight.abs().sum() == 0:
            torch.nn.init.normal_(module.weight, std=0.1)
    return network


def test_document_sizes_and_names_on_the_meta_device():
    with torch.device("meta"):
        autoencoder = AutoencoderKL(embed_dim=3, channels=[1, 128, 256, 512])
        posterior = autoencoder.encode(torch.zeros(2, 1, 320, 320))
        assert posterior.sample().shape == (2, 3, 80, 80)
        assert autoencoder.decode(posterior.mode()).shape == (2, 1, 320, 320)
        features = SwinConditionEncoder()(torch.zeros(2, 3, 80, 80))
        sizes = [(128, 80, 80), (256, 40, 40), (512, 20, 20), (512, 10, 10)]
        assert [tuple(feature.shape[1:]) for feature in features] == sizes
        assert SwinConditionEncoder(patch_size=4)(torch.zeros(2, 3, 320, 320))[0].shape == (2, 128, 80, 80)
        unet, middle = Unet(128, 3, [1, 2, 4, 4], [128, 256, 512, 512]), []
        unet.mid_block2.register_forward_hook(lambda m, i, output: middle.append(output.shape))
        assert unet(torch.zeros(2, 3, 80, 80), torch.zeros(2), features).shape == (2, 3, 80, 80)
        encoders = [Encoder(ch=128, out_ch=3, ch_mult=[1, 2, 4], num_res_blocks=2), Encoder(128, 3, [1, 2, 4], 2)]
        encoders += [autoencoder.encoder, Encoder(channels=[1, 128, 256, 512], z_channels=3)]
        small = Encoder(ch=32, out_ch=4, ch_mult=[1, 2], num_res_blocks=1)
        assert small(torch.zeros(1, 1, 16, 16)).shape == (1, 8, 8, 8)
    assert middle == [(2, 512, 10, 10)]
    # the counts and names of the original encoder and decoder
    assert [*map(weights, encoders), weights(autoencoder.decoder)] == [*4 * [22_348_934], 32_958_465]
    encoder = "conv_in down.0.block.0.norm1 down.1.block.0.nin_shortcut down.1.downsample.conv mid.attn_1.q"
    decoder = "up.0.block.2.conv1 up.2.upsample.conv norm_out mid.block_2.conv2"
    names = [f"encoder.{name}" for name in encoder.split()] + [f"decoder.{name}" for name in decoder.split()]
    assert {f"{name}.weight" for name in (*names, "quant_conv", "post_quant_conv")} <= autoencoder.state_dict().keys()


@pytest.mark.parametrize("patch_size,cond_channels", [(1, 0), (1, 2), (2, 0), (2, 4)])
def test_autoencoder_variants(patch_size, cond_channels):
    """And a residual decoder, which starts from its base channel and learns."""
    channels, layers = [1, 16, 32], Layers(1, patch_size=patch_size)
    model = AutoencoderKL(4, channels, layers, cond_channels=cond_channels)
    x, side = torch.randn(2, 1, 32, 32), 32 // (2 * patch_size)
    cond = torch.randn(2, cond_channels, 32, 32) if cond_channels else None
    posterior = model.encode(x)
    y = model.decode(posterior.mode(), cond)
    assert y.shape == x.shape and posterior.mean.shape == (2, 4, side, side)
    if cond_channels:
        assert not torch.allclose(model.decode(posterior.mode(), cond + 1), y)
        with pytest.raises(ValueError, match="takes a condition"):
            model.decode(posterior.mode())
        residual = AutoencoderKL(4, channels, layers, cond_channels=cond_channels, base_channel=1)
        y = residual.decode(posterior.sample(), cond)
        assert torch.equal(y, cond[:, 1:2])
        (y - x).square().mean().backward()
        assert residual.decoder.last_layer.weight.grad.abs().max() > 0


def test_posterior_closed_forms():
    moments = torch.tensor([[[[1.0]], [[0.5]]]])  # mean 1, logvar 0.5
    posterior = DiagonalGaussianDistribution(moments)
    assert torch.allclose(posterior.kl(), 0.5 * (1 + torch.tensor([0.5]).exp() - 1 - 0.5))
    assert torch.allclose(posterior.sample(torch.ones(1, 1, 1, 1)), 1 + torch.tensor(0.25).exp())
    assert torch.equal(posterior.mode(), moments[:, :1])
    assert DiagonalGaussianDistribution(torch.tensor([[[[0.0]], [[1e4]]]])).kl().isfinite().all()


def test_attention_block_equals_its_formula():
    block = wake(AttnBlock(8)).double()
    x = torch.randn(1, 8, 3, 4, dtype=torch.double)
    q, k, v = (m(block.norm(x)).flatten(2)[0] for m in (block.q, block.k, block.v))  # (C, HW)
    weights = (q.T @ k / 8**0.5).softmax(-1)  # (HW, HW)
    assert torch.allclose(block(x), x + block.proj_out((v @ weights.T).view(1, 8, 3, 4)))


def seen_by(attention, y, x, height=6, width=10):
    """Which pixels the output at (y, x) depends on, (H, W) bool."""
    inputs = torch.randn(1, height, width, 8, dtype=torch.double, requires_grad=True)
    (grad,) = torch.autograd.grad(attention(inputs)[0, y, x].sum(), inputs)
    return grad[0].abs().sum(-1) > 0


@pytest.mark.parametrize("shift,rows,columns", [(False, (0, 4), (4, 8)), (True, (2, 6), (2, 6))])
def test_window_attention_sees_its_window_only(shift, rows, columns):
    attention = WindowAttention(8, 2, 4, shift=shift).double()
    expected = torch.zeros(6, 10, dtype=torch.bool)
    expected[rows[0] : rows[1], columns[0] : columns[1]] = True
    assert torch.equal(seen_by(attention, 3, 4 if not shift else 3), expected)
    corner = seen_by(attention, 5, 9)  # padded at the bottom and right: no leak from the other side
    assert not corner[:2].any() and not corner[:, :2].any()


def test_relative_position_bias_depends_on_offset_alone():
    index = WindowAttention(8, 2, 4).relative_position_index.view(4, 4, 4, 4)
    assert index[0, 0, 1, 1] == index[2, 2, 3, 3] != index[1, 1, 0, 0]
    assert index.unique().numel() == 49


def test_gradient_checkpointing_changes_nothing_and_every_weight_gets_a_gradient():
    """Data-parallel training waits for the gradient of each weight."""
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        sizes = {"depths": (2, 2), **TINY}
        encoder = SwinConditionEncoder(3, 16, (1, 2), **sizes, use_checkpoint=recompute)
        unet = Unet(16, 3, (1, 2), encoder.channels, **TINY, use_checkpoint=recompute)
        torch.nn.init.ones_(unet.conv_out.weight)
        x = torch.randn(2, 3, 8, 8)
        unet(x, torch.tensor([1.0, 2.0]), encoder(x)).square().mean().backward()
        grads.append([p.grad for p in (*unet.parameters(), *encoder.parameters())])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_the_condition_encoder_sees_a_single_pixel_in_the_same_way_at_every_place_in_a_patch():
    encoder = SwinConditionEncoder(1, 16, (1,), depths=(0,), patch_size=4)
    cond = -torch.ones(4, 1, 16, 16)
    cond[[0, 1, 2], 0, [4, 7, 8], 4] = 1.0
    first, same_patch, next_patch, nowhere = encoder(cond)[0]
    assert torch.equal(first, same_patch) and not torch.allclose(first, next_patch)
    assert (first - nowhere).abs().max() > 0.05


def test_unet_inputs_matter_and_shapes_are_checked():
    torch.manual_seed(0)
    unet = wake(Unet(16, 3, [1, 2], [4, 5], **TINY))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 20.0])
    cond = [torch.randn(2, 4, 8, 8), torch.randn(2, 5, 4, 4)]
    base = unet(x, t, cond)
    assert base.shape == (2, 3, 8, 8) and not torch.allclose(base, unet(x, torch.tensor([500.0, 20.0]), cond))
    for level in range(2):
        changed = [each + 1 if index == level else each for index, each in enumerate(cond)]
        assert not torch.allclose(base, unet(x, t, changed))
    encoder = SwinConditionEncoder(3, 16, (1, 2), depths=(1, 1), patch_size=2)
    for call, message in (
        (lambda: unet(torch.randn(1, 3, 9, 8), torch.zeros(1), cond), "multiples of 2"),
        (lambda: unet(x, t, cond[:1]), r"takes \[4, 5\]"),
        (lambda: unet(x, t, [cond[0], cond[0]]), r"takes \[4, 5\]"),
        (lambda: encoder(torch.zeros(1, 3, 10, 8)), "multiples of 4"),
        (lambda: encoder(torch.zeros(1, 2, 8, 8)), "3"),
        (lambda: AutoencoderKL(3, [1, 8, 8, 8]).encode(torch.zeros(1, 1, 30, 32)), "multiples of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_embedding_of_time():
    e = timestep_embedding(torch.tensor([0.0, 1.0]), 8)
    assert torch.allclose(e[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert torch.allclose(e[1, 0], torch.tensor(1.0).cos()) and torch.allclose(e[1, 4], torch.tensor(1.0).sin())
