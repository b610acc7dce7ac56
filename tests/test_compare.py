"""Plans of scripts/compare.py, on a tiny tree."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.errors import ConfigError
from tests.conftest import make_tree
from tests.test_commands import command
from tests.tiny import TINY, merged

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import compare  # noqa: E402

PMNET = ["baseline_config.architecture=pmnet", "baseline_config.width=0.125"]
CHANNELS = ["buildings", "transmitter", "measured_gain", "measured"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tree of 10 maps of 32 px, a configuration, and a plan of four rows for it."""
    root = tmp_path_factory.mktemp("compare")
    make_tree(root / "tree")
    settings = merged(
        TINY,
        {
            "first_stage_config": {"ddconfig": {"resolution": 32}},
            "data": {
                "train": {"data_root": str(root / "tree")},
                "cond_channels": CHANNELS,
                "incomplete": {"points": 5},
            },
            "trainer": {"validate_every": 0},
        },
    )
    (root / "tiny.yaml").write_text(yaml.safe_dump(settings))
    config = str(root / "tiny.yaml")
    tree = {"data_root": str(root / "tree")}
    plan = {
        "samples": 24,
        "vae_share": 0.5,
        "draws": 4,
        "places": {
            "complete": tree,
            "measured": {**tree, "maps": 1, "incomplete": {"points": 7, "missing_buildings": 1}},
        },
        "rows": {
            "25 log10 d": {"law": "25 log10 d"},
            "latent diffusion": {"config": config, "vae": config, "calls": [1, 2], "seeds": [0, 1], "end_to_end": 0.5},
            "regression": {"config": config, "stage": "baseline", "own": PMNET},
        },
    }
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    return root


def run(root, monkeypatch, *more):
    out, table = root / "out", root / "table.md"
    line = ["compare.py", "--plan", root / "plan.yaml", "--out", out, "--threads", 1, "--markdown", table, *more]
    monkeypatch.setattr(sys, "argv", list(map(str, line)))
    compare.main()
    return table.read_text(), out


def test_a_plan_is_trained_scored_and_resumed(workplace, monkeypatch):
    text, out = run(workplace, monkeypatch, "--parallel", 2)
    runs = sorted((folder.name[:-9], find_checkpoint(folder).step) for folder in (out / "runs").iterdir())
    assert runs == [("latent_diffusion", 4)] * 2 + [("regression", 6)] + [("vae", 3)] * 2
    places = text.split("\n\n")
    assert [part for part in places if "|" not in part] == ["complete", "measured"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in places[1].strip().splitlines()[2:]]
    assert [row[0] for row in rows] == ["25 log10 d", "latent diffusion", "latent diffusion", "regression"]
    assert [row[3] for row in rows] == ["-", "1", "2", "1"] and rows[1][2] == "2 + 2"
    assert rows[0][5] == "-" and rows[1][5][0] in "+-"  # differences from the first row
    assert "(" in rows[1][4] and "(" not in rows[3][4]  # both seeds
    assert rows[1][-3] != "-" and rows[1][-2].endswith("%") and rows[3][-3] == "-"  # CRPS and coverage of draws
    assert "NMSE near points" in places[3] and "NMSE near" not in places[1]
    kept = next((out / "runs").glob("regression_*")) / "scores.json"
    facts = json.loads(kept.read_text())["1"]["measured"]["facts"]
    assert len(facts["scenes"]) == 1 and facts["place"]["incomplete"]["points"] == 7

    def never(*_):
        raise AssertionError("trained or scored again")

    monkeypatch.setattr(compare.Trainings, "_run", never)
    monkeypatch.setattr(compare, "score", never)
    again, _ = run(workplace, monkeypatch)
    without_time = [line.rsplit("|", 2)[0] for line in text.splitlines()]
    assert [line.rsplit("|", 2)[0] for line in again.splitlines()] == without_time


