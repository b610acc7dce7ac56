"""The structure itself: who may import whom."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "denoising_diffusion_pytorch"

# module -> modules of the package that it may import; everything else is refused
ALLOWED = {
    "blocks": set(),
    "diffusion": set(),
    "ema": set(),
    "randomness": set(),
    "schedule": set(),
    "watch": set(),
    "report": set(),
    "errors": set(),
    "autoencoder": {"blocks"},
    "swin": {"blocks"},
    "unet": {"blocks", "swin"},
    "serialization": {"errors"},
    "losses": {"autoencoder", "errors", "serialization"},
    "regression": {"blocks"},
    "build": {"autoencoder", "config", "diffusion", "losses", "regression", "swin", "unet"},
}
ENTRY = {"__init__", "launch", "cli", "inference", "latents", "validation"}  # the modules that may know datasets


def imports(path: Path) -> set[str]:
    """Project modules that a file imports: `data`, or names inside the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level or (node.module or "").startswith(PACKAGE.name):
                module = (node.module or "").removeprefix(PACKAGE.name).strip(".")
                found |= {module.split(".")[0]} if module else {alias.name for alias in node.names}
            else:
                found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def test_networks_import_downwards_only():
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    for name, allowed in ALLOWED.items():
        used = imports(PACKAGE / f"{name}.py")
        assert used & modules <= allowed, (name, used & modules - allowed)


def test_reading_a_configuration_needs_no_networks():
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    for path in (PACKAGE / "config").glob("*.py"):
        used = imports(path)
        assert "torch" not in used, path
        assert used & modules <= {"errors"}, path


def test_only_the_entry_layer_knows_datasets():
    for path in PACKAGE.glob("*.py"):
        if path.stem not in ENTRY:
            assert "data" not in imports(path), path


def test_data_knows_no_networks():
    for path in (ROOT / "data").rglob("*.py"):
        assert PACKAGE.name not in {name.split(".")[0] for name in imports(path)}, path
        assert f"from {PACKAGE.name}" not in path.read_text(encoding="utf-8"), path
