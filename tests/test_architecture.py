"""The structure itself: who may import whom."""

import ast
import re
import subprocess
import sys
from collections import Counter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL = "denoising_diffusion_pytorch"
MOST_FILES = 14  # in a room

# From the bottom up: a room (a folder, or a file at the top of a package) and the rooms that it may import. A room only
# names rooms above its line, so there is no circle. `data` and `evaluation` name no part of the model package.
SCENES = "errors files geometry hashing measurements scene units"
DATA = {
    "errors": "",
    "hashing": "",
    "units": "",
    "workers": "",
    "files": "errors",
    "geometry": "errors files",
    "measurements": "geometry",
    "scene": "errors geometry",
    "crop": "errors geometry scene",
    "incomplete": "errors geometry hashing scene units",
    "simulator": "crop geometry scene units",
    "conditions": "errors geometry measurements scene simulator units",
    "trees": "errors files geometry hashing scene simulator units",
    "gis": "crop errors files geometry trees units",
    "prepare": "conditions errors geometry scene",
    "samples": f"{SCENES} conditions incomplete prepare trees workers",
}
EVALUATION = {
    "calibration": "",
    "references": "",
    "regions": "",
    "records": "",
    "metrics": "calibration regions",
    "figures": "metrics",
    "maps": "figures",
    "report": "metrics",
    "scoring": "metrics references regions report",
}
MODELS = {
    "errors": "",
    "processes": "",
    "randomness": "",
    "cli": "errors",
    "networks": "randomness",
    "diffusion": "errors processes",
    "samplers": "diffusion errors processes",
    "config": "errors processes",
    "checkpoint": "config errors",
    "losses": "checkpoint config errors networks",
    "latent_diffusion": "diffusion networks randomness samplers",
    "build": "networks config diffusion latent_diffusion samplers",
    "weights": "build checkpoint config errors networks",
    "predictor": "networks config diffusion errors latent_diffusion processes randomness samplers weights",
    "training": "networks build checkpoint config errors latent_diffusion losses predictor randomness weights",
    "document": "build checkpoint config latent_diffusion networks weights",
}
PACKAGES = {"data": DATA, "evaluation": EVALUATION, MODEL: MODELS}
OTHERS = {"data": set(), "evaluation": {"data"}, MODEL: {"data", "evaluation"}}  # packages that a package may import
KNOW_DATA = {"checkpoint", "cli", "config", "predictor", "training"}  # its rooms that may import `data`


def place(path: Path) -> tuple[str, str]:
    """(package, room) of a file."""
    package, *folders, _ = path.relative_to(ROOT).parts
    return package, "/".join(folders) or path.stem


def imports(path: Path) -> set[tuple[str, str]]:
    """(package, room) of all of the project's modules that a file imports."""
    names, found = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), ".".join(path.relative_to(ROOT).parent.parts))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    for parts in (name.split(".") for name in names if name.split(".")[0] in PACKAGES):
        targets = [ROOT.joinpath(*parts[:length]) for length in range(len(parts), 0, -1)]
        target = next(t for t in targets if t.is_dir() or t.with_suffix(".py").exists())  # not the names in a module
        found.add((parts[0], "/".join(target.relative_to(ROOT).parts[1:])) if target.is_dir() else place(target))
    return found


FILES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_are_allowed(path):
    package, room = place(path)
    assert room in PACKAGES[package], "a new room: give it a line in the table"
    allowed = {*PACKAGES[package][room].split(), room}
    for theirs, other in imports(path):
        if theirs == package:
            assert other in allowed, f"{room} imports {other}"
        else:
            assert theirs in OTHERS[package], f"{package} imports {theirs}"
            assert package != MODEL or room in KNOW_DATA, f"{room} imports data"


def test_the_table_has_no_circle_and_rooms_are_small():
    for rooms in PACKAGES.values():
        above: set[str] = set()
        for room, allowed in rooms.items():
            assert set(allowed.split()) <= above, room
            above.add(room)
    sizes = Counter(path.parent for path in FILES)
    assert max(sizes.values()) <= MOST_FILES, sizes


def test_no_command_imports_another():
    for path in (*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")):
        assert not re.search(r"(from|import) (scripts|train_|sample)", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "code, heavy",
    {
        "from denoising_diffusion_pytorch.networks.unet import Unet": "accelerate data matplotlib pydantic tensorboard",
        "from denoising_diffusion_pytorch.config import load_config": "torch accelerate matplotlib numba",
        "import sample": "torch numba",
        "import data": "torch numba matplotlib",
    }.items(),
)
def test_what_need_not_wait(code, heavy):
    code = f"{code}; import sys; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
