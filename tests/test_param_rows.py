"""Parameters as rows: nothing is lost, and the order is that of the kernels."""

import numpy as np
import pytest
from helpers import assert_same_model, random_model

from smoe_np import param_rows
from smoe_np.param_rows import lower_entries, params_of_rows, rows_of


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("C", [1, 3])
def test_rows_hold_all_of_a_model(D, C):
    params = random_model(0, K=7, D=D, C=C, dtype=np.float32)
    rows = rows_of(params)
    assert rows.shape == (7, (D + 1) * (D + 2) // 2 + C * (D + 1))
    assert rows.dtype == np.float32
    assert_same_model(params_of_rows(rows, D, (5,) * D), params)
    assert params_of_rows(rows, D, (5,) * D).image_shape == (5,) * D


def test_a_row_has_the_weight_the_centre_the_triangle_and_the_experts():
    params = random_model(1, K=3, C=2)
    assert lower_entries(2) == [(0, 0), (1, 0), (1, 1)]
    k = 1
    np.testing.assert_array_equal(rows_of(params)[k], [
        params.pis[k], *params.musX[k], params.A[k, 0, 0], params.A[k, 1, 0], params.A[k, 1, 1],
        params.nu_e[k, 0], *params.gamma_e[k, 0], params.nu_e[k, 1], *params.gamma_e[k, 1]])


def test_models_of_many_parts_are_whole():
    params = random_model(3, K=2 * param_rows.PART + 5, C=3)
    assert_same_model(params_of_rows(rows_of(params), 2), params)


def test_a_model_of_rows_shares_no_memory_with_them():
    rows = rows_of(random_model(2, K=3))
    params = params_of_rows(rows, 2)
    assert not any(np.shares_memory(rows, array) for array in params.arrays().values())
