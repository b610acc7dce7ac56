"""Calibration of draws, on distributions that are known."""

from statistics import NormalDist

import numpy as np
import pytest

from evaluation.calibration import STEP_DB, Calibration, crps, measure_samples, rank_fractions

EVERYWHERE = np.ones((60, 60), bool)


def collect(spread_ratio, draws=20, maps=20, spread=0.02):
    """Truths from N(0.5, spread), draws from N(0.5, spread_ratio * spread)."""
    rng = np.random.default_rng(0)
    calibration = Calibration()
    for number in range(maps):
        truth = 0.5 + spread * rng.standard_normal((60, 60))
        drawn = 0.5 + spread * spread_ratio * rng.standard_normal((draws, 60, 60))
        calibration.take(measure_samples(drawn, truth, EVERYWHERE, str(number)))
    return calibration


def test_draws_of_the_right_distribution_are_calibrated():
    for draws in (2, 20):  # for any number of draws
        found = collect(1.0, draws).summary()
        for level, share in found["coverage"].items():
            assert share == pytest.approx(float(level), abs=0.012)
        assert np.allclose(found["ranks"], 0.01, atol=0.002)
    assert found["spread"] == pytest.approx(0.02 * 255 * STEP_DB * (1 + 1 / 20) ** 0.5, rel=0.02)
    assert found["error"] == pytest.approx(found["spread"], rel=0.02) and found["differing"] == 1
    for spread, error, pixels in found["by_spread"]:
        assert error == pytest.approx(0.02 * 255 * STEP_DB, rel=0.25) and spread < 4 and pixels > 1000
    assert sum(pixels for _, _, pixels in found["by_spread"]) == 20 * 60 * 60


def test_narrow_draws_cover_less_and_wide_ones_more():
    narrow, wide = (collect(ratio).coverage(0.9) for ratio in (0.5, 2.0))
    expected = [2 * NormalDist().cdf(1.645 * ratio) - 1 for ratio in (0.5, 2.0)]
    assert narrow == pytest.approx(expected[0], abs=0.05) and wide == pytest.approx(expected[1], abs=0.05)


def test_crps_of_an_ensemble():
    rng = np.random.default_rng(2)
    draws, truth = rng.standard_normal((6, 50)), rng.standard_normal(50)
    pairs = np.abs(draws[:, None] - draws[None]).sum((0, 1)) / (2 * 6 * 5)
    assert np.allclose(crps(draws, truth), np.abs(draws - truth).mean(0) - pairs)
    assert np.allclose(crps(draws[:1], truth), np.abs(draws[0] - truth))
    many, y = rng.standard_normal((40_000, 1)), np.array([0.7])
    normal = NormalDist()
    exact = 0.7 * (2 * normal.cdf(0.7) - 1) + 2 * normal.pdf(0.7) - np.pi**-0.5  # Gneiting & Raftery, 2007
    assert crps(many, y)[0] == pytest.approx(exact, abs=0.01)
    # the right distribution has the least, also for few draws
    truth = rng.standard_normal(20_000)
    scores = [crps(ratio * rng.standard_normal((3, 20_000)), truth).mean() for ratio in (0.5, 1.0, 2.0)]
    assert min(scores) == scores[1]


def test_ranks_break_ties_by_chance():
    shares = rank_fractions(np.zeros((4, 10_000)), np.zeros(10_000), np.random.default_rng(3))
    assert np.allclose(np.histogram(shares, 5, (0, 1))[0], 2000, atol=200)


def test_what_is_known_exactly_is_calibrated_and_only_the_pixels_asked_for_count():
    calibration = Calibration()
    truth = np.random.default_rng(1).integers(0, 256, (60, 60)) / 255
    calibration.take(
        measure_samples(np.stack([truth] * 8) + 0.001, truth, EVERYWHERE, "a")
    )  # less than half a grey level
    assert calibration.coverage(0.5) == pytest.approx(0.5, abs=0.03)
    found = calibration.summary()
    assert found["crps"] == found["differing"] == 0 and np.isnan(found["coverage_where_samples_differ"]["0.9"])
    draws = np.stack([truth] * 8)
    draws[:, 0, 0] = np.linspace(0, 1, 8)  # one pixel that is not known
    calibration.take(measure_samples(draws, truth, EVERYWHERE, "b"))
    assert calibration.summary()["differing"] == 1 / (2 * 60 * 60)
    where = np.zeros((60, 60), bool)
    where[0, 0] = True
    zeros, truth = np.zeros((2, 60, 60)), np.where(where, 10 / 255, 0.9)
    assert measure_samples(zeros, truth, where, "a")["crps"] == pytest.approx(10 * STEP_DB)
