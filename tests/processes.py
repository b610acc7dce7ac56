"""Runs as processes of their own, and the same runs in this one."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import train_cond_ldm
import train_vae
from denoising_diffusion_pytorch.config import load_config
from tests.conftest import make_tree
from tests.tiny import TINY, merged

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"vae": train_vae, "ldm": train_cond_ldm}
CHANGES = {
    "first_stage_config": {"lossconfig": {"discr_start": 10}},
    "unet_config": {"attention_resolutions": [], "dropout": 0.1},
    "trainer": {"save_interval": 5, "keep_last": 3, "validate_every": 0, "ema": {"start_step": 5, "beta": 0.9}},
}


def environment(launched=False):
    """Of a run on the CPU; `launched`: by a launcher."""
    return os.environ | ({} if launched else {"ACCELERATE_USE_CPU": "true"})


def set_up(folder, changes=CHANGES):
    """A tree `data` and the configuration of tiny networks in `folder`; returns the configuration's file."""
    own = {
        "first_stage_config": {"ddconfig": {"resolution": 32}},
        "data": {"train": {"data_root": str(folder / "data")}},
    }
    make_tree(folder / "data")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(merged(merged(TINY, own), changes)), encoding="utf-8")
    return path


def train_command(stage, config, results, *overrides, launcher=()):
    """The command line of a run; `launcher`: the module that starts it, and its options."""
    script = Path(STAGES[stage].__file__)
    command = [sys.executable, *launcher, script, "--cfg", config, f"trainer.results_folder={results}", *overrides]
    return list(map(str, command))


def train_here(stage, config, results, *overrides):
    """The same run in this process, on the CPU."""
    overrides = [f"trainer.results_folder={results}", *overrides]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        STAGES[stage].train(load_config(config, overrides, stage=stage))


def launcher(processes):
    """`accelerate launch` on the CPU."""
    several = ("--multi_gpu", "--main_process_port", "0") if processes > 1 else ("--cpu",)
    counts = ("--num_machines", "1", "--num_processes", processes)
    return ("-m", "accelerate.commands.launch", *counts, "--mixed_precision", "no", "--dynamo_backend", "no", *several)


SLURM = """#!{python}
# srun, scontrol and squeue of a cluster whose nodes are all this machine
import os, signal, subprocess, sys
from itertools import dropwhile
name = os.path.basename(sys.argv[0])
if name == "squeue":
    print(os.environ["FAKE_STATE"])
elif name == "scontrol":
    if sys.argv[1] == "requeue":
        open(os.environ["FAKE_REQUEUED"], "a").write(sys.argv[2])
    else:
        print("127.0.0.1\\nanother")
else:
    command = list(dropwhile(lambda word: word.startswith("--"), sys.argv[1:]))
    nodes = [{{"SLURM_NODEID": str(node)}} for node in range(int(os.environ["SLURM_NNODES"]))]
    tasks = [subprocess.Popen(command, env=os.environ | node) for node in nodes]
    signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
    sys.exit(max([task.wait() for task in tasks]))
"""


class Job:
    """A job of scripts/slurm/train.sbatch; a context, which leaves no process behind.

    Args:
        folder: for the stand-ins of SLURM's commands, and the output.
        command: what comes after the script's name.
        nodes, gpus: of how many nodes, each with how many GPUs, SLURM would say the job has.
        state: of the job, as SLURM would say.
    """

    def __init__(self, folder, *command, nodes=1, gpus=1, state="RUNNING"):
        programs = folder / "slurm"
        programs.mkdir(exist_ok=True)
        for name in ("srun", "scontrol", "squeue"):
            (programs / name).write_text(SLURM.format(python=sys.executable), encoding="utf-8")
            (programs / name).chmod(0o755)
        self.requeued, self.log = folder / "requeued", folder / "job.log"
        self.requeued.unlink(missing_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.number = free.getsockname()[1]
        variables = {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}", "FAKE_STATE": state}
        variables |= {"FAKE_REQUEUED": self.requeued, "SLURM_JOB_NODELIST": "all", "SLURM_JOB_ID": self.number}
        variables |= {"SLURM_NNODES": nodes, "SLURM_GPUS_ON_NODE": gpus}
        surroundings = environment(launched=True) | {name: str(value) for name, value in variables.items()}
        line = ["bash", "scripts/slurm/train.sbatch", *map(str, command)]
        with self.log.open("w") as output:
            how = {"env": surroundings, "cwd": ROOT, "stdout": output, "stderr": output, "start_new_session": True}
            self.process = subprocess.Popen(line, **how)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # which torchrun passes on to the training processes
        self.process.wait(timeout=60)
