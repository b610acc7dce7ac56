"""Regression baselines: the published architectures, their variance, and a run with each."""

import math

import pytest
import torch

from data import Scene
from data.geometry.layout import Layout
from denoising_diffusion_pytorch.config import parse_config, resolve
from denoising_diffusion_pytorch.config.schema import LossConfig
from denoising_diffusion_pytorch.errors import CheckpointError, ConfigError
from denoising_diffusion_pytorch.losses import AutoencoderLoss, gaussian_nll
from denoising_diffusion_pytorch.networks.baselines import PMNet, RadioUNet, Regression, mean_and_log_variance
from denoising_diffusion_pytorch.predictor import Predictor
from denoising_diffusion_pytorch.training.objectives import RegressionObjective
from tests.test_networks import weights
from tests.tiny import merged, tiny_batch
from tests.training import make_trainer

WIDTHS = {"radiounet": 0.1, "pmnet": 0.125}
KINDS = {"radiounet": RadioUNet, "pmnet": PMNet}


def sections(architecture, **changes):
    own = {
        "baseline_config": {"architecture": architecture, "width": WIDTHS.get(architecture, 1.0)},
        "first_stage_config": {"ddconfig": {"resolution": 64}},
        "data": {"cond_channels": ["buildings", "transmitter"]},
        "trainer": {"training_steps": 2, "gradient_accumulation": 1, "save_interval": 1},
    }
    return merged(own, changes)


def batches(first):
    while True:
        yield tiny_batch(first, side=64, cond_side=64, cond_channels=2)
        first += 1


def test_published_sizes():
    """The layers of RadioUNet (github.com/RonLevie/RadioUNet, RadioWNet) and of PMNet (github.com/abman23/pmnet, pmnet_v3), both
    with their papers' two input channels, have these numbers of weights; a condition of more than 3 channels begins with 10.
    """
    with torch.device("meta"):
        radiounet, pmnet = RadioUNet(2), PMNet(2)
        sizes = [weights(part) for part in (radiounet.first, radiounet.second, pmnet)]
        assert sizes == [10_921_405, 2_352_626, 33_340_353]
        assert [RadioUNet(n).first.downs[0][0][0].out_channels for n in (3, 4)] == [6, 10]
        outputs = [output for network in (radiounet, pmnet) for output in network(torch.zeros(1, 2, 256, 256))]
    assert [output.shape for output in outputs] == 3 * [(1, 1, 256, 256)]


def test_the_second_unet_corrects_what_it_cannot_change():
    network = RadioUNet(2, 0.1)
    network(torch.rand(1, 2, 64, 64))[1].square().mean().backward()
    assert all((p.grad is None) == name.startswith("first.") for name, p in network.named_parameters())


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_a_step_moves_every_weight(name, variance):
    torch.manual_seed(0)
    network = KINDS[name](2, WIDTHS[name], variance=variance)
    with torch.no_grad():  # layers that begin at zero keep those before them still in the first step
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    before = {key: value.clone() for key, value in network.named_parameters()}
    loss, logs, _ = RegressionObjective(network, AutoencoderLoss(LossConfig()))(next(batches(0)), 0, {})
    assert set(logs) == ({"l2", "nll"} if variance else {"l1", "l2", "reconstruction"})
    loss.backward()
    torch.optim.Adam(network.parameters(), 1e-3).step()
    assert [key for key, value in network.named_parameters() if torch.equal(value, before[key])] == []


def test_likelihood_is_best_at_the_true_mean_and_variance():
    """Residuals of -s and +s: the best mean is 0 and the best variance s^2, where the value is (1 + log s^2) / 2."""
    s = 0.03
    image = torch.tensor([-s, s], dtype=torch.float64).view(2, 1, 1, 1)
    mean = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    log_variance = torch.full((1,), math.log(s**2), dtype=torch.float64, requires_grad=True)
    loss, logs = gaussian_nll(image.double(), mean.expand(2, 1, 1, 1), log_variance.expand(2, 1, 1, 1))
    gradients = torch.autograd.grad(loss, (mean, log_variance))
    assert all(float(gradient.abs()) < 1e-8 for gradient in gradients)
    assert float(logs["nll"]) == pytest.approx((1 + math.log(s**2)) / 2, abs=1e-6)


