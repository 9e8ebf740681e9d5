"""Intervals of statistics of means."""

import json
import math

import numpy as np
import pytest

from bridge_diffusion.evaluation.bootstrap import Estimate, bootstrap, quotient


def difference(means):
    return means[0] - means[1]


def test_the_value_is_that_of_the_means_and_the_interval_covers_as_often_as_it_says():
    covered = 0
    for trial in range(60):
        random = np.random.default_rng(trial)
        units = random.normal((3.0, 1.0), 1.0, size=(80, 2))
        estimate = bootstrap(units, difference, seed=trial)
        assert estimate.value == pytest.approx(units[:, 0].mean() - units[:, 1].mean())
        assert estimate.low < estimate.value < estimate.high
        covered += estimate.low <= 2.0 <= estimate.high
    assert covered >= 52  # of 60, of which 95 % are 57


def test_units_stay_whole():
    """What one prompt gives in two conditions is drawn again together: its noise cancels."""
    noise = np.random.default_rng(0).normal(0, 10, size=100)
    paired = np.stack([noise + 1, noise], axis=1)
    estimate = bootstrap(paired, difference)
    assert estimate.high - estimate.low < 1e-9
    assert estimate.value == pytest.approx(1)


def test_it_is_a_function_of_the_seed():
    units = np.random.default_rng(0).normal(size=(20, 2))
    assert bootstrap(units, difference) == bootstrap(units, difference)
    assert bootstrap(units, difference) != bootstrap(units, difference, seed=1)


def ratio(means):
    return quotient(means[0], means[1])


def test_a_denominator_that_may_be_zero_has_no_interval():
    sure = bootstrap(np.tile([1.0, 2.0], (20, 1)), ratio)
    assert (sure.value, sure.low, sure.high) == (0.5, 0.5, 0.5)
    units = np.zeros((20, 2))
    units[0] = (1, 1)  # a third of the resamples lack the one unit that has anything
    unsure = bootstrap(units, ratio)
    assert unsure.value == 1
    assert math.isnan(unsure.low)
    assert str(unsure) == "1.00 (unsure)"
    none = bootstrap(np.zeros((20, 2)), ratio)
    assert str(none) == "none"
    assert json.dumps(none.to_json()) == '{"value": null, "interval95": [null, null]}'
    assert math.isnan(bootstrap(np.zeros((0, 2)), ratio).value)


def test_how_it_is_written():
    estimate = Estimate(value=0.876, low=0.8, high=0.951)
    assert str(estimate) == "0.88 (0.80 to 0.95)"
    assert estimate.to_json() == {"value": 0.876, "interval95": [0.8, 0.951]}
