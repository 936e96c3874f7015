"""Arrays of pixels become floats in [0, 1] and channels last, or are refused in words."""

import tracemalloc

import numpy as np
import pytest

from smoe_np.pixels import as_float, split_channels

# ---- as_float -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integers_are_scaled_by_the_maximum_of_their_type(stored, dtype):
    maximum = np.iinfo(stored).max
    image = np.array([[0, 1, maximum // 2, maximum]], dtype=stored)
    floats = as_float(image, dtype)
    assert floats.dtype == dtype
    assert floats.flags.c_contiguous
    np.testing.assert_array_equal(floats, (image.astype("f8") / maximum).astype(dtype))


def test_booleans_become_zero_and_one():
    np.testing.assert_array_equal(as_float([[True, False]]), np.array([[1, 0]], np.float32))


def test_a_hair_outside_of_zero_to_one_is_clipped():
    image = np.array([-9e-7, 0.25, 1 + 9e-7])
    for dtype in ("float32", "float64"):
        np.testing.assert_array_equal(as_float(image, dtype), [0, 0.25, 1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_floats_of_any_width_are_taken(dtype):
    floats = as_float(np.array([0, 0.5, 1], dtype=dtype))
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats, [0, 0.5, 1])


def test_the_result_is_a_copy():
    image = np.full((2, 3), 0.5, dtype=np.float32)
    as_float(image)[:] = 0
    assert (image == 0.5).all()


@pytest.mark.parametrize("stored", ["u1", "u2", "f4", "f8"])
def test_no_temporary_is_wider_than_the_result(stored):
    image = np.ones((500, 500, 3), dtype=stored)
    tracemalloc.start()
    try:
        as_float(image)
        assert tracemalloc.get_traced_memory()[1] < 1.3 * 4 * image.size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("low", "high", "remedy"), [
    (-1, 1, r"\(image \+ 1\) / 2"), (-0.4, 1.4, "clip"), (0, 1.001, "clip"),
    (-1e-5, 0, "clip"), (0, 255, "255"), (-3, 1, "255")])
def test_floats_outside_of_zero_to_one_are_refused_with_the_likely_remedy(low, high, remedy):
    with pytest.raises(ValueError, match=f"picture has values from {low:g} to {high:g}, but .*; "
                                         f".*{remedy}"):
        as_float(np.array([low, high], dtype=float), name="picture")


def test_masked_entries_are_refused():
    image = np.ma.masked_less(np.linspace(0, 1, 6).reshape(2, 3), 0.3)
    with pytest.raises(ValueError, match="image has masked entries, which are not supported"):
        as_float(image)
    np.testing.assert_array_equal(as_float(np.ma.asarray(image.data)), as_float(image.data))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_entries_are_refused(bad):
    with pytest.raises(ValueError, match="image holds NaN or infinite values, 2 of .*; replace"):
        as_float(np.array([[0.5, bad], [bad, 0.1]]))


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint32", "complex128", "object", "U3"])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match="image has dtype .*; give uint8, uint16, bool or floats"):
        as_float(np.zeros((2, 2)).astype(dtype))


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match=r"image of shape \(0, 3\) is empty; give at least one"):
        as_float(np.zeros((0, 3)))


def test_a_single_number_is_refused():
    with pytest.raises(ValueError, match="image is a single value of type float64"):
        as_float(0.5)


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="image is not a rectangular array"):
        as_float([[0.5], [0.5, 0.5]])


def test_a_result_that_is_not_floating_is_refused():
    with pytest.raises(ValueError, match="dtype is uint8; give a floating type"):
        as_float(np.zeros((2, 2)), dtype="uint8")


# ---- split_channels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "channel_axis", "wanted"),
    [
        ((5, 6), "auto", (5, 6, 1)),
        ((5, 3), "auto", (5, 3, 1)),
        ((5, 6, 1), "auto", (5, 6, 1)),
        ((5, 6, 4), "auto", (5, 6, 4)),
        ((5, 6, 5), "auto", (5, 6, 5, 1)),
        ((2, 5, 6, 3), "auto", (2, 5, 6, 3)),
        ((7,), "auto", (7, 1)),
        ((5, 6, 3), None, (5, 6, 3, 1)),
        ((3, 5, 6), 0, (5, 6, 3)),
        ((5, 6, 9), -1, (5, 6, 9)),
        ((5, 3, 6), np.int64(1), (5, 6, 3)),
    ],
)
def test_channels_are_found_and_put_last(shape, channel_axis, wanted):
    assert split_channels(np.zeros(shape), channel_axis).shape == wanted


def test_channels_keep_their_pixels():
    image = np.arange(90).reshape(3, 5, 6)
    view = split_channels(image, 0)
    np.testing.assert_array_equal(view[..., 2], image[2])
    assert np.shares_memory(view, image)


@pytest.mark.parametrize("channel_axis", ["last", 1.0, (0,), True, np.array([0, 1])])
def test_a_channel_axis_of_a_wrong_kind_is_refused(channel_axis):
    with pytest.raises(ValueError, match="channel_axis is .*; give 'auto', None or an int"):
        split_channels(np.zeros((5, 6, 3)), channel_axis)


@pytest.mark.parametrize("channel_axis", [3, -4])
def test_a_channel_axis_out_of_range_is_refused(channel_axis):
    with pytest.raises(ValueError, match=f"channel_axis is {channel_axis}, but image has 3 axes"):
        split_channels(np.zeros((5, 6, 3)), channel_axis)


def test_an_image_without_space_is_refused():
    with pytest.raises(ValueError, match="has no axis left for space; give channel_axis=None"):
        split_channels(np.zeros(3), -1)


@pytest.mark.parametrize("shape", [(), (0, 5), (5, 6, 0)])
def test_an_image_without_pixels_is_refused(shape):
    with pytest.raises(ValueError, match="image is a single|is empty"):
        split_channels(np.zeros(shape))
