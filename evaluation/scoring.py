"""Several predictors scored on the same scenes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.errors import DataError
from data.incomplete import Incomplete
from data.scene import Scene
from data.trees.folder import Tree
from data.trees.splits import evenly_spaced

from .metrics import measure, summary_of
from .references import REFERENCES
from .regions import Regions
from .report import interval


class SelectedScenes:
    """Scenes of a split, `maps` of them spread over it (None: all), with a condition as incomplete as requested."""

    def __init__(self, source: Tree, maps: int | None, incomplete: Incomplete):
        self.source, self.incomplete = source, incomplete
        self.chosen = evenly_spaced(len(source), maps or len(source))
        self.names = [source.names[index] for index in self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def scene(self, number: int) -> Scene:
        return self.incomplete.apply(self.source.scene(self.chosen[number]))


def reference_scores(scene: Scene, regions: Regions) -> dict[str, dict[str, Any] | None]:
    """`measure` of the predictors in REFERENCES; None for one without a map, because no transmitter is shown in the open."""
    found: dict[str, dict[str, Any] | None] = {}
    for name, predict in REFERENCES.items():
        try:
            found[name] = measure(scene.name, predict(scene), scene.gain, regions)
        except DataError:
            found[name] = None
    return found


class Evaluation:
    """Scores of several predictors on the same scenes: `rows`, by predictor, of the maps that it has.

    `records`: of each map, what `measure` found with regions, by predictor; None where a predictor has no map.
    """

    def __init__(self, records: Sequence[Mapping[str, dict[str, Any] | None]]) -> None:
        self.maps = len(records)
        self.rows = {name: [r[name] for r in records if r[name] is not None] for name in records[0]}

    def summaries(self) -> dict[str, dict[str, Any]]:
        """By predictor, `summary_of` its maps with `nmse_interval`."""
        found = {}
        for name, rows in self.rows.items():
            if rows:
                bounds = interval([row["nmse"] for row in rows], [row["name"] for row in rows])
                found[name] = summary_of(rows) | {"nmse_interval": bounds}
        return found

    def notes(self) -> list[str]:
        """What is missing from the scores."""
        found = [
            f"{name}: scored on {len(rows)} of {self.maps} maps; it needs a transmitter in the open"
            for name, rows in self.rows.items()
            if len(rows) < self.maps
        ]
        empty = [row["name"] for row in next(iter(self.rows.values())) if np.isnan(row["nmse"])]
        if empty:
            named = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
            found.append(f"{len(empty)} of {self.maps} maps are zero everywhere and have no NMSE: {named}")
        return found

    def best_to_worst(self, predictor: str, count: int) -> list[int]:
        """The numbers of up to `count` maps, evenly from the predictor's best to its worst; only maps with energy."""
        nmse = np.array([row["nmse"] for row in self.rows[predictor]])
        ranked = np.argsort(nmse)[: np.isfinite(nmse).sum()]  # NaN is sorted to the end
        return [int(ranked[round(place)]) for place in np.linspace(0, len(ranked) - 1, min(count, len(ranked)))]
