"""Events: what a kernel is worth, which way it is best split, who leaves and who is born."""

import math
from functools import cache

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    gate_terms,
    make_engine,
    picture,
    random_model,
    relative_error,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runs import frame_settings

from smoe_np import SmoeParams, dense
from smoe_np.adam import Adam
from smoe_np.events import RIDGE, directions, expert_gains, relocate, split, split_gains
from smoe_np.gate import monomials, quadratic_terms
from smoe_np.params import NAMES
from smoe_np.recipe import Recipe

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
# no size is a multiple of that of a tile; the last two have more pairs in a tile than are kept
CASES = pytest.mark.parametrize(("shape", "C", "K", "sigma"), [
    ((130,), 1, 12, 0.3), ((21, 13), 1, 12, 0.4), ((17, 26), 3, 20, 0.3), ((5, 7, 6), 1, 15, 0.4),
    ((6, 5, 9), 3, 15, 0.4), ((11, 14), 1, 150, 0.5), ((5, 4, 6), 3, 140, 0.6)])
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def squares(params, target):
    """The squared error of each pixel, over all channels: (N,)."""
    y = np.clip(dense.render(params, target.shape[:-1]), 0, 1)
    return ((y - target) ** 2).sum(-1).ravel()


def gates(params, shape):
    log_gate = gate_terms(params, shape)[1]
    return np.exp(log_gate - np.logaddexp.reduce(log_gate, axis=1, keepdims=True))


def weighed_by_removal(params, target, alone):
    """Mass, error and cost (K, 3), each kernel really taken away; and Σ |change| (K,)."""
    w, before, kernels = gates(params, target.shape[:-1]), squares(params, target), range(
        params.num_kernels)
    change = np.stack([squares(params.select([j for j in kernels if j != k]), target) - before
                       for k in kernels], axis=1)
    change = np.where(1 - w > alone, change, target.shape[-1])
    return np.stack([w.sum(0), w.T @ before, change.sum(0)], axis=1), np.abs(change).sum(0)


@cache
def weighed_case(shape, C, K, sigma):
    params, target = random_model(1, K, len(shape), C, sigma=sigma), picture(shape, C)
    return params, target, *weighed_by_removal(params, target, 0)


def halved_by_hand(params, target, direction):
    """What ``halve`` is to give, pixel by pixel, in pixels."""
    shape, C = target.shape[:-1], target.shape[-1]
    z, *_, x = gate_terms(params, shape)
    w = gates(params, shape)
    residual = (target - np.clip(dense.render(params, shape), 0, 1)).reshape(-1, C)
    side = np.ones_like(w) if direction is None else z @ direction > 0
    offset = (x[:, None] - params.musX) * max(shape)  # (N, K, D)
    phi = monomials(np.moveaxis(offset, -1, 0).reshape(len(shape), -1)).reshape(-1, *w.shape)
    sums = [(side * w**2 * phi).sum(1).T]
    for c in range(C):
        error = side * w * residual[:, c, None]
        sums += [error.sum(0)[:, None], (error[:, :, None] * offset).sum(0)]
    return np.hstack(sums)


def assert_sums_agree(found, wanted, tolerance):
    """Column by column, and in all columns kernel by kernel to a hundred times as much."""
    assert found.shape == wanted.shape
    assert found.dtype == np.float64
    for column in range(wanted.shape[1]):
        error = relative_error(found[:, column], wanted[:, column])
        assert error < tolerance, (column, error)
    for k in range(len(wanted)):
        error = relative_error(found[k], wanted[k])
        assert error < 100 * tolerance, (k, error)


# ---- what a kernel is worth


@CASES
@DTYPES
def test_a_kernels_worth_is_found_by_taking_it_away(each_engine, shape, C, K, sigma, dtype):
    params, target, wanted, change = weighed_case(shape, C, K, sigma)
    found = make_engine(shape, target, dtype).weigh(params)
    assert_sums_agree(found, wanted, TOLERANCE[dtype])
    error = np.abs(found[:, 2] - wanted[:, 2]) / change
    assert error.max() < 100 * TOLERANCE[dtype]


