"""Tiles and pair lists: nothing is lost, what is left out is below the bound, at a bounded cost."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import gate_terms, picture, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import SmoeParams, dense, gate, tiling
from smoe_np.grid import Grid

SHAPES = [(1,), (64,), (65,), (200,), (1, 1), (16, 16), (1, 40), (17, 1), (33, 50), (4, 4, 4),
          (9, 2, 13), (5, 6, 3, 2)]
SIDES = {1: 64, 2: 16, 3: 4, 4: 2}


def kernels_of(params, grid):
    return gate.pixel_kernels(params, grid.longest)


def listed(lists, grid, K):
    """(T, K) bool: whether a kernel is listed in a tile."""
    assert sorted(lists.tiles) == list(range(grid.num_tiles))  # each tile, once
    assert len(lists.kernels) == lists.counts.sum()
    found = np.zeros((grid.num_tiles, K), int)
    np.add.at(found, (np.repeat(lists.tiles, lists.counts), lists.kernels), 1)
    assert found.max() <= 1  # no kernel stands twice in a tile
    return found.astype(bool)


def largest_gates(params, grid):
    """(T, K) log of each kernel's largest gate in each tile, by brute force."""
    log_gate = gate_terms(params, grid.shape)[1]
    log_gate = log_gate - np.logaddexp.reduce(log_gate, axis=1, keepdims=True)
    tiles = grid.cut(log_gate.reshape(*grid.shape, -1))  # (T, K, P)
    inside = grid.inside(np.arange(grid.num_tiles))
    return np.where(inside[:, None], tiles, -np.inf).max(axis=2)


def assert_bound_holds(lists, params, grid, tau):
    dropped = ~listed(lists, grid, params.num_kernels)
    largest = largest_gates(params, grid)
    assert not dropped.any() or largest[dropped].max() < -tau + 1e-6
    return dropped


@st.composite
def models(draw):
    D = draw(st.sampled_from([1, 2, 2, 3]))
    most = {1: 300, 2: 60, 3: 14}[D]
    shape = tuple(draw(st.integers(1, most)) for _ in range(D))
    params = random_model(
        draw(st.integers(0, 2**32 - 1)), K=draw(st.integers(1, 40)), D=D,
        sigma=10 ** draw(st.floats(-2.5, 1)), anisotropy=10 ** draw(st.floats(0, 2.5)),
        spread=10 ** draw(st.floats(-2, 1)), corner=draw(st.floats(-5, 2)))
    params.pis *= 10 ** (draw(st.floats(0, 6)) * np.linspace(-1, 0, params.num_kernels))
    return params, Grid(shape, draw(st.sampled_from([1, 3, SIDES[D]])))


# ---- Grid


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("C", [1, 3])
def test_paste_undoes_cut(shape, C):
    for side in (1, 2, 3, SIDES[len(shape)], 1000):
        grid, image = Grid(shape, side), np.random.default_rng(0).random((*shape, C))
        tiles = grid.cut(image)
        assert tiles.shape == (grid.num_tiles, C, grid.pixels)
        np.testing.assert_array_equal(grid.paste(tiles), image)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pixel_lies_in_one_tile_at_its_own_place(shape):
    grid = Grid(shape, 3)
    position = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij"), axis=-1)
    tiles = np.arange(grid.num_tiles)
    inside, cut = grid.inside(tiles), grid.cut(position).transpose(0, 2, 1)  # (T, P, D)
    points = (grid.centres(tiles)[:, :, None] + grid.offsets()).transpose(0, 2, 1)
    assert inside.sum() == np.prod(shape)
    np.testing.assert_allclose(points[inside], cut[inside], atol=1e-12)
    assert not cut[~inside].any()  # what lies beyond the picture is 0
    assert grid.ragged == (not inside.all())


def test_an_axis_shorter_than_a_tile_is_not_cut():
    grid = Grid((5, 40), 16)
    assert grid.tile == (5, 16)
    assert grid.counts == (1, 3)


def test_centres_and_inside_answer_for_any_choice_of_tiles():
    grid = Grid((20, 37), 16)
    some = np.array([5, 0, 3])
    everything = np.arange(grid.num_tiles)
    np.testing.assert_array_equal(grid.centres(some), grid.centres(everything)[some])
    np.testing.assert_array_equal(grid.inside(some), grid.inside(everything)[some])


# ---- the bound


