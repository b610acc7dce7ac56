"""Regression baselines: the published architectures, and a run with each."""

import pytest
import torch

from data import Scene
from data.geometry.layout import Layout
from denoising_diffusion_pytorch.config import parse_config, resolve
from denoising_diffusion_pytorch.config.schema import LossConfig
from denoising_diffusion_pytorch.errors import CheckpointError, ConfigError
from denoising_diffusion_pytorch.losses import AutoencoderLoss
from denoising_diffusion_pytorch.networks.baselines import PMNet, RadioUNet
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


@pytest.mark.parametrize("name", KINDS)
def test_a_step_moves_every_weight(name):
    torch.manual_seed(0)
    network = KINDS[name](2, WIDTHS[name])
    with torch.no_grad():  # layers that begin at zero keep those before them still in the first step
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    before = {key: value.clone() for key, value in network.named_parameters()}
    loss, logs, _ = RegressionObjective(network, AutoencoderLoss(LossConfig()))(next(batches(0)), 0, {})
    assert set(logs) == {"l1", "l2", "reconstruction"}
    loss.backward()
    torch.optim.Adam(network.parameters(), 1e-3).step()
    assert [key for key, value in network.named_parameters() if torch.equal(value, before[key])] == []


def test_sides_are_checked():
    for baseline, side, message in (
        ({"architecture": "radiounet"}, 96, "image_size is 96.*multiple of 64"),
        ({"architecture": "pmnet"}, 100, "image_size is 100.*multiple of 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(parse_config({"baseline_config": baseline, "data": {"image_size": side}}), "baseline")


@pytest.mark.parametrize("architecture", KINDS)
def test_a_run_predicts_and_is_continued_as_it_was(tmp_path, architecture):
    def trainer(**change):
        return make_trainer(tmp_path, "baseline", batches, **sections(architecture, baseline_config=change))

    trainer().train()
    scenes = [Scene("a", Layout([], (64, 64)), (30.0, 40.0))]
    one = next(Predictor(tmp_path).predict(scenes))
    assert one.gain.shape == (64, 64) and one.std is None
    with pytest.raises(ConfigError, match="one map per scene, not 3"):
        next(Predictor(tmp_path).predict(scenes, num_samples=3))
    for name in ("num_samples", "batch_size"):
        with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
            next(Predictor(tmp_path).predict(scenes, **{name: 0}))
    with pytest.raises(CheckpointError, match="baseline_config.width"):
        trainer(width=0.2).train()
