"""The fixed validation subset of a run: predicted with the averaged weights, scored, shown in a picture."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from data.trees.folder import open_tree
from data.trees.splits import city_name, evenly_spaced
from evaluation.metrics import measure, summary_of

from ..config.schema import Config
from ..predictor import Prediction, predict_prepared
from .data import open_dataset, processes_of

log = logging.getLogger("radiodiff")
Rows = dict[str, dict[str, Any]]  # scores of one map by what was scored
MAX_BATCH = 8  # maps: decoding may take more memory per map than a step on cached latents
COLUMNS = {"vae": ("reconstructed",), "ldm": ("reconstructed", "sampled"), "baseline": ("predicted",)}  # of the picture


class Validation:
    """Scenes spread over the validation split, always the same ones; each process reads and predicts some of them.

    Args:
        config: resolved; `trainer.validation_samples` scenes are scored, up to `trainer.num_samples` of them are in the picture.

    Raises:
        data.DataError: no validation data, or a scene that cannot be read.
    """

    def __init__(self, config: Config, stage: str, accelerator: Accelerator):
        settings = config.trainer
        self.accelerator, self.columns = accelerator, COLUMNS[stage]
        self.batch_size = min(settings.batch_size, MAX_BATCH)
        dataset = open_dataset(config, config.data.validation, processes_of(accelerator))
        train, held_out = config.data.train, config.data.validation
        if train.data_root == held_out.data_root:
            trained = set(map(city_name, open_tree(**vars(train)).names))
            if both := sum(city_name(name) in trained for name in dataset.source.names):
                overlap = f"{both} of {len(dataset)} validation maps are of cities that are trained on"
                log.warning("%s; choose other splits with data.train.split and data.validation.split", overlap)
        scored = settings.validation_samples if settings.validate_every else settings.num_samples
        chosen = evenly_spaced(len(dataset), scored)
        self.drawn = {chosen[place] for place in evenly_spaced(len(chosen), settings.num_samples)}
        mine = chosen[accelerator.process_index :: accelerator.num_processes]
        arrays = ({k: v.numpy() for k, v in dataset[i].items() if torch.is_tensor(v)} for i in mine)
        self.samples = [(i, dataset.scene(i), sample) for i, sample in zip(mine, arrays, strict=True)]

    def predict(self, model: Any, *, only_drawn: bool = False) -> dict[int, tuple[Prediction | None, Rows]]:
        """(prediction, `scores_of` it) by scene number, of the whole subset or only of the scenes in the picture; the prediction
        is None for scenes that are not in the picture. The same on every process.
        """
        chosen = [sample for sample in self.samples if not only_drawn or sample[0] in self.drawn]
        found: list[tuple[int, tuple[Prediction | None, Rows]]] = []
        for start in range(0, len(chosen), self.batch_size):
            indices, scenes, samples = zip(*chosen[start : start + self.batch_size], strict=True)
            with self.accelerator.autocast():
                predictions = predict_prepared(model, scenes, samples, self.accelerator.device, reconstruct=True)
            for index, prediction in zip(indices, predictions, strict=True):
                found.append((index, (prediction if index in self.drawn else None, scores_of(prediction))))
        return dict(sorted(gather_object(found), key=lambda pair: pair[0]))

    def draw(self, found: dict[int, tuple[Prediction | None, Rows]], path: Path) -> None:
        """real | reconstruction | sampled | error in dB, as a PNG; an autoencoder and a baseline have one middle column."""
        from evaluation.figures import comparison_figure  # matplotlib is slow to import

        shown = [prediction for prediction, _ in found.values() if prediction is not None]
        rows = [(p.scene, {"reconstructed": p.reconstruction, self.columns[-1]: p.gain}) for p in shown]
        comparison_figure(path, rows, self.columns)


def scores_of(prediction: Prediction) -> Rows:
    """`measure` of a prediction, `sampled`, and of its reconstruction, `reconstructed`, if there is one."""
    scene, maps = prediction.scene, {"sampled": prediction.gain, "reconstructed": prediction.reconstruction}
    return {kind: measure(scene.name, gain, scene.gain) for kind, gain in maps.items() if gain is not None}


def metrics_of(found: Sequence[Rows]) -> dict[str, float]:
    """nmse, rmse, ssim, psnr at the scenes' own resolution; with `thresholded_` in RadioUNet's convention; with
    `reconstruction_` of the autoencoder's reconstruction, if any. Means over maps (evaluation/metrics.py).
    """
    metrics = summary_of([rows["sampled"] for rows in found])
    metrics |= {f"thresholded_{key}": value for key, value in metrics.pop("thresholded").items()}
    reconstructed = [rows["reconstructed"] for rows in found if "reconstructed" in rows]
    best = summary_of(reconstructed) if reconstructed else {}
    metrics |= {f"reconstruction_{key}": value for key, value in best.items() if key != "thresholded"}
    of_the_set = ("maps", "without_energy", "target_power")  # the same at every validation
    return {key: value for key, value in metrics.items() if not key.endswith(of_the_set)}