@settings(max_examples=120)
@given(model=models(), tau=st.sampled_from([0.5, 3.0, 12.0, 30.0]))
def test_every_kernel_left_out_has_a_gate_below_the_bound_everywhere(model, tau):
    params, grid = model
    lists = tiling.build_lists(kernels_of(params, grid), grid, tau)
    assert_bound_holds(lists, params, grid, tau)


@pytest.mark.parametrize("shape", [(96, 80), (300,), (20, 24, 16)])
def test_most_pairs_are_left_out_of_a_large_picture(shape):
    grid = Grid(shape, SIDES[len(shape)])
    params = random_model(0, K=300, D=len(shape), sigma=0.03)
    lists = tiling.build_lists(kernels_of(params, grid), grid, 12.0)
    assert assert_bound_holds(lists, params, grid, 12.0).mean() > 0.5


@settings(max_examples=20)
@given(model=models())
def test_an_infinite_tau_keeps_all(model):
    params, grid = model
    lists = tiling.build_lists(kernels_of(params, grid), grid, np.inf)
    assert listed(lists, grid, params.num_kernels).all()


@settings(max_examples=20)
@given(model=models())
def test_a_larger_tau_never_leaves_out_more(model):
    params, grid = model
    before = np.zeros((grid.num_tiles, params.num_kernels), bool)
    for tau in (0.0, 2.0, 12.0, 30.0):
        now = listed(tiling.build_lists(kernels_of(params, grid), grid, tau), grid,
                     params.num_kernels)
        assert now.any(axis=1).all()  # the winner itself is always there
        assert (now >= before).all()
        before = now


def test_one_kernel_is_listed_in_every_tile_wherever_it_is():
    grid = Grid((50, 70), 16)
    for place in (0.5, -30.0, 1e4):
        params = SmoeParams([1e-9], [[place, place]], [50 * np.eye(2)], [[0, 0]], [0.5])
        lists = tiling.build_lists(kernels_of(params, grid), grid, 12.0)
        assert listed(lists, grid, 1).all()


def test_kernels_all_in_one_corner_still_own_the_far_tiles():
    grid = Grid((128, 128), 16)
    params = random_model(1, K=50, sigma=0.01, spread=0.05)
    lists = tiling.build_lists(kernels_of(params, grid), grid, 12.0)
    assert lists.counts.min() >= 1
    assert_bound_holds(lists, params, grid, 12.0)


# ---- allowances


ROWS = {"pis": [2], "musX": [1], "A": [0, 2], "all": [0, 1, 2]}  # of drift, that a motion needs


def moved(params, grid, allowance, kind, seed):
    """The kernels, each moved as far as ``drift`` finds within its allowance.

    At random, or all together against a bound: at some pixel the winner loses, and the others gain.
    """
    rng = np.random.default_rng(seed)
    K, D = params.musX.shape
    if rng.random() < 0.3:
        size = np.linalg.norm(params.A, axis=(1, 2))
        change = {
            "pis": rng.normal(size=K),
            "musX": rng.normal(size=(K, D)) / size[:, None],
            "A": np.tril(rng.normal(size=(K, D, D))) * np.abs(params.A).max((1, 2), keepdims=True),
        }
    else:
        _, log_gate, _, _, x = gate_terms(params, grid.shape)
        pixel = rng.integers(len(x))
        gain = np.where(np.arange(K) == log_gate[pixel].argmax(), -1.0, 1.0)
        change = {
            "pis": gain,
            "musX": 10 * gain[:, None] * (x[pixel] - params.musX),
            "A": -gain[:, None, None] * params.A,
        }
    for name, delta in change.items():
        delta *= kind in (name, "all")
    anchor = kernels_of(params, grid)
    inverse = tiling.lower_inverse(anchor.A)

    def at(step):
        now = params.copy()
        now.pis = params.pis * np.exp(step * change["pis"])
        now.musX = params.musX + step[:, None] * change["musX"]
        now.A = params.A + step[:, None, None] * change["A"]
        return now

    low, high = np.zeros(K), np.ones(K)
    for _ in range(40):
        middle = (low + high) / 2
        now = at(middle)
        positive = (np.diagonal(now.A, axis1=1, axis2=2) > 0).all(1)
        now.A[~positive] = params.A[~positive]
        drifted = tiling.drift(anchor, inverse, kernels_of(now, grid))
        within = (drifted <= allowance + 1e-9).all(axis=0)[:-1] & positive
        low, high = np.where(within, middle, low), np.where(within, high, middle)
    return at(low)


@settings(max_examples=100)
@given(model=models(), tau=st.sampled_from([3.0, 12.0]), seed=st.integers(0, 1000),
       kind=st.sampled_from(list(ROWS)), most=st.sampled_from([0.02, 0.3, 1.5]))
