"""Parts of a picture and its enlargements: they show what the model is, wherever one looks."""

import tracemalloc

import numpy as np
import pytest
from helpers import assert_gradients_agree, assert_same_model, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

import smoe_np
from smoe_np import SmoeParams, dense, engine, view

pytestmark = pytest.mark.usefixtures("each_engine")

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def model(seed, image_shape, K=12, **options):
    """A random model that was fitted to a picture of some shape, as it were."""
    params = random_model(seed, K, D=len(image_shape), **options)
    params.image_shape = tuple(image_shape)
    return params


def centres(region, shape, image_shape):
    """(N, D) coordinates of the pixel centres of a region of the fitted picture."""
    axes = [b + (e - b) * (np.arange(n) + 0.5) / n for (b, e), n in zip(region, shape)]
    grids = np.meshgrid(*axes, indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1) / max(image_shape)


def defined(params, region, shape):
    """The definition at the pixel centres of a region: (*shape, C)."""
    y = dense._forward(params, centres(region, shape, params.image_shape))[-1]
    return np.clip(y, 0, 1).reshape(*shape, -1)


def render(params, shape, **options):
    return smoe_np.render(params, shape, **options).reshape(*shape, params.num_channels)


# ---- regions


@st.composite
def crops(draw):
    D = draw(st.integers(1, 3))
    most = {1: 60, 2: 30, 3: 9}[D]
    image_shape = draw(st.tuples(*[st.integers(1, most)] * D))
    shape = draw(st.tuples(*[st.integers(1, most)] * D))
    region = []
    for n in image_shape:
        begin = draw(st.floats(-0.5 * n, 1.2 * n))
        region.append((begin, begin + draw(st.floats(0.01, 1.5)) * n))
    C = 1 if D == 1 else draw(st.sampled_from([1, 3]))
    params = model(draw(st.integers(0, 99)), image_shape, C=C, K=draw(st.integers(1, 20)),
                   anisotropy=4)
    return params, tuple(region), shape


@settings(max_examples=60)
@given(crops())
def test_a_region_shows_the_definition_at_its_pixel_centres(case):
    params, region, shape = case
    found = render(params, shape, region=region, dtype="float64")
    assert np.abs(found - defined(params, region, shape)).max() < 1e-9


@settings(max_examples=30)
@given(crops())
def test_the_kernel_that_owns_a_pixel_of_a_region_has_the_largest_gate_there(case):
    params, region, shape = case
    found = smoe_np.gating(params, shape, region=region, dtype="float64")
    gates = dense._forward(params, centres(region, shape, params.image_shape))[2]
    chosen = np.take_along_axis(gates, found.reshape(1, -1), axis=0)[0]
    np.testing.assert_allclose(chosen, gates.max(axis=0), rtol=1e-9)


@DTYPES
@pytest.mark.parametrize(("image_shape", "C", "scale"), [
    ((24, 32), 1, 4), ((21, 17), 3, 5), ((80,), 1, 3), ((9, 8, 10), 1, 3)])
