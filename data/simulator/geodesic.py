"""Length of the shortest path from the transmitter around the buildings."""

import heapq

import numpy as np
from numba import njit

# king's and knight's moves on a grid: 16 directions keep the length within 3 % of the true one
STEPS = np.array([(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3) if dx * dx + dy * dy in (1, 2, 5)])


@njit(cache=True, nogil=True)
def _shortest(free, x, y):
    """Dijkstra's algorithm on the free cells (H, W); infinite where there is no path."""
    height, width = free.shape
    distance = np.full((height, width), np.inf, np.float32)
    distance[y, x] = 0
    queue = [(np.float32(0), y * width + x)]
    while len(queue):
        d, cell = heapq.heappop(queue)
        row, column = cell // width, cell % width
        if d > distance[row, column]:
            continue
        for dx, dy in STEPS:
            c, r = column + dx, row + dy
            if c < 0 or r < 0 or c >= width or r >= height or not free[r, c]:
                continue
            ax, ay = int(dx / 2), int(dy / 2)  # a knight's move passes between two cells, which must both be free
            if abs(dx) + abs(dy) == 3 and not (free[row + ay, column + ax] and free[r - ay, c - ax]):
                continue
            if abs(dx) + abs(dy) == 2 and not (free[row, c] or free[r, column]):
                continue
            new = d + np.float32(np.sqrt(dx * dx + dy * dy))
            if new < distance[r, c]:
                distance[r, c] = new
                heapq.heappush(queue, (new, r * width + c))
    return distance


def geodesic_distance(buildings: np.ndarray, tx: tuple[float, float]) -> np.ndarray:
    """Length of the shortest path from (x, y) outside the buildings (H, W) bool: (H, W) float32 in metres, or infinite.

    On a grid of 2 x 2 px, of which a cell is free if less than three quarters of it are built; of pixels, if H or W is odd.
    """
    height, width = buildings.shape
    cell = 1 if height % 2 or width % 2 else 2
    built = buildings.reshape(height // cell, cell, width // cell, cell).mean(axis=(1, 3))
    free = built < 0.75
    x = int(np.clip((tx[0] + 0.5) // cell, 0, free.shape[1] - 1))
    y = int(np.clip((tx[1] + 0.5) // cell, 0, free.shape[0] - 1))
    free[y, x] = True
    fine = (cell * _shortest(free, x, y)).repeat(cell, axis=0).repeat(cell, axis=1)
    return np.where(buildings, np.inf, fine).astype(np.float32)