def test_log_variance_is_finite_and_comes_back_from_anywhere():
    raw = torch.tensor([0.0, 0.3, -60.0, 60.0]).view(1, 1, 4, 1).repeat(1, 2, 1, 1).requires_grad_()
    mean, log_variance = mean_and_log_variance(raw)
    assert torch.equal(mean, raw[:, :1]) and bool((log_variance >= -12).all())
    assert torch.allclose(log_variance[0, 0, :2, 0], torch.tensor([0.0, 0.3]), atol=1e-4)
    loss, _ = gaussian_nll(torch.zeros(1, 1, 4, 1), mean, log_variance)
    loss.backward()
    assert bool(raw.grad.isfinite().all())


def test_what_is_certain_has_no_part_in_the_likelihood():
    network, batch = PMNet(2, 0.125, variance=True), next(batches(0))
    batch["ori_mask"][..., :32] = 1
    batch["image"][..., :32] = -1
    outputs = torch.zeros(2, 2, 64, 64, requires_grad=True)
    network.forward = lambda cond: [outputs]
    RegressionObjective(network, AutoencoderLoss(LossConfig()))(batch, 0, {})[0].backward()
    assert not outputs.grad[..., :32].any() and outputs.grad[..., 32:].all()


class Known(Regression):
    """Predicts grey level 0.5 with a standard deviation of 0.04 in [-1, 1], so 0.02 in grey levels."""

    def forward(self, cond):
        output = torch.zeros(len(cond), 2, *cond.shape[2:])
        output[:, 1] = 2 * math.log(0.04)
        return [output]


def test_draws_have_the_predicted_spread_and_belong_to_their_map():
    batch = {"cond": torch.zeros(2, 1, 64, 64), "ori_mask": torch.zeros(2, 1, 64, 64), "keys": [5, 6]}
    batch["ori_mask"][..., 0] = 1
    (mean,) = Known().predict(batch)
    assert bool((mean[..., 1:] == 0.5).all()) and not mean[..., 0].any()
    draws = torch.stack(Known().predict(batch, 16))  # (16, 2, 1, 64, 64)
    assert not draws[..., 0].any()
    assert float(draws[..., 1:].std()) == pytest.approx(0.02, rel=0.01)
    assert float(draws[..., 1:].mean()) == pytest.approx(0.5, abs=1e-3)
    alone = Known().predict({key: value[1:] for key, value in batch.items()}, 16)
    assert torch.equal(torch.stack(alone), draws[:, 1:]) and not torch.equal(draws[0, 0], draws[0, 1])


def test_sides_are_checked():
    for baseline, side, message in (
        ({"architecture": "radiounet"}, 96, "image_size is 96.*multiple of 64"),
        ({"architecture": "pmnet"}, 100, "image_size is 100.*multiple of 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(parse_config({"baseline_config": baseline, "data": {"image_size": side}}), "baseline")


@pytest.mark.parametrize("name,variance", [("radiounet", False), ("pmnet", True)])
def test_a_run_predicts_and_is_continued_as_it_was(tmp_path, name, variance):
    def trainer(**change):
        changes = {"baseline_config": {"variance": variance} | change}
        return make_trainer(tmp_path, "baseline", batches, **sections(name, **changes))

    trainer().train()
    scenes = [Scene("a", Layout([], (64, 64)), (30.0, 40.0))]
    one, several = (next(Predictor(tmp_path).predict(scenes, num_samples=count)) for count in (1, 3))
    assert one.gain.shape == (64, 64) and one.std is None and (several.std is not None) == variance
    assert variance or (one.gain == several.gain).all()
    for key, value in (("width", 0.2), ("variance", not variance)):
        with pytest.raises(CheckpointError, match=f"baseline_config.{key}"):
            trainer(**{key: value}).train()