@pytest.mark.parametrize("C", [1, 3])
def test_the_cost_is_exact_where_a_kernel_is_all_but_alone(each_engine, C):
    params, target = random_model(2, 25, C=C, sigma=0.07), picture((33, 26), C)
    assert 1e-12 < (1 - gates(params, (33, 26))).min() < 1e-7
    wanted, change = weighed_by_removal(params, target, 1e-12)
    found = make_engine((33, 26), target, "float64").weigh(params)
    assert (np.abs(found[:, 2] - wanted[:, 2]) / change).max() < 1e-5


@DTYPES
@pytest.mark.parametrize(("shape", "C"), [((13, 18), 1), ((13, 18), 3), ((5, 6, 7), 3)])
def test_a_kernel_alone_costs_its_channels_at_each_of_its_pixels(each_engine, shape, C, dtype):
    target, pixels = picture(shape, C), math.prod(shape)
    one = random_model(3, 1, len(shape), C)
    found = make_engine(shape, target, dtype).weigh(one)
    np.testing.assert_allclose(found, [[pixels, squares(one, target).sum(), C * pixels]], rtol=1e-6)
    # of two, each with its half of the picture to itself; on the border both are known
    two = random_model(3, 2, len(shape), C)
    two.pis[:], two.A[:] = 0.5, 300 * np.eye(len(shape))
    two.musX[:] = 0.5
    two.musX[:, 0] = 0.25 * shape[0] / max(shape), 0.75 * shape[0] / max(shape)
    w = gates(two, shape)
    owned = (1 - w == 0).sum(0)
    assert owned.min() > pixels / 4
    assert ((w < 1e-15) | (w > 0.4) & (w < 0.6) | (1 - w == 0)).all()
    wanted = weighed_by_removal(two, target, 1e-3)[0][:, 2]
    assert (np.abs(wanted - C * owned) < C * (pixels - owned.sum())).all()
    np.testing.assert_allclose(make_engine(shape, target, dtype).weigh(two)[:, 2], wanted,
                               rtol=TOLERANCE[dtype])


def test_sums_have_the_same_bits_for_any_number_of_threads(each_engine):
    params, target = random_model(2, 300, sigma=0.05), picture((90, 83))
    results = []
    for threads in (1, 2, 3):
        engine = make_engine((90, 83), target)
        engine.threads = threads
        results.append((engine.weigh(params), engine.halve(params, [[0.6, 0.8]])))
    for weighed, halved in results[1:]:
        np.testing.assert_array_equal(weighed, results[0][0])
        np.testing.assert_array_equal(halved, results[0][1])


def test_sums_are_of_the_kernels_that_are_left_after_others_have_gone(each_engine):
    params, target = random_model(4, 30, sigma=0.1), picture((40, 35))
    engine = make_engine((40, 35), target, "float64")
    engine.loss(params)
    staying = np.arange(30) % 4 > 0
    engine.keep(staying)
    params = params.select(staying)
    normals = np.array([[-0.6, 0.8], [1, 0]])
    assert_sums_agree(engine.weigh(params), weighed_by_removal(params, target, 1e-12)[0], 1e-5)
    for found, n in zip(engine.halve(params, normals), [None, *normals], strict=True):
        assert_sums_agree(found, halved_by_hand(params, target, n), 1e-10)


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize(("dtype", "rest", "known", "tolerance"), [
    ("float32", 8e-6, False, 0), ("float32", 1e-4, True, 0.01), ("float64", 5e-13, False, 0),
    ("float64", 1e-10, True, 1e-4)])
