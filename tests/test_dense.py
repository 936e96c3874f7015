"""The oracle: its gradients are the derivatives of its loss, and its gates are gates."""

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    complex_step_gradients,
    gate_terms,
    gradient_errors,
    picture,
    random_model,
    relative_error,
)

from smoe_np import SmoeParams, dense
from smoe_np.params import NAMES

SHAPES = {1: (23,), 2: (7, 5), 3: (4, 3, 5)}
CASES = [(D, C) for D in SHAPES for C in (1, 3)]


def by_complex_step(params, target, **settings):
    return complex_step_gradients(lambda p: dense.loss(p, target, **settings), params)


# ---- the measures themselves


def test_relative_error_is_that_of_the_l2_norm():
    assert relative_error([3.0, 4.0], [3.0, 4.0]) == 0
    assert relative_error([3.0, 4.5], [3.0, 4.0]) == pytest.approx(0.1)
    assert relative_error([[2.0], [0.0]], [[1.0], [0.0]]) == pytest.approx(1)


def test_relative_error_of_a_zero_is_infinite_unless_there_is_a_floor():
    assert relative_error([0.0], [0.0]) == 0
    assert relative_error([1e-9], [0.0]) == np.inf
    assert relative_error([1e-9], [0.0], floor=1e-3) == pytest.approx(1e-6)
    assert relative_error([2.0], [1.0], floor=1e-3) == pytest.approx(1)


def test_relative_error_lets_nothing_pass_that_is_not_a_number():
    assert not relative_error([np.nan], [1.0]) < 1
    assert not relative_error([1.0], [np.nan]) < 1


def test_gradients_that_are_not_numbers_do_not_agree():
    gradients = random_model(0, K=2).arrays()
    assert_gradients_agree(gradients, gradients, 1e-9)
    for name in NAMES:
        broken = {**gradients, name: gradients[name] * np.nan}
        with pytest.raises(AssertionError, match="relative L2 errors"):
            assert_gradients_agree(broken, gradients, 1e-9)


def test_relative_error_refuses_to_broadcast():
    with pytest.raises(AssertionError, match="compared with"):
        relative_error([1.0], [[1.0, 1.0]])


def test_the_complex_step_differentiates_a_known_function():
    params = random_model(0, K=3, D=2, C=2)
    found = complex_step_gradients(lambda p: (p.pis**3).sum() + np.exp(p.A).sum(), params)
    assert relative_error(found["pis"], 3 * params.pis**2) < 1e-14
    assert relative_error(found["A"], np.tril(np.exp(params.A))) < 1e-14
    assert not found["nu_e"].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_gradient_is_caught_in_any_single_entry(name):
    params, target = random_model(1, K=4, C=3), picture((6, 5), 3)
    right = by_complex_step(params, target)
    for wrong in (lambda g: g * (1 + 1e-6), lambda g: -g, np.zeros_like, lambda g: g + 1e-6):
        gradients = dense.gradients(params, target)
        entry = np.unravel_index(np.abs(gradients[name]).argmax(), gradients[name].shape)
        gradients[name][entry] = wrong(gradients[name][entry])
        assert gradient_errors(gradients, right)[name] > 1e-9
        with pytest.raises(AssertionError, match="relative L2 errors"):
            assert_gradients_agree(gradients, right, 1e-9)


# ---- gradients


@pytest.mark.parametrize(("D", "C"), CASES)
def test_gradients_are_the_derivatives_of_the_loss(D, C):
    params, target = random_model(D + 10 * C, K=5, D=D, C=C), picture(SHAPES[D], C)
    assert_gradients_agree(dense.gradients(params, target), by_complex_step(params, target), 1e-12)


@pytest.mark.parametrize(("D", "C"), CASES)
def test_gradients_hold_with_both_regularisers_and_negative_diagonals(D, C):
    params = random_model(D + 10 * C, K=6, D=D, C=C, negative=0.4)
    assert (np.diagonal(params.A, axis1=1, axis2=2) < 0).any()
    target = picture(SHAPES[D], C)
    settings = {"l1reg": 0.7, "bandwidth_reg": 1e-3, "initial_kernels": 9}
    assert_gradients_agree(dense.gradients(params, target, **settings),
                           by_complex_step(params, target, **settings), 1e-11)


def test_gradients_hold_where_the_picture_is_clipped():
    params = random_model(3, K=6, C=3, level=(-1, 2), slope=1.0)
    target = picture((9, 8), 3)
    y = dense.render(params, (9, 8))
    assert (y < 0).any()
    assert (y > 1).any()
    assert ((y > 0) & (y < 1)).any()
    assert_gradients_agree(dense.gradients(params, target), by_complex_step(params, target), 1e-12)


def test_a_picture_clipped_everywhere_gives_no_gradient():
    params = random_model(4, K=3, level=(2, 3), slope=0.1)
    gradients = dense.gradients(params, picture((5, 5)))
    assert not any(g.any() for g in gradients.values())


def test_the_gradient_of_A_is_lower_triangular():
    gradients = dense.gradients(random_model(5, K=4, D=3), picture((4, 4, 4)))
    assert not np.triu(gradients["A"], 1).any()


