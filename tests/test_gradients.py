"""The engine against the oracle: the same picture, the same loss, the same gradients."""

import itertools

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    gradient_errors,
    gradient_floors,
    make_engine,
    picture,
    random_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import smoe_np
from smoe_np import SmoeParams, dense

pytestmark = pytest.mark.usefixtures("each_engine")
TOLERANCE = {"float64": 1e-9, "float32": 2e-4}
IMAGE_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))
PIXEL = 1 / 40  # of a picture whose longest axis has 40 pixels
FINE = 0.7  # pixels; float32 keeps its promise for kernels that are nowhere narrower than this


def allowed(params, shape, dtype):
    """Errors allowed in the picture and in gradients.

    A log-gate is a sum of terms as large as (half a tile / sigma)²: in float32 its rounding grows
    with 1/sigma², where sigma is a kernel's shortest standard deviation.
    """
    shortest = max(shape) / np.linalg.norm(params.A, 2, axis=(1, 2)).max()
    factor = max(1, FINE / shortest) ** 2 if dtype == "float32" else 1
    return factor * IMAGE_TOLERANCE[dtype], factor * TOLERANCE[dtype]


def compare(params, target, dtype, l1reg=0.0, bandwidth_reg=0.0):
    """Loss, gradients and picture through the public functions, against the oracle."""
    loss, gradients = smoe_np.loss_and_gradients(
        params, target, l1reg, bandwidth_reg, dtype=dtype, channel_axis=-1)
    expected = dense.loss(params, target, l1reg, bandwidth_reg)
    of_image, of_gradient = allowed(params, target.shape[:-1], dtype)
    # of a small loss the error is that of the picture: d(y − t)² = 2 (y − t) dy
    assert abs(loss - expected) < of_gradient * expected + 2 * of_image * expected**0.5
    assert gradients.dtype == dtype
    assert_gradients_agree(
        gradients, dense.gradients(params, target, l1reg, bandwidth_reg), of_gradient,
        gradient_floors(params, target, l1reg))
    image = smoe_np.render(params, target.shape[:-1], dtype=dtype)
    clipped = np.clip(dense.render(params, target.shape[:-1]), 0, 1)
    assert image.dtype == dtype
    assert np.abs(image.reshape(clipped.shape) - clipped).max() < of_image


# ---- dimensions, channels, regularisers


@DTYPES
@pytest.mark.parametrize(("shape", "C"), [
    ((75,), 1), *itertools.product([(40, 37), (9, 11, 6), (4, 3, 5, 3)], [1, 3])])
def test_engine_agrees_with_the_oracle(shape, C, dtype):
    params = random_model(C, K=12, D=len(shape), C=C)
    compare(params, picture(shape, C), dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(40, 37), (9, 11, 6)])
def test_regularisers_are_part_of_loss_and_gradients(shape, dtype):
    params = random_model(0, K=9, D=len(shape), negative=0.2)
    params.A[np.linalg.det(params.A) < 0] *= np.where(np.arange(len(shape)) == 0, -1, 1)
    assert (np.diagonal(params.A, axis1=1, axis2=2) < 0).any()
    assert (np.linalg.det(params.A) > 0).all()
    compare(params, picture(shape), dtype, l1reg=0.5, bandwidth_reg=1e-4)


@DTYPES
def test_a_regulariser_alone_changes_the_gradients_by_its_derivative(dtype):
    params, target = random_model(1, K=7, negative=0.0), picture((21, 18))
    _, without = smoe_np.loss_and_gradients(params, target, dtype=dtype, channel_axis=-1)
    _, both = smoe_np.loss_and_gradients(params, target, 70.0, 0.3, dtype=dtype, channel_axis=-1)
    np.testing.assert_allclose(both.pis - without.pis, 10, rtol=1e-6)
    np.testing.assert_allclose(both.A - without.A, 0.3 * np.broadcast_to(np.eye(2), (7, 2, 2)),
                               rtol=1e-6, atol=1e-8)


@DTYPES
@pytest.mark.parametrize("C", [1, 3])
def test_clipping_stops_the_gradient_where_the_oracle_says(C, dtype):
    params = random_model(2, K=20, C=C, sigma=0.08, level=(-1, 2), slope=0.5)
    y = dense.render(params, (40, 37))
    assert min((y < 0).mean(), (y > 1).mean(), ((y > 0) & (y < 1)).mean()) > 0.1
    compare(params, picture((40, 37), C), dtype)