def test_what_would_be_there_instead_is_unknown_where_hardly_anything_is(
        each_engine, C, dtype, rest, known, tolerance):
    params, target = random_model(28, 2, C=C, sigma=0.5), picture((13, 18), C)
    params.musX[1], params.A[1] = params.musX[0], params.A[0]  # so that gates are as weights
    params.pis[:] = 1 - rest, rest
    wanted = weighed_by_removal(params, target, 0)[0][0, 2] if known else C * 13 * 18
    found = make_engine((13, 18), target, dtype).weigh(params)[0, 2]
    assert found == pytest.approx(wanted, rel=tolerance)
    assert wanted < 0.9 * C * 13 * 18 or not known


# ---- halves


@CASES
@DTYPES
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("batches", [None, 4])
def test_what_pixels_say_of_an_expert_is_added_up_over_all_and_on_one_side_of_its_kernel(
        each_engine, shape, C, K, sigma, dtype, batches):
    D = len(shape)
    params, target = random_model(5, K, D, C, sigma=sigma), picture(shape, C)
    some = np.array([-2.0, 1.0, 3.0])[:D]
    normals = np.stack([some / np.linalg.norm(some), np.eye(D)[-1], -np.eye(D)[0]])
    found = make_engine(shape, target, dtype, batches).halve(params, normals)
    for sums, n in zip(found, [None, *normals], strict=True):
        assert_sums_agree(sums, halved_by_hand(params, target, n), TOLERANCE[dtype])
    np.testing.assert_array_equal(make_engine(shape, target, dtype, batches).halve(params),
                                  found[:1])


@DTYPES
@pytest.mark.parametrize("apart", [3.9, 6.0])
def test_halves_hold_where_gates_of_a_tile_differ_by_many_orders_of_magnitude(
        each_engine, apart, dtype):
    params, target = random_model(30, 2), picture((8, 8))
    params.pis[:], params.A[:] = 0.5, 8 * np.eye(2)
    params.musX[:] = 0.5 + np.array([[-apart, -apart], [apart, apart]]) / 8
    log_gate = gate_terms(params, (8, 8))[1]
    assert np.ptp(log_gate[:, 0] - log_gate[:, 1]) > 40  # so that their ratio squared is < 1e-34
    found = make_engine((8, 8), target, dtype).halve(params, [[0.6, 0.8]])
    for sums, n in zip(found, (None, np.array([0.6, 0.8])), strict=True):
        np.testing.assert_allclose(sums, halved_by_hand(params, target, n),
                                   rtol=100 * TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("shape", "C"), [((21, 13), 1), ((6, 5, 9), 3)])
def test_two_halves_are_the_whole(each_engine, shape, C):
    params, target = random_model(6, 20, len(shape), C, sigma=0.2), picture(shape, C)
    engine, n = make_engine(shape, target, "float64"), np.array([0.48, 0.6, 0.64])[: len(shape)]
    n /= np.linalg.norm(n)
    whole, one, other = engine.halve(params, [n, -n])
    assert relative_error(one + other, whole) < 1e-12
    assert relative_error(one, whole) > 0.1
    assert relative_error(other, whole) > 0.1


# ---- gains


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("shape", "C"), [((70,), 2), ((13, 18), 1), ((13, 18), 3), ((5, 6, 7), 3)])
def test_the_gain_of_an_expert_is_that_of_least_squares_with_a_little_ridge(shape, C, affine):
    D = len(shape)
    params, target = random_model(7, 9, D, C, sigma=0.25, anisotropy=3), picture(shape, C)
    params.musX[0] = 3.0  # far away: of hardly any pixels
    z = gate_terms(params, shape)[0]
    w = gates(params, shape)
    rho = (target - np.clip(dense.render(params, shape), 0, 1)).reshape(-1, C)
    sums = halved_by_hand(params, target, None)
    found = expert_gains(sums, params.A / max(shape), affine)
    columns = 1 + D * affine
    for k in range(9):
        X = w[:, k, None] * np.hstack([np.ones((len(w), 1)), z[:, k]])[:, :columns]
        ridge = RIDGE * ((w[:, k] ** 2).sum() + RIDGE)
        X = np.vstack([X, math.sqrt(ridge) * np.eye(columns)])
        wanted = np.vstack([rho, np.zeros((columns, C))])
        fitted = X @ np.linalg.lstsq(X, wanted)[0]
        gain = (wanted**2).sum() - ((wanted - fitted) ** 2).sum()
        assert found[k] == pytest.approx(gain, rel=1e-6, abs=1e-10)
    assert (found >= 0).all()
    assert found[0] < 1e-3 * found.max()


