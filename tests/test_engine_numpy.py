"""What the NumPy engine alone has to see to."""

import numpy as np
import pytest
from helpers import assert_gradients_agree, gradient_floors, picture, random_model

from smoe_np import dense
from smoe_np.engine_numpy import NumpyEngine


@pytest.mark.parametrize("sigma", [0.01, 0.03])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_gates_too_small_for_full_precision_are_multiplied_nowhere(
        monkeypatch, sigma, dtype, tolerance):
    # a processor takes a hundred times longer for each
    params = random_model(31, 150, sigma=sigma, dtype=np.dtype(dtype))
    target, found, gates_of = picture((40, 36)), [], NumpyEngine._gates

    def noted(self, block, pairs, scratch):
        columns, p = gates_of(self, block, pairs, scratch)
        found.append((p.copy(), scratch[1, : p.size]))  # where the block's products come to lie
        return columns, p

    monkeypatch.setattr(NumpyEngine, "_gates", noted)
    engine = NumpyEngine((40, 36), target.astype(dtype), dtype)
    engine.threads = 1
    gradients = engine.loss_and_gradients(params)[1]
    least = np.finfo(dtype).tiny
    assert min(p.min() for p, _ in found) < 1e-12
    for numbers in (*(p for p, _ in found), found[-1][1]):
        assert not ((numbers != 0) & (np.abs(numbers) < least)).any()
    assert_gradients_agree(gradients, dense.gradients(params, target), tolerance,
                           gradient_floors(params, target))