@DTYPES
def test_a_picture_clipped_everywhere_gives_no_gradient(dtype):
    params, target = random_model(3, K=8, level=(2, 3), slope=0.1), picture((20, 20))
    _, gradients = smoe_np.loss_and_gradients(params, target, dtype=dtype, channel_axis=-1)
    assert not any(g.any() for g in gradients.arrays().values())


# ---- shapes


@DTYPES
@pytest.mark.parametrize("shape", [
    (1, 1), (1, 50), (50, 1), (2, 3), (16, 16), (15, 17), (17, 16), (33, 31), (48, 16), (130, 7),
    (1, 1, 1), (1, 1, 9), (4, 4, 4), (5, 3, 4), (2, 17, 3)])
def test_any_shape_of_picture_will_do(shape, dtype):
    for C in (1, 3):
        compare(random_model(4, K=6, D=len(shape), C=C), picture(shape, C), dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (5, 5)])
def test_there_may_be_more_kernels_than_pixels(shape, dtype):
    compare(random_model(5, K=60), picture(shape), dtype)


# ---- kernels


@DTYPES
@pytest.mark.parametrize("D", [2, 3])
def test_one_kernel_is_its_expert_and_moving_it_changes_nothing(D, dtype):
    shape = (21, 19, 6)[:D]
    params, target = random_model(6, K=1, D=D), picture(shape)
    compare(params, target, dtype)
    _, gradients = smoe_np.loss_and_gradients(params, target, dtype=dtype, channel_axis=-1)
    floors = gradient_floors(params, target, share=1.0)
    for name in ("pis", "musX", "A"):
        assert np.abs(getattr(gradients, name)).max() < 1e-6 * floors[name]


@DTYPES
@pytest.mark.parametrize("where", [0.0, 1.05, 3.0, -40.0])
def test_kernels_may_all_lie_in_one_corner_or_far_outside(where, dtype):
    params = random_model(7, K=15, spread=0.1, corner=where)
    compare(params, picture((40, 37)), dtype)


@DTYPES
@pytest.mark.parametrize("pixels", [0.01, 0.1, 0.3, 1.0, 3.0, 1e3, 1e6])
def test_kernels_may_be_narrow_or_wide(pixels, dtype):
    params = random_model(8, K=25, sigma=pixels * PIXEL)
    compare(params, picture((40, 37)), dtype)


@DTYPES
def test_narrow_and_wide_kernels_mix(dtype):
    narrow = random_model(9, K=15, sigma=0.4 * PIXEL)
    wide = random_model(10, K=10, sigma=0.5)
    wider = random_model(11, K=2, sigma=40.0)
    params = SmoeParams(*(np.concatenate(arrays) for arrays in zip(
        *(p.arrays().values() for p in (narrow, wide, wider)))))
    compare(params, picture((40, 37)), dtype)


@DTYPES
@pytest.mark.parametrize("D", [2, 3])
@pytest.mark.parametrize("sigma", [2 * PIXEL, 0.3])
def test_kernels_may_be_as_thin_as_1_to_280(D, sigma, dtype):
    params = random_model(12, K=20, D=D, sigma=sigma, anisotropy=280)
    compare(params, picture((40, 37, 9)[:D]), dtype)


@DTYPES
@pytest.mark.parametrize("D", [2, 3])
def test_kernels_of_a_ten_thousandth_of_a_pixel_have_gradients(D, dtype):
    # log-gates of billions: what they are below the largest of them is in the last digits
    shape = (40, 37, 9)[:D]
    for seed in range(4):
        params = random_model(seed, K=10, D=D, sigma=1e-4 * PIXEL * (1 + seed))
        params.pis[:] = 0.1
        loss, gradients = smoe_np.loss_and_gradients(params, picture(shape, seed=seed), dtype=dtype,
                                                     channel_axis=-1)
        assert loss == pytest.approx(dense.loss(params, picture(shape, seed=seed)), rel=1e-4)
        for name, gradient in gradients.arrays().items():
            assert np.isfinite(gradient).all(), name