@pytest.mark.parametrize("D", [1, 2, 3, 4])
def test_directions_are_unit_vectors_of_which_no_two_are_opposite(D):
    found = directions(D)
    assert found.shape == ({1: 1, 2: 8, 3: 13, 4: 40}[D], D)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    cosines = np.abs(found @ found.T) - np.eye(len(found))
    assert cosines.max(initial=0) < 0.95
    # and there is one near any
    others = np.random.default_rng(0).normal(size=(200, D))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert np.abs(others @ found.T).max(axis=1).min() > (0.85 if D < 4 else 0.8)


@pytest.mark.parametrize("affine", [True, False])
def test_the_direction_of_a_split_is_that_of_the_largest_gain(each_engine, affine):
    params, target = random_model(8, 15, C=3, sigma=0.2), picture((31, 26), 3)
    found, chosen = split_gains(make_engine((31, 26), target, "float64"), params, affine)
    A = params.A / 31
    whole = expert_gains(halved_by_hand(params, target, None), A, affine)
    gains = np.stack([sum(expert_gains(halved_by_hand(params, target, s * n), A, affine)
                          for s in (1, -1)) - whole for n in directions(2)])
    np.testing.assert_allclose(found, gains.max(0), rtol=1e-8)
    np.testing.assert_array_equal(chosen, directions(2)[gains.argmax(0)])
    assert len(set(gains.argmax(0))) > 3


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2, 2.5])
def test_a_kernel_on_an_edge_is_split_across_it(each_engine, angle):
    across = np.array([math.cos(angle), math.sin(angle)])
    x = dense.pixel_centres((24, 24)) - 0.5
    target = np.where(x @ across > 0, 0.9, 0.1).reshape(24, 24, 1)
    one = SmoeParams([1.0], [[0.5, 0.5]], [[[4.0, 0], [0, 4.0]]], [[[0.0, 0]]], [[0.5]])
    gain, chosen = split_gains(make_engine((24, 24), target), one, affine=False)
    assert abs(chosen[0] @ across) > math.cos(math.pi / 15)
    # two constants tell all there is to know, but for pixels that the chosen edge cuts off
    assert 0.6 < gain[0] / squares(one, target).sum() <= 1.001


# ---- splits


def moments(params, kernels):
    """Weight, mean and covariance of some kernels as Gaussians, together."""
    pis = params.pis[kernels].astype(float)
    A, musX = params.A[kernels].astype(float), params.musX[kernels].astype(float)
    inverse = np.linalg.inv(A)
    mean = (pis[:, None] * musX).sum(0) / pis.sum()
    offset = musX - mean
    each = np.einsum("kij,kil->kjl", inverse, inverse) + offset[:, :, None] * offset[:, None]
    return pis.sum(), mean, (pis[:, None, None] * each).sum(0) / pis.sum()


def unit_vectors(n, D, seed=0):
    normals = np.random.default_rng(seed).normal(size=(n, D))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize(("anisotropy", "tolerance"), [(1, 1e-12), (30, 1e-12), (1e4, 1e-11)])
