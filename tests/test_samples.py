"""Samples, conditions, augmentation, batches, caches."""

import itertools
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import data.conditions
from data import DataError, FlatTree, RadioMapSeer, Scene
from data.conditions import condition
from data.crop import crop
from data.geometry.layout import Layout
from data.geometry.resize import resize
from data.incomplete import Incomplete
from data.prepare import prepare, to_native
from data.samples import cache as cache_module
from data.samples.augment import Augmentation, symmetry
from data.samples.dataset import OwnSamples, RadioMapDataset, SampleStream
from data.samples.document import RadioUNet_c
from denoising_diffusion_pytorch.networks.blocks import apply_mask
from evaluation.metrics import map_scores
from tests.conftest import save_grey


def test_samples_of_both_trees(radiomapseer, flat_tree):
    for root in (radiomapseer, flat_tree):
        dataset = RadioUNet_c(root, "DPM")  # the design document's call: all
        sample = dataset[3]
        assert sample["image"].shape == sample["ori_mask"].shape == (1, 320, 320)
        assert sample["cond"].shape == (3, 80, 80) and sample["name"] == dataset.source.names[3] and sample["key"] == 0
        for key, least in (("image", -1), ("cond", -1), ("ori_mask", 0)):
            assert sample[key].dtype == torch.float32 and sample[key].min() >= least and sample[key].max() <= 1
        with pytest.raises(IndexError):
            dataset[len(dataset)]
    for value in (-40.0, 1e6):  # conditions of a flat tree are taken as they are
        np.save(flat_tree / "conditions" / "s1.npy", np.full((3, 80, 80), value))
        assert (RadioUNet_c(flat_tree)[1]["cond"] == value).all()
    with pytest.raises(DataError, match=r"s1.*data\.cache"):
        RadioUNet_c(flat_tree, cache=True)  # in half precision
    save_grey(flat_tree / "masks" / "s1_.png", np.zeros((32, 32)))
    with pytest.raises(DataError, match="masks/s1_.png belongs to no image"):
        FlatTree(flat_tree)
    (flat_tree / "masks" / "s1_.png").rename(flat_tree / "masks" / "s3.PNG")
    with pytest.raises(DataError, match="masks/s3.PNG: is not a .png, and would be ignored"):
        FlatTree(flat_tree)


GOLDEN = {"image": 32.699, "ori_mask": -0.603}  # of SAMPLES_VERSION 4
GOLDEN |= {"buildings": -17.651, "cars": -17.651, "detour": -1.674, "line_of_sight": 13.642, "log_distance": 13.874}
GOLDEN |= {"measured": -2.692, "measured_gain": -10.763, "simulated": 2.419, "transmitter": -32.356, "turns": 16.552}


def test_golden_samples(radiomapseer):
    """Samples of a fixed tree, each plane as one number in which a single changed pixel shows."""
    (radiomapseer / "polygon" / "buildings_complete" / "8.json").unlink()  # outlines are fitted to the picture
    _, _, *channels = GOLDEN
    incomplete = Incomplete(points=9, missing_buildings=1, outline_error=1.0, transmitter_error=3.0)
    found = dict.fromkeys(GOLDEN, 0.0)
    for given, index in itertools.product((None, incomplete), (0, 16)):
        sample = RadioMapDataset(RadioMapSeer(radiomapseer), 24, 12, channels, incomplete=given)[index]
        for name, plane in zip(GOLDEN, [*sample["image"], *sample["ori_mask"], *sample["cond"]], strict=True):
            weights = np.random.default_rng(index).uniform(-1, 1, plane.shape)
            found[name] += float((plane.double().numpy() * weights).sum())
    assert found == pytest.approx(GOLDEN, abs=1e-3), (
        "the same files give other samples: raise SAMPLES_VERSION in data/prepare.py, so that no cache of earlier "
        f"ones is used, and put these figures here: {found}"
    )


def test_channels_of_the_transmitter():
    scene = Scene("0_0", Layout([], (16, 16)), (3.0, 5.0))
    for tx, size, pixels in (((3.0, 5.0), 16, 1), ((4.0, 5.0), 8, 4)):  # 4: between two coarse pixels
        drawn = data.conditions.transmitter(replace(scene, tx=tx), size)
        assert drawn.sum() == pytest.approx(1) and (drawn > 0).sum() == pixels
    with pytest.raises(DataError, match="elevation.*line_of_sight"):
        condition(scene, ["elevation"], 16)