@DTYPES
@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize(("sharpness", "centre"), [(1e3, 1e6), (1e9, 1.1), (1e6, -30.0)])
def test_a_kernel_that_is_alone_is_all_of_the_picture_wherever_it_lies(sharpness, centre, D, dtype):
    params = random_model(0, K=1, D=D, slope=0.0)
    params.A[:], params.musX[:], params.nu_e[:] = sharpness * np.eye(D), centre, 0.7
    shape = (64, 30, 9)[:D]
    drawn = smoe_np.render(params, shape, dtype=dtype)
    np.testing.assert_allclose(drawn, 0.7, atol=1e-6)
    assert (smoe_np.gating(params, shape, dtype=dtype) == 0).all()


@DTYPES
def test_weights_may_differ_by_orders(dtype):
    params = random_model(13, K=18)
    params.pis[:] = np.geomspace(1e-4, 1, 18)
    compare(params, picture((40, 37)), dtype)


@DTYPES
def test_a_kernel_of_hardly_any_weight_may_lose_its_gradient_but_spoils_no_other(dtype):
    # its gate is below what the lists keep, and ∂L/∂π = Σ g / π is not small; π ∂L/∂π is
    params, target = random_model(13, K=18), picture((40, 37))
    params.pis[:] = np.geomspace(1e-16, 1, 18)
    _, found = smoe_np.loss_and_gradients(params, target, dtype=dtype, channel_axis=-1)
    wanted = dense.gradients(params, target)
    found = {**found.arrays(), "pis": found.pis * params.pis}
    wanted["pis"] = wanted["pis"] * params.pis
    assert_gradients_agree(found, wanted, TOLERANCE[dtype])


@DTYPES
def test_two_kernels_in_the_same_place_share_their_gradient(dtype):
    params = random_model(14, K=6, dtype=np.float64)
    params = params.select(np.array([0, 1, 2, 3, 4, 5, 3]))
    target = picture((30, 30))
    compare(params, target, dtype)
    _, gradients = smoe_np.loss_and_gradients(params, target, dtype=dtype, channel_axis=-1)
    twins = gradients.select(np.array([3])), gradients.select(np.array([6]))
    assert all(e < TOLERANCE[dtype] for e in gradient_errors(*twins).values())


@DTYPES
def test_experts_may_be_steep_and_far_off(dtype):
    # the experts differ by little on a level of their own: float32 must not lose the difference
    params = random_model(15, K=20, sigma=0.08, level=(0.49, 0.51), slope=0.001)
    compare(params, picture((40, 37)) * 0.02 + 0.49, dtype)


@DTYPES
def test_the_levels_of_neighbouring_regions_do_not_mix(dtype):
    params = random_model(16, K=20, sigma=0.05, slope=3.0)
    params.nu_e -= np.einsum("kcd,kd->kc", params.gamma_e, params.musX)
    compare(params, picture((40, 37)), dtype)


# ---- drawn by Hypothesis


@st.composite
def problems(draw, channels=(1, 3)):
    D = draw(st.sampled_from([1, 2, 2, 2, 3]))
    most = {1: 150, 2: 36, 3: 9}[D]
    shape = tuple(draw(st.integers(1, most)) for _ in range(D))
    C = draw(st.sampled_from({1: [1], 2: channels, 3: [1, 3]}[D]))
    params = random_model(
        draw(st.integers(0, 2**32 - 1)), K=draw(st.integers(1, 40)), D=D, C=C,
        sigma=10 ** draw(st.floats(-2, 1)), anisotropy=10 ** draw(st.floats(0, 2)),
        spread=10 ** draw(st.floats(-2, 0.5)), corner=draw(st.floats(-2, 1.5)),
        level=draw(st.sampled_from([(0, 1), (-1, 2), (0.4, 0.6)])))
    return params, picture(shape, C, draw(st.integers(0, 100)))


@settings(max_examples=60)
@given(problem=problems((1, 3, 4)))
def test_engine_agrees_with_the_oracle_on_any_model(problem):
    compare(*problem, "float32")


@settings(max_examples=60)
@given(problem=problems())
def test_engine_agrees_with_the_oracle_on_any_model_in_double_precision(problem):
    compare(*problem, "float64")


@settings(max_examples=30)
@given(problem=problems((1, 3, 4)))
def test_loss_alone_is_that_of_loss_and_gradients(problem):
    params, target = problem
    loss = make_engine(target.shape[:-1], target, "float32").loss(params)
    engine = make_engine(target.shape[:-1], target, "float32")
    assert loss == pytest.approx(engine.loss_and_gradients(params)[0], rel=1e-6)