@pytest.mark.parametrize("shift", [0.5, 0.95])
def test_children_together_have_their_parents_moments(D, C, anisotropy, tolerance, shift):
    params = random_model(9, 8, D, C, sigma=0.1, anisotropy=anisotropy)
    kernels = np.array([6, 0, 3])
    normals = unit_vectors(3, D)
    children = split(params, kernels, normals, shift)
    assert children.num_kernels == 11
    assert_same_model(children.select([1, 2, 4, 5, 7]), params.select([1, 2, 4, 5, 7]))
    for number, parent in enumerate(kernels):
        pair = [parent, 8 + number]
        weight, mean, covariance = moments(children, pair)
        A = params.A[parent]
        assert weight == pytest.approx(params.pis[parent])
        np.testing.assert_allclose(children.pis[pair], params.pis[parent] / 2)
        # in the parent's frame, where all directions count alike
        np.testing.assert_allclose(A.T @ (mean - params.musX[parent]), 0, atol=tolerance)
        np.testing.assert_allclose(A.T @ covariance @ A, np.eye(D), atol=100 * tolerance)
        there = A.T @ (children.musX[pair] - params.musX[parent]).T
        np.testing.assert_allclose(there.T, [shift * normals[number], -shift * normals[number]],
                                   atol=tolerance)
        along = np.linalg.solve(children.A[parent], A @ normals[number])
        assert along @ along == pytest.approx(1 - shift**2, rel=100 * tolerance)
        np.testing.assert_array_equal(children.A[parent], children.A[8 + number])
        for name in ("gamma_e", "nu_e"):
            for child in pair:
                np.testing.assert_array_equal(getattr(children, name)[child],
                                              getattr(params, name)[parent])


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), D=st.integers(1, 3), dtype=st.sampled_from(["f4", "f8"]),
       anisotropy=st.sampled_from([1, 100, 1e4]), sigma=st.sampled_from([1e-3, 0.1, 30]),
       shift=st.sampled_from([0.01, 0.5, 0.95, 0.999]), n=st.integers(0, 6))
def test_a_split_makes_a_model_like_any_other(seed, D, dtype, anisotropy, sigma, shift, n):
    params = random_model(seed, 6, D, 2, sigma=sigma, anisotropy=anisotropy, dtype=np.dtype(dtype))
    params.image_shape = (20,) * D
    before = params.copy()
    kernels = np.random.default_rng(seed).permutation(6)[:n]
    children = split(params, kernels, unit_vectors(n, D, seed), shift)
    assert_same_model(params, before)
    assert children.num_kernels == 6 + n
    assert children.image_shape == (20,) * D
    assert {array.dtype for array in children.arrays().values()} == {np.dtype(dtype)}
    SmoeParams(**children.arrays())  # finite, lower triangular, of shapes that fit
    assert (np.diagonal(children.A, axis1=1, axis2=2) > 0).all()
    assert (children.pis > 0).all()
    np.testing.assert_allclose(children.pis.sum(), params.pis.sum(), rtol=1e-5)


def test_children_draw_about_the_picture_that_their_parents_drew():
    params = random_model(10, 12, sigma=0.12)
    before = dense.render(params, (30, 30))
    children = split(params, np.arange(12), unit_vectors(12, 2), 0.5)
    assert np.sqrt(((dense.render(children, (30, 30)) - before) ** 2).mean()) < 0.05


# ---- events


class Told:
    """An engine that says of kernels what it was told, and notes who has become of whom."""

    shape = (32, 24)

    def __init__(self, cost, mass=None, error=None):
        ones = np.ones(len(cost))
        self.table = np.stack([ones if mass is None else mass,
                               ones if error is None else error, cost], axis=1)
        self.parents = None

    def weigh(self, params):
        assert params.num_kernels == len(self.table)
        return self.table

    def halve(self, params, directions=()):
        width = len(quadratic_terms(2)) + 3 + params.num_channels * 3
        return np.zeros((1 + len(directions), params.num_kernels, width))

    def succeed(self, parents):
        self.parents = parents


