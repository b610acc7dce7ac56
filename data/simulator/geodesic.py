"""The shortest path from the transmitter around the buildings: its length, and by how much it turns."""

import heapq

import numpy as np

from .compiled import compiled

# king's and knight's moves on a grid: 16 directions keep the length within 3 % of the true one
STEPS = np.array([(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3) if dx * dx + dy * dy in (1, 2, 5)])


@compiled
def _clear(free, x0, y0, x1, y1):
    """Whether the straight line between two cells, sampled every half cell, meets free cells only."""
    count = 2 * max(abs(x1 - x0), abs(y1 - y0))
    for i in range(1, count):  # noqa: SIM110 - numba compiles no generator
        if not free[int(y0 + (y1 - y0) * i / count + 0.5), int(x0 + (x1 - x0) * i / count + 0.5)]:
            return False
    return True


@compiled
def _shortest(free, x, y, straight):
    """Length and turn (radians) of the paths from (x, y) over the free cells (H, W), both infinite where there is none.

    Dijkstra's algorithm in STEPS; `straight`: Theta* (Nash et al., 2007), whose paths go straight from bend to bend.
    """
    height, width = free.shape
    distance, turn = np.full((2, height, width), np.inf, np.float32)
    distance[y, x] = turn[y, x] = 0
    last = np.full(height * width, y * width + x)  # the last bend on the way to each cell
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
            bend = last[cell]
            if not straight or not _clear(free, bend % width, bend // width, c, r):
                bend = cell
            bx, by = bend % width, bend // width
            ex, ey = c - bx, r - by
            new = distance[by, bx] + np.float32(np.sqrt(ex * ex + ey * ey))
            if new < distance[r, c]:
                distance[r, c], turn[r, c], last[r * width + c] = new, turn[by, bx], bend
                arriving = complex(bx - last[bend] % width, by - last[bend] // width)
                if straight and arriving != 0:  # it is 0 at the transmitter, where no path bends
                    turn[r, c] += np.float32(abs(np.angle(complex(ex, ey) / arriving)))
                heapq.heappush(queue, (new, r * width + c))
    return distance, turn


def shortest_paths(buildings: np.ndarray, tx: tuple[float, float], *, straight: bool = False) -> list[np.ndarray]:
    """[length in metres, sum of turns in radians (0 unless `straight`)] of the shortest paths from (x, y) around the buildings
    (H, W) bool: (H, W) float32 each, infinite where there is none.

    On a grid of 2 x 2 px, of which a cell is free if less than three quarters of it are built; of pixels, if H or W is odd.
    """
    height, width = buildings.shape
    cell = 1 if height % 2 or width % 2 else 2
    built = buildings.reshape(height // cell, cell, width // cell, cell).mean(axis=(1, 3))
    free = built < 0.75
    x = int(np.clip((tx[0] + 0.5) // cell, 0, free.shape[1] - 1))
    y = int(np.clip((tx[1] + 0.5) // cell, 0, free.shape[0] - 1))
    free[y, x] = True
    length, turn = _shortest(free, x, y, straight)
    fine = (each.repeat(cell, axis=0).repeat(cell, axis=1) for each in (cell * length, turn))
    return [np.where(buildings, np.inf, each).astype(np.float32) for each in fine]
