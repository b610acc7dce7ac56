"""Radio maps by the ray tracer Sionna RT (Hoydis et al., 2023), an optional alternative to the embedded simulator.

Line of sight, specular reflections and first-order diffraction around extruded buildings. Cells that no ray reaches
stay at the floor, so in deep shadow these maps differ from RadioMapSeer's dominant-path maps: different physics, not a
better copy.
"""

import tempfile
from pathlib import Path

import numpy as np

from .errors import DataError
from .layout import Layout
from .units import GAIN_MIN_DB

FREQUENCY = 5.9e9  # Hz
HEIGHT = 25.0  # m, of buildings
RECEIVER, TRANSMITTER = 1.5, 4.0  # m; at equal heights a horizontal map would miss the direct path
MIN_LLVM = 19  # older versions crash the process without a message
SAMPLES = 20_000_000  # rays per transmitter; with fewer, far cells stay empty by chance
_SCENE = """<scene version="2.1.0">
<bsdf type="itu-radio-material" id="concrete"><string name="type" value="concrete"/><float name="thickness" value="0.3"/></bsdf>
{shapes}
</scene>"""
_SHAPE = """<shape type="ply" id="mesh-{name}"><string name="filename" value="{file}"/><boolean name="face_normals" value="true"/>
<ref id="concrete" name="bsdf"/></shape>"""


def require_sionna():
    """The module sionna.rt; raises DataError that says what is missing."""
    try:
        import drjit
        import mitsuba
    except ImportError as error:
        raise DataError("--engine sionna needs: pip install -r requirements-sionna.txt") from error
    if "cuda_ad_mono_polarized" not in mitsuba.variants() or not drjit.has_backend(drjit.JitBackend.CUDA):
        if not drjit.has_backend(drjit.JitBackend.LLVM):
            raise DataError(
                f"--engine sionna: without a GPU it needs LLVM {MIN_LLVM} or newer (apt install libllvm{MIN_LLVM})"
            )
        found = drjit.detail.llvm_version()
        if found[0] < MIN_LLVM:
            version = ".".join(map(str, found))
            raise DataError(
                f"--engine sionna: found LLVM {version}, on which it crashes; {MIN_LLVM} or newer is needed "
                f"(apt install libllvm{MIN_LLVM}, then set DRJIT_LIBLLVM_PATH to its libLLVM.so)"
            )
    import sionna.rt

    return sionna.rt


class RayTracer:
    """A city prepared once for any number of transmitters; the same interface as `Simulator`.

    Args:
        layout: its buildings.
        max_depth: largest number of reflections per path.

    Raises:
        DataError: Sionna RT or its LLVM is missing.
    """

    def __init__(self, layout: Layout, max_depth: int = 4):
        self.rt = require_sionna()
        self.buildings, self.max_depth = layout.inside, max_depth
        height, width = layout.shape
        with tempfile.TemporaryDirectory() as folder:
            names = ["ground"]
            corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
            _write_mesh(Path(folder) / "ground.ply", _raised(corners, 0), np.array([[0, 2, 1], [0, 3, 2]]))
            for number, ring in enumerate(layout.outlines):
                names.append(f"building_{number}")
                _write_mesh(Path(folder) / f"{names[-1]}.ply", *_walls(ring))
            shapes = "\n".join(_SHAPE.format(name=name, file=f"{name}.ply") for name in names)
            scene = Path(folder) / "scene.xml"
            scene.write_text(_SCENE.format(shapes=shapes), encoding="utf-8")
            self.scene = self.rt.load_scene(str(scene), merge_shapes=True)
        self.scene.frequency = FREQUENCY
        isotropic = self.rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
        self.scene.tx_array = self.scene.rx_array = isotropic

    def path_gain(self, tx: tuple[float, float]) -> np.ndarray:
        """Path gain in dB, (H, W) float32, at least GAIN_MIN_DB, which is also the value inside buildings.

        Args:
            tx: (x, y) = (column, row) in pixels.

        Raises:
            ValueError: the transmitter is outside the image or inside a building.
        """
        height, width = self.buildings.shape
        x, y = float(tx[0]), float(tx[1])
        if not (0 <= round(x) < width and 0 <= round(y) < height) or self.buildings[round(y), round(x)]:
            raise ValueError(f"the transmitter ({x:g}, {y:g}) is outside the map or inside a building")
        self.scene.remove("tx")
        self.scene.add(self.rt.Transmitter("tx", position=[x, -y, TRANSMITTER]))
        found = self.rt.RadioMapSolver()(
            self.scene,
            center=[(width - 1) / 2, -(height - 1) / 2, RECEIVER],
            orientation=[0, 0, 0],
            size=[width, height],
            cell_size=[1, 1],
            samples_per_tx=SAMPLES,
            max_depth=self.max_depth,
            diffraction=True,
            refraction=False,
        )
        gain = np.array(found.path_gain)[0][::-1]  # its rows run along y, which points up
        floor = 10 ** (GAIN_MIN_DB / 10)
        decibels = 10 * np.log10(np.maximum(gain, floor))
        return np.where(self.buildings, GAIN_MIN_DB, decibels).astype(np.float32)


def _raised(ring: np.ndarray, z: float) -> np.ndarray:
    """x right, y down -> x, y up, z."""
    return np.column_stack([ring[:, 0], -ring[:, 1], np.full(len(ring), z)])


def _walls(ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of the walls over an outline."""
    count = len(ring)
    points = np.concatenate([_raised(ring, 0.0), _raised(ring, HEIGHT)])
    here = np.arange(count)
    after = (here + 1) % count
    faces = np.concatenate(
        [np.column_stack([here, after, after + count]), np.column_stack([here, after + count, here + count])]
    )
    return points, faces


def _write_mesh(path: Path, points: np.ndarray, faces: np.ndarray) -> None:
    from plyfile import PlyData, PlyElement

    vertices = np.array([tuple(point) for point in points], dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    triangles = np.array([(face,) for face in faces.tolist()], dtype=[("vertex_indices", "i4", (3,))])
    PlyData([PlyElement.describe(vertices, "vertex"), PlyElement.describe(triangles, "face")]).write(str(path))
