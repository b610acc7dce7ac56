"""What is computed from the samples before the first step, by all processes together and once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from data import DataError, RadioMapSeer
from data.samples.cache import CacheProcesses, SampleCache
from data.samples.dataset import RadioMapDataset
from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.training.data import TrainingData, open_dataset
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
    assert cached.cache.count == 8 * len(dataset) and not cached.cache.missing()
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
    for lost in ("005.npy", "006.npy"):  # each of one map
        (whole.cache.path / lost).unlink()
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


def together(count, work):
    """What `work` returns for each of several processes, which are threads here."""
    values, barrier = [None] * count, threading.Barrier(count, timeout=30)

    def processes(rank):
        def gather(value):
            values[rank] = value
            barrier.wait()
            seen = list(values)
            barrier.wait()
            return seen

        return CacheProcesses(rank, count, gather)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, map(processes, range(count))))


def test_processes_fill_one_cache_and_read_every_map_once(radiomapseer, tmp_path, monkeypatch):
    source, read, original = RadioMapSeer(radiomapseer), [], RadioMapDataset._read
    monkeypatch.setattr(RadioMapDataset, "_read", lambda self, i: read.append(i) or original(self, i))

    def dataset(processes, folder=tmp_path / "one"):
        return RadioMapDataset(source, 16, 16, cache=True, cache_folder=folder, processes=processes)

    one, two, three = together(3, dataset)
    assert sorted(read) == sorted([*range(len(source)), 0, 0, 0])  # 0 tells the shapes
    plain = RadioMapDataset(source, 16, 16)
    for index in range(len(source)):
        assert all(torch.allclose(each[index]["image"], plain[index]["image"], atol=1e-3) for each in (one, two, three))
    read.clear()
    assert not any(together(2, lambda processes: len(dataset(processes).cached.missing()))) and read == [0, 0]
    assert not together(2, lambda processes: dataset(processes, None))[1].cached.missing()  # in memory, each its own

    def refused(processes):
        with pytest.raises(DataError, match="not all processes see this folder"):
            dataset(processes, tmp_path / str(processes.rank))
        return True

    assert together(2, refused)
    assert not (tmp_path / "1").exists()


def test_a_cache_that_another_run_fills_is_waited_for(tmp_path, monkeypatch, caplog):
    locks = iter([False, False, True])
    monkeypatch.setattr("data.samples.cache.lock", lambda file: next(locks))
    monkeypatch.setattr("data.samples.cache.LOOK_AGAIN", 0)
    cache = SampleCache("x", 1, {"a": (2,)}, tmp_path)
    with cache.filling(CacheProcesses()) as missing:
        cache.write(*missing, {"a": torch.zeros(2)})
    assert "another run is filling this cache" in caplog.text and next(locks, None) is None


def test_what_processes_do_not_share_is_refused(radiomapseer, tmp_path, monkeypatch):
    monkeypatch.setattr("data.samples.cache.PATIENCE", 0)
    shapes, config = {"a": (2,)}, tiny_config("ldm", data={"train": {"data_root": str(radiomapseer)}})
    first_of_two = CacheProcesses(0, 2, lambda value: [value, value])  # the other one stores nothing
    cache = SampleCache("x", 9, shapes, tmp_path)
    with pytest.raises(DataError, match="4 samples of other processes"), cache.filling(first_of_two) as missing:
        for index in missing:
            cache.write(index, {"a": torch.zeros(2)})
    other = CacheProcesses(0, 2, lambda value: [value, ("another digest", "another tree: 3 scenes")])
    with pytest.raises(DataError, match="different scenes: .*16 scenes.*another tree: 3 scenes"):
        open_dataset(config, config.data.train, other)


def test_the_latent_scale_is_of_the_same_samples_for_any_number_of_processes(radiomapseer):
    def measured(count, size):
        settings = {"train": {"data_root": str(radiomapseer), "split": "all"}}
        config = tiny_config("ldm", data=settings, trainer={"batch_size": size})
        data, images = TrainingData(config, Accelerator(cpu=True)), []
        for rank in range(count):
            data.processes = CacheProcesses(rank, count)
            model = SimpleNamespace(posterior=lambda image, moments: image)
            images += data.first_posteriors(model)
        return torch.cat(images).flatten(1).sum(1).sort()[0]

    assert len(measured(1, 64)) == 512
    assert torch.equal(measured(1, 64), measured(3, 7))
