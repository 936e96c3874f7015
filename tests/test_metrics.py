"""PSNR and SSIM: known values, symmetric, sensible for small pictures."""

import math

import numpy as np
import pytest

from smoe_np.metrics import psnr, ssim


def pair(rows, columns):
    """A picture made from a formula, and a version of it that is a little off."""
    i, j = np.indices((rows, columns))
    a = 0.5 + 0.5 * np.sin(0.3 * i + 0.02 * i * j)
    return a, np.clip(0.9 * a + 0.1 * np.cos(1.7 * j), 0, 1)


def test_psnr_is_minus_ten_log_of_the_mean_square():
    a = np.full((4, 5), 0.5)
    assert psnr(a, a + 0.1) == pytest.approx(20)
    assert psnr(a, a - 0.01) == pytest.approx(40)


def test_psnr_does_not_depend_on_how_values_are_stored():
    a, b = (np.rint(255 * image).astype(np.uint8) for image in pair(20, 30))
    expected = 10 * math.log10(255**2 / np.mean((a.astype(float) - b) ** 2))
    assert psnr(a, b) == pytest.approx(expected, rel=1e-12)
    assert psnr(a.astype(np.uint16) * 257, b / 255) == pytest.approx(expected, rel=1e-12)


def test_psnr_of_an_image_with_itself_is_infinite():
    a, _ = pair(4, 5)
    assert psnr(a, a) == math.inf


def test_psnr_is_measured_in_double_precision():
    a = np.zeros((100, 100))
    b = np.full((100, 100), 1e-6)
    assert psnr(a, b) == pytest.approx(120, abs=1e-9)


# The constants were made once with scikit-image 0.26, on the float64 pictures of pair():
# structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
#                       data_range=1[, channel_axis=-1])


def test_ssim_of_a_grey_picture_is_that_of_scikit_image():
    assert ssim(*pair(40, 52)) == pytest.approx(0.9617634933788358, abs=1e-12)


def test_ssim_of_a_colour_picture_is_that_of_scikit_image():
    a, b = pair(40, 52)
    one, other = np.stack([a, b, a * b], axis=-1), np.stack([b, a, a], axis=-1)
    assert ssim(one, other) == pytest.approx(0.9253273710753227, abs=1e-12)
    first = [np.moveaxis(image, -1, 0) for image in (one, other)]
    assert ssim(*first, channel_axis=0) == pytest.approx(0.9253273710753227, abs=1e-12)


def test_ssim_of_a_volume_is_that_of_scikit_image():
    a, b = (image[:20, :20] for image in pair(40, 52))
    volume = np.stack([a * (1 - z / 40) for z in range(13)])
    assert ssim(volume, np.stack([b] * 13)) == pytest.approx(0.9390768115606325, abs=1e-12)


def test_ssim_of_an_image_with_itself_is_one():
    a, _ = pair(30, 20)
    assert ssim(a, a) == pytest.approx(1)


def test_ssim_is_symmetric_and_falls_with_the_error():
    a, b = pair(30, 20)
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert ssim(a, (a + b) / 2) > ssim(a, b) > ssim(a, 1 - a)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 5), (10, 10), (10, 40), (3, 4, 9)])
def test_ssim_of_a_picture_smaller_than_the_window_is_sensible(shape):
    a = np.linspace(0.2, 0.8, math.prod(shape)).reshape(shape)
    b = a + 0.1 * np.cos(np.arange(a.size)).reshape(shape)
    assert ssim(a, a, channel_axis=None) == pytest.approx(1)
    assert -1 <= ssim(a, b, channel_axis=None) < 1


@pytest.mark.parametrize("shape", [(8, 8), (10, 6), (30, 4)])
def test_every_pixel_of_a_small_picture_counts_and_its_edges_mirror(shape):
    a, b = pair(*shape)
    reach = [(5, 5) if size < 11 else (0, 0) for size in shape]
    mirrored = (np.pad(image, reach, mode="symmetric") for image in (a, b))
    assert ssim(a, b) == pytest.approx(ssim(*mirrored), abs=1e-12)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_images_of_different_shapes_are_refused(measure):
    with pytest.raises(ValueError, match=r"a has shape \(4, 5\) and b \(5, 4\); give images of"):
        measure(np.zeros((4, 5)), np.zeros((5, 4)))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_the_image_that_is_wrong_is_named(measure):
    good, bad = np.zeros((4, 5)), np.full((4, 5), 200.0)
    with pytest.raises(ValueError, match="a has values from 200 to 200"):
        measure(bad, good)
    with pytest.raises(TypeError, match="b has dtype int64"):
        measure(good, bad.astype(np.int64))


def test_ssim_with_an_axis_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="channel_axis is 2, but a has 2 axes"):
        ssim(np.zeros((4, 5)), np.zeros((4, 5)), channel_axis=2)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_the_images_are_left_as_they_were(measure):
    a, b = pair(12, 12)
    a_before, b_before = a.copy(), b.copy()
    measure(a, b)
    np.testing.assert_array_equal(a, a_before)
    np.testing.assert_array_equal(b, b_before)
