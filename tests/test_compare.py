"""Plans of scripts/compare.py, on a tiny tree."""

import json
from pathlib import Path

import pytest
import yaml

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.errors import ConfigError
from scripts import compare
from tests.commands import done, refused
from tests.processes import ROOT, set_up

PMNET = ["baseline_config.architecture=pmnet", "baseline_config.width=0.125"]
CHANNELS = ["buildings", "transmitter", "measured_gain", "measured"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tree of 10 maps of 32 px, a configuration, and a plan of four rows for it."""
    root = tmp_path_factory.mktemp("compare")
    data = {"cond_channels": CHANNELS, "incomplete": {"points": 5}}
    quick = {"diffusion_config": {"sampling_timesteps": 1}, "trainer": {"validate_every": 0}}
    config, tree = str(set_up(root, {"data": data} | quick)), {"data_root": str(root / "data")}
    two_steps = {"seeds": [0, 1], "end_to_end": 0.5, "sampling_steps": [None, 2]}
    plan = {
        "samples": 24,
        "vae_fraction": 0.5,
        "num_samples": 4,
        "curve": {"points": 2, "maps": 1},
        "test_sets": {
            "complete": tree,
            "measured": tree | {"maps": 1, "incomplete": {"points": 7, "missing_buildings": 1}},
        },
        "rows": {
            "25 log10 d": {"reference": "25 log10 d"},
            "latent diffusion": {"config": config, "vae": config} | two_steps,
            "regression": {"config": config, "stage": "baseline", "own": PMNET},
        },
    }
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    return root


def run(root, *more):
    out, table = root / "out", root / "new" / "table.md"
    written = ["--markdown", table, "--figure", root / "curves.png"]
    done("scripts/compare.py", "--plan", root / "plan.yaml", "--out", out, "--threads", 1, *written, *more)
    return table.read_text(), out


def cells(text):
    """Lines of a Markdown table, by the heads of their columns."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.strip().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_a_plan_is_trained_scored_and_resumed(workplace, monkeypatch):
    text, out = run(workplace, "--parallel", 2)
    runs = sorted((folder.name[:-9], find_checkpoint(folder).step) for folder in (out / "runs").iterdir())
    assert runs == [("latent_diffusion", 4)] * 2 + [("regression", 6)] + [("vae", 3)] * 2
    trainings = compare.Trainings(compare.read_plan(workplace / "plan.yaml"), out, 1)
    row, folder = trainings.plan.rows["latent diffusion"], next((out / "runs").glob("latent_diffusion_*"))
    used, scores = trainings.curve(row, folder, trainings.steps(row))
    assert used == [0.75, 1] and min(scores) > 0 and (workplace / "curves.png").stat().st_size > 5000
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
    again, _ = run(workplace)
    without_time = [[row | {"s per map": ""} for row in cells(part)] for part in text.split("\n\n")[1::2]]
    assert [[row | {"s per map": ""} for row in cells(part)] for part in again.split("\n\n")[1::2]] == without_time


def test_evaluate_scores_the_same_samples_as_compare(workplace, tmp_path):
    """Nobody names a sampler, and one step is configured: both take one whose samples differ."""
    _, out = run(workplace)
    model = next((out / "runs").glob("latent_diffusion_*"))
    theirs = json.loads((model / "scores.json").read_text())["4"]["measured"]
    how = ("--ckpt", model, "--data", workplace / "data", "--split", "val", "--maps", 1, "--num_samples", 4)
    files = ("--json", tmp_path / "s.json", "--reliability", tmp_path / "r.png", "--gallery", tmp_path / "g.png")
    said = done("scripts/evaluate.py", *how, *files, "--incomplete", "points=7", "missing_buildings=1")
    ours = json.loads((tmp_path / "s.json").read_text())
    for key in ("crps", "spread", "error"):
        assert ours["calibration"][key] == pytest.approx(theirs["scores"]["calibration"][key], rel=1e-3)
    assert ours["nmse"] == pytest.approx(theirs["scores"]["nmse"], rel=1e-4) and ours["nmse_near"] > 0
    assert (ours["sampler"], ours["steps"]) == ("ddpm", 4) == (theirs["facts"]["sampler"], theirs["facts"]["steps"])
    assert ours["incomplete"] == "points=7 missing_buildings=1"
    assert "intervals cover 50%" in said and (tmp_path / "r.png").is_file() and (tmp_path / "g.png").is_file()


def test_plans_that_make_no_sense_are_refused(workplace, tmp_path):
    unknown = {"data_root": "x", "incomplete": {"transmitter_unknown": 0.5}}
    noisy = {"reference": "simulator", "pixel_noise": 1}
    for change, message in (
        ({"samples": None}, "give either seconds or samples"),
        ({"seconds": 3}, "give either seconds or samples"),
        ({"rows": {"a": {}}}, "rows.a: give one of config, reference and ckpt"),
        ({"rows": {"a": noisy}}, "rows.a: sampling_steps, sampler, noise_scale, pixel_noise are for latent diffusion"),
        ({"rows": {"a": {"reference": "no such"}}}, "rows.a.reference: Input should be 'simulator'"),
        ({"rows": {"a": {"config": "x", "stage": "baseline", "vae": "x"}}}, "rows.a: a baseline has neither"),
        ({"rows": {"a": {"law": "simulator"}}}, "rows.a.law: Extra inputs"),
        ({"test_sets": {"a": {"data_root": "x", "incomplete": {"point": 3}}}}, "test_sets.a.incomplete.point: Extra"),
        ({"test_sets": {"a": unknown}}, "rows.25 log10 d: needs the transmitter"),
    ):
        plan = yaml.safe_load((workplace / "plan.yaml").read_text()) | change
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
        with pytest.raises(ConfigError, match=message):
            compare.read_plan(tmp_path / "plan.yaml")


def test_unreadable_plans_and_unknown_rows_are_refused(workplace, tmp_path):
    (tmp_path / "odd.yaml").write_text("{")
    for path in (tmp_path / "odd.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(ConfigError, match=f"{path.name}: cannot be read"):
            compare.read_plan(path)
    what = ("--plan", workplace / "plan.yaml", "--out", tmp_path / "out", "--only", "nothing")
    refused("scripts/compare.py", *what, words=["--only nothing: no row of"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "compare").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_repository_s_plans_read_and_name_valid_settings(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = compare.read_plan(path)
    trainings = compare.Trainings(plan, Path("nowhere"), 1)
    for row in plan.rows.values():
        for stage in ("vae",) * bool(row.vae) + (row.stage,) * bool(row.config):
            assert trainings.config(stage, row).trainer.batch_size > 0


def test_rows_of_equal_time_and_runs_of_their_own(workplace, monkeypatch):
    """The faster row gets more steps; another configuration, budget or name is another run."""
    plan = compare.read_plan(workplace / "plan.yaml")
    timed = compare.Trainings(plan.model_copy(update={"samples": None, "seconds": 8.0}), workplace / "timed", 1)

    def trained(folder, command):
        folder.mkdir(parents=True, exist_ok=True)
        whole = any("end_to_end.start_step=0" in word for word in command)
        per_second = {"train_vae": 40, "train_cond_ldm": 20, "train_baseline": 8}[Path(command[0]).stem] / (1 + whole)
        (folder / "train.log").write_text(f"12:00:00 step={compare.PROBE_STEPS} samples_per_second={per_second}\n")

    monkeypatch.setattr(timed, "run", trained)
    row, diffusion, batch = plan.rows["regression"], plan.rows["latent diffusion"], 4  # two micro-batches of two
    assert timed.steps(row) == {"baseline": 8 * 8 / batch}
    assert timed.steps(diffusion) == {"vae": 4 * 40 / batch, "ldm": 2 * 20 / batch, "end_to_end": 2 * 10 / batch}
    trainings = compare.Trainings(plan, workplace / "other", 1)
    monkeypatch.setattr(trainings, "run", lambda folder, command: None)
    other = row.model_copy(update={"own": [*PMNET, "trainer.learning_rate=1.0e-2"]})
    runs = [("a", row, 6), ("a", row, 6), ("a", row, 3), ("a", other, 6), ("基线", row, 6), ("x" * 300, row, 6)]
    folders = {trainings.model(name, row, 0, {"baseline": steps}) for name, row, steps in runs}
    assert len(folders) == 5 and all(len(path.name) < 80 for path in folders)
