"""Calibration of samples, on distributions that are known."""

from statistics import NormalDist

import numpy as np
import pytest

from evaluation.calibration import STEP_DB, crps, measure_samples, rank_fractions
from evaluation.metrics import Scores
from evaluation.regions import Regions

SIDE = 60
WHERE = Regions(*np.ones((3, SIDE, SIDE), bool), {}, np.zeros((SIDE, SIDE), int))


def summary(spread_ratio, count=20, maps=20, spread=0.02):
    """Of truths from N(0.5, spread) and samples from N(0.5, spread_ratio * spread)."""
    rng, scores = np.random.default_rng(0), Scores()
    for number in range(maps):
        truth = 0.5 + spread * rng.standard_normal((SIDE, SIDE))
        samples = 0.5 + spread * spread_ratio * rng.standard_normal((count, SIDE, SIDE))
        scores.add(str(number), samples.mean(0), truth, WHERE, samples)
    return scores.summary()["calibration"]


@pytest.mark.parametrize("count", [2, 20])
def test_samples_of_the_right_distribution_are_calibrated(count):
    found = summary(1.0, count)
    for level, fraction in found["coverage"].items():
        assert fraction == pytest.approx(float(level), abs=0.012)
    expected = 0.02 * 255 * STEP_DB * (1 + 1 / count) ** 0.5
    assert found["spread"] == pytest.approx(expected, rel=0.02) and found["error"] == pytest.approx(expected, rel=0.02)
    assert 0.9 < found["differing"] <= 1


def test_narrow_samples_cover_less_and_wide_ones_more():
    for ratio in (0.5, 2.0):
        expected = 2 * NormalDist().cdf(1.645 * ratio) - 1
        assert summary(ratio)["coverage"]["0.9"] == pytest.approx(expected, abs=0.05)


def test_crps_of_an_ensemble():
    rng = np.random.default_rng(2)
    samples, truth = rng.standard_normal((6, 50)), rng.standard_normal(50)
    pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (2 * 6 * 5)
    assert np.allclose(crps(samples, truth), np.abs(samples - truth).mean(0) - pairs)
    many, y = rng.standard_normal((40_000, 1)), np.array([0.7])
    normal = NormalDist()
    exact = 0.7 * (2 * normal.cdf(0.7) - 1) + 2 * normal.pdf(0.7) - np.pi**-0.5  # Gneiting & Raftery, 2007
    assert crps(many, y)[0] == pytest.approx(exact, abs=0.01)


def test_ranks_break_ties_by_chance():
    fractions = rank_fractions(np.zeros((4, 10_000)), np.zeros(10_000), np.random.default_rng(3))
    assert np.allclose(np.histogram(fractions, 5, (0, 1))[0], 2000, atol=200)


def test_what_is_known_exactly_is_calibrated():
    truth = np.random.default_rng(1).integers(0, 256, 3600) / 255
    found = measure_samples(np.stack([truth] * 8) + 0.001, truth, "a")  # less than half a grey level
    assert found["coverage"]["0.5"] == pytest.approx(0.5, abs=0.03)
    assert found["crps"] == found["differing"] == 0 and np.isnan(found["coverage_where_samples_differ"]["0.9"])
    samples = np.stack([truth] * 8)
    samples[:, 0] = np.linspace(0, 1, 8)  # one pixel that is not known
    assert measure_samples(samples, truth, "b")["differing"] == 1
