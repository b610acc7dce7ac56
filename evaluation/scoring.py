"""Several predictors scored on the same scenes. A predictor is a function of a scene, or gives its maps one by one."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import DataError
from data.scene import Scene

from .calibration import Calibration, measure_samples
from .metrics import Scores, mean_of, measure
from .regions import Regions, error_by_region
from .table import interval

Reference = Callable[[Scene], np.ndarray]


@dataclass
class Answer:
    """A predictor's map of a scene (H, W), grey levels in [0, 1], and the samples (K, H, W) that it is the mean of, if any. Other
    classes with these two attributes do, too.
    """

    gain: np.ndarray
    samples: np.ndarray | None = None


def record_of(scene: Scene, answers: Mapping[str, Any], regions: Regions) -> dict[str, Any]:
    """All that an `Evaluation` keeps of the answers to a scene with a map, in JSON types.

    Returns:
        `scores` and `calibrations` by predictor (`measure`, `measure_samples`), and `by_region`, where the error of the first
        one's map lies.
    """
    calibrations = {
        name: measure_samples(answer.samples, scene.gain, ~scene.ori_mask, scene.name)
        for name, answer in answers.items()
        if answer.samples is not None
    }
    return {
        "scores": {name: measure(scene.name, answer.gain, scene.gain, regions) for name, answer in answers.items()},
        "calibrations": calibrations,
        "by_region": error_by_region(next(iter(answers.values())).gain, scene, regions),
    }


def record_of_references(scene: Scene, references: Mapping[str, Reference], regions: Regions) -> dict[str, Any]:
    """The same of predictors that are functions of a scene: `scores`, and `failures` of those that raise DataError."""
    record: dict[str, Any] = {"scores": {}, "failures": {}}
    for name, predict in references.items():
        try:
            record["scores"][name] = measure(scene.name, predict(scene), scene.gain, regions)
        except DataError as error:
            record["failures"][name] = str(error)
    return record


class Evaluation:
    """Scores of several predictors on the same scenes.

    Attributes:
        scores, calibrations: by predictor; calibrations of those that gave several samples.
        failures: why a predictor has no map of some scenes.
        by_region: the error of the first predictor's maps, see `error_by_region`.
    """

    def __init__(self) -> None:
        self.scores: defaultdict[str, Scores] = defaultdict(Scores)
        self.calibrations: defaultdict[str, Calibration] = defaultdict(Calibration)
        self.failures: defaultdict[str, list[str]] = defaultdict(list)
        self.by_region: list[dict[str, float]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a map's record: that of `record_of`, with the references' in it if there are any."""
        for name, measured in record["scores"].items():
            self.scores[name].take(measured)
        for name, measured in record["calibrations"].items():
            self.calibrations[name].take(measured)
        for name, reason in record.get("failures", {}).items():
            self.failures[name].append(reason)
        self.by_region.append(record["by_region"])

    def summaries(self) -> dict[str, dict[str, Any]]:
        """By predictor, `Scores.summary` with `nmse_interval` and, if there is one, `calibration`."""
        found = {}
        for name, scores in self.scores.items():
            found[name] = scores.summary() | {"nmse_interval": interval([row["nmse"] for row in scores.rows])}
            if name in self.calibrations:
                found[name]["calibration"] = self.calibrations[name].summary()
        return found

    def mean_by_region(self) -> dict[str, float]:
        """Means over the maps with energy."""
        return {name: mean_of([row[name] for row in self.by_region]) for name in self.by_region[0]}

    def notes(self) -> list[str]:
        """What is missing from the scores."""
        maps = len(self.by_region)
        found = [
            f"{name}: scored on {maps - len(reasons)} of {maps} maps; the first of the others: {reasons[0]}"
            for name, reasons in self.failures.items()
        ]
        empty = [row["name"] for row in next(iter(self.scores.values())).rows if np.isnan(row["nmse"])]
        if count := len(empty):
            named = ", ".join(empty[:3]) + (", ..." if count > 3 else "")
            found.append(f"{count} of {maps} maps are zero everywhere and have no NMSE: {named}")
        return found

    def best_to_worst(self, predictor: str, count: int) -> list[int]:
        """The numbers of up to `count` maps, evenly from the predictor's best to its worst; only maps with energy."""
        nmse = np.array([row["nmse"] for row in self.scores[predictor].rows])
        ranked = np.argsort(nmse)[: np.isfinite(nmse).sum()]  # NaN is sorted to the end
        return [int(ranked[round(place)]) for place in np.linspace(0, len(ranked) - 1, min(count, len(ranked)))]


def score(answer: Callable[[Sequence[Scene]], Iterator[Any]], scenes: Sequence[Scene]) -> dict[str, Any]:
    """Scores of one predictor and its time: `nmse_per_map`, `crps_per_map`, `seconds_per_map` and the numbers of its summary;
    `answer` gives one answer per scene, in order.
    """
    next(answer(scenes[:1]))  # the first one compiles
    evaluation, seconds, answers = Evaluation(), 0.0, answer(scenes)
    for scene in scenes:
        began = time.perf_counter()
        found = next(answers)
        seconds += time.perf_counter() - began
        evaluation.add(record_of(scene, {"": found}, Regions.of(scene)))
    (summary,) = evaluation.summaries().values()
    for calibration in evaluation.calibrations.values():
        del summary["calibration"]["ranks"], summary["calibration"]["by_spread"]
        summary["crps_per_map"] = calibration.crps
    per_map = [row["nmse"] for row in evaluation.scores[""].rows]
    return summary | {"nmse_per_map": per_map, "seconds_per_map": seconds / len(scenes)}
