"""The scenes that predictors are scored on."""

from collections.abc import Iterator

from data import FlatTree, RadioMapSeer, Scene
from data.incomplete import Incomplete
from data.simulator.scenes import SimulatedScenes
from data.trees.splits import spread


class TestSet:
    """Scenes of a source, read as they are needed, with what the condition does not show of them.

    Args:
        source: a split of a tree, or simulated cities.
        maps: that many, spread over the source; None for all of it.
        incomplete: what the condition does not show.
    """

    __test__ = False  # pytest: not a class of tests

    def __init__(self, source: RadioMapSeer | FlatTree | SimulatedScenes, maps: int | None, incomplete: Incomplete):
        self.source, self.incomplete = source, incomplete
        self.chosen = spread(len(source), maps or len(source))

    def __len__(self) -> int:
        return len(self.chosen)

    def scene(self, number: int) -> Scene:
        """Number 0 .. `len` - 1."""
        return self.incomplete.apply(self.source.scene(self.chosen[number]))

    def __iter__(self) -> Iterator[Scene]:
        return map(self.scene, range(len(self)))

    @property
    def names(self) -> list[str]:
        """Of the scenes."""
        return [self.source.names[index] for index in self.chosen]
