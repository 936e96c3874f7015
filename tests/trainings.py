"""What tests of trainings share: options, sameness of trainings, and Ctrl-C at an iteration."""

import dataclasses
import signal

import numpy as np
import pytest
from helpers import assert_same_model

SPARSE = {"l1reg": 0.1, "lr_div": 2}  # kernels leave within 60 iterations
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def same_history(found, wanted):
    """All of it but the seconds."""
    without = [[dataclasses.replace(r, seconds=0) for r in history] for history in (found, wanted)]
    assert without[0] == without[1]


def assert_same_training(found, wanted):
    """Two trainings that stand at the same point, bit for bit, moments and history included."""
    assert found.iteration == wanted.iteration
    assert_same_model(found.params, wanted.params)
    assert_same_model(found.best_params, wanted.best_params)
    assert found.adam.steps == wanted.adam.steps
    for name, array in wanted.adam.arrays().items():
        np.testing.assert_array_equal(found.adam.arrays()[name], array, err_msg=name)
    same_history(found.history, wanted.history)


def interrupt_at(*iterations, number=signal.SIGINT):
    def progress(smoe):
        if smoe.iteration in iterations:
            signal.raise_signal(number)

    return progress
