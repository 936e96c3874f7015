"""The regularisers, the tie of radial kernels, and the clipping of gradients."""

import numpy as np
import pytest
from helpers import complex_step_gradients, gradient_errors, picture, random_model

from smoe_np import dense
from smoe_np.regularize import add_penalty_gradients, clip_gradients, penalty, tie_radial


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize(("l1reg", "bandwidth_reg"), [(0, 0), (3.0, 0), (0, 0.2), (3.0, 0.2)])
def test_the_penalty_is_what_the_oracle_adds_to_the_loss(D, l1reg, bandwidth_reg):
    params, target = random_model(0, K=7, D=D, negative=0.4), picture((5, 4, 3)[:D])
    added = dense.loss(params, target, l1reg, bandwidth_reg, 12) - dense.loss(params, target)
    found = penalty(params, l1reg, bandwidth_reg, 12)
    assert isinstance(found, float)
    assert found == pytest.approx(added, abs=1e-12)


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize(("l1reg", "bandwidth_reg"), [(3.0, 0), (0, 0.2), (3.0, 0.2)])
def test_penalty_gradients_are_the_derivatives_of_the_penalty(D, l1reg, bandwidth_reg):
    params, target = random_model(1, K=5, D=D, negative=0.4), picture((3, 2, 2)[:D])
    gradients = params.map(np.zeros_like)
    add_penalty_gradients(gradients, params, l1reg, bandwidth_reg, 12)

    def added(p):
        return dense.loss(p, target, l1reg, bandwidth_reg, 12) - dense.loss(p, target)

    wanted = complex_step_gradients(added, params)
    errors = gradient_errors(gradients, wanted, dict.fromkeys(wanted, 1e-3))
    assert max(errors.values()) < 1e-9


def test_penalty_gradients_are_added_to_what_is_there():
    params = random_model(2, K=5)
    gradients = params.map(np.ones_like)
    add_penalty_gradients(gradients, params, 10.0, 0.5, 5)
    np.testing.assert_allclose(gradients.pis, 3)
    np.testing.assert_allclose(gradients.A, 1 + 0.5 * np.broadcast_to(np.eye(2), (5, 2, 2)))
    np.testing.assert_array_equal(gradients.nu_e, 1)


def test_no_weights_add_nothing():
    params = random_model(3, K=5)
    gradients = params.map(np.zeros_like)
    add_penalty_gradients(gradients, params, 0.0, 0.0, 5)
    assert not any(array.any() for array in gradients.arrays().values())
    assert penalty(params, 0.0, 0.0, 5) == 0


@pytest.mark.parametrize("D", [1, 2, 3])
def test_a_tied_gradient_is_the_derivative_by_the_radial_factor(D):
    params, target = random_model(4, K=4, D=D), picture((6, 5, 4)[:D])
    params.A[:] = np.diagonal(params.A, axis1=1, axis2=2)[:, :1, None] * np.eye(D)
    gradients = params.map(np.copy)
    for name, array in dense.gradients(params, target, bandwidth_reg=0.01).items():
        setattr(gradients, name, array)
    tie_radial(gradients)
    step = 1e-30
    for k in range(4):
        turned = params.map(lambda a: a.astype(complex))
        turned.A[k] += 1j * step * np.eye(D)
        alpha = dense.loss(turned, target, bandwidth_reg=0.01).imag / step
        np.testing.assert_allclose(gradients.A[k], alpha * np.eye(D), rtol=1e-9, atol=1e-15)


def test_a_tie_leaves_the_other_gradients_alone():
    gradients = random_model(5, K=4, D=3)
    before = gradients.copy()
    tie_radial(gradients)
    for name in ("pis", "musX", "gamma_e", "nu_e"):
        np.testing.assert_array_equal(getattr(gradients, name), getattr(before, name))


def test_clipping_is_by_element_and_keeps_what_is_within():
    gradients = random_model(6, K=50, C=3).map(lambda a: a - 0.5)
    before = gradients.copy()
    clip_gradients(gradients, 0.2)
    for name, array in gradients.arrays().items():
        np.testing.assert_array_equal(array, np.clip(getattr(before, name), -0.2, 0.2))
        assert np.abs(array).max() == 0.2