# ---- the model


@pytest.mark.parametrize("negative", [0.0, 0.1])
def test_gates_sum_to_one(negative):
    # an expert that is 1 everywhere turns the regression into the sum of the gates
    params = random_model(6, K=8, negative=negative, slope=0.0, level=(1, 1))
    _, log_gate, sign, _, _ = gate_terms(params, (11, 7))
    assert (sign < 0).any() == (negative > 0)
    assert ((sign * np.exp(log_gate)).sum(1) > 0).all()
    np.testing.assert_allclose(dense.render(params, (11, 7)), 1, rtol=1e-9)


def test_a_sum_of_gates_that_is_not_positive_counts_as_tiny():
    # so that tf-smoe's files look as they do there: 0 or 1, by the sign of the numerator
    seen = 0
    for seed in range(6):
        params = random_model(seed, K=12, negative=0.5, sigma=0.2)
        _, log_gate, sign, expert, _ = gate_terms(params, (20, 17))
        gate = sign * np.exp(log_gate - log_gate.max(axis=1, keepdims=True))
        sums, numerator = gate.sum(1), (gate * expert[..., 0]).sum(1)
        sure = (sums < -1e-6) & (np.abs(numerator) > 1e-6)
        y = np.clip(dense.render(params, (20, 17)), 0, 1).ravel()
        np.testing.assert_array_equal(y[sure], numerator[sure] > 0)
        gradients = dense.gradients(params, picture((20, 17)))
        assert all(np.isfinite(g).all() for g in gradients.values())
        seen += sure.sum()
    assert seen > 100


def test_the_regression_is_the_formula_of_the_model():
    params = random_model(7, K=5, D=3, C=2)
    _, log_gate, _, expert, _ = gate_terms(params, (3, 5, 4))
    gate = np.exp(log_gate)
    y = (gate[:, :, None] * expert).sum(1) / gate.sum(1, keepdims=True)
    np.testing.assert_allclose(dense.render(params, (3, 5, 4)), y.reshape(3, 5, 4, 2), rtol=1e-11)


def test_a_single_kernel_shows_its_expert_however_far_away_it_is():
    params = SmoeParams([1.0], [[50.0, -80.0]], [[[30.0, 0], [5, 40.0]]], [[[0.2, -0.1]]], [[0.5]])
    x = dense.pixel_centres((6, 4))
    expected = 0.5 + x @ [0.2, -0.1]
    np.testing.assert_allclose(dense.render(params, (6, 4)).ravel(), expected, rtol=1e-12)


def test_the_negated_columns_of_A_change_the_sign_of_a_gate_and_nothing_else():
    params = random_model(8, K=6)
    both, one = params.copy(), params.copy()
    both.A[2] *= -1  # two columns: the determinant is as it was
    one.A[2, :, 0] *= -1
    np.testing.assert_allclose(dense.render(both, (9, 9)), dense.render(params, (9, 9)), rtol=1e-12)
    gate = np.exp(gate_terms(params, (9, 9))[1])
    gate[:, 2] *= -1
    expert = gate_terms(params, (9, 9))[3][..., 0]
    y = (gate * expert).sum(1) / gate.sum(1)
    positive = gate.sum(1) > 0
    assert positive.any()
    np.testing.assert_allclose(dense.render(one, (9, 9)).ravel()[positive], y[positive], rtol=1e-9)


def test_gating_names_the_kernel_of_the_largest_gate():
    params = random_model(9, K=7)
    np.testing.assert_array_equal(
        dense.gating(params, (8, 6)), gate_terms(params, (8, 6))[1].argmax(1).reshape(8, 6))


def test_gating_honours_the_sign_even_where_the_sum_of_the_gates_is_negative():
    for seed in range(6):
        params = random_model(seed, K=12, negative=0.5, sigma=0.2)
        _, log_gate, sign, _, _ = gate_terms(params, (20, 17))
        gate = sign * np.exp(log_gate - log_gate.max(axis=1, keepdims=True))
        found = dense.gating(params, (20, 17))
        np.testing.assert_array_equal(found, gate.argmax(1).reshape(20, 17))


def test_pixel_centres_stand_at_half_pixels_of_the_longest_axis():
    np.testing.assert_allclose(dense.pixel_centres((2, 4)), [
        [0.125, 0.125], [0.125, 0.375], [0.125, 0.625], [0.125, 0.875],
        [0.375, 0.125], [0.375, 0.375], [0.375, 0.625], [0.375, 0.875]])


def test_the_loss_adds_its_three_terms():
    params, target = random_model(10, K=4, negative=0.5), picture((6, 6))
    error = ((np.clip(dense.render(params, (6, 6)), 0, 1) - target) ** 2).mean()
    bandwidth = np.abs(np.diagonal(params.A, axis1=1, axis2=2)).sum()
    found = dense.loss(params, target, l1reg=2.0, bandwidth_reg=0.01, initial_kernels=8)
    assert found == pytest.approx(error + 2 / 8 * params.pis.sum() + 0.01 * bandwidth, rel=1e-13)
    assert dense.loss(params, target, l1reg=2.0) == pytest.approx(error + 2 / 4 * params.pis.sum())
