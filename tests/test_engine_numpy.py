"""What the NumPy engine alone has to see to."""

import numpy as np
import pytest
from helpers import assert_gradients_agree, gradient_floors, picture, random_model

from smoe_np import Smoe, SmoeParams, dense
from smoe_np.engine_numpy import NumpyEngine


@pytest.mark.parametrize("sigma", [0.01, 0.03])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_gates_too_small_for_full_precision_are_hardly_ever_multiplied(
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
    assert min(p.min() for p, _ in found) < 1e-25
    for numbers in (*(p for p, _ in found), found[-1][1]):
        assert ((numbers != 0) & (np.abs(numbers) < least)).mean() < 1e-4
    assert_gradients_agree(gradients, dense.gradients(params, target), tolerance,
                           gradient_floors(params, target))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_kernel_that_no_pixel_sees_stays_where_it_is(dtype):
    wide = np.stack(np.meshgrid(range(5), range(5), indexing="ij"), -1).reshape(-1, 2) / 5 + 0.1
    A = np.tile(10 * np.eye(2), (26, 1, 1))
    A[25] *= 200
    musX = np.vstack([wide, [8 / 32, 9 / 32]])  # the corner of four pixels
    params = SmoeParams(np.full(26, 1 / 26), musX, A, np.zeros((26, 2)), np.full(26, 0.5))
    params = params.astype(dtype)
    target = np.random.default_rng(0).random((32, 32)).astype(dtype)
    hidden = Smoe(target, params=params, backend="numpy", dtype=dtype).train(20).params
    for name, array in params.arrays().items():
        np.testing.assert_array_equal(hidden.arrays()[name][25], array[25], err_msg=name)
    params.nu_e[25] = 1e9
    drawn = NumpyEngine((32, 32), target[..., None], dtype).render(params)
    np.testing.assert_allclose(drawn, dense.render(params, (32, 32)), atol=1e-5)
