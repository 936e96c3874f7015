"""Arrays of pixels: as the [0, 1] floats that a model is fitted to, and their channels."""

import hashlib
import math
import os

import numpy as np

from .backend import to_numpy

_HAIR = 1e-6  # how far outside [0, 1] rounding may have put a value
MOST_CHANNELS_SEEN = 4  # channel_axis="auto" takes a longer last axis for space


def as_float(image, dtype="float32", name="image"):
    """A copy of an image as floats in [0, 1].

    Parameters
    ----------
    image : array_like, any shape, of NumPy or CuPy
        uint8 or uint16, scaled by the type's maximum; bool, taken as 0 and 1; or floats in [0, 1],
        where a hair of 1e-6 outside is clipped.
    dtype : str or dtype, default "float32"
        A floating type, that of the result.
    name : str
        What messages call the image.

    Returns
    -------
    floats : ndarray of `dtype`, the shape of `image`
        New and C-contiguous. No wider temporary is made.

    Raises
    ------
    TypeError
        If the image holds neither bool, uint8, uint16 nor floats.
    ValueError
        If it has no axes or no entries, or if floats are NaN, infinite or outside [0, 1]; or if
        `dtype` is not a floating type.
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise ValueError(f"dtype is {dtype}; give a floating type such as 'float32'")
    image = as_array(image, name)
    if image.dtype.kind == "b":
        return image.astype(dtype, order="C")
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        maximum = dtype.type(np.iinfo(image.dtype).max)
        return np.divide(image, maximum, dtype=dtype, order="C")
    if image.dtype.kind != "f":
        raise TypeError(
            f"{name} has dtype {image.dtype}; give uint8, uint16, bool or floats in [0, 1] "
            "(for values from 0 to 255: np.asarray(image, 'uint8'))"
        )
    low, high = float(image.min()), float(image.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = image.size - np.count_nonzero(np.isfinite(image))
        raise ValueError(f"{name} holds NaN or infinite values, {bad} of {image.size:,}; replace "
                         f"them by values in [0, 1]")
    if low < -_HAIR or high > 1 + _HAIR:
        if -0.5 <= low and high <= 1.5:
            remedy = "clip what noise or a filter has put beyond: np.clip(image, 0, 1)"
        elif -1 - _HAIR <= low and high <= 1 + _HAIR:
            remedy = "of values from -1 to 1 give (image + 1) / 2"
        else:
            remedy = ("divide by the largest possible value (255 for 8 bits), or give uint8 or "
                      "uint16")
        raise ValueError(f"{name} has values from {low:g} to {high:g}, but floats must lie in "
                         f"[0, 1]; {remedy}")
    floats = image.astype(dtype, order="C")
    if low < 0 or high > 1:
        np.clip(floats, 0, 1, out=floats)
    return floats


def split_channels(image, channel_axis="auto", name="image"):
    """View an image as space and channels, the channels last.

    Parameters
    ----------
    image : array_like
    channel_axis : "auto", None or int
        Which axis holds channels. "auto": the last one if the array has 3 or more axes and the last
        has 1 to 4 entries, else none. None: every axis is space. An int: that axis.
    name : str
        What messages call the image.

    Returns
    -------
    view : ndarray (*spatial, C)
        A view where possible; C is 1 where no axis holds channels.

    Raises
    ------
    ValueError
        If `channel_axis` is none of these or out of range, or if the image has no axis of space or
        an axis without entries.
    """
    image = as_array(image, name)
    if isinstance(channel_axis, str) and channel_axis == "auto":
        has_channels = image.ndim >= 3 and image.shape[-1] <= MOST_CHANNELS_SEEN
        channel_axis = -1 if has_channels else None
    if channel_axis is None:
        return image[..., np.newaxis]
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, (int, np.integer)):
        raise ValueError(f"channel_axis is {channel_axis!r}; give 'auto', None or an int")
    axis = int(channel_axis)
    if not -image.ndim <= axis < image.ndim:
        raise ValueError(
            f"channel_axis is {axis}, but {name} has {image.ndim} axes; "
            f"give one from {-image.ndim} to {image.ndim - 1}, 'auto' or None"
        )
    if image.ndim == 1:
        raise ValueError(
            f"{name} of shape {image.shape} has no axis left for space; give channel_axis=None"
        )
    return np.moveaxis(image, axis, -1)


def digest_of(pixels):
    """The SHA-256 of an array, by which a picture is known again: of its numbers alone."""
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def as_array(image, name):
    """An image as an array of NumPy with at least one entry; errors that name it, if it is none."""
    if isinstance(image, str | os.PathLike):
        raise TypeError(f"{name} is a path; read_image reads the picture there")
    given = image
    try:
        image = np.asarray(to_numpy(given))
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is not a rectangular array ({error})") from error
    if np.ma.is_masked(given):
        raise ValueError(f"{name} has masked entries, which nothing here leaves out; fill them")
    if image.ndim == 0:
        raise ValueError(f"{name} is a single {image.dtype}; give an array with axes")
    if image.size == 0:
        raise ValueError(f"{name} of shape {image.shape} is empty; give at least one pixel")
    return image
