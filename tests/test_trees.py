"""Files, units, trees, splits, and what odd files lead to."""

import json
import resource
import shutil

import numpy as np
import pytest
from PIL import Image

from data import DataError, FlatTree, RadioMapSeer, Scene, db_to_gain, gain_to_db, open_tree
from data.conditions import condition
from data.files import write_atomically, write_json
from data.geometry.cars import car_outline, cars_from_picture, cars_of, picture_of_cars
from data.geometry.layout import Layout
from data.geometry.registration import fit_outlines, picture_of, snap
from data.samples.document import RadioUNet_c
from data.trees.png import decode_grey, read_grey, read_map
from data.trees.splits import standard_split
from data.units import apply_noise_floor, gain_to_uint8
from tests.conftest import make_scene_files, save_grey, save_json


def test_a_file_is_whole_or_as_it_was(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "new" / "a.json"
    write_json(path, {"nmse": float("nan"), "levels": [np.float32(0.5), float("inf"), (1, "x")], "count": np.int64(3)})
    before = path.read_text()
    assert json.loads(before) == {"nmse": None, "levels": [0.5, None, [1, "x"]], "count": 3} and "NaN" not in before
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # like a full disk
        with pytest.raises(OSError, match=r"large: .*a\.json"):
            write_atomically(path, lambda file: np.save(file, np.zeros(200)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_grey_levels_and_decibels():
    assert gain_to_db(1.0) == pytest.approx(-47.84) and gain_to_db(0.0) == -147
    assert db_to_gain(-47.84) == pytest.approx(1) and db_to_gain(-200.0) == 0 and db_to_gain(0.0) == 1
    levels = np.arange(256) / 255
    assert np.allclose(db_to_gain(gain_to_db(levels)), levels)
    assert (gain_to_uint8(levels) == np.arange(256)).all()
    assert gain_to_db(0.2) == pytest.approx(-127.168)  # RadioUNet's noise floor
    assert apply_noise_floor(np.array([0.1, 0.2, 0.6, 1.0])) == pytest.approx([0, 0, 0.5, 1])


def test_scenes_are_read_by_name(radiomapseer, monkeypatch):
    dataset = RadioMapSeer(radiomapseer)
    assert len(dataset) == 20 and dataset.names[:3] == ["0_0", "0_1", "1_0"]
    monkeypatch.chdir(radiomapseer.parent)
    shutil.copytree(radiomapseer, "copy")
    assert RadioMapSeer(radiomapseer.name).identity() == RadioMapSeer("copy").identity() == dataset.identity()
    shutil.copy(radiomapseer / "gain" / "DPM" / "0_0.png", radiomapseer / "gain" / "DPM" / "0_2.PNG")
    (radiomapseer / "gain" / "DPM" / "0_3.png").mkdir()
    assert RadioMapSeer(radiomapseer).names == dataset.names  # with neither
    for scene in (dataset.scene(0), dataset.scene(7)):
        layout, gain, tx = make_scene_files(radiomapseer, *map(int, scene.name.split("_")))
        assert scene.tx == tx and np.array_equal(scene.gain * 255, gain.astype(np.float32))
        assert all(np.array_equal(a, b) for a, b in zip(scene.layout.outlines, layout.outlines, strict=True))
        assert not scene.gain[scene.ori_mask].any() and (scene.ori_mask == layout.inside).all()


def test_a_tree_without_outlines_is_read_from_its_pictures(radiomapseer):
    """They lie half a pixel aside; outlines with whole corners that draw them are nearly those that are missing."""
    scenes = [RadioMapSeer(radiomapseer).scene(i) for i in range(0, 20, 2)]
    shutil.rmtree(radiomapseer / "polygon")
    shutil.rmtree(radiomapseer / "antenna")
    dataset = RadioMapSeer(radiomapseer)
    assert "10 cities have png/" in dataset.report and dataset.scene(0).tx == scenes[0].tx
    wrong = uncorrected = 0
    for number, exact in enumerate(scenes):
        path = radiomapseer / "png" / "buildings_complete" / f"{number}.png"
        picture = read_grey(path) > 0
        wrong += (dataset.scene(2 * number).buildings != exact.buildings).sum()
        uncorrected += (picture != exact.buildings).sum()
        save_grey(path, (exact.gain == 0) * 255)
    assert wrong < 0.5 * uncorrected
    scene = RadioMapSeer(radiomapseer).scene(0)  # pictures that were cut from the maps lie over them
    assert np.array_equal(scene.ori_mask, scene.gain == 0)
    ring = np.array([[4.0, 3.0], [30.0, 8.0], [27.0, 28.0], [3.0, 24.0]])
    court = Layout([snap(ring), snap(ring * 0.4 + 9)], (36, 36))
    fitted = Layout(fit_outlines(picture_of(court)), court.shape)
    assert len(fitted.outlines) == 2 and (fitted.inside != court.inside).sum() <= 12


def test_a_partial_download_works_and_says_what_is_missing(radiomapseer):
    complete = RadioMapSeer(radiomapseer)
    tx = complete.scene(complete.names.index("2_1")).tx
    shutil.rmtree(radiomapseer / "antenna")
    for lost in ("png/antennas/3_1.png", "png/buildings_complete/5.png", "polygon/buildings_complete/5.json"):
        (radiomapseer / lost).unlink()
    save_json(radiomapseer / "antenna" / "2.json", [[3, 4]])  # fewer than there are pictures
    dataset = RadioMapSeer(radiomapseer)
    assert dataset.scene(dataset.names.index("2_1")).tx == tx
    assert len(dataset) == 17 and not {"3_1", "5_0", "5_1"} & set(dataset.names)
    assert "20 DPM maps, 1 without antenna or png/antennas, 2 without polygon/buildings_complete" in dataset.report
    shutil.rmtree(radiomapseer / "png" / "antennas")
    with pytest.raises(DataError, match="antenna/2.json: shows no transmitter 1"):
        RadioMapSeer(radiomapseer).scene(1)
    shutil.rmtree(radiomapseer / "antenna")
    with pytest.raises(DataError, match="20 without antenna or png/antennas.*no complete scene"):
        RadioMapSeer(radiomapseer)


def test_cars_are_read_from_their_picture():
    """Each of the sixteen outlines, also one over another; what somebody painted is traced."""

    def corners(layout):
        return sorted(sorted(map(tuple, ring)) for ring in layout.outlines)

    alone = [Layout([car_outline((20, 12), degrees)], (24, 32)) for degrees in range(180)]
    assert all(corners(cars_from_picture(picture_of_cars(layout))) == corners(layout) for layout in alone)
    assert len({str(corners(layout)) for layout in alone}) == 16
    both = Layout([car_outline((10, 10), 0), car_outline((12, 11), 60), car_outline((20, 5), 30)], (24, 32))
    crossing = cars_of([car_outline((10, 10), 0), car_outline((10, 10), 90)], (32, 32))
    shown = condition(Scene("a", np.zeros((32, 32), bool), (0, 0), cars=crossing), ["cars"], 32)
    assert ((shown + 1) / 2).sum() == pytest.approx(12, rel=1e-3)  # 2 x 4 px twice, less 2 x 2 px
    drawn = cars_from_picture(picture_of_cars(both))
    inside = [Layout([ring], (24, 32)).inside for ring in both.outlines]
    assert corners(drawn) == corners(both) and np.array_equal(drawn.inside, np.any(inside, axis=0))
    painted = np.pad(np.ones((3, 3), bool), ((18, 3), (5, 24)))  # too short for a car
    found = cars_from_picture(picture_of_cars(both) | painted)
    assert all(ring in corners(found) for ring in corners(both)) and len(found.outlines) == 4
    assert np.array_equal(cars_from_picture(painted).inside, painted)


def test_cars_and_missing_buildings(radiomapseer):
    make_scene_files(radiomapseer, 0, 0, simulation="carsDPM")
    save_json(radiomapseer / "polygon" / "cars" / "0.json", [[[5, 5], [9, 5], [9, 7], [5, 7], [5, 5]]])
    fewer = json.loads((radiomapseer / "polygon" / "buildings_complete" / "0.json").read_text())[:1]
    save_json(radiomapseer / "polygon" / "buildings_missing2" / "1" / "0.json", fewer)
    scene = RadioMapSeer(radiomapseer, "carsDPM", missing_buildings=2).scene(0)
    assert scene.cars.inside.sum() == 8 and 0 < scene.shown.inside.sum() < scene.buildings.sum()
    assert np.array_equal(scene.ori_mask, scene.shown.inside)  # what is left out must not be told by the mask
    shown, cars = (condition(scene, ["buildings", "cars"], 32) + 1) / 2
    assert shown.sum() == pytest.approx(scene.shown.coverage.sum()) and cars.sum() == pytest.approx(8)
    shutil.rmtree(radiomapseer / "polygon" / "cars")
    save_grey(radiomapseer / "png" / "cars" / "0.png", np.pad(np.ones((3, 4)), ((5, 24), (5, 23))) * 255)
    assert 6 < RadioMapSeer(radiomapseer, "carsDPM").scene(0).cars.coverage.sum() < 15
    shutil.rmtree(radiomapseer / "png" / "cars")
    with pytest.raises(DataError, match="1 without polygon/cars or png/cars"):
        RadioMapSeer(radiomapseer, "carsDPM")


def test_wrong_arguments(radiomapseer):
    nested = radiomapseer.parent / "RadioMapSeer" / "RadioMapSeer"
    nested.parent.mkdir()
    radiomapseer.rename(nested)
    (nested.parent / "empty").mkdir()
    for arguments, message in (
        (("path/to/RadioMapSeer",), "path/to/RadioMapSeer: no such folder; set data_root"),
        ((None,), "None: no such folder; set data_root"),
        ((nested, "IRT4"), "there are: DPM"),
        ((nested, "DPM", "tset"), "known: all, train"),
        ((nested.parent,), f"is not a dataset; .*gain/.*did you mean {nested}[?]"),  # too high, or too low
        ((nested.parent.parent,), f"did you mean {nested}[?]"),
        ((nested / "gain" / "DPM",), f"did you mean {nested}[?]"),
        ((nested.parent / "empty",), "images/ and conditions/$"),
    ):
        with pytest.raises(DataError, match=message):
            open_tree(*arguments)


def test_splits_never_share_a_city(radiomapseer):
    train, val, test = (RadioMapSeer(radiomapseer, split=s) for s in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (16, 2, 2)
    assert not {m for m, _ in train.scenes} & {m for m, _ in test.scenes}
    held_out = f"{test.names[0].split('_')[0]}\n{val.names[0]}"  # a city, and a scene, whose city goes with it
    (radiomapseer / "splits").mkdir()
    for name, content in (("mine", "3\n4_1\n"), ("train", held_out), ("odd", "three\n")):
        (radiomapseer / "splits" / f"{name}.txt").write_text(content)
    assert RadioMapSeer(radiomapseer, split="mine").names == ["3_0", "3_1", "4_1"]
    for split, message in (("val", "no split 'val' with any of the 20 scenes"), ("odd", "odd.txt: 'three'")):
        with pytest.raises(DataError, match=message):
            RadioMapSeer(radiomapseer, split=split)


def test_splits_of_a_flat_tree(flat_tree):
    """By a hash of each name, so that more files move none, or by a file of its own."""
    own = flat_tree / "splits"

    def divided(*names):
        for name in names:
            save_grey(flat_tree / "images" / f"{name}.png", np.zeros((4, 4)))
            np.save(flat_tree / "conditions" / f"{name}.npy", np.zeros((1, 2, 2), np.float32))
        parts = {split: set(FlatTree(flat_tree, split).names) for split in ("train", "val", "test")}
        assert sum(map(len, parts.values())) == len(FlatTree(flat_tree).names)
        return parts

    with pytest.raises(DataError, match="no split '.*' with any of the 4 scenes .*by a hash of the name"):
        divided()
    first = divided(*(f"sample_{number}" for number in range(60)))
    assert 40 < len(first["train"]) < 60 and all(len(part) > 1 for part in first.values())
    second = divided(*(f"new_{n}" for n in range(20)), *(f"{n // 4}_{n % 4}" for n in range(80)))
    assert all(first[split] <= second[split] for split in first)
    cities = [{name.split("_")[0] for name in part if name[0].isdigit()} for part in second.values()]
    assert sum(map(len, cities)) == 20  # no city is in two splits
    city = min(cities[1])
    moved = {name for name in second["val"] if name.split("_")[0] == city}
    own.mkdir()
    (own / "train.txt").write_text("\n".join([*second["train"], min(moved)]))
    assert set(FlatTree(flat_tree, "val").names) == second["val"] - moved  # the city leaves the other split
    for hidden in ("images/._s0.png", "splits/._mine.txt"):  # as another system leaves them
        (flat_tree / hidden).write_bytes(b"\xff")
    (own / "mine.txt").write_text("\ufeffs3.png\n\ns0\n", encoding="utf-8")
    assert FlatTree(flat_tree, "mine").names == ["s0", "s3"]
    (own / "mine.txt").write_text("s0\ns9\n")
    for split, message in (("mine", r"mine\.txt: 's9' is neither"), ("vla", "no split 'vla' .* test, mine ")):
        with pytest.raises(DataError, match=message):
            FlatTree(flat_tree, split)
    (own / "Test.txt").write_text("s0")
    with pytest.raises(DataError, match="Test.txt is not read for test; write its name in lower case"):
        FlatTree(flat_tree, "train")


def test_standard_split():
    train, val, test = (standard_split(s) for s in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (501, 100, 99) and train | val | test == set(range(1, 701))
    assert sorted(test)[:5] == [2, 14, 15, 21, 22]  # as RadioUNet shuffles them
    assert len(standard_split("radiodiff_train") & standard_split("radiodiff_test")) == 1  # the known leak


OUTLINES = "polygon/buildings_complete/0.json"
PICTURES = ("png/antennas/0_1.png", "gain/DPM/0_1.png", "png/buildings_complete/0.png")
ODD = [  # of RadioMapSeer
    (OUTLINES, "no json", "not readable JSON"),
    (OUTLINES, "[[[1, 1], [9, 1], [9, 9], [1, 9]]]", "not closed"),
    (OUTLINES, "[[[1, 1], [99, 1], [9, 9], [1, 1]]]", "outside of the 32x32 px map"),
    (OUTLINES, "[[[1, 1], [NaN, 1], [9, 9], [1, 1]]]", "is not a list of"),
    ("antenna/0.json", "[[3, 4], [99, 4]]", "inside the 32x32 px map"),
    ("png/antennas/0_1.png", np.zeros((32, 32)), ""),
    *((name, content, "") for name in PICTURES for content in ("no picture", np.ones((32, 16)))),
    *((name, np.ones((16, 16)), "is 16x16 px instead of 32x32") for name in PICTURES if "gain" not in name),
]
ODD_FLAT = [
    ("conditions/s1.npy", np.zeros((2, 80, 80)), ""),
    ("conditions/s1.npy", np.full((3, 80, 80), np.nan), ""),
    ("conditions/s1.npy", None, ""),
    ("images/s1.png", np.zeros((32, 16)), "is 16x32 px; maps must be square"),
    ("images/s1.png", None, ""),
    ("masks/s1.png", np.zeros((8, 8)), ""),
]


@pytest.mark.parametrize("name, content, message", [*ODD, *ODD_FLAT])
def test_odd_files_are_named(radiomapseer, flat_tree, name, content, message):
    root = flat_tree if "s1" in name else radiomapseer
    if name in PICTURES:  # which are used where these are missing
        shutil.rmtree(root / "polygon")
        shutil.rmtree(root / "antenna")
    (root / name).unlink()
    if isinstance(content, str):
        (root / name).write_text(content)
    elif content is not None:
        (np.save if name.endswith("npy") else save_grey)(root / name, content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        RadioUNet_c(root)[1]


def test_damaged_and_unusual_pictures_are_refused_with_a_remedy(tmp_path):
    pixels = np.pad(np.full((5, 5), 255, np.uint8), ((4, 15), (4, 15)))
    save_grey(tmp_path / "good.png", pixels)
    content = bytearray((tmp_path / "good.png").read_bytes())
    content[48] ^= 1  # of the pixels
    with pytest.raises(DataError, match="bad.png: not a usable picture"):
        decode_grey(bytes(content), "bad.png")
    colours = [pixels] * 3
    for name, picture, message in (
        ("alpha.png", Image.fromarray(np.dstack([*colours, pixels])), "partly transparent; save it without"),
        ("photo.jpg", Image.fromarray(pixels), "is not a PNG; convert it to one"),
        ("deep.png", Image.fromarray(pixels.astype(np.uint16)), "deep.png"),
    ):
        picture.save(tmp_path / name)
        with pytest.raises(DataError, match=message):
            read_grey(tmp_path / name)
    Image.fromarray(np.dstack([*colours, np.full_like(pixels, 255)])).save(tmp_path / "opaque.png")
    assert (read_grey(tmp_path / "opaque.png") == pixels).all()
    assert (255 * read_map(tmp_path / "opaque.png") == pixels).all()
    Image.fromarray(np.dstack([pixels, pixels, pixels // 2])).save(tmp_path / "colours.png")
    assert (read_grey(tmp_path / "colours.png") > 0).sum() == 25  # a building may be yellow
    with pytest.raises(DataError, match="colours.png: .*in colours; a map's grey levels are its path gain"):
        read_map(tmp_path / "colours.png")
