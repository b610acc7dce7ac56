"""Where a map lies on the earth."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Georeference:
    """How a map, one pixel per metre and north up, lies in the coordinates of a file of footprints.

    Attributes:
        x, y: coordinates of the first pixel's centre.
        dx, dy: of one metre, in the unit of the coordinates.
        degrees: whether they are longitude and latitude.
        epsg: code of their reference system; None for WGS 84 in degrees, and for metres of an unknown system.
    """

    x: float
    y: float
    dx: float
    dy: float
    degrees: bool
    epsg: int | None = None

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of the file -> column and row."""
        return (x - self.x) / self.dx, (self.y - y) / self.dy

    def text(self, column: float, row: float) -> str:
        """`X,Y` in the coordinates of the file, to about a decimetre."""
        places = 6 if self.degrees else 1
        return f"{self.x + column * self.dx:.{places}f},{self.y - row * self.dy:.{places}f}"

    def crop(self, row: int, column: int) -> "Georeference":
        """Of the part of the map whose first pixel is (row, column)."""
        return replace(self, x=self.x + column * self.dx, y=self.y - row * self.dy)

    def extent(self, shape: tuple[int, int]) -> str:
        """The coordinates that a map of this shape (H, W) spans, for messages."""
        (height, width), places = shape, 5 if self.degrees else 0
        right, bottom = self.x + (width - 1) * self.dx, self.y - (height - 1) * self.dy
        return f"{self.x:.{places}f} .. {right:.{places}f}, {bottom:.{places}f} .. {self.y:.{places}f}"