def test_the_bound_holds_after_any_movement_within_the_allowance(model, tau, seed, kind, most):
    params, grid = model
    allowance = np.zeros((3, params.num_kernels + 1))
    allowance[ROWS[kind]] = most * np.random.default_rng(seed).random(params.num_kernels + 1)
    lists = tiling.build_lists(kernels_of(params, grid), grid, tau, allowance)
    assert_bound_holds(lists, params, grid, tau)
    for again in range(3):
        now = moved(params, grid, allowance, kind, seed + again)
        assert_bound_holds(lists, now, grid, tau)


def test_an_allowance_only_adds_to_the_lists_and_matters():
    grid = Grid((64, 64), 16)
    params = random_model(2, K=200, sigma=0.03)
    kernels = kernels_of(params, grid)
    without = tiling.build_lists(kernels, grid, 12.0)
    allowance = np.full((3, 201), 0.8)
    generous = tiling.build_lists(kernels, grid, 12.0, allowance)
    assert (listed(generous, grid, 200) >= listed(without, grid, 200)).all()
    # without it, the same movement does break the bound: the test above has teeth
    broken = 0
    for seed in range(3):
        now = moved(params, grid, allowance, "all", seed)
        largest = largest_gates(now, grid)
        broken += (largest[~listed(without, grid, 200)] > -12.0).any()
        assert_bound_holds(generous, now, grid, 12.0)
    assert broken > 0


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), D=st.sampled_from([1, 2, 3]), step=st.floats(0, 1))
def test_drift_bounds_the_change_of_every_distance(seed, D, step):
    rng = np.random.default_rng(seed)
    grid = Grid((40, 30, 20)[:D], 16)
    before = random_model(seed, K=10, D=D, anisotropy=10)
    after = before.copy()
    after.musX += 0.1 * step * rng.normal(size=after.musX.shape)
    after.A *= 1 + step * np.tril(rng.normal(size=after.A.shape))
    after.pis *= np.exp(step * rng.normal(size=10))
    now, then = kernels_of(after, grid), kernels_of(before, grid)
    relative, shift, weight = tiling.drift(then, tiling.lower_inverse(then.A), now)[:, :-1]
    points = 100 * rng.normal(size=(200, 1, D))

    def distance(kernels):
        z = np.einsum("kij,nki->nkj", kernels.A[:-1], points - kernels.centre[:-1])
        return np.linalg.norm(z, axis=2)

    change = np.abs(distance(now) - distance(then))
    assert (change <= (relative * distance(then) + shift) * (1 + 1e-9) + 1e-9).all()
    np.testing.assert_allclose(weight, np.abs(now.log_weight - then.log_weight)[:-1])


def test_drift_is_exact_for_the_plain_movements():
    grid = Grid((40, 40), 16)
    params = random_model(3, K=5, anisotropy=5)
    then = kernels_of(params, grid)
    inverse = tiling.lower_inverse(then.A)
    np.testing.assert_allclose(tiling.drift(then, inverse, then), 0, atol=1e-12)

    weighed = params.copy()
    weighed.pis *= np.e
    found = tiling.drift(then, inverse, kernels_of(weighed, grid))[:, :-1]
    np.testing.assert_allclose(found, [[0] * 5, [0] * 5, [1] * 5], atol=1e-12)

    shifted = params.copy()  # by one standard deviation along the first axis of z
    shifted.musX += np.linalg.inv(params.A.transpose(0, 2, 1))[:, :, 0]
    found = tiling.drift(then, inverse, kernels_of(shifted, grid))[:, :-1]
    np.testing.assert_allclose(found, [[0] * 5, [1] * 5, [0] * 5], atol=1e-12)

    scaled = params.copy()
    scaled.A *= 1.01
    found = tiling.drift(then, inverse, kernels_of(scaled, grid))[:, :-1]
    expected = [[0.01 * 2**0.5] * 5, [0] * 5, [2 * np.log(1.01)] * 5]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("D", [1, 2, 3, 4])
def test_lower_inverse_inverts(D):
    A = random_model(4, K=30, D=D, anisotropy=50).A
    inverse = tiling.lower_inverse(A)
    np.testing.assert_allclose(inverse @ A, np.broadcast_to(np.eye(D), A.shape), atol=1e-12)
    assert not np.triu(inverse, 1).any()


# ---- how they are found


