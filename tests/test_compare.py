"""Plans of scripts/compare.py, on a tiny tree."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pytest
import yaml

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.errors import TrainingError
from scripts import compare
from tests.commands import done, refused
from tests.processes import ROOT, set_up

END_TO_END = ["diffusion_config.end_to_end.start_step=0", "trainer.learning_rate=1.0e-4"]
PMNET = ["baseline_config.architecture=pmnet", "baseline_config.width=0.125"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tree of 10 cities of 32 px, a configuration, and a plan of three rows for it."""
    root = tmp_path_factory.mktemp("compare")
    quick = {"diffusion_config": {"sampling_timesteps": 1}, "trainer": {"validate_every": 0}}
    config, test = str(set_up(root, quick)), {"data_root": str(root / "data"), "split": "val"}
    plan = {
        "seconds": 0.5,
        "curve": {"points": 2},
        "test_sets": {"val": test, "one map": test | {"max_samples": 1}},
        "rows": {
            "25 log10 d": {"reference": "25 log10 d"},
            "latent diffusion": {"config": config, "vae": config, "finish": END_TO_END, "sampling_steps": [None, 2]},
            "regression": {"config": config, "stage": "baseline", "own": PMNET, "seeds": [0, 1]},
        },
    }
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    return root


def run(root, *more):
    """The tables, as lines by the heads of their columns."""
    file = root / "new" / "table.md"
    what = ("--plan", root / "plan.yaml", "--out", root / "out", "--threads", 1, "--markdown", file)
    done("scripts/compare.py", *what, "--figure", root / "curves.png", *more)
    tables = []
    for part in file.read_text().strip().split("\n\n")[1::2]:
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
        tables.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return tables


def test_a_plan_is_trained_scored_and_resumed(workplace, monkeypatch):
    monkeypatch.setattr(compare.Runs, "steps", lambda _, row: dict.fromkeys(row.trainings(), 4))  # no speed
    tables = run(workplace, "--parallel", 2)
    runs = sorted((folder.name[:-9], find_checkpoint(folder).step) for folder in (workplace / "out" / "runs").iterdir())
    names = ("finish_latent_diffusion", "latent_diffusion", "regression", "regression", "vae")
    assert runs == [(name, 4) for name in names]
    (ended,) = (workplace / "out" / "runs").glob("finish_*")
    assert "initial weights from" in (ended / "output.txt").read_text()
    for rows in tables:
        assert [row[""] for row in rows] == ["25 log10 d", *["latent diffusion"] * 2, "regression"]
        assert [row["sampling steps"] for row in rows] == ["-", "1", "2", "1"]
        assert rows[0]["minus the first row"] == "-" and rows[1]["minus the first row"][0] in "+-"
        assert ", " in rows[3]["NMSE by seed"] and rows[1]["NMSE by seed"] == "-"
        assert [row["training steps"] for row in rows] == ["-", "4 + 4 + 4", "4 + 4 + 4", "4"]
    assert (workplace / "curves.png").stat().st_size > 5000

    for owner, name in ((compare.subprocess, "run"), (compare.Predictor, "predict")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("trained or scored again"))
    again = run(workplace)
    for before, after in zip(tables, again, strict=True):
        assert after[1:] == before[1:] and after[0] | {"s per map": ""} == before[0] | {"s per map": ""}


