"""The structure itself: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "denoising_diffusion_pytorch"

# file or room -> modules and rooms of the package that it may import; everything else is refused
NETWORKS = {"blocks", "swin", "unet", "autoencoder", "baselines"}
MATHEMATICS = {"diffusion", "samplers", "losses", "radio_map", "randomness", "latent_diffusion"}
ALLOWED = {
    **{name: {"blocks", "swin", "radio_map"} for name in NETWORKS},
    "baselines": {"blocks", "radio_map", "randomness"},
    **dict.fromkeys(("blocks", "processes", "radio_map", "randomness", "errors"), set()),
    "diffusion": {"processes"},
    "samplers": {"diffusion", "processes"},
    "serialization": {"errors"},
    "losses": {"autoencoder", "errors", "serialization"},
    "latent_diffusion": {"autoencoder", "diffusion", "samplers", "radio_map", "randomness"},
    "document": {"latent_diffusion", "build"},
    "config": {"errors", "processes"},
    "build": NETWORKS | MATHEMATICS | {"config"},
    "loading": {"autoencoder", "build", "config", "errors", "serialization", "training/checkpoint"},
    "inference": NETWORKS | MATHEMATICS | {"errors", "loading"},
    "cli": {"errors"},
}
IN_TRAINING = {  # the rest of the room may import everything
    **dict.fromkeys(("ema", "schedule", "report"), set()),
    "checkpoint": {"config", "errors"},
    "objectives": NETWORKS | MATHEMATICS | {"config"},
    "finite_guard": {"training/objectives"},
    "checkpointer": {"config", "errors", "loading"}
    | {f"training/{name}" for name in ("checkpoint", "ema", "objectives")},
    "latents": {"autoencoder"},
}
KNOW_DATASETS = {"inference", "cli", "training/setup", "training/data", "training/latents", "training/validation"}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(modules of the package, other packages) that a file imports: `swin`, `config`, `training/ema`; `data`, `torch`."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            room = path.relative_to(PACKAGE).parent.parts[: 2 - node.level]
            places = [node.module] if node.module else [alias.name for alias in node.names]
            ours |= {"/".join((*room, *place.split("."))) for place in places}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
    return {place.split("/")[0] if place.startswith(("config/", "baselines/")) else place for place in ours}, others


def test_imports_go_one_way():
    for name, allowed in ALLOWED.items():
        room = PACKAGE / name
        for path in room.glob("*.py") if room.is_dir() else [PACKAGE / f"{name}.py"]:
            assert imports(path)[0] <= allowed | {name}, path
    for name, allowed in IN_TRAINING.items():
        assert imports(PACKAGE / "training" / f"{name}.py")[0] <= allowed, name


def test_every_module_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} <= ALLOWED.keys()


def test_networks_load_no_more_than_themselves():
    """What a notebook that wants a network must not wait for."""
    heavy = ("accelerate", "matplotlib", "data", "pydantic", "tensorboard", "torchvision")
    assert loaded("from denoising_diffusion_pytorch.unet import Unet", heavy) == "[]"


def test_reading_a_city_needs_no_torch():
    """What `sample.py` does before it reports a mistyped path."""
    assert loaded("import sample", ("torch", "numba")) == "[]"


def loaded(code, modules):
    """Which of the modules an import has loaded, in a process of its own."""
    code = f"import sys; {code}; print([m for m in {modules} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_reading_a_configuration_needs_no_torch():
    for path in (PACKAGE / "config").glob("*.py"):
        assert "torch" not in imports(path)[1], path


def test_only_some_modules_know_datasets():
    for path in PACKAGE.rglob("*.py"):
        if str(path.relative_to(PACKAGE).with_suffix("")) not in KNOW_DATASETS:
            assert "data" not in imports(path)[1], path


def test_data_knows_no_networks():
    for path in (ROOT / "data").rglob("*.py"):
        assert PACKAGE.name not in path.read_text(encoding="utf-8"), path
