"""Grey level <-> path gain in dB.

RadioMapSeer stores path gain PL (negative, in dB) as an 8-bit grey level v with g = v / 255 and

    g = clip((PL + 147) / (147 - 47.84), 0, 1)

(Yapar et al., "Dataset of Pathloss and ToA Radio Maps With Localization Application", 2022). Buildings are 0 by
convention. The noise floor of -127 dB is g = 0.2 (Levie et al., RadioUNet, 2021).
"""

import numpy as np

GAIN_MAX_DB = -47.84
GAIN_MIN_DB = -147.0
GAIN_SPAN_DB = GAIN_MAX_DB - GAIN_MIN_DB  # 99.16 dB
NOISE_FLOOR = 0.2  # grey level of RadioUNet's threshold, about -127 dB
COVERAGE_DB = -127.0  # path gain from which a pixel counts as covered, unless another one is given


def gain_to_db(gain):
    """Grey level in [0, 1] -> path gain in dB. Works on numbers, numpy arrays and torch tensors."""
    return gain * GAIN_SPAN_DB + GAIN_MIN_DB


def db_to_gain(path_gain_db):
    """Path gain in dB -> grey level, clipped to [0, 1]. Works on numbers, numpy arrays and torch tensors."""
    gain = (path_gain_db - GAIN_MIN_DB) / GAIN_SPAN_DB
    return gain.clip(0, 1) if hasattr(gain, "clip") else min(max(gain, 0.0), 1.0)


def gain_to_uint8(gain):
    """Grey level in [0, 1] (numpy) -> the 8-bit level RadioMapSeer stores, round(255 g)."""
    return np.round(np.clip(gain, 0, 1) * 255).astype(np.uint8)


def apply_noise_floor(gain):
    """RadioUNet's convention: g' = max(g - 0.2, 0) / 0.8. Works on numpy arrays and torch tensors."""
    return (gain - NOISE_FLOOR).clip(0, None) / (1 - NOISE_FLOOR)
