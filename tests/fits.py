"""What tests of fits share: pictures, sameness of fits, and Ctrl-C at a given iteration."""

import signal

import numpy as np
import pytest
from helpers import assert_same_model, picture
from trainings import same_history

SEARCH = {"psnr": 24.5, "iterations": 30}
GREY, COLOURS = picture((28, 23))[..., 0], picture((19, 22), 3)
VOLUME = picture((9, 8, 10))[..., 0]
PICTURES = pytest.mark.parametrize(("image", "options"), [
    (GREY, {}), (COLOURS, {}), (VOLUME, {"channel_axis": None}), (picture((90,))[..., 0], {}),
    (GREY, {"dtype": "float64"})], ids=["grey", "colours", "volume", "line", "float64"])


def assert_same_fit(found, wanted):
    """Two fits that stand at the same point, bit for bit, moments and history included."""
    assert (found.iteration, found.until) == (wanted.iteration, wanted.until)
    assert found.tried == wanted.tried
    assert_same_model(found.params, wanted.params)
    assert_same_model(found.best_params, wanted.best_params)
    assert found.adam.steps == wanted.adam.steps
    assert found.adam.beta2 == wanted.adam.beta2
    for name, array in wanted.adam.arrays().items():
        np.testing.assert_array_equal(found.adam.arrays()[name], array, err_msg=name)
    same_history(found.history, wanted.history)


def interrupt_at(*iterations, after=0):
    """Ctrl-C at some iterations, of the fit that comes after so many others."""
    def progress(smoe):
        if smoe.iteration in iterations and len(smoe.tried) == after:
            signal.raise_signal(signal.SIGINT)

    return progress
