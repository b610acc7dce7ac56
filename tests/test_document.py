"""The calls of the design document, as it prints them."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from data import (
    Augmentation,
    DataError,
    RadioMapDataset,
    RadioUNet_c,
    RandomAugmentation,
    create_dataloader,
    prepare,
    process_batch,
    training_loader,
)
from tests.processes import ROOT
from tests.tiny import tiny_config

# ---- data --------------------------------------------------------------------------------------------------------


def documents_config(root, batch_size):
    params = SimpleNamespace(data_root=root, simulation_type="DPM")
    return SimpleNamespace(data=SimpleNamespace(params=params), trainer=SimpleNamespace(batch_size=batch_size))


def test_batches_of_the_flat_tree(flat_tree):
    batch = process_batch(next(iter(create_dataloader(documents_config(flat_tree, 3)))), "cpu")
    assert batch["images"].shape == batch["masks"].shape == (3, 1, 320, 320)
    assert batch["conditions"].shape == (3, 3, 80, 80) and len(batch["names"]) == 3
    assert process_batch({"image": torch.zeros(1), "cond": torch.zeros(1), "name": ["a"]}, "cpu")["masks"] is None
    with pytest.raises(DataError, match="fewer than one batch of 5"):
        create_dataloader(documents_config(flat_tree, 5))


def test_every_epoch_is_another_one(radiomapseer):
    loader = create_dataloader(documents_config(radiomapseer, 7))
    loader.dataset.image_size = loader.dataset.cond_size = 8
    epochs = [list(loader) for _ in range(4)]
    orders = [[name for batch in epoch for name in batch["name"]] for epoch in epochs]
    assert len(loader) == 2 and all(len(set(order)) == 14 for order in orders)  # six of 20 are left out each time
    assert len({tuple(order) for order in orders}) == 4 and len({name for order in orders for name in order}) == 20
    keys = torch.cat([batch["key"] for epoch in epochs for batch in epoch])
    assert len(keys.unique()) == 4 * 14  # every sample is augmented by another draw
    stream = [name for _ in range(20) for name in next(loader)["name"]]
    assert sorted(stream[:20]) == sorted(stream[20:40]) == sorted(loader.dataset.source.names)


def test_settings_of_a_configuration_count(radiomapseer):
    data = {"train": {"data_root": str(radiomapseer), "max_samples": 6}, "num_workers": 0}
    off = create_dataloader(tiny_config(data=data | {"augmentation": {"p": 0.0}}))
    on = create_dataloader(tiny_config(data=data, trainer={"seed": 1}))
    assert len(off.dataset) == 6 and off.num_workers == 0 and next(off)["image"].shape == (2, 1, 16, 16)
    names, others = ([name for batch in loader for name in batch["name"]] for loader in (off, on))
    assert names != others
    for batch in off:
        plain = off.dataset[off.dataset.source.names.index(batch["name"][0])]
        assert torch.equal(batch["image"][0], plain["image"])


def test_a_script_that_holds_loaders_ends(flat_tree):
    script = f"""
from types import SimpleNamespace
import data
params = SimpleNamespace(data_root={str(flat_tree)!r}, simulation_type="DPM")
loader = data.create_dataloader(SimpleNamespace(data=SimpleNamespace(params=params), trainer=SimpleNamespace(batch_size=2)))
held = [loader, iter(loader), iter(data.training_loader(loader.dataset, 2, num_workers=1))]
print([len(next(batches)["image"]) for batches in held])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[2, 2, 2]\n"), done.stderr


def test_workers_outlive_a_signal_to_the_group(flat_tree):
    """A launcher signals the whole group; the training process needs its workers until it has stopped."""
    loader = training_loader(RadioUNet_c(flat_tree), 2, num_workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # from another process than the worker's parent
    for _ in range(20):
        next(batches)
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(10)
    assert worker.exitcode == 0


def marked(size=32):
    """A sample whose parts carry the same mark, in a place that is certain."""
    mark = torch.zeros(1, size, size)
    mark[0, 4:12, 6:20] = 1
    image = torch.where(mark > 0, -1.0, 0.5)
    return {"image": image, "cond": image.repeat(2, 1, 1), "ori_mask": mark, "name": "a", "key": 0}


def test_augmentation_of_the_document():
    torch.manual_seed(0)
    augment, plain, seen = RandomAugmentation(p=1.0), marked(), {"flip": 0, "rotation": 0, "jitter": 0}
    poses = [plain["ori_mask"].flip(-1), plain["ori_mask"].flip(-2)]
    for _ in range(60):
        sample = augment(marked())
        assert sample["name"] == "a" and (sample["image"][sample["ori_mask"] == 1] == -1).all()
        assert set(sample["ori_mask"].unique().tolist()) <= {0.0, 1.0}
        if torch.equal(sample["ori_mask"], plain["ori_mask"]):
            seen["jitter"] += 1
            assert torch.equal(sample["cond"], plain["cond"])  # image alone, by up to a tenth
            assert 0 < (sample["image"] - plain["image"]).abs().max() < 0.2
        elif any(torch.equal(sample["ori_mask"], pose) for pose in poses):
            seen["flip"] += 1
            assert torch.equal(sample["image"], sample["cond"][:1])
        else:
            seen["rotation"] += 1
            assert torch.allclose(sample["image"], sample["cond"][:1], atol=1e-5)
    assert seen["flip"] > 15 and min(seen.values()) > 5
    x = plain["image"]
    assert RandomAugmentation(p=0.0)(x) is x and augment(x).shape == x.shape
    changed = sum(RandomAugmentation()(x) is not x for _ in range(400))
    assert 150 < changed < 250


@pytest.mark.parametrize("settings", [{"rotation": 40.0}, {"translation": 0.2}, {"color_jitter": 0.3}])
def test_the_map_stays_zero_where_that_is_certain(settings):
    for seed in range(20):
        sample = Augmentation(**settings)(marked(), seed)
        assert (sample["image"][sample["ori_mask"] == 1] == -1).all()
        assert set(sample["ori_mask"].unique().tolist()) <= {0.0, 1.0}


def test_names_of_the_data_package():
    assert callable(prepare) and issubclass(RadioUNet_c, RadioMapDataset)
    with pytest.raises(ImportError, match="RadioUnet_c"):
        from data import RadioUnet_c  # noqa: F401
