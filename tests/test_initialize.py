"""Where training starts: the grid of kernels and the means of the picture around them."""

import numpy as np
import pytest
from helpers import picture
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smoe_np import SmoeParams, dense
from smoe_np.initialize import (
    constant_model,
    fit_start,
    initial_params,
    kernel_grid,
    spacing_of,
    spread_kernels,
)

SHAPES = [(64, 64), (64, 48), (30, 90), (1, 50), (50, 1), (1, 1), (7, 5), (40,), (12, 9, 7),
          (1, 6, 1)]


def boxes(n, k):
    """(k, n) bool: the pixels of an axis that each kernel averages.

    Those whose centre lies in the kernel's box, borders included; where there is none, the pixel in
    which the middle of the box lies, None if that is a border of two.
    """
    centre, middle = np.arange(n) + 0.5, (np.arange(k) + 0.5) * n / k
    inside = np.abs(centre - middle[:, None]) <= n / k / 2 + 1e-9
    lies_in = np.abs(centre - middle[:, None]) <= 0.5 + 1e-9
    empty = ~inside.any(axis=1)
    if (lies_in[empty].sum(axis=1) > 1).any():
        return None
    return np.where(empty[:, None], lies_in, inside)


def means_by_brute_force(target, counts):
    """(K, C) means of the picture over the boxes, one by one."""
    chosen = [boxes(n, k) for n, k in zip(target.shape, counts)]
    means = np.empty((*counts, target.shape[-1]))
    for index in np.ndindex(*counts):
        box = np.ix_(*(np.flatnonzero(c[i]) for c, i in zip(chosen, index, strict=True)))
        means[index] = target[box].reshape(-1, target.shape[-1]).mean(axis=0)
    return means.reshape(-1, target.shape[-1])


@pytest.mark.parametrize(("shape", "k", "counts"), [
    ((100, 100), 12, (12, 12)), ((768, 512), 12, (12, 8)), ((512, 768), 12, (8, 12)),
    ((10, 1000), 8, (1, 8)), ((1, 1), 5, (5, 5)), ((100, 50, 25), 8, (8, 4, 2)), ((9,), 4, (4,)),
    ((3, 1000), 2, (1, 2)), ((100, 100), 1, (1, 1)), ((100, 30), 1, (1, 1))])
def test_the_longest_axis_has_k_kernels_and_the_others_the_same_spacing(shape, k, counts):
    assert kernel_grid(shape, k) == counts


@settings(max_examples=100)
@given(shape=st.lists(st.integers(1, 2000), min_size=1, max_size=4), k=st.integers(1, 100))
def test_every_axis_has_a_kernel_and_about_the_same_spacing(shape, k):
    counts = kernel_grid(tuple(shape), k)
    assert counts[np.argmax(shape)] == k
    for n, count in zip(shape, counts):
        assert isinstance(count, int)
        assert count >= 1
        assert abs(count - k * n / max(shape)) <= max(0.5 + 1e-9, 1 - k * n / max(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 3, 4, 8])
def test_the_start_is_that_of_tf_smoe(shape, k):
    target = picture(shape, 2)
    params = initial_params(target, k)
    counts, D = kernel_grid(shape, k), len(shape)
    K = np.prod(counts)
    assert params.num_kernels == K
    np.testing.assert_allclose(params.pis, 1 / K, rtol=1e-6)
    assert not params.gamma_e.any()
    np.testing.assert_array_equal(params.A, np.broadcast_to(2 * (k + 1) * np.eye(D), (K, D, D)))
    np.testing.assert_allclose(params.nu_e, means_by_brute_force(target, counts), atol=1e-6)
    axes = [(np.arange(c) + 0.5) * n / max(shape) / c for n, c in zip(shape, counts)]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(K, D)
    np.testing.assert_allclose(params.musX, centres, rtol=1e-6)
    assert params.image_shape == shape
    assert params.dtype == np.float32


@pytest.mark.parametrize(("shape", "k"), [
    ((1, 1), 5), ((3, 3), 7), ((5, 3), 7), ((7, 5), 12), ((4, 4), 12), ((5,), 33), ((3, 1, 3), 8)])
def test_there_may_be_more_kernels_than_pixels(shape, k):
    target = picture(shape, 3)
    params = initial_params(target, k)
    expected = means_by_brute_force(target, kernel_grid(shape, k))
    np.testing.assert_allclose(params.nu_e, expected, atol=1e-6)


@settings(max_examples=100)
@given(shape=st.lists(st.integers(1, 20), min_size=1, max_size=3), k=st.integers(1, 25))
def test_means_are_those_of_brute_force(shape, k):
    counts = kernel_grid(tuple(shape), k)
    assume(np.prod(counts) < 2000)
    assume(all(boxes(n, c) is not None for n, c in zip(shape, counts)))
    target = picture(tuple(shape), 1)
    params = initial_params(target, k)
    np.testing.assert_allclose(params.nu_e, means_by_brute_force(target, counts), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_start_has_the_dtype_that_was_asked_for(dtype):
    params = initial_params(picture((20, 30)).astype(dtype), 5, dtype)
    assert {array.dtype for array in params.arrays().values()} == {np.dtype(dtype)}


def test_a_constant_picture_starts_as_itself():
    params = initial_params(np.full((17, 23, 1), 0.3), 6)
    np.testing.assert_allclose(params.nu_e, 0.3, rtol=1e-6)


# ---- the start of a fit


def fit_start_of(target, kernels, jitter=0.0, seed=0, most=2.0):
    counts = spread_kernels(target.shape[:-1], kernels)
    return fit_start(target, counts, jitter, np.random.default_rng(seed), most)


def counts_of(params):
    """Kernels along each axis of a grid that was not shaken."""
    return tuple(len(np.unique(centres)) for centres in params.musX.T)


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)


