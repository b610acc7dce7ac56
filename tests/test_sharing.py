"""Scoring and sampling by several processes, and after an interruption, give what one undisturbed process gives."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from data.errors import DataError
from evaluation.records import Records
from tests.commands import done, refused
from tests.processes import ROOT, environment, launcher

EVALUATE, SAMPLE = ROOT / "scripts" / "evaluate.py", ROOT / "sample.py"
FILES = {"--json": "s.json", "--markdown": "t.md", "--gallery": "g.png", "--csv": "maps.csv"}


@pytest.fixture(scope="module")
def place(trained):
    """(folder of the tree and the model, options of evaluate.py, options of sample.py)."""
    score = ("--ckpt", trained / "ldm", "--data", trained / "data", "--split", "all", "--maps", 11, "--batch_size", 3)
    score += ("--num_samples", 2, "--references", "--reconstruction")
    source = (f"sample.source.data_root={trained / 'data'}", "sample.source.split=all", "sample.source.max_samples=7")
    sample = ("--cfg", trained / "tiny.yaml", f"sample.ckpt={trained / 'ldm'}", *source)
    return trained, score, (*sample, "sample.batch_size=2", "sample.figures=2")


def files_of(folder):
    return [part for option, name in FILES.items() for part in (option, folder / name)]


def started(processes, *command):
    line = [sys.executable, *(launcher(processes) if processes > 1 else ()), *command]
    how = {"env": environment(launched=True), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, line)), **how)


def content(folder):
    """Of all files but those that were being written when their process was killed."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}


@pytest.fixture(scope="module")
def one(place):
    """What one process writes: scores, and maps."""
    folder, score, sample = place
    done("scripts/evaluate.py", *score, "--num_workers", 0, *files_of(folder / "scored"))
    done("sample.py", *sample, f"sample.output_folder={folder / 'maps'}")
    return content(folder / "scored"), content(folder / "maps")


def test_several_processes_write_what_one_writes(place, one, tmp_path):
    _, score, sample = place
    running = {
        "scored_2": started(2, EVALUATE, *score, *files_of(tmp_path / "scored_2")),
        "scored_3": started(3, EVALUATE, *score, *files_of(tmp_path / "scored_3")),
        "maps_3": started(3, SAMPLE, *sample, f"sample.output_folder={tmp_path / 'maps_3'}"),
    }
    for name, process in running.items():
        out, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        assert content(tmp_path / name) == one["maps" in name]
        assert out.count("maps in" if "maps" in name else "scored on") == 1
    figures = [name for name in one[1] if name.endswith("_figure.png")]  # limited and spread
    assert figures == ["0_0_figure.png", "1_1_figure.png"] and sum(name.endswith(".npy") for name in one[1]) == 7


def wait_for(path, lines):
    """Until a growing file has that many lines."""
    end = time.monotonic() + 100
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_same_command_continues_after_a_kill(place, one, tmp_path):
    _, score, sample = place
    scored, maps = tmp_path / "scored", tmp_path / "maps"
    commands = (
        ((EVALUATE, *score, *files_of(scored)), scored / "maps.csv.jsonl"),
        ((SAMPLE, *sample, f"sample.output_folder={maps}"), maps / "metrics.jsonl"),
    )
    for (command, records), expected in zip(commands, one, strict=True):
        running = started(1, *command)
        wait_for(records, 4)
        with pytest.raises(DataError, match="another process is writing it"):
            Records(records, {})
        running.kill()
        running.communicate()
        there = records.read_bytes().count(b"\n")
        with records.open("ab") as file:
            file.write(b'{"number": 9, "sco')
        done(*(str(part).removeprefix(f"{ROOT}/") for part in command))
        assert there < expected[records.name].count(b"\n") and content(records.parent) == expected


def test_what_is_there_is_kept_and_other_settings_do_not_mix_with_it(place, one, tmp_path):
    folder, score, sample = place
    scored, maps, mine = folder / "scored", folder / "maps", tmp_path / "mine.csv"
    words = ["maps.csv.jsonl: was written with seed 0, not 1"]
    refused("scripts/evaluate.py", *score, "--csv", scored / "maps.csv", "--seed", 1, words=words)
    assert "NMSE" in done("scripts/evaluate.py", *score, *files_of(scored)) and content(scored) == one[0]
    mine.write_bytes(b"pr\xe9dicteur,b\n1,2\n")  # in Latin 1
    refused("scripts/evaluate.py", *score, "--csv", mine, words=["mine.csv: does not match its records"])
    assert mine.read_bytes() == b"pr\xe9dicteur,b\n1,2\n"
    into, words = f"sample.output_folder={maps}", ["metrics.jsonl: was written with batch_size 2, not 3"]
    refused("sample.py", *sample, into, "sample.batch_size=3", words=words)
    (maps / "1_0.png").unlink()
    (maps / "2_0.npy").write_bytes(b"mine")  # its scores are there: not made again
    done("sample.py", *sample, into)
    assert content(maps) == one[1] | {"2_0.npy": b"mine"}


def test_an_error_in_one_process_ends_all_with_one_line(place, tmp_path):
    """A process with other data, one that cannot read a map, and one that cannot write one."""
    folder, score, sample = place
    data, taken = shutil.copytree(folder / "data", tmp_path / "data"), tmp_path / "taken"
    (data / "gain" / "DPM" / "1_1.png").write_bytes(b"nothing")  # of the second batch
    (taken / "0_0.png").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere.py"  # a machine whose data root holds fewer maps
    elsewhere.write_text(
        "import os, runpy, sys\n"
        "if os.environ['RANK'] == '1':\n    sys.argv[sys.argv.index('--maps') + 1] = '10'\n"
        f"sys.path[0] = {str(ROOT)!r}\nrunpy.run_path({str(EVALUATE)!r}, run_name='__main__')\n"
    )
    broken = [data if part == folder / "data" else part for part in score]
    for command, message in (
        ((elsewhere, *score), "process 1 has maps 10, process 0 has 11"),
        ((EVALUATE, *broken), "1_1.png"),
        ((SAMPLE, *sample, f"sample.output_folder={taken}"), "Is a directory: "),
    ):
        running = started(2, *command)
        _, said = running.communicate(timeout=200)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert running.returncode != 0 and len(lines) == 1 and message in lines[0], said
    assert json.loads((taken / "metrics.jsonl").read_text())["settings"]["batch_size"] == 2  # no map counts as made
