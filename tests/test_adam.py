"""Adam: the formula, rates, and moments that leave with their kernels."""

import numpy as np
import pytest
from helpers import assert_same_model, random_model, relative_error

from smoe_np import dense
from smoe_np.adam import Adam, bias_corrections
from smoe_np.params import NAMES

RATES = {"pis": 1e-5, "musX": 1e-3, "A": 0.5, "gamma_e": 2e-3, "nu_e": 1e-3}


def gradients_like(params, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    gradients = params.map(lambda a: scale * rng.normal(size=a.shape))
    gradients.A = np.tril(gradients.A)
    return gradients


def formula(p, gradients, rate, eps, beta2=0.999):
    """The steps of Kingma & Ba one by one, with ε where TensorFlow adds it."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - rate * np.sqrt(1 - beta2**t) / (1 - 0.9**t) * m / (np.sqrt(v) + eps)
    return p


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize(("scale", "eps"), [(1.0, 1e-8), (1e-8, 1e-8), (1e-8, 1e-15)])
def test_steps_follow_the_formula(dtype, tolerance, scale, eps):
    start = random_model(0, K=6, D=3, C=2, dtype=dtype)
    start.A += 20 * np.eye(3, dtype=dtype)  # far from where the diagonal is kept positive
    params, adam = start, Adam(start)
    gradients = [gradients_like(start, i, scale) for i in range(25)]
    for g in gradients:
        params = adam.step(params, g, RATES, eps)
    assert adam.steps == 25
    for name in NAMES:
        first = getattr(start, name).astype(np.float64)
        wanted = formula(first, [getattr(g, name) for g in gradients], RATES[name], eps)
        found = getattr(params, name).astype(np.float64)
        rounding = 25 * np.finfo(dtype).eps * np.linalg.norm(first)
        assert relative_error(found - first, wanted - first) < tolerance + rounding / (
            np.linalg.norm(wanted - first))


def test_epsilon_matters_to_small_gradients():
    start = random_model(1, K=5)
    moved = {eps: Adam(start).step(start, gradients_like(start, 0, 1e-8), {"nu_e": 1.0}, eps).nu_e
             for eps in (1e-8, 1e-15)}
    assert np.abs(moved[1e-15] - start.nu_e).min() == pytest.approx(1, rel=1e-3)
    assert np.abs(moved[1e-8] - start.nu_e).max() < 0.9


@pytest.mark.parametrize("frozen", NAMES)
def test_what_has_no_rate_stays_as_it_is(frozen):
    params = random_model(2, K=5)
    rates = {name: rate for name, rate in RATES.items() if name != frozen}
    stepped = Adam(params).step(params, gradients_like(params, 0), rates, 1e-8)
    for name in NAMES:
        same = np.array_equal(getattr(stepped, name), getattr(params, name))
        assert same == (name == frozen)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_arguments_of_a_step_are_left_as_they_were(dtype):
    params = random_model(3, K=5, dtype=dtype)
    gradients = gradients_like(params, 0, 100.0)
    before, gradients_before = params.copy(), gradients.copy()
    stepped = Adam(params).step(params, gradients, {**RATES, "A": 1e3}, 1e-8)
    assert_same_model(params, before)
    assert_same_model(gradients, gradients_before)
    assert stepped.dtype == dtype


def test_the_picture_size_stays_with_the_parameters():
    params = random_model(4, K=3)
    params.image_shape = (20, 30)
    stepped = Adam(params).step(params, gradients_like(params, 0), RATES, 1e-8)
    assert stepped.image_shape == (20, 30)


def test_a_diagonal_that_crosses_zero_comes_back_positive_and_the_model_is_the_same():
    params = random_model(5, K=20, D=3)
    adam = Adam(params)
    params = adam.step(params, gradients_like(params, 0), RATES, 1e-8)
    gradients = gradients_like(params, 1)
    # where the step goes without the rule
    m = 0.9 * adam.m.A + 0.1 * gradients.A
    v = 0.999 * adam.v.A + 0.001 * gradients.A**2
    rate = 20.0
    plain = params.A - rate * np.sqrt(1 - 0.999**2) / (1 - 0.9**2) * m / (np.sqrt(v) + 1e-8)
    stepped = adam.step(params, gradients, {"A": rate}, 1e-8)
    crossed = np.diagonal(plain, axis1=1, axis2=2) < 0  # (K, D)
    assert 0.05 < crossed.mean() < 0.95
    sign = np.where(crossed, -1, 1)[:, None, :]
    np.testing.assert_allclose(stepped.A, plain * sign, rtol=1e-12)
    np.testing.assert_allclose(adam.m.A, m * sign, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(adam.v.A, v, rtol=1e-12)
    assert (np.diagonal(stepped.A, axis1=1, axis2=2) > 0).all()
    flipped = params.copy()
    flipped.A = plain
    positive = np.linalg.det(plain) > 0
    assert crossed[positive].any()
    np.testing.assert_allclose(dense.render(stepped.select(positive), (5, 6, 4)),
                               dense.render(flipped.select(positive), (5, 6, 4)), rtol=1e-9)


def test_the_path_of_a_flipped_column_is_the_mirror_of_one_that_is_left_alone():
    # the moments turn with their column, so going on from there is going on from the other side
    params = random_model(6, K=1, D=1)
    params.A[:] = 0.3
    adam = Adam(params)
    plain, path = [], []
    gradients = [gradients_like(params, i) for i in range(30)]
    for i in range(30):
        sign = np.sign(formula(np.array(0.3), [g.A[0, 0, 0] for g in gradients[:i]], 0.2, 1e-8))
        mirrored = gradients[i].map(np.copy)
        mirrored.A *= sign  # the gradient there is the mirrored one
        params = adam.step(params, mirrored, {"A": 0.2}, 1e-8)
        path.append(params.A[0, 0, 0])
        plain.append(formula(np.array(0.3), [g.A[0, 0, 0] for g in gradients[: i + 1]], 0.2, 1e-8))
    assert min(plain) < 0 < max(plain)
    np.testing.assert_allclose(path, np.abs(plain), rtol=1e-9)


def test_a_diagonal_that_would_become_zero_does_not():
    params = random_model(7, K=4)
    gradients = gradients_like(params, 0)
    gradients.A = np.abs(gradients.A) * np.eye(2)
    params.A[:] = 0
    # from 0 the step shows; from where it has length it ends at 0 exactly
    params.A = Adam(params).step(params, gradients, {"A": 1.0}, 1e-8).A
    stepped = Adam(params).step(params, gradients, {"A": 1.0}, 1e-8)
    diagonal = np.diagonal(stepped.A, axis1=1, axis2=2)
    assert (diagonal > 0).all()
    assert (diagonal < 1e-9).all()
    assert np.isfinite(np.log(diagonal)).all()


def test_entries_above_the_diagonal_stay_zero():
    params = random_model(8, K=10, D=3)
    adam = Adam(params)
    for i in range(10):
        params = adam.step(params, gradients_like(params, i), {"A": 10.0}, 1e-8)
    assert not np.triu(params.A, 1).any()


def test_moments_leave_with_their_kernels_and_the_others_go_on_alike():
    whole = random_model(9, K=8)
    adam = Adam(whole)
    for i in range(5):
        whole = adam.step(whole, gradients_like(whole, i), RATES, 1e-8)
    staying = np.array([True, False, True, True, False, True, True, False])
    part, of_part = whole.select(staying), Adam(whole)
    of_part.restore(adam.arrays(), adam.steps)
    of_part.keep(staying)
    for i in range(5, 10):
        gradients = gradients_like(whole, i)
        whole = adam.step(whole, gradients, RATES, 1e-8)
        part = of_part.step(part, gradients.select(staying), RATES, 1e-8)
    assert_same_model(part, whole.select(staying))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_restored_state_goes_on_bit_for_bit(dtype):
    params = random_model(10, K=6, dtype=dtype)
    adam = Adam(params)
    for i in range(4):
        params = adam.step(params, gradients_like(params, i), RATES, 1e-8)
    saved = {name: array.copy() for name, array in adam.arrays().items()}
    moments = {f"adam_{moment}_{name}" for moment in "mv" for name in NAMES}
    assert set(saved) == {*moments, "adam_born"}
    again = Adam(params)
    again.restore(saved, adam.steps)
    one, other = params, params
    for i in range(4, 8):
        one = adam.step(one, gradients_like(params, i), RATES, 1e-8)
        other = again.step(other, gradients_like(params, i), RATES, 1e-8)
    assert_same_model(other, one)


# ---- kernels that are born


@pytest.mark.parametrize("beta2", [0.5, 0.98, 0.999])
def test_the_correction_of_bias_is_tabled_until_it_is_1(beta2):
    table = bias_corrections(beta2)
    assert table[0] == 0  # no kernel has taken no step when it takes one
    t = np.arange(1, len(table) + 100)
    wanted = np.sqrt(1 - beta2**t) / (1 - 0.9**t)
    np.testing.assert_allclose(table[1:], wanted[: len(table) - 1], rtol=1e-12)
    assert table[-1] == 1
    np.testing.assert_array_equal(wanted[len(table) - 1 :], 1)
    assert abs(table[len(table) // 2] - 1) > 1e-13  # and no longer than it takes


@pytest.mark.parametrize("beta2", [0.98, 0.999])
def test_a_kernel_that_is_born_steps_as_if_all_began_with_it(beta2):
    start = random_model(13, K=5)
    params, adam = start, Adam(start, beta2)
    params.A += 20 * np.eye(2)
    gradients = [gradients_like(start, i) for i in range(12)]
    for g in gradients[:4]:
        params = adam.step(params, g, RATES, 1e-8)
    parents = np.array([0, -1, 2, 4, -1])  # a new one in the place of the second, one at the end
    params = params.select(np.where(parents < 0, 3, parents))
    at_birth = params
    adam.add_born(parents)
    np.testing.assert_array_equal(adam.born, [0, 4, 0, 0, 4])
    for g in gradients[4:]:
        params = adam.step(params, g, RATES, 1e-8)
    for name in NAMES:
        g = np.stack([getattr(one, name) for one in gradients])
        for place, parent in enumerate(parents):
            # the first steps of a kernel that stays were those in its place at that time
            seen = g[4:, place] if parent < 0 else np.concatenate([g[:4, parent], g[4:, place]])
            begun = getattr(at_birth, name)[place] if parent < 0 else getattr(start, name)[parent]
            wanted = formula(begun, seen, RATES[name], 1e-8, beta2)
            np.testing.assert_allclose(getattr(params, name)[place], wanted, rtol=1e-9)


def test_a_kernel_that_goes_on_twice_has_moments_of_its_own():
    params = random_model(14, K=3)
    adam = Adam(params)
    adam.step(params, gradients_like(params, 0), RATES, 1e-8)
    before = {name: array.copy() for name, array in adam.arrays().items()}
    adam.add_born(np.array([2, 2, 0, -1]))
    for name, array in adam.arrays().items():
        np.testing.assert_array_equal(array[:3], before[name][[2, 2, 0]])
        assert not (array[3] - (name == "adam_born")).any()
        array[0] += 1
        np.testing.assert_array_equal(array[1], before[name][2])


def test_times_of_birth_leave_with_their_kernels_and_outlive_a_checkpoint():
    params = random_model(15, K=4)
    adam = Adam(params, 0.98)
    adam.steps, adam.born = 9, np.array([0, 9, 4, 5], np.int32)
    arrays = {name: array.copy() for name, array in adam.arrays().items()}
    again = Adam(params, 0.98)
    again.restore(arrays, 9)
    np.testing.assert_array_equal(again.born, [0, 9, 4, 5])
    gradients = gradients_like(params, 0)
    assert_same_model(*(one.step(params, gradients, RATES, 1e-8) for one in (adam, again)))
    adam.keep(np.array([True, False, False, True]))
    np.testing.assert_array_equal(adam.born, [0, 5])


def test_the_changes_of_a_step_are_what_it_takes_off():
    params = random_model(16, K=4)
    params.A += 20 * np.eye(2)
    gradients = gradients_like(params, 0)
    stepped = Adam(params).step(params, gradients, RATES, 1e-8)
    changes = Adam(params).changes(gradients, {"pis": 1e-5, "A": 0.5}, 1e-8)
    assert set(changes) == {"pis", "A"}
    np.testing.assert_array_equal(params.pis - changes["pis"], stepped.pis)
    np.testing.assert_array_equal(params.A - changes["A"], stepped.A)