def test_a_transmitter_lies_on_its_map():
    assert Scene("a", np.zeros((8, 9), bool), np.array([8, 7])).tx == (8.0, 7.0)
    for tx in ((9, 3), (-3, 2), (float("nan"), 2)):
        with pytest.raises(DataError, match="a: the transmitter .* is outside the 9x8 px map"):
            Scene("a", np.zeros((8, 9), bool), tx)
    built, points = np.zeros((8, 9), bool), "measurements must be .N, 3.: .*db_to_gain"
    for wrong, message in (
        ({"tx": "3,4"}, "the transmitter is '3,4'; give"), ({"tx": (3, 4, 5)}, "the transmitter is .3, 4, 5.; give"),
        ({"layout": built * 0.3}, "buildings of float64 .8, 9.; they must be bool"), ({"layout": [[0]]}, "buildings are a list"),
        ({"cars": built * 0.3}, "cars of float64"), ({"measurements": [[9, 2, 0.5]]}, "outside the 9x8 px map; leave them out"),
        ({"known": np.zeros((3, 3), bool)}, r"known buildings of shape .3, 3. on a map of .8, 9."),
        ({"measurements": [[1, 2, -90.0]]}, points), ({"measurements": [1, 2, 0.5]}, points),
        ({"measurements": [[np.nan, 2, 0.5]]}, points), ({"tx": 5}, "the transmitter is 5; give"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            Scene(**{"name": "a", "layout": built, "tx": (3, 4)} | wrong)
    built[2:4, 1:5] = True
    scene = Scene("a", ~built, (3, 4), gain=torch.zeros(8, 9), cars=built, known=built)
    assert np.array_equal(scene.shown.inside, built) and scene.cars.inside.any() and scene.gain.dtype == np.float32
    with pytest.raises(DataError, match="a: has no transmitter"):
        crop(Scene("a", built, None))


def test_resizing(radiomapseer):
    image = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
    assert np.allclose(resize(image, 4)[0, 0], image[:2, :2].mean()) and np.array_equal(resize(image, 8), image)
    assert resize(np.ones((8, 8)), 10) == pytest.approx(1)
    buildings = np.pad(np.ones((6, 2), bool), ((3, 7), (5, 9)))
    scene = Scene("s", Layout.traced(buildings), (0.0, 0.0))
    gain = np.where(buildings, 0, 0.6).astype(np.float32)
    assert np.allclose(to_native(resize(gain, 4), scene), gain, atol=1e-6)  # undoes the area mean
    assert np.array_equal(to_native(gain, scene), gain)
    everywhere = replace(scene, outlines_are_shifted=True)
    assert np.allclose(to_native(np.full((4, 4), 0.6), everywhere), 0.6)  # no pixel is certainly built
    scene = RadioMapSeer(radiomapseer).scene(0)  # at another size, no perfect answer is darkened by the mask
    sample = prepare(scene, 40, 40, ["buildings"])
    image, mask = (torch.from_numpy(sample[key])[None] for key in ("image", "ori_mask"))
    assert set(mask.unique().tolist()) == {0.0, 1.0} and torch.equal(apply_mask(image, mask), image)
    back = to_native((image[0, 0].numpy() + 1) / 2, scene)
    assert (back[scene.ori_mask] == 0).all() and map_scores(back, scene.gain)["nmse"] < 1e-3


@pytest.mark.parametrize("shape", [(8, 8), (20, 30), (5, 30), (3, 4)])
def test_a_crop_of_any_city(shape):
    """What is cut out is put back where it was; the transmitter stays on its pixel."""
    values = np.linspace(0, 1, np.prod(shape), dtype=np.float32).reshape(shape)
    for tx in ((0, 0), (shape[1] - 1, shape[0] - 1), (shape[1] // 2, shape[0] // 2)):
        seen = crop(Scene("c", Layout([], shape), tx, gain=values), side=8)
        x, y = seen.scene.tx
        assert seen.scene.gain[int(y), int(x)] == values[tx[1], tx[0]] and bool(seen.note) == (shape != (8, 8))
        back = seen.paste(seen.scene.gain)
        assert back.shape == shape and (~np.isnan(back)).sum() == min(shape[0], 8) * min(shape[1], 8)
        assert np.array_equal(back[~np.isnan(back)], values[~np.isnan(back)])
    for x, corner in ((10.5, 7), (11.5, 8), (20, 16)):
        middle = crop(Scene("c", Layout([], (40, 40)), (x, x)), side=8)
        assert (middle.row, middle.column) == (corner, corner) and middle.scene.buildings.shape == (8, 8)


def marked(size=32):
    """A sample whose parts carry the same mark, in a place that is certain."""
    mark = torch.zeros(1, size, size)
    mark[0, 4:12, 6:20] = 1
    image = torch.where(mark > 0, -1.0, 0.5)
    return {"image": image, "cond": image.repeat(2, 1, 1), "ori_mask": mark, "name": "a", "key": 0}


@pytest.mark.parametrize(
    "settings, poses",
    [
        ({}, 8), ({"flip": False}, 4), ({"rot90": False}, 4), ({"p": 0.0}, 1), ({"p": 0.5}, 8), ({"color_jitter": 0.3}, 8),
        ({"rotation": 30.0, "translation": 0.2}, None),
    ],
)  # fmt: skip
def test_augmentation_moves_everything_together_and_keeps_what_is_certain(settings, poses):
    augment, seen = Augmentation(**settings), set()
    for seed in range(60):
        sample = augment(marked(), seed)
        assert torch.equal(sample["image"], augment(marked(), seed)["image"]) and sample["name"] == "a"
        assert (sample["image"][sample["ori_mask"] == 1] == -1).all()
        assert set(sample["ori_mask"].unique().tolist()) <= {0.0, 1.0}
        together = torch.allclose(sample["image"], sample["cond"][:1], atol=1e-5)
        assert together != ("color_jitter" in settings)  # which changes nothing but the image
        seen.add(tuple(sample["ori_mask"].flatten().tolist()))
        turned = symmetry(marked()["ori_mask"], augment.symmetry_of(seed))
        assert poses is None or torch.equal(sample["ori_mask"], turned)
    assert len(seen) == len(augment.symmetries) == poses if poses else len(seen) > 40


def test_own_samples_have_the_configured_shapes():
    own, augmentation = [{name: marked()[name] for name in ("image", "cond", "ori_mask")}], Augmentation()
    arrays = [{name: value.numpy() for name, value in own[0].items()}]  # as `prepare` makes them
    first, second = (OwnSamples(given, augmentation, 32, 32, 2)[0, 5] for given in (own, arrays))
    assert first["key"] == 5 and torch.equal(first["cond"], second["cond"])
    for wrong, message in (
        ({"cond": torch.zeros(3, 32, 32)}, r"cond is torch.float32 \(3, 32, 32\).*\(2, 32, 32\)"),
        ({"image": torch.full((1, 32, 32), 2.0)}, r"image has values .*\[-1, 1\]"),
        ({"ori_mask": torch.full((1, 32, 32), -1.0)}, r"ori_mask has values .*\[0, 1\]"),
        ({"cond": torch.full((2, 32, 32), float("nan"))}, "cond has values that are not finite"),
        ({}, "mask is missing"),
    ):
        given = own[0] | wrong if wrong else {"image": own[0]["image"], "cond": own[0]["cond"]}
        with pytest.raises(DataError, match=f"sample 0 of your dataset: .*{message}"):
            OwnSamples([given], augmentation, 32, 32, 2)[0, 5]
    for wrong, message in (
        ([own[0] | {"cond": None}], "0 of your dataset: cond is a NoneType"), ([[1]], "0 of your dataset is a list, not a dict"),
        ([], "your dataset is empty"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            OwnSamples(wrong, augmentation, 32, 32, 2)[0, 5]


def test_stream_covers_every_epoch_and_is_shared_by_ranks():
    def take(n, **settings):
        return list(itertools.islice(SampleStream(7, seed=3, **settings), n))

    whole = [item for batch in take(7, batch_size=2) for item in batch]
    assert sorted(i for i, _ in whole[:7]) == list(range(7)) == sorted(i for i, _ in whole[7:])
    assert len({key for _, key in whole}) == 14  # another key in another epoch
    assert take(3, batch_size=2, start_batch=4) == take(7, batch_size=2)[4:]
    two = [take(3, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    assert take(3, batch_size=4) == [a + b for a, b in zip(*two, strict=True)]


def test_maps_of_several_sizes_do_not_fit_a_cache(radiomapseer):
    """With measured points, a cached sample has the map at its own size."""
    save_grey(radiomapseer / "gain" / "DPM" / "9_0.png", np.full((48, 48), 90))
    source, points = RadioMapSeer(radiomapseer), Incomplete(points=3)
    with pytest.raises(DataError, match="9_0: is not of the first map's size; set data.cache to false"):
        RadioMapDataset(source, 16, 16, cache=True, incomplete=points)


def test_cache_on_disk_is_filled_once_and_found_again(radiomapseer, tmp_path, monkeypatch):
    source, read, original = RadioMapSeer(radiomapseer), [], RadioMapDataset._read
    monkeypatch.setattr(RadioMapDataset, "_read", lambda self, i: read.append(i) or original(self, i))

    def cached(size=16, folder=tmp_path / "cache", source=source):
        return RadioMapDataset(source, size, size, cache=True, cache_folder=folder)

    plain, first = RadioMapDataset(source, 16, 16), cached()
    (first.cached.path / "003.npy").unlink()
    read.clear()
    again = cached()
    assert read == [0, 3] and again.cached.path == first.cached.path  # only what is not there; 0 tells the shapes
    for dataset in (again, pickle.loads(pickle.dumps(again))):  # as a worker of a spawned process gets it
        for index, key in itertools.product((3, 5), ("image", "cond", "ori_mask")):
            assert torch.allclose(plain[index][key], dataset[index][key], atol=1e-3)
    with monkeypatch.context() as patch:  # a complete cache is not written to
        patch.setattr(cache_module, "write_json", lambda *_: pytest.fail("written"))
        assert cached().cached.path == first.cached.path
    victim = next((radiomapseer / "gain" / "DPM").iterdir())
    os.utime(victim, ns=(1, 1))
    assert len({each.cached.path for each in (first, cached(8), cached(source=RadioMapSeer(radiomapseer)))}) == 3
    monkeypatch.setattr(cache_module, "LAYOUT", 1)  # files of another version are not read
    assert cached().cached.path != first.cached.path
    (tmp_path / "a file").touch()
    with pytest.raises(DataError, match="a file.*choose another data.cache_folder"):
        cached(32, tmp_path / "a file")
    victim.write_bytes(b"no picture")
    with pytest.raises(DataError, match=victim.name):
        cached(4)