def test_measured_points_reach_the_commands(workplace, monkeypatch, tmp_path):
    _, out = run(workplace, monkeypatch)
    model, tree = next((out / "runs").glob("latent_diffusion_*")), workplace / "tree"
    score = ("scripts/evaluate.py", "--ckpt", model, "--data", tree, "--split", "val", "--json", tmp_path / "s.json")
    unsure = ("--incomplete", "points=4", "missing_buildings=1", "--num_samples", "3")
    done = command(*score, *unsure, "--reliability", tmp_path / "r.png")
    assert done.returncode == 0, done.stderr
    assert "NMSE near" in done.stdout and "intervals cover 50%" in done.stdout and (tmp_path / "r.png").is_file()
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["incomplete"] == "points=4 missing_buildings=1" and 0 < scores["calibration"]["crps"] < 99
    (tmp_path / "points.csv").write_text("x,y,gain_db\n3,4,-80\n")
    city = ("sample.py", "--ckpt", model, "--simulate", "1", "--measurements", tmp_path / "points.csv")
    measured, plain = (
        command(*line, "--output_folder", tmp_path / name) for name, line in (("a", city), ("b", city[:-2]))
    )
    assert measured.returncode == plain.returncode == 0, measured.stderr
    a, b = (np.load(next((tmp_path / name).glob("city1*[0-9].npy"))) for name in "ab")
    assert not np.array_equal(a, b, equal_nan=True)
    for line, message in (
        ((*city, "--tx", "9,9", "--tx", "8,8"), "belong to one --tx"),
        ((*score, "--incomplete", "point=4"), "incomplete.point is not a known key"),
        ((*score, "--reliability", tmp_path / "r.png"), "needs several draws"),
    ):
        done = command(*line)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_another_configuration_budget_or_name_is_another_run(workplace, monkeypatch):
    plan = compare.read_plan(workplace / "plan.yaml")
    row = plan.rows["regression"]
    folders = set()

    def folder(name, row, steps, plan=plan):
        trainings = compare.Trainings(plan, workplace / "other", 1)
        monkeypatch.setattr(trainings, "_run", lambda folder, *_: None)
        folders.add(trainings.model(name, row, 0, {"baseline": steps}))
        return len(folders)

    assert folder("a", row, 6) == folder("a", row, 6) == 1
    assert (
        folder("a", row, 3) == 2
        and folder("a", row.model_copy(update={"own": [*PMNET, "trainer.learning_rate=1.0e-2"]}), 6) == 3
    )
    assert folder("基线", row, 6) == 4 and folder("x" * 300, row, 6) == 5
    assert all(len(path.name) < 80 for path in folders)


def test_equal_time_gives_the_faster_row_more_steps(workplace, monkeypatch):
    plan = compare.read_plan(workplace / "plan.yaml").model_copy(update={"samples": None, "seconds": 8.0})
    trainings = compare.Trainings(plan, workplace / "timed", 1)

    def trained(folder, stage, row, more):
        folder.mkdir(parents=True, exist_ok=True)
        per_second = {"vae": 40, "ldm": 20, "baseline": 8}[stage] / (
            2 if "end_to_end.start_step=0" in " ".join(more) else 1
        )
        (folder / "train.log").write_text(f"12:00:00 step={compare.PROBE_STEPS} samples_per_second={per_second}\n")

    monkeypatch.setattr(trainings, "_run", trained)
    batch = 4  # of TINY: two micro-batches of two
    assert trainings.steps(plan.rows["regression"]) == {"baseline": 8 * 8 / batch}
    assert trainings.steps(plan.rows["latent diffusion"]) == {
        "vae": 4 * 40 / batch,
        "ldm": 2 * 20 / batch,
        "end_to_end": 2 * 10 / batch,
    }


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": None}, "give either seconds or samples"),
        ({"seconds": 3}, "give either seconds or samples"),
        ({"rows": {"a": {}}}, "rows.a: give one of config, law and ckpt"),
        (
            {"rows": {"a": {"law": "simulator", "pixel_noise": 1}}},
            "rows.a: noise_scale and pixel_noise are for samplers",
        ),
        ({"rows": {"a": {"law": "no such"}}}, "rows.a.law: Input should be 'simulator'"),
        ({"rows": {"a": {"config": "x", "stage": "baseline", "vae": "x"}}}, "rows.a: a baseline has neither"),
        ({"places": {"a": {"incomplete": {"point": 3}}}}, "places.a.incomplete.point: Extra inputs"),
    ],
)
def test_plans_that_make_no_sense_are_refused(workplace, tmp_path, change, message):
    plan = yaml.safe_load((workplace / "plan.yaml").read_text()) | change
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(ConfigError, match=message):
        compare.read_plan(tmp_path / "plan.yaml")


def test_unreadable_plans_and_unknown_rows_are_refused(workplace, tmp_path, monkeypatch):
    (tmp_path / "odd.yaml").write_text("{")
    for path in (tmp_path / "odd.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(ConfigError, match=f"{path.name}: cannot be read"):
            compare.read_plan(path)
    with pytest.raises(ConfigError, match="--only nothing: no row of"):
        run(workplace, monkeypatch, "--only", "nothing")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "compare").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_repository_s_plans_read_and_name_valid_settings(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = compare.read_plan(path)
    trainings = compare.Trainings(plan, Path("nowhere"), 1)
    for row in plan.rows.values():
        for stage in ("vae",) * bool(row.vae) + (row.stage,) * bool(row.config):
            assert trainings._config(stage, row).trainer.batch_size > 0