def test_a_crop_is_the_same_part_of_the_whole_at_the_same_scale(image_shape, C, scale, dtype):
    params = model(1, image_shape, K=30, C=C, sigma=0.08, anisotropy=3)
    whole = smoe_np.render(params, [scale * n for n in image_shape], dtype=dtype)
    owners = smoe_np.gating(params, [scale * n for n in image_shape], dtype=dtype)
    region = [(n // 3, n - 2) for n in image_shape]
    part = tuple(slice(scale * b, scale * e) for b, e in region)
    shape = owners[part].shape
    crop = smoe_np.render(params, shape, dtype=dtype, region=region)
    assert np.abs(crop - whole[part]).max() < TOLERANCE[dtype]
    differ = smoe_np.gating(params, shape, dtype=dtype, region=region) != owners[part]
    assert differ.mean() < 1e-3


def test_the_whole_picture_as_a_region_is_the_picture():
    params = model(2, (20, 30))
    region = ((0, 20), (0, 30))
    np.testing.assert_array_equal(smoe_np.render(params, (20, 30), region=region),
                                  smoe_np.render(params, (20, 30)))
    np.testing.assert_array_equal(smoe_np.gating(params, (40, 60), region=region),
                                  smoe_np.gating(params, (40, 60)))


def test_all_of_the_picture_is_drawn_whatever_the_shape():
    params = model(5, (12, 24))
    for draw in (smoe_np.render, smoe_np.gating):
        np.testing.assert_array_equal(draw(params), draw(params, (12, 24)))
        np.testing.assert_array_equal(draw(params, (20, 20)),
                                      draw(params, (20, 20), region=((0, 12), (0, 24))))
        params.image_shape = None  # then of the unit of the domain
        np.testing.assert_allclose(draw(params, (24, 24))[:12], draw(params, (12, 24)), atol=1e-5)
        with pytest.raises(ValueError, match="does not hold the size of its picture; give shape"):
            draw(params)
        params.image_shape = (12, 24)


def test_negative_gates_keep_their_sign_in_a_crop():
    params = model(3, (20, 20), negative=0.3)
    region = ((3.5, 9), (10, 15.5))
    found = render(params, (33, 33), region=region, dtype="float64")
    assert np.abs(found - defined(params, region, (33, 33))).max() < 1e-9


def test_a_region_of_other_proportions_than_the_shape_is_stretched():
    params = model(4, (30, 30))
    region = ((0, 30), (10, 12))
    found = render(params, (20, 20), region=region, dtype="float64")
    assert np.abs(found - defined(params, region, (20, 20))).max() < 1e-9


@DTYPES
def test_a_thousandth_of_a_pixel_can_be_enlarged_without_loss_of_digits(dtype):
    params = model(5, (512, 512), K=300, sigma=0.02, slope=5)
    # across an edge, with a contrast that is seen
    A = params.A * 3000
    params = smoe_np.SmoeParams(params.pis, params.musX, A, params.gamma_e, params.nu_e, (512, 512))
    owners = smoe_np.gating(params, (512, 512))
    row, column = np.argwhere(owners[:, 1:] != owners[:, :-1])[1000]
    region = ((row + 0.5, row + 0.501), (column + 1, column + 1.001))
    wanted = defined(params, region, (16, 16))
    found = render(params, (16, 16), region=region, dtype=dtype)
    assert np.abs(found - wanted).max() < TOLERANCE[dtype]


def test_kernels_without_weight_take_no_part_in_a_crop():
    params = model(6, (16, 16), K=9)
    pis = params.pis.copy()
    pis[[0, 4]] = 0, -1
    cut = smoe_np.SmoeParams(pis, *list(params.arrays().values())[1:], (16, 16))
    region = ((2, 8), (2, 8))
    np.testing.assert_array_equal(
        smoe_np.render(cut, (9, 9), region=region),
        smoe_np.render(params.select(pis > 0), (9, 9), region=region))
    assert not np.isin(smoe_np.gating(cut, (9, 9), region=region), [0, 4]).any()


def test_drawing_a_part_leaves_the_parameters_as_they_were():
    params = model(7, (16, 16))
    before = params.copy()
    smoe_np.render(params, (8, 8), region=((2, 3), (4, 6)), samples=2)
    assert_same_model(params, before)


# ---- samples


@DTYPES
@pytest.mark.parametrize(("shape", "C", "n"), [
    ((12, 9), 1, 4), ((7, 13), 3, 3), ((31,), 1, 5), ((3, 4, 5), 3, 2)])
def test_samples_are_means_over_blocks_of_the_larger_picture(shape, C, n, dtype):
    params = random_model(8, K=25, D=len(shape), C=C, sigma=0.08)
    fine = render(params, [n * size for size in shape], dtype=dtype)
    wanted = np.zeros((*shape, C))
    for offset in np.ndindex(*[n] * len(shape)):
        wanted += fine[tuple(slice(i, None, n) for i in offset)] / n ** len(shape)
    found = smoe_np.render(params, shape, samples=n, dtype=dtype)
    assert found.dtype == dtype
    assert np.abs(found.reshape(wanted.shape) - wanted).max() < 1e-6


def test_a_region_is_sampled_like_the_whole():
    params = model(9, (24, 24), K=30, sigma=0.05)
    whole = smoe_np.render(params, (12, 12), samples=6, dtype="float64")
    part = smoe_np.render(params, (5, 4), samples=6, dtype="float64", region=((4, 14), (8, 16)))
    assert np.abs(part - whole[2:7, 4:8]).max() < 1e-9


def test_a_smaller_picture_is_the_mean_of_the_fitted_one_where_samples_are_automatic():
    params = model(10, (32, 24), K=60, sigma=0.03)
    fitted = smoe_np.render(params, (32, 24), dtype="float64")
    wanted = fitted.reshape(8, 4, 6, 4).mean(axis=(1, 3))
    found = smoe_np.render(params, (8, 6), samples="auto", dtype="float64")
    assert np.abs(found - wanted).max() < 1e-9
    assert np.abs(found - smoe_np.render(params, (8, 6), dtype="float64")).max() > 0.01


@pytest.mark.parametrize(("shape", "region", "wanted"), [
    ((32, 24), None, 1), ((64, 48), None, 1), ((31, 23), None, 2), ((16, 12), None, 2),
    ((15, 11), None, 3), ((1, 1), None, 32), ((8, 8), ((0, 8), (0, 8)), 1),
    ((8, 8), ((0, 16), (0, 8)), 2), ((8, 4), ((0, 8), (0, 12)), 3)])
def test_automatic_samples_miss_no_pixel_of_the_fitted_picture(shape, region, wanted):
    params = model(11, (32, 24))
    seen = view.whole(shape) if region is None else view.crop(region, shape, (32, 24))
    assert view.samples_needed(seen, (32, 24)) == wanted
    np.testing.assert_array_equal(smoe_np.render(params, shape, region=region, samples="auto"),
                                  smoe_np.render(params, shape, region=region, samples=wanted))


def test_automatic_samples_are_one_where_the_fitted_size_is_not_known():
    params = random_model(12, K=9)
    np.testing.assert_array_equal(smoe_np.render(params, (5, 5), samples="auto"),
                                  smoe_np.render(params, (5, 5)))


# ---- blocks


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 4),
       st.integers(1, 3000))