@pytest.mark.parametrize("with_allowance", [False, True])
def test_lists_do_not_depend_on_the_pool(with_allowance):
    grid = Grid((512, 400), 16)
    kernels = kernels_of(random_model(5, K=5000, sigma=0.02), grid)
    allowance = np.random.default_rng(0).random((3, 5001)) * 0.1 if with_allowance else None
    alone = tiling.build_lists(kernels, grid, 12.0, allowance)
    for workers in (1, 2, 5):
        with ThreadPoolExecutor(workers) as pool:
            together = tiling.build_lists(kernels, grid, 12.0, allowance, pool.map)
        for name in ("tiles", "counts", "kernels"):
            np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))


@settings(max_examples=100)
@given(model=models(), tau=st.sampled_from([3.0, 12.0]), seed=st.integers(0, 1000),
       most=st.sampled_from([0.02, 0.3, 1.5]))
def test_lists_rebuilt_from_older_ones_are_those_built_from_nothing(model, tau, seed, most):
    params, grid = model
    kernels, K = kernels_of(params, grid), params.num_kernels
    rng = np.random.default_rng(seed)
    old = tiling.build_lists(kernels, grid, tau, most * rng.random((3, K + 1)))
    allowance = most * rng.random((3, K + 1))
    # the kernels may have gone anywhere in the meantime
    now = kernels_of(moved(params, grid, np.full((3, K + 1), 2 * most), "all", seed), grid)
    again = tiling.rebuild_lists(now, grid, tau, allowance, old)
    if again is not None:
        fresh = tiling.build_lists(now, grid, tau, allowance)
        for name in ("tiles", "counts", "kernels"):
            np.testing.assert_array_equal(getattr(again, name), getattr(fresh, name))


def without(kernels, lists, stays):
    """Kernels, and lists of them, after some have left."""
    number = np.full(len(stays) + 1, stays.sum())
    number[:-1][stays] = np.arange(stays.sum())
    return kernels.take(np.append(stays, True)), lists._replace(
        winners=number[lists.winners], kernels=number[lists.kernels])


@settings(max_examples=100)
@given(model=models(), seed=st.integers(0, 1000), share=st.sampled_from([0.05, 0.5, 0.95, 1]))
def test_lists_whose_kernels_leave_are_rebuilt_as_from_nothing(model, seed, share):
    params, grid = model
    kernels, K = kernels_of(params, grid), params.num_kernels
    stays = np.random.default_rng(seed).random(K) >= share
    stays[seed % K] = True
    now, old = without(kernels, tiling.build_lists(kernels, grid, 12.0), stays)
    allowance = np.zeros((3, stays.sum() + 1))
    again = tiling.rebuild_lists(now, grid, 12.0, allowance, old)
    if again is not None:
        fresh = tiling.build_lists(now, grid, 12.0, allowance)
        for name in ("tiles", "counts", "kernels", "winner", "winners", "steep"):
            np.testing.assert_array_equal(getattr(again, name), getattr(fresh, name))


def test_where_winners_leave_others_of_their_lists_take_their_place():
    # ... so that no tile is without a bound, for which all kernels that reach it might matter
    grid = Grid((512, 512), 16)
    params = random_model(9, K=16384, sigma=0.008, anisotropy=10)
    kernels = kernels_of(params, grid)
    lists = tiling.build_lists(kernels, grid, 12.0)
    stays = np.ones(16384, bool)
    stays[lists.winners[::7]] = False
    now, old = without(kernels, lists, stays)
    tried = []
    upper = tiling._Bounds.upper

    def counting(bounds, k, middle, half):
        tried.append(len(k))
        return upper(bounds, k, middle, half)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling._Bounds, "upper", counting)
        again = tiling.rebuild_lists(now, grid, 12.0, np.zeros((3, stays.sum() + 1)), old)
    assert sum(tried) < 1.5 * len(again.kernels)


class Counted(np.ndarray):
    """An array that counts the numbers that arithmetic with it and its offspring makes."""

    made = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        def plain(array):
            return array.view(np.ndarray) if isinstance(array, Counted) else array

        if out is not None:
            kwargs["out"] = tuple(map(plain, out))
        result = getattr(ufunc, method)(*map(plain, inputs), **kwargs)
        Counted.made += np.size(result)
        if out is not None:
            return out[0]
        return result.view(Counted) if isinstance(result, np.ndarray) else result


