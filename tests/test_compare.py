"""Plans of scripts/compare.py, on a tiny tree."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.errors import ConfigError
from scripts import compare, evaluate
from tests.conftest import make_tree
from tests.tiny import TINY, merged

ROOT = Path(__file__).resolve().parents[1]

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
            "diffusion_config": {"sampling_timesteps": 1},
            "trainer": {"validate_every": 0},
        },
    )
    (root / "tiny.yaml").write_text(yaml.safe_dump(settings))
    config = str(root / "tiny.yaml")
    tree = {"data_root": str(root / "tree")}
    plan = {
        "samples": 24,
        "vae_fraction": 0.5,
        "num_samples": 4,
        "test_sets": {
            "complete": tree,
            "measured": {**tree, "maps": 1, "incomplete": {"points": 7, "missing_buildings": 1}},
        },
        "rows": {
            "25 log10 d": {"reference": "25 log10 d"},
            "latent diffusion": {
                "config": config,
                "vae": config,
                "seeds": [0, 1],
                "end_to_end": 0.5,
                "sampling_steps": [None, 2],
            },
            "regression": {"config": config, "stage": "baseline", "own": PMNET},
        },
    }
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    return root


def call(main, monkeypatch, *arguments):
    """A command in this process."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    main()


def run(root, monkeypatch, *more):
    out, table = root / "out", root / "new" / "table.md"
    plan = ("--plan", root / "plan.yaml", "--out", out, "--threads", 1, "--markdown", table)
    call(compare.main, monkeypatch, *plan, *more)
    return table.read_text(), out


def cells(text):
    """Lines of a Markdown table, by the heads of their columns."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.strip().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_a_plan_is_trained_scored_and_resumed(workplace, monkeypatch):
    text, out = run(workplace, monkeypatch, "--parallel", 2)
    runs = sorted((folder.name[:-9], find_checkpoint(folder).step) for folder in (out / "runs").iterdir())
    assert runs == [("latent_diffusion", 4)] * 2 + [("regression", 6)] + [("vae", 3)] * 2
    complete, measured = text.split("\n\n")[1::2]
    assert text.split("\n\n")[::2] == ["complete", "measured"]
    rows = cells(complete)
    assert [row[""] for row in rows] == ["25 log10 d", "latent diffusion", "latent diffusion", "regression"]
    assert [row["sampling steps"] for row in rows] == ["-", "4", "2", "1"] and rows[1]["training steps"] == "2 + 2"
    assert rows[0]["minus the first row"] == "-" and rows[1]["minus the first row"][0] in "+-"
    assert ", " in rows[1]["of the seeds"] and rows[3]["of the seeds"] == "-"
    assert float(rows[1]["CRPS dB"]) > 0 and 0 <= float(rows[1]["90 % interval"]) <= 1 and rows[3]["CRPS dB"] == "-"
    assert "NMSE near" in measured and "NMSE near" not in complete
    kept = next((out / "runs").glob("regression_*")) / "scores.json"
    facts = json.loads(kept.read_text())["1"]["measured"]["facts"]
    assert len(facts["scenes"]) == 1 and facts["test_set"]["incomplete"]["points"] == 7

    def never(*_):
        raise AssertionError("trained or scored again")

    monkeypatch.setattr(compare.Trainings, "run", never)
    monkeypatch.setattr(compare.Predictor, "predict", never)
    again, _ = run(workplace, monkeypatch)
    without_time = [[row | {"s per map": ""} for row in cells(part)] for part in text.split("\n\n")[1::2]]
    assert [[row | {"s per map": ""} for row in cells(part)] for part in again.split("\n\n")[1::2]] == without_time


def test_evaluate_scores_the_same_samples_as_compare(workplace, monkeypatch, tmp_path, capsys):
    """Nobody names a sampler, and one step is configured: both take one whose samples differ."""
    _, out = run(workplace, monkeypatch)
    model = next((out / "runs").glob("latent_diffusion_*"))
    theirs = json.loads((model / "scores.json").read_text())["4"]["measured"]
    how = ("--ckpt", model, "--data", workplace / "tree", "--split", "val", "--maps", 1, "--num_samples", 4)
    files = ("--json", tmp_path / "s.json", "--reliability", tmp_path / "r.png", "--gallery", tmp_path / "g.png")
    capsys.readouterr()
    call(evaluate.main, monkeypatch, *how, *files, "--incomplete", "points=7", "missing_buildings=1")
    ours, said = json.loads((tmp_path / "s.json").read_text()), capsys.readouterr().out
    for key in ("crps", "spread", "error"):
        assert ours["calibration"][key] == pytest.approx(theirs["scores"]["calibration"][key], rel=1e-3)
    assert ours["nmse"] == pytest.approx(theirs["scores"]["nmse"], rel=1e-4) and ours["nmse_near"] > 0
    assert (ours["sampler"], ours["steps"]) == ("ddpm", 4) == (theirs["facts"]["sampler"], theirs["facts"]["steps"])
    assert ours["incomplete"] == "points=7 missing_buildings=1"
    assert "intervals cover 50%" in said and (tmp_path / "r.png").is_file() and (tmp_path / "g.png").is_file()


def test_another_configuration_budget_or_name_is_another_run(workplace, monkeypatch):
    plan = compare.read_plan(workplace / "plan.yaml")
    row = plan.rows["regression"]
    folders = set()

    def folder(name, row, steps, plan=plan):
        trainings = compare.Trainings(plan, workplace / "other", 1)
        monkeypatch.setattr(trainings, "run", lambda folder, command: None)
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

    def trained(folder, command):
        folder.mkdir(parents=True, exist_ok=True)
        whole = any("end_to_end.start_step=0" in word for word in command)
        per_second = {"train_vae": 40, "train_cond_ldm": 20, "train_baseline": 8}[Path(command[0]).stem] / (1 + whole)
        (folder / "train.log").write_text(f"12:00:00 step={compare.PROBE_STEPS} samples_per_second={per_second}\n")

    monkeypatch.setattr(trainings, "run", trained)
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
        ({"rows": {"a": {}}}, "rows.a: give one of config, reference and ckpt"),
        (
            {"rows": {"a": {"reference": "simulator", "pixel_noise": 1}}},
            "rows.a: sampling_steps, sampler, noise_scale, pixel_noise are for latent diffusion",
        ),
        ({"rows": {"a": {"reference": "no such"}}}, "rows.a.reference: Input should be 'simulator'"),
        ({"rows": {"a": {"config": "x", "stage": "baseline", "vae": "x"}}}, "rows.a: a baseline has neither"),
        ({"rows": {"a": {"law": "simulator"}}}, "rows.a.law: Extra inputs"),
        ({"test_sets": {"a": {"data_root": "x", "incomplete": {"point": 3}}}}, "test_sets.a.incomplete.point: Extra"),
        (
            {"test_sets": {"a": {"data_root": "x", "incomplete": {"transmitter_unknown": 0.5}}}},
            "rows.25 log10 d: needs the transmitter",
        ),
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
            assert trainings.config(stage, row).trainer.batch_size > 0