def test_blocks_cover_every_pixel_once_and_are_as_small_as_they_can_be(shape, n, most):
    times = np.zeros(shape, int)
    for part in view.blocks(shape, n, most):
        times[part] += 1
        pixels = times[part].size
        assert pixels * n ** len(shape) <= most or pixels == 1
    assert (times == 1).all()


@DTYPES
def test_a_picture_drawn_in_blocks_is_the_picture(monkeypatch, dtype):
    params = model(13, (30, 40), K=40, C=3, sigma=0.06)
    options = {"dtype": dtype, "region": ((1, 28.5), (-3, 36))}
    drawn = smoe_np.render(params, (37, 51), samples=2, **options)
    owners = smoe_np.gating(params, (37, 51), **options)
    monkeypatch.setattr(engine, "BLOCK", 300)
    assert np.abs(smoe_np.render(params, (37, 51), samples=2, **options) - drawn).max() < (
        TOLERANCE[dtype])
    assert (smoe_np.gating(params, (37, 51), **options) != owners).mean() < 1e-3


@pytest.mark.parametrize(("D", "n"), [(1, 256), (2, 64), (3, 20)])
@pytest.mark.parametrize("sharpness", [50.0, 3000.0])  # per pixel: a tile has far larger terms
def test_kernels_far_too_sharp_for_the_pixels_are_drawn_as_exactly_as_any(D, n, sharpness):
    for number in range(4):
        pixel = (np.random.default_rng(number).integers(n // 4, n, D) + 0.5) / n
        params = SmoeParams(
            pis=[1.0, 1.0], musX=[pixel + 1 / (sharpness * n), np.full(D, 0.5)],
            A=[np.eye(D) * sharpness * n, np.eye(D) * 3], gamma_e=np.zeros((2, 1, D)),
            nu_e=[[1.0], [0.2]]).astype("float32")
        exact, shape = params.astype("float64"), (n,) * D
        wanted = dense.render(exact, shape)[..., 0]
        assert wanted.max() > 0.5
        np.testing.assert_allclose(smoe_np.render(params, shape), wanted, atol=1e-6)
        np.testing.assert_array_equal(smoe_np.gating(params, shape), dense.gating(exact, shape))
        if sharpness < 100:  # else hardly a pixel has a gradient
            image = np.full(shape, 0.4)
            _, gradients = smoe_np.loss_and_gradients(params, image)
            assert_gradients_agree(gradients, dense.gradients(exact, image[..., None]), 1e-5)


def test_memory_hardly_depends_on_the_number_of_samples(monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", 1 << 13)
    params = random_model(14, K=4)
    peaks = []
    smoe_np.render(params, (64, 64), samples=16)  # what is made once, is made
    for samples in (2, 16):
        tracemalloc.start()
        smoe_np.render(params, (64, 64), samples=samples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 3 * peaks[0]  # of 64 times as many samples


# ---- what is refused


@pytest.mark.parametrize("region", [
    (), ((0, 4),), ((0, 4), (0, 4), (0, 4)), (0, 4, 0, 4), ((0, 4, 1), (0, 4, 1)), 7, "all",
    ((0, 4), (0, "x")), ((0, 4), 3)])
def test_a_region_that_is_not_a_pair_for_each_axis_is_refused(region):
    with pytest.raises(ValueError, match=r"region must be 2 pairs \(begin, end\)"):
        smoe_np.render(model(15, (8, 8)), (4, 4), region=region)


@pytest.mark.parametrize("region", [
    ((0, np.nan), (0, 4)), ((0, 4), (0, None)), ((-np.inf, 4), (0, 4)), ((0, 4), (0, 1e30))])
def test_a_region_without_end_or_out_of_all_proportion_is_refused(region):
    with pytest.raises(ValueError, match="region must be finite"):
        smoe_np.gating(model(15, (8, 8)), (4, 4), region=region)


@pytest.mark.parametrize("region", [
    ((0, 0), (0, 4)), ((4, 0), (0, 4)), ((0, 4), (3, 3 + 1e-9))])
def test_an_empty_region_is_refused(region):
    with pytest.raises(ValueError, match="region must end at least 1e-06 pixels after it begins"):
        smoe_np.render(model(15, (8, 8)), (4, 4), region=region)


def test_a_region_of_a_picture_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"set params\.image_shape"):
        smoe_np.render(random_model(16, K=3), (4, 4), region=((0, 1), (0, 1)))


@pytest.mark.parametrize(("samples", "error", "message"), [
    (0, ValueError, "samples must be at least 1"), (-1, ValueError, "samples must be at least 1"),
    (1.5, TypeError, "samples must be a whole number"), (None, TypeError, "samples must be"),
    ("many", ValueError, 'samples must be a whole number or "auto"'),
    (10**6, ValueError, "at most")])
def test_samples_that_are_no_number_of_samples_are_refused(samples, error, message):
    with pytest.raises(error, match=message):
        smoe_np.render(model(17, (8, 8)), (4, 4), samples=samples)
