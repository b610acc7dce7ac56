"""How many network calls a model needs, and what averaging several draws adds.

    python scripts/step_curve.py --data path/to/RadioMapSeer --split test [--ckpt RESULTS] [--markdown curve.md]

NMSE over the scenes (raw grey levels, buildings zero, means over maps, native resolution) by sampler, calls and draws.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import open_tree
from data.metrics import Scores
from data.simulated import SimulatedScenes
from denoising_diffusion_pytorch.cli import new_file, positive, run
from denoising_diffusion_pytorch.inference import Predictor
from denoising_diffusion_pytorch.processes import PROCESSES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="checkpoint or results folder of train_cond_ldm.py; default: the released model")
    parser.add_argument("--data", type=Path, help="tree of either kind; default: simulated cities")
    parser.add_argument("--split", default="test", help="train, val, test, all, or your own split")
    parser.add_argument("--maps", type=positive, default=25, help="simulated cities, without --data (%(default)s)")
    parser.add_argument("--steps", type=positive, nargs="+", default=[1, 2, 3, 4, 5, 10, 20, 50])
    parser.add_argument("--samplers", nargs="+", help="default: all that fit the model")
    parser.add_argument("--num_samples", type=positive, nargs="+", default=[1], help="draws whose mean is scored")
    parser.add_argument("--markdown", type=new_file, help="file for the table")
    arguments = parser.parse_args()
    dataset = (
        open_tree(arguments.data, "DPM", arguments.split)
        if arguments.data
        else SimulatedScenes(arguments.maps, seed=8_000_000)
    )
    scenes = [dataset.scene(index) for index in range(len(dataset))]
    predictor = Predictor(arguments.ckpt)
    samplers = arguments.samplers or PROCESSES[predictor.config.diffusion_config.model_type].samplers
    for sampler in samplers:
        predictor.use(sampler, None)  # fails on a wrong name before any time is lost
    titles = [f"{name}, mean of {draws}" if draws > 1 else name for name in samplers for draws in arguments.num_samples]
    lines = [["calls", *titles], ["---"] * (len(titles) + 1)]
    for steps in arguments.steps:
        line = [str(steps)]
        for sampler in samplers:
            for predictor.num_samples in arguments.num_samples:
                predictor.use(sampler, steps)
                scores = Scores()
                for prediction in predictor.predict(scenes):
                    scores.add(prediction.scene.name, prediction.gain, prediction.scene.gain)
                line.append(f"{scores.summary()['nmse']:.5f}")
        lines.append(line)
        print(" | ".join(line), flush=True)
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    print(f"{dataset.report}, {predictor.checkpoint.path}\n{text}")
    if arguments.markdown:
        arguments.markdown.write_text(f"{dataset.report}\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
