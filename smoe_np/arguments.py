"""Checks of arguments: what is wrong is said in words that name it."""

import math
import numbers
import operator
import warnings

import numpy as np

from .numerals import counted
from .params import SmoeParams, check_gates
from .pixels import MOST_CHANNELS_SEEN, as_float, split_channels

THIN = 3  # a volume so many times larger along its first two axes may be a picture of many channels


def check_dtype(dtype):
    """The dtype float32 or float64 that ``dtype`` stands for, or a ValueError."""
    try:
        found = np.dtype(dtype) if dtype is not None else None
    except TypeError:
        found = None
    if found not in (np.float32, np.float64):
        raise ValueError(f'dtype must be "float32" or "float64", got {dtype!r}')
    return found


def check_number(name, value, above=False):
    """Return ``value`` as a float if it is finite and at least 0 (or above 0), else raise."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (above and number == 0):
        raise ValueError(
            f"{name} must be {'above 0' if above else '0 or more'} and finite, got {value!r}")
    return number


def check_flag(name, value):
    """Return ``value`` as a bool if it is one, else raise: the text "False" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_whole(name, value, least):
    """Return ``value`` as an int if it is a whole number of at least ``least``, else raise."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def check_params(params):
    """Return a model validated again; TypeError if it is not a SmoeParams."""
    if not isinstance(params, SmoeParams):
        raise TypeError(f"params must be a SmoeParams, got {type(params).__name__}; read a file "
                        f"with smoe_np.load_params")
    return params.checked()


def check_image(image, dtype, channel_axis="auto"):
    """An image as a NumPy array (*shape, C) of floats in [0, 1]; whether it had a channel axis."""
    pixels = split_channels(image, channel_axis)
    return as_float(pixels, dtype), pixels.ndim == np.ndim(image)


def warn_if_thin(image, channel_axis):
    """Warn if "auto" takes an image for a volume that is so thin that it may hold channels."""
    shape, few = np.shape(image), MOST_CHANNELS_SEEN
    if channel_axis != "auto" or len(shape) != 3 or shape[-1] <= few:
        return
    if shape[0] <= few < shape[1]:
        axis, which = 0, "first"
    elif THIN * shape[-1] <= min(shape[:-1]):
        axis, which = -1, "last"
    else:
        return
    warnings.warn(f"image of shape {shape} is taken for a volume; give channel_axis={axis} if its "
                  f"{which} axis holds channels, or None if it is an axis of space", UserWarning,
                  stacklevel=3)


def check_fit(params, D, C):
    """Raise ValueError unless a model can be trained on an image of D dimensions, C channels."""
    check_gates(params)
    check_kind(params, D, C)


def check_kind(params, D, C):
    """Raise ValueError unless a model has D dimensions and C channels, as an image has."""
    if (params.num_dims, params.num_channels) != (D, C):
        raise ValueError(
            f"params is a model of {counted(params.num_dims, 'dimension')} and "
            f"{counted(params.num_channels, 'channel')}, the image has {counted(D, 'dimension')} "
            f"and {counted(C, 'channel')}"
        )
