"""Posteriors that are computed once."""

import pytest
import torch
from accelerate import Accelerator

from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.training.data import TrainingData
from denoising_diffusion_pytorch.training.objectives import LatentObjective
from tests.tiny import tiny_config


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model(tiny_config("ldm"), "ldm")
    model.scale_factor.fill_(1.3)
    return model


@pytest.fixture
def encode(radiomapseer, model, tmp_path):
    """Function (settings of the data) -> the samples with their cached latents."""

    def encoded(**settings):
        settings |= {"train": {"data_root": str(radiomapseer)}, "cache_latents": True, "cache_folder": str(tmp_path)}
        data = TrainingData(tiny_config("ldm", data=settings), Accelerator(cpu=True))
        data.cache_latents(model.first_stage_model)
        return data.dataset

    return encoded


def batch_of(samples):
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in ("image", "cond", "ori_mask")}
    return batch | {"keys": [sample["key"] for sample in samples]}


def test_cached_latents_give_the_loss_of_encoding(encode, model):
    cached = encode()
    dataset = cached.dataset
    assert sum(map(len, cached.cache.done)) == 8 * len(dataset) and not len(cached.cache.missing())
    objective = LatentObjective(model, None, tiny_config("ldm").diffusion_config.end_to_end)
    items = [(index, 100 + index) for index in range(len(dataset))]  # keys that draw several of the symmetries
    assert len({dataset.augmentation.symmetry_of(key) for _, key in items}) > 4
    encoded = objective(batch_of([dataset[item] for item in items]), 0, {})[0]
    samples = [cached[item] for item in items]
    batch = batch_of(samples) | {"moments": torch.stack([sample["moments"] for sample in samples])}
    assert torch.allclose(objective(batch, 0, {})[0], encoded, rtol=2e-3)
    model.first_stage_model.encoder.forward = lambda x: pytest.fail("encoded again")
    objective(batch, 0, {})


def test_encoding_goes_on_where_it_was_interrupted_and_knows_its_encoder(encode, model):
    whole = encode()
    expected = whole.cache.read(8 * 5 + 3, "moments")
    for lost in (whole.cache.shard(8 * 5), whole.cache.shard(8 * 6)):
        for array in (whole.cache.done[lost], whole.cache.arrays["moments"][lost]):
            array[:] = 0
            array.flush()
    calls = []
    encoder = model.first_stage_model.encoder
    handle = encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    again = encode()
    assert sum(calls) == 16 and torch.equal(again.cache.read(8 * 5 + 3, "moments"), expected)
    assert encode(cond_size=16, cond_channels=["transmitter"]).cache.path == whole.cache.path  # images alone count
    handle.remove()
    with torch.no_grad():
        encoder.conv_in.weight.mul_(1.01)
    assert encode().cache.path != whole.cache.path
    assert torch.equal(whole.cache.read(8 * 5 + 3, "moments"), expected)