def told(params, target, removed, recipe=None, seed=0, **table):
    """The model after an event, its Adam, and the engine."""
    adam = Adam(params)
    for moment in (adam.m, adam.v):
        for name in NAMES:
            getattr(moment, name)[...] = 1 + np.random.default_rng(1).random(
                getattr(moment, name).shape)
    adam.steps, adam.born = 70, np.arange(params.num_kernels, dtype=np.int32)
    engine = Told(**{"cost": np.ones(params.num_kernels), **table})
    recipe = recipe or Recipe(best_direction=False, split_by_gain=False)
    after = relocate(engine, params, adam, target, removed, recipe, True,
                     np.random.default_rng(seed))
    return after, adam, engine


def numbers(after, before):
    """Which kernel of ``before`` each of ``after`` has the expert of."""
    return [int(np.flatnonzero((before.nu_e == nu).all(1))[0]) for nu in after.nu_e]


def test_those_of_lowest_cost_leave_and_those_of_largest_error_are_split():
    params = random_model(11, 10, C=2, dtype=np.float32)
    cost = np.array([5, 1, 7, 0.5, 9, 2, -3, 8, 6, 4.0])
    error = np.array([1, 100, 5, 100, 2, 3, 100, 6, 4, 0.5])
    after, adam, engine = told(params, 11, 3, cost=cost, error=error)
    # 6, 3 and 1 have left, whatever their error; of the others 7, 2, 8 and 5 have most of it
    assert numbers(after, params) == [0, 2, 4, 5, 7, 8, 9, 7, 2, 8, 5]
    assert engine.parents.tolist() == numbers(after, params)
    assert adam.born.tolist() == [0, 70, 4, 70, 70, 70, 9, 70, 70, 70, 70]
    assert after.dtype == np.float32


def test_new_kernels_have_no_moments_and_the_others_keep_theirs():
    params = random_model(12, 8)
    error = np.array([0, 9, 0, 0, 8, 0, 0, 0.0])
    start = Adam(params)
    after, adam, _ = told(params, 9, 1, cost=np.array([3, 3, 3, 3, 3, 3, 0, 3.0]), error=error)
    staying = [0, 2, 3, 5, 7]
    places = [numbers(after, params).index(k) for k in staying]
    new = [place for place in range(9) if place not in places]
    assert len(new) == 4
    assert adam.steps == 70
    assert (adam.born[new] == 70).all()
    np.testing.assert_array_equal(adam.born[places], staying)
    for moment in (adam.m, adam.v):
        for name in NAMES:
            array = getattr(moment, name)
            assert array.shape == (9, *getattr(start.m, name).shape[1:])
            assert not array[new].any()
            kept = 1 + np.random.default_rng(1).random(getattr(start.m, name).shape)
            np.testing.assert_array_equal(array[places], kept[staying])
    for name in ("musX", "A", "gamma_e", "nu_e"):
        np.testing.assert_array_equal(getattr(after, name)[places], getattr(params, name)[staying])


def test_where_kernels_are_worth_the_same_the_first_leave_and_the_first_are_split():
    params = random_model(13, 9)
    for seed in range(3):
        after, _, engine = told(params, 9, 2, seed=seed)
        assert numbers(after, params) == [2, 3, 4, 5, 6, 7, 8, 2, 3]
        assert engine.parents.tolist() == [2, 3, 4, 5, 6, 7, 8, 2, 3]


@pytest.mark.parametrize(("remove_by", "leave"), [("cost", 1), ("weight", 4), ("error", 2)])
def test_what_is_removed_by_is_what_the_recipe_says(remove_by, leave):
    params = random_model(14, 6)
    params.pis[4] = 1e-4
    recipe = Recipe(remove_by=remove_by, best_direction=False)
    after, _, _ = told(params, 5, 1, recipe, cost=np.array([2, 1, 2, 2, 2, 2.0]),
                       error=np.array([2, 2, 1, 2, 2, 2.0]))
    assert numbers(after, params) == [k for k in range(6) if k != leave]