@pytest.mark.parametrize("built", ["anew", "again"])
def test_cost_grows_with_the_kernels_and_not_with_kernels_times_tiles(built):
    cost, pairs = [], []
    for size in (4, 8, 16):  # the same spacing on a picture of 4 and of 16 times as many pixels
        grid = Grid((32 * size, 32 * size), 16)
        K = (8 * size) ** 2
        params = random_model(6, K=K, sigma=0.6 / (8 * size))
        kernels = kernels_of(params, grid)
        counted = type(kernels)(*(array.view(Counted) for array in kernels))
        old = tiling.build_lists(kernels, grid, 12.0)
        Counted.made = 0
        if built == "anew":
            lists = tiling.build_lists(counted, grid, 12.0)
        else:
            lists = tiling.rebuild_lists(counted, grid, 12.0, np.zeros((3, K + 1)), old)
        levels = np.log2(2 * size)  # of the tree of boxes
        np.testing.assert_array_equal(lists.kernels, old.kernels)
        cost.append(Counted.made / (K + len(lists.kernels)) / levels)
        pairs.append(len(lists.kernels) / grid.num_tiles)
    assert min(cost) > 1  # it does count
    assert cost[2] < 1.3 * cost[0]
    assert pairs[2] < 1.3 * pairs[0]


# ---- gate: polynomials and the chain rule


@pytest.mark.parametrize("D", [1, 2, 3])
def test_monomials_are_those_of_degree_two(D):
    u = np.random.default_rng(0).normal(size=(D, 7))
    phi = gate.monomials(u)
    assert phi.shape == ((D + 1) * (D + 2) // 2, 7)
    np.testing.assert_array_equal(phi[: D + 1], [np.ones(7), *u])
    for row, (i, j) in zip(phi[D + 1 :], gate.quadratic_terms(D), strict=True):
        np.testing.assert_array_equal(row, u[i] * u[j])


@pytest.mark.parametrize("D", [1, 2, 3])
def test_pixel_kernels_are_the_model_in_pixels(D):
    params, longest = random_model(7, K=6, D=D, C=2, negative=0.3), 37
    kernels = gate.pixel_kernels(params, longest)
    x = np.random.default_rng(1).random((9, D))  # in the unit of the picture
    z = np.einsum("kij,nki->nkj", kernels.A[:-1], longest * x[:, None] - kernels.centre[:-1])
    expected = np.einsum("kij,nki->nkj", params.A, x[:, None] - params.musX)
    np.testing.assert_allclose(z, expected, rtol=1e-10, atol=1e-10)
    diagonal = np.diagonal(params.A, axis1=1, axis2=2)
    log_weight = np.log(params.pis) + np.log(np.abs(diagonal / longest)).sum(1)
    np.testing.assert_allclose(kernels.log_weight[:-1], log_weight)
    np.testing.assert_array_equal(kernels.sign[:-1], np.sign(np.linalg.det(params.A)))
    expert = kernels.value[:-1] + np.einsum(
        "kcd,nkd->nkc", kernels.slope[:-1], longest * x[:, None] - kernels.centre[:-1])
    expected = params.nu_e + np.einsum("kcd,nd->nkc", params.gamma_e, x)
    np.testing.assert_allclose(expert, expected, rtol=1e-10, atol=1e-10)


def test_the_kernel_that_is_not_there_is_finite_and_never_wins():
    kernels = gate.pixel_kernels(random_model(8, K=3), 10)
    assert all(np.isfinite(array).all() for array in kernels)
    assert np.exp(kernels.log_weight[-1] - kernels.log_weight[:-1]).max() == 0
    assert kernels.log_weight[-1] == gate.DEAD


@pytest.mark.parametrize("D", [1, 2, 3])
def test_chain_rule_turns_moments_into_gradients(D):
    shape, C = (11, 7, 5)[:D], 2
    params, target = random_model(9, K=4, D=D, C=C), picture(shape, C)
    z, log_gate, _, e, x = gate_terms(params, shape)
    w = np.exp(log_gate - np.logaddexp.reduce(log_gate, axis=1, keepdims=True))
    y = np.einsum("nk,nkc->nc", w, e)
    r = np.where((y >= 0) & (y <= 1), np.clip(y, 0, 1) - target.reshape(y.shape), 0)
    g = w * np.einsum("nc,nkc->nk", r, e - y[:, None])
    moments = []
    for k in range(params.num_kernels):
        phi = gate.monomials(((x - params.musX[k]) * max(shape)).T)
        experts = [phi[: D + 1] @ (w[:, k] * r[:, c]) for c in range(C)]
        moments.append(np.concatenate([phi @ g[:, k], *experts]))
    found = gate.chain_rule(np.stack(moments, axis=1), params, max(shape), 2 / target.size)
    wanted = dense.gradients(params, target)
    for name, array in found.arrays().items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-9, atol=1e-12, err_msg=name)