def test_the_faster_row_gets_more_steps_and_what_differs_is_another_run(workplace, monkeypatch):
    plan = compare.read_plan(workplace / "plan.yaml").model_copy(update={"seconds": 10.0})
    trainings = compare.Runs(plan, workplace / "timed", 1)

    def trained(command, **_):
        per_second = {"train_vae": 40, "train_cond_ldm": 20, "train_baseline": 8}[Path(command[1]).stem]
        if any("init_from" in option for option in command):
            per_second = 12
        log = Path(json.loads(command[-1].partition("=")[2])) / "train.log"
        log.write_text(f"12:00:00 step={compare.PROBE} samples_per_second={per_second}\n")
        steps[log.parent.name] = SimpleNamespace(step=compare.PROBE)
        return SimpleNamespace(returncode=0)

    steps = {}  # the checkpoints, by folder
    monkeypatch.setattr(compare.subprocess, "run", trained)
    monkeypatch.setattr(compare, "find_checkpoint", lambda folder: steps.get(folder.name))
    row, diffusion, batch = plan.rows["regression"], plan.rows["latent diffusion"], 4  # two micro-batches of two
    assert trainings.steps(row) == {"baseline": 10 * 8 / batch}
    assert trainings.steps(diffusion) == {"vae": 2 * 40 / batch, "ldm": 2 * 20 / batch, "finish": 6 * 12 / batch}
    once = diffusion.model_copy(update={"finish": []})
    assert trainings.steps(once) == {"vae": 2 * 40 / batch, "ldm": 8 * 20 / batch}
    other = row.model_copy(update={"own": [*PMNET, "trainer.learning_rate=1.0e-2"]})
    runs = [("a", row, 6), ("a", row, 6), ("a", row, 3), ("a", other, 6), ("基线", row, 6), ("x" * 300, row, 6)]
    folders = {trainings.models(name, row, 0, {"baseline": steps})["baseline"] for name, row, steps in runs}
    assert len(folders) == 5 and all(len(path.name) < 80 for path in folders)
    os.utime(workplace / "data" / "gain" / "DPM" / "0_0.png", (1, 1))  # other data
    assert trainings.models("a", row, 0, {"baseline": 6})["baseline"] not in folders
    with pytest.raises(TrainingError, match="failed or was stopped"):  # before its last step, by Ctrl-C
        trainings.models("a", row, 0, {"baseline": compare.PROBE + 1})


def test_concurrent_runs_take_different_gpus(workplace, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    plan, together, used = compare.read_plan(workplace / "plan.yaml"), Barrier(2, timeout=60), []
    trainings = compare.Runs(plan, workplace / "gpus", 1, parallel=2)

    def failed(command, env, **_):
        used.append(env["CUDA_VISIBLE_DEVICES"])
        together.wait()
        if len(used) == 2:
            raise OSError(28, "No space left on device")
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(compare.subprocess, "run", failed)
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(trainings.models, "a", plan.rows["regression"], n, {"baseline": 1}) for n in range(2)]
        assert all(isinstance(run.exception(), TrainingError | OSError) for run in runs)
    assert sorted(used[:2]) == sorted(used[2:]) == ["3", "5"]


def test_plans_that_make_no_sense_are_refused(workplace, tmp_path):
    plan = yaml.safe_load((workplace / "plan.yaml").read_text())
    command = ("scripts/compare.py", "--out", tmp_path / "out", "--plan")
    for change, message in (
        ({"samples": 3}, "samples: "),
        ({"rows": {"a": {}}}, "rows.a: give either config or reference"),
        ({"rows": {}}, "rows: "),
        ({"rows": {"a": {"config": "x", "seeds": []}}}, "rows.a.seeds: "),
        ({"rows": {"a": {"reference": "simulator", "sampling_steps": [1]}}}, "are for latent diffusion"),
        ({"rows": {"a": {"config": "x", "stage": "baseline", "vae": "x"}}}, "are for latent diffusion"),
        ({"rows": {"a": {"config": "x", "stage": "baseline", "finish": ["a=1"]}}}, "are for latent diffusion"),
        ({"rows": {"a": {"config": str(workplace / "tiny.yaml"), "own": ["trainer.foo=1"]}}}, "trainer.foo is not"),
        ({"test_sets": {"a": {"data_root": "x"}}}, "x: no such folder"),
    ):
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | change))
        refused(*command, tmp_path / "plan.yaml", words=[message])
    (tmp_path / "odd.yaml").write_text("{")
    for name in ("odd.yaml", "absent.yaml"):
        refused(*command, tmp_path / name, words=[f"{name}: cannot be read"])


def test_the_repository_s_plan_reads_and_names_valid_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in (ROOT / "configs" / "compare").glob("*.yaml"):
        trainings = compare.Runs(compare.read_plan(path), Path("nowhere"), 1)
        for row in trainings.plan.rows.values():
            trainings.check(row)
