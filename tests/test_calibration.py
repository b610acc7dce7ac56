"""Calibration of samples, on distributions that are known."""

from statistics import NormalDist

import numpy as np
import pytest

from evaluation.calibration import STEP_DB, crps, measure_samples
from evaluation.metrics import measure, summary_of
from evaluation.regions import Regions

SIDE = 60
WHERE = Regions(*np.ones((3, SIDE, SIDE), bool), {}, np.zeros((SIDE, SIDE), int))


def summary(spread_ratio, count=20):
    """Of truths from N(0.5, 0.02) and samples from N(0.5, 0.02 * spread_ratio)."""
    rng, rows = np.random.default_rng(0), []
    for number in range(20):
        truth = 0.5 + 0.02 * rng.standard_normal((SIDE, SIDE))
        samples = 0.5 + 0.02 * spread_ratio * rng.standard_normal((count, SIDE, SIDE))
        rows.append(measure(str(number), samples.mean(0), truth, WHERE, samples))
    return summary_of(rows)["calibration"]


@pytest.mark.parametrize("ratio, count, within", [(1, 2, 0.012), (1, 20, 0.012), (0.5, 20, 0.05), (2, 20, 0.05)])
def test_narrow_samples_cover_less_and_wide_ones_more(ratio, count, within):
    found, normal = summary(ratio, count), NormalDist()
    for level in found["coverage"] if ratio == 1 else ["0.9"]:
        expected = 2 * normal.cdf(ratio * normal.inv_cdf(0.5 + float(level) / 2)) - 1
        assert found["coverage"][level] == pytest.approx(expected, abs=within)
    unit = 0.02 * 255 * STEP_DB
    assert found["spread"] == pytest.approx(unit * ratio * (1 + 1 / count) ** 0.5, rel=0.02)
    assert found["error"] == pytest.approx(unit * (1 + ratio**2 / count) ** 0.5, rel=0.02)


def test_crps_of_an_ensemble():
    rng = np.random.default_rng(2)
    samples, truth = rng.standard_normal((6, 50)), rng.standard_normal(50)
    pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (2 * 6 * 5)
    assert np.allclose(crps(samples, truth), np.abs(samples - truth).mean(0) - pairs)
    many, y = rng.standard_normal((40_000, 1)), np.array([0.7])
    normal = NormalDist()
    exact = 0.7 * (2 * normal.cdf(0.7) - 1) + 2 * normal.pdf(0.7) - np.pi**-0.5  # Gneiting & Raftery, 2007
    assert crps(many, y)[0] == pytest.approx(exact, abs=0.01)


def test_what_is_known_exactly_is_calibrated():
    truth = np.random.default_rng(1).integers(0, 256, 3600) / 255
    found = measure_samples(np.stack([truth] * 8) + 0.001, truth, "a")  # less than half a grey level
    assert found["coverage"]["0.5"] == pytest.approx(0.5, abs=0.03)
    assert found["crps"] == found["spread"] == found["error"] == 0
