"""Posteriors that are computed once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from data import DataError
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
    """Function (settings of the data, accelerator) -> the samples with their cached latents."""

    def encoded(accelerator=None, **settings):
        settings |= {"train": {"data_root": str(radiomapseer)}, "cache_latents": True, "cache_folder": str(tmp_path)}
        data = TrainingData(tiny_config("ldm", data=settings), accelerator or Accelerator(cpu=True))
        data.cache_latents(model.first_stage_model)
        return data.dataset

    return encoded


def one_of(rank, processes):
    """One of several processes that do not wait for each other."""
    return SimpleNamespace(
        process_index=rank,
        num_processes=processes,
        device=torch.device("cpu"),
        is_main_process=rank == 0,
        wait_for_everyone=lambda: None,
    )


def batch_of(samples):
    keys = {"image": "image", "cond": "cond", "ori_mask": "ori_mask"}
    batch = {ours: torch.stack([sample[theirs] for sample in samples]) for ours, theirs in keys.items()}
    return batch | {"keys": [sample["key"] for sample in samples]}


def test_cached_latents_give_the_loss_of_encoding(encode, model):
    cached = encode()
    dataset = cached.dataset
    assert sum(map(len, cached.store.done)) == 8 * len(dataset) and not len(cached.store.missing())
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
    expected = whole.store.read(8 * 5 + 3, "moments")
    for lost in (whole.store.shard(8 * 5), whole.store.shard(8 * 6)):
        for array in (whole.store.done[lost], whole.store.arrays["moments"][lost]):
            array[:] = 0
            array.flush()
    calls = []
    encoder = model.first_stage_model.encoder
    handle = encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    again = encode()
    assert sum(calls) == 16 and torch.equal(again.store.read(8 * 5 + 3, "moments"), expected)
    assert encode(cond_size=16, cond_channels=["transmitter"]).store.path == whole.store.path  # images alone count
    handle.remove()
    with torch.no_grad():
        encoder.conv_in.weight.mul_(1.01)
    assert encode().store.path != whole.store.path
    assert torch.equal(whole.store.read(8 * 5 + 3, "moments"), expected)


def test_no_two_processes_write_one_file(encode, tmp_path):
    """What all of them have written together is the whole; until then it is refused."""
    before: dict[str, bytes] = {}
    touched: list[set[str]] = []
    for rank in range(3):
        try:
            encode(one_of(rank, 3))
        except DataError as error:
            assert rank < 2 and "latents are not here" in str(error)
        after = {path.name: path.read_bytes() for path in tmp_path.glob("latents_*/*.npy")}
        touched.append({name for name, content in after.items() if np.frombuffer(content, np.uint8)[128:].any()})
        touched[-1] -= {name for name, content in after.items() if before.get(name) == content}
        before = after
    assert all(touched) and not touched[0] & touched[1] and not touched[2] & (touched[0] | touched[1])
    assert len(touched[0] | touched[1] | touched[2]) == len(before)
