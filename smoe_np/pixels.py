"""Conversion of images to floats in [0, 1], and the axis of their channels."""

import hashlib
import math
import os

import numpy as np

from .backend import to_numpy

_HAIR = 1e-6  # rounding error outside [0, 1] that is tolerated
MOST_CHANNELS_SEEN = 4  # channel_axis="auto" takes a longer last axis for a spatial one


def as_float(image, dtype="float32", name="image"):
    """A copy of an image as floats in [0, 1].

    Parameters
    ----------
    image : array_like, any shape, NumPy or CuPy
        uint8 or uint16, which are divided by the type's maximum; bool, taken as 0 and 1; or floats
        in [0, 1], where rounding errors of up to 1e-6 are clipped.
    dtype : str or dtype, default "float32"
        Floating-point type of the result.
    name : str
        Name of the argument in error messages.

    Returns
    -------
    floats : ndarray of `dtype`, the shape of `image`
        New C-contiguous array. No temporary array of a wider type is made.

    Raises
    ------
    TypeError
        If the image holds neither bool, uint8, uint16 nor floats.
    ValueError
        If the image has no axes or no entries, floats are NaN, infinite or outside [0, 1], or
        `dtype` is not a floating-point type.
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
            remedy = "if noise or a filter has caused that, clip them: np.clip(image, 0, 1)"
        elif -1 - _HAIR <= low and high <= 1 + _HAIR:
            remedy = "if the range is -1 to 1, give (image + 1) / 2"
        else:
            remedy = ("divide by the largest possible value (255 for 8 bits), or give uint8 or "
                      "uint16")
        raise ValueError(f"{name} has values from {low:g} to {high:g}, but floats must lie in "
                         f"[0, 1]; {remedy}")
    floats = image.astype(dtype, order="C")
    if low < 0 or high > 1:
        np.clip(floats, 0, 1, out=floats)
    return floats


def channel_axis_for(shape, D, C, image_shape):
    """The axis of channels by which an array of this shape fits a model of D dimensions and C
    channels, and best if its image has the size ``image_shape``; "auto" if it does not fit.
    """
    if len(shape) == D and C == 1:
        return None
    fitting = {axis: shape[:-1] if axis else shape[1:] for axis in (-1, 0)
               if len(shape) == D + 1 and shape[axis] == C}
    return next((axis for axis, spatial in fitting.items() if spatial == image_shape),
                next(iter(fitting), "auto"))


def split_channels(image, channel_axis="auto", name="image"):
    """View an image with its channels as the last axis.

    Parameters
    ----------
    image : array_like
        Image, with or without an axis of channels.
    channel_axis : "auto", None or int
        Axis that holds the channels. "auto": the last one, if the image has 3 or more axes and the
        last has 1 to 4 entries, else none. None: all axes are spatial.
    name : str
        Name of the argument in error messages.

    Returns
    -------
    view : ndarray (*spatial, C)
        View of the image, or a copy if a view is impossible; C is 1 if no axis holds channels.

    Raises
    ------
    ValueError
        If `channel_axis` is none of these or out of range, or the image has no spatial axis or no
        entries.
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
    """The SHA-256 digest of the values of an array, by which an image is recognised."""
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def as_array(image, name):
    """Return an image as a NumPy array with at least one entry, or raise an error that names it."""
    if isinstance(image, str | os.PathLike):
        raise TypeError(f"{name} is a path; read the picture with read_image first")
    given = image
    try:
        image = np.asarray(to_numpy(given))
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is not a rectangular array ({error})") from error
    if np.ma.is_masked(given):
        raise ValueError(f"{name} has masked entries, which are not supported; fill them")
    if image.ndim == 0:
        raise ValueError(f"{name} is a single value of type {image.dtype}; give an array with axes")
    if image.size == 0:
        raise ValueError(f"{name} of shape {image.shape} is empty; give at least one pixel")
    return image
