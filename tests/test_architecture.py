"""The structure itself: who may import whom."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL = "denoising_diffusion_pytorch"  # `model` in the names below
MOST_FILES = 14  # in a folder
FOLDERS = ("data", "evaluation", MODEL, "demo", "scripts")
FILES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
MODULES = {name.replace(MODEL, "model"): path for name, path in MODULES.items()}
COMMANDS = [path.stem for path in ROOT.glob("*.py")] + [name for name in MODULES if name.startswith("scripts.")]

# What these parts of the project may import of it, besides themselves. Where nothing is said: all but commands and training.
MAY_IMPORT = {
    "data": "",
    "evaluation": "data",
    "model": "data evaluation",
    "model.networks": "model.randomness",
    # know settings, but no data
    **dict.fromkeys(("model.build", "model.document", "model.losses", "model.weights"), "model"),
    "model.diffusion": "model.errors model.processes",
    "model.samplers": "model.errors model.processes model.diffusion",
    "model.latent_diffusion": "model.networks model.diffusion model.samplers model.randomness",
    **dict.fromkeys(("model.errors", "model.processes", "model.randomness"), ""),
}


def imports(name: str) -> set[str]:
    """The project's modules that a module imports, anywhere in its text."""
    folder, found = ".".join(MODULES[name].relative_to(ROOT).parent.parts), set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), folder)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    names = {each.replace(MODEL, "model") for each in found}
    names |= {each.rpartition(".")[0] for each in names}  # without what is taken from a module
    return names & MODULES.keys() - {name}


GRAPH = {name: imports(name) for name in MODULES}


def within(name: str, parts) -> bool:
    """Whether a module is one of the parts, or in one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def room(name: str) -> str:
    """A folder in a package, or a file at its top."""
    return ".".join(name.split(".")[:2])


def test_no_circle():
    rooms = {room(name): set() for name in GRAPH}
    for name, others in GRAPH.items():
        rooms[room(name)] |= {room(other) for other in others} - {room(name)}
    for graph in (GRAPH, rooms):
        TopologicalSorter(graph).prepare()  # or CycleError, which names the circle


@pytest.mark.parametrize("part, allowed", MAY_IMPORT.items())
def test_what_a_part_may_import(part, allowed):
    pairs = [(name, other) for name, others in GRAPH.items() if within(name, [part]) for other in others]
    assert [pair for pair in pairs if not within(pair[1], [part, *allowed.split()])] == []


def test_nothing_imports_a_command_and_only_commands_import_training():
    assert [(name, other) for name, others in GRAPH.items() for other in others if other in COMMANDS] == []
    users = [name for name, others in GRAPH.items() if any(within(other, ["model.training"]) for other in others)]
    others = ("model.training", "model.document")  # the document's names
    assert [name for name in users if name not in COMMANDS and not within(name, others)] == []


def test_folders_are_small():
    sizes = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert max(sizes.values()) <= MOST_FILES, sizes


@pytest.mark.parametrize(
    "code, heavy",
    {
        "from denoising_diffusion_pytorch.networks.unet import Unet": "accelerate data matplotlib pydantic tensorboard",
        "from denoising_diffusion_pytorch.config import load_config": "torch accelerate matplotlib numba",
        "import sample": "torch numba",
        "import train_cond_ldm": "matplotlib numba",
        "import data": "torch numba matplotlib",
    }.items(),
)
def test_what_need_not_wait(code, heavy):
    code = f"{code}; import sys; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
