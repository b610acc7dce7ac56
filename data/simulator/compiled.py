"""Compilation by numba."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled when it is first called; later processes find the result where a folder can keep it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no writable folder, as in a read-only installation
        return njit(nogil=True)(function)