def test_of_two_with_the_same_error_the_one_of_less_mass_is_split():
    params = random_model(15, 6)
    mass = np.array([9, 3, 9, 9, 9, 9.0])
    assert numbers(told(params, 7, 0, mass=mass)[0], params)[-1] == 1
    error = np.array([3, 1, 1, 1, 1, 1.0])
    for power, wanted in ((0.0, 0), (0.9, 0), (1.1, 1)):
        recipe = Recipe(mass_power=power, best_direction=False, split_by_gain=False)
        after, _, _ = told(params, 7, 0, recipe, mass=mass, error=error)
        assert numbers(after, params)[-1] == wanted


@pytest.mark.parametrize(("K", "target", "removed", "wanted"), [
    (8, 8, 0, 8), (8, 8, 3, 8), (8, 12, 2, 12), (8, 16, 0, 16), (8, 16, 3, 16), (8, 15, 3, 15),
    (8, 100, 0, 16), (8, 5, 0, 5), (8, 5, 1, 5), (8, 1, 0, 1), (8, 1, 8, 1), (8, 8, 100, 8),
    (1, 1, 0, 1), (1, 1, 5, 1), (1, 2, 1, 2), (1, 9, 0, 2), (2, 3, 1, 3)])
def test_as_many_are_left_as_are_wanted_or_can_be_had(K, target, removed, wanted):
    params = random_model(16, K)
    after, adam, engine = told(params, target, removed, cost=np.arange(K) % 3 + 1.0)
    assert after.num_kernels == len(adam.born) == len(engine.parents) == wanted
    assert after.pis.sum() == pytest.approx(1)


def test_random_directions_are_those_of_the_seed():
    params = random_model(17, 6)
    one, again, other = (told(params, 12, 0, seed=seed)[0] for seed in (1, 1, 2))
    assert_same_model(again, one)
    assert relative_error(other.musX, one.musX) > 1e-3


def test_a_kernel_of_no_mass_is_not_split_before_others():
    params = random_model(18, 4)
    after, _, _ = told(params, 5, 0, mass=np.array([0, 1, 1, 1.0]), error=np.array([0, 1, 2, 1.0]))
    assert numbers(after, params)[-1] == 2
    assert all(np.isfinite(array).all() for array in after.arrays().values())


@pytest.mark.parametrize(("K", "split_by_gain"), [(24, False), (20, True)])
@pytest.mark.parametrize(("shape", "C", "affine"), [
    ((32, 27), 1, True), ((26, 21), 3, False), ((9, 8, 10), 1, True)])
def test_an_event_in_a_training_removes_the_useless_and_goes_on(
        each_engine, shape, C, affine, K, split_by_gain):
    target = picture(shape, C)
    params = random_model(19, 20, len(shape), C, sigma=0.15, dtype=np.float32)
    params.pis /= params.pis.sum()
    engine, adam = make_engine(shape, target), Adam(params, 0.98)
    for _ in range(3):
        params = engine.advance(params, adam, frame_settings(), math.inf, 1).params
    cost = make_engine(shape, target).weigh(params)[:, 2]
    leaving = np.argsort(cost)[:4]
    after = relocate(engine, params, adam, K, 4, Recipe(split_by_gain=split_by_gain), affine,
                     np.random.default_rng(0))
    assert after.num_kernels == K
    assert not set(numbers(after, params)) & set(leaving.tolist())
    assert sorted(set(numbers(after, params))) == sorted(set(range(20)) - set(leaving.tolist()))
    fresh = make_engine(shape, target)
    loss, gradients = fresh.loss_and_gradients(after)
    found, others = engine.loss_and_gradients(after)
    assert found == pytest.approx(loss, rel=1e-6)
    assert_gradients_agree(others, gradients, 1e-5)
    assert (adam.born == 3).sum() == 2 * (K - 16)
    again = Adam(after, 0.98)
    again.restore({name: a.copy() for name, a in adam.arrays().items()}, 3)
    one, other = (used.advance(after, moments, frame_settings(), math.inf, 1).params
                  for used, moments in ((engine, adam), (fresh, again)))
    for name in NAMES:
        error = relative_error(getattr(one, name), getattr(other, name))
        assert error < 1e-3, (name, error)