@settings(max_examples=80)
@given(shape=SIZES, kernels=st.integers(1, 300), C=st.sampled_from([1, 3]))
def test_a_fit_starts_from_a_grid_with_no_room_for_more(shape, kernels, C):
    target = picture(shape, C)
    params = fit_start_of(target, kernels)
    counts = counts_of(params)
    assert np.prod(counts) == params.num_kernels <= kernels
    for axis, n in enumerate(shape):
        assert counts[axis] <= n
        more = [c + (d == axis) for d, c in enumerate(counts)]
        assert counts[axis] == n or np.prod(more) > kernels
    SmoeParams(**params.arrays())
    np.testing.assert_allclose(params.pis, 1 / params.num_kernels)
    assert not params.gamma_e.any()
    np.testing.assert_allclose(params.nu_e, means_by_brute_force(target, counts), atol=1e-6)
    axes = [(np.arange(c) + 0.5) * n / max(shape) / c for n, c in zip(shape, counts)]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    np.testing.assert_allclose(params.musX, centres)
    # standard deviations are half the spacing
    sigmas = [n / max(shape) / c / 2 for n, c in zip(shape, counts)]
    np.testing.assert_allclose(params.A[0] * sigmas, np.eye(len(shape)), atol=1e-12)
    assert (params.A == params.A[0]).all()
    assert params.image_shape == shape


@pytest.mark.parametrize(("shape", "kernels", "counts"), [
    ((100, 100), 100, (10, 10)), ((100, 100), 90, (10, 9)), ((200, 50), 64, (16, 4)),
    ((512, 512), 225, (15, 15)), ((1, 50), 20, (1, 20)), ((50, 1), 200, (50, 1)),
    ((1, 1), 9, (1, 1)), ((64, 64, 4), 16, (4, 4, 1)), ((64, 64, 2), 300, (17, 17, 1)),
    ((3, 60, 60), 100, (1, 10, 10)), ((8, 8, 8), 27, (3, 3, 3)), ((7,), 3, (3,)),
    ((2, 2), 1, (1, 1)), ((4, 4), 1000, (4, 4))])
def test_kernels_of_the_start_lie_about_as_far_apart_along_every_axis(shape, kernels, counts):
    assert counts_of(fit_start_of(picture(shape), kernels)) == counts


@settings(max_examples=40)
@given(n=st.integers(20, 200), aspect=st.floats(0.2, 5), kernels=st.integers(10, 300))
def test_whatever_the_aspect_spacings_are_alike_and_few_kernels_are_lost(n, aspect, kernels):
    shape = (n, max(8, round(n * aspect)))
    counts = counts_of(fit_start_of(np.zeros((*shape, 1)), kernels))
    assert np.prod(counts) > 0.6 * kernels or counts == shape
    a, b = (m / c for m, c in zip(shape, counts))
    assert max(a, b) / min(a, b) < 2.5 or min(counts) < 3


def test_the_grid_is_shaken_by_the_seed_and_no_further_than_is_said():
    target = picture((60, 30)).astype(np.float32)
    still, one, again, other = (fit_start_of(target, 18, jitter, seed) for jitter, seed in (
        (0, 0), (0.3, 1), (0.3, 1), (0.3, 2)))
    np.testing.assert_array_equal(one.musX, again.musX)
    assert counts_of(still) == (6, 3)
    for shaken in (one, other):
        moved = (shaken.musX - still.musX) * 6  # in spacings
        assert np.abs(moved).max() <= 0.3 + 1e-6
        assert moved.min() < -0.2
        assert moved.max() > 0.2
        for name in ("pis", "A", "gamma_e", "nu_e"):
            np.testing.assert_array_equal(getattr(shaken, name), getattr(still, name))
        assert shaken.dtype == np.float32
    assert np.abs(one.musX - other.musX).max() > 0.01


def test_kernels_of_the_start_are_no_narrower_than_is_allowed():
    params = fit_start_of(picture((12, 12)), 144, most=0.7)
    np.testing.assert_allclose(params.A, np.tile(0.7 * 12 * np.eye(2), (144, 1, 1)))


@pytest.mark.parametrize(("shape", "C"), [((1, 1), 1), ((7,), 2), ((13, 18), 3), ((4, 5, 6), 1)])
def test_the_constant_model_is_the_best_that_is_the_same_everywhere(shape, C):
    target = picture(shape, C)
    params, mse = constant_model(target)
    assert params.num_kernels == 1
    np.testing.assert_allclose(dense.render(params, shape),
                               np.broadcast_to(target.reshape(-1, C).mean(0), target.shape))
    assert mse == pytest.approx(target.reshape(-1, C).var(0).mean(), abs=1e-15)
    assert mse == pytest.approx(dense.loss(params, target), abs=1e-15)
    assert isinstance(mse, float)


@pytest.mark.parametrize(("shape", "kernels", "wanted"), [
    ((64, 64), 16, 16), ((5000,), 10, 500), ((1, 5000), 10, 500), ((4, 5000), 10, 500),
    ((10, 40), 4, 10), ((8, 8, 8), 64, 2), ((1, 8, 8), 4, 4), ((1, 1), 1, 1), ((3, 3), 9, 1)])
def test_the_spacing_is_that_of_kernels_that_are_evenly_spread(shape, kernels, wanted):
    assert spacing_of(shape, kernels) == pytest.approx(wanted)
    counts = spread_kernels(shape, kernels)
    assert max(n / k for n, k in zip(shape, counts)) == pytest.approx(wanted)
