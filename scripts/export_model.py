"""Export a checkpoint for distribution: averaged weights in 16 or 8 bits, and the configuration.

    python scripts/export_model.py --ckpt radiodiff_results_LDM --out my_model [--int8] [diffusion_config.pixel_noise=0.5 ...]

The folder can be used wherever a checkpoint can, except to resume training.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoising_diffusion_pytorch.checkpoint import export_model, open_checkpoint
from denoising_diffusion_pytorch.cli import parse, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True, help="checkpoint folder or results folder")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--int8", action="store_true", help="8 bits per weight in place of 16")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="how the model samples from now on")
    arguments = parse(parser)
    folder = export_model(open_checkpoint(arguments.ckpt), arguments.out, arguments.overrides, arguments.int8)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main)
