"""The one door to the engines: which there are, and which one a name stands for.

In ``ENGINES`` the fastest comes first. Which one "auto" chose, and why, is said once in the log
``smoe_np``.

An engine is made for one picture, ``Engine(shape, target=None, dtype="float32", batches=None)``,
and offers what ``NumpyEngine`` documents: ``loss_and_gradients``, ``loss``, ``render``, ``gating``,
``picture``, ``another``, ``weigh``, ``halve``, ``advance``, ``keep``, ``succeed``, ``forget``,
``state``, ``restore``, ``memory_needed``, ``tau``, ``list_life``, ``pairs_per_pixel``, ``builds``,
``build_seconds`` and ``name``. Its arrays are those of NumPy, wherever it computes; it is functions
for users that give arrays of CuPy back where they are given such.
"""

import logging
import math
import numbers
import operator
import warnings
from functools import cache

import numpy as np

from .backend import array_module, to_numpy
from .engine_cupy import CupyEngine
from .engine_native import NativeEngine
from .engine_numpy import NumpyEngine
from .params import SmoeParams, check_gates, taking_part
from .pixels import MOST_CHANNELS_SEEN, as_float, split_channels
from .regularize import add_penalty_gradients, penalty
from .view import blocks, crop, mean_of_samples, samples_needed, whole

MOST_PIXELS = 1 << 36  # that are drawn, samples of a pixel counted ...
BLOCK = 1 << 23  # ... and at a time
_log = logging.getLogger("smoe_np")
ENGINES = {"cupy": CupyEngine, "native": NativeEngine, "numpy": NumpyEngine}


def engine_class(backend, D=2, C=1):
    """The engine of a name, or for "auto" the first of ``ENGINES`` that works here.

    Parameters
    ----------
    backend : str
    D, C : int
        Dimensions and channels of the picture.

    Raises
    ------
    ValueError
        If there is no engine of that name, or it cannot be used here.
    """
    if backend == "auto":
        return ENGINES[_choose(D, C)]
    if not isinstance(backend, str) or backend not in ENGINES:
        known = ", ".join(repr(name) for name in ("auto", *ENGINES))
        raise ValueError(f"backend must be one of {known}, got {backend!r}")
    why_not = ENGINES[backend].why_not(D, C)
    if why_not is not None:
        raise ValueError(f"backend {backend!r} cannot be used: {why_not}")
    return ENGINES[backend]


@cache
def _choose(D, C):
    """The name of the engine that "auto" stands for; said once, with the reasons."""
    reasons = []
    for name, engine in ENGINES.items():
        why_not = engine.why_not(D, C)
        if why_not is None:
            # NumPy alone is ten times slower than compiled kernels: that should be known
            level = logging.WARNING if name == "numpy" and reasons else logging.INFO
            _log.log(level, "backend %r computes%s", name, "".join(f"; {r}" for r in reasons))
            return name
        reasons.append(f"not {name!r}: {why_not}")
    raise AssertionError("NumPy is always there")


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
    """A finite number of 0 or more, or above 0, as a float; else an error that names it."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (above and number == 0):
        raise ValueError(
            f"{name} must be {'above 0' if above else '0 or more'} and finite, got {value!r}")
    return number


def check_whole(name, value, least):
    """A whole number of at least so much as an int; else an error that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def check_params(params):
    """A model as it comes in, checked again; TypeError if it is none."""
    if not isinstance(params, SmoeParams):
        raise TypeError(f"params must be a SmoeParams, got {type(params).__name__}; read a file "
                        f"with smoe_np.load_params")
    return params.checked()


def check_image(image, dtype, channel_axis="auto"):
    """An image as (*shape, C) floats of NumPy in [0, 1], and whether it had a channel axis."""
    pixels = split_channels(image, channel_axis)
    return as_float(pixels, dtype), pixels.ndim == np.ndim(image)


def warn_if_thin(image, channel_axis):
    """Warn of what "auto" takes for a volume of few slices, which may be channels."""
    shape, few = np.shape(image), MOST_CHANNELS_SEEN
    if channel_axis == "auto" and len(shape) == 3 and shape[0] <= few < min(shape[1:]):
        warnings.warn(f"image of shape {shape} is taken for a volume; give channel_axis=0 if its "
                      f"first axis holds channels, or None if it holds slices", UserWarning,
                      stacklevel=3)


def check_fit(params, target):
    """Raise ValueError unless a model can be trained on a target (*shape, C)."""
    check_gates(params)
    check_kind(params, target)


def check_kind(params, target):
    """Raise ValueError unless a model has the dimensions and channels of a target (*shape, C)."""
    D, C = target.ndim - 1, target.shape[-1]
    if (params.num_dims, params.num_channels) != (D, C):
        raise ValueError(
            f"params is a model of {params.num_dims} dimensions and {params.num_channels} "
            f"channels, the image has {D} dimensions and {C} channels"
        )


def render(params, shape=None, backend="auto", dtype="float32", region=None, samples=1):
    """The model's picture, or a part of it, at any resolution.

    Kernels with a weight of 0 or below take no part. Where a file of tf-smoe has negative gates
    (det A < 0), their sign is honoured, and a sum of gates that is not positive counts as tiny.

    Parameters
    ----------
    params : SmoeParams
    shape : tuple of D ints, optional
        Pixels along each axis; by default those of the fitted picture, ``params.image_shape``. All
        of it is drawn: in other proportions, pixels are oblong. Where its size is not known, the
        longest axis spans the unit of the domain.
    backend : {"auto", "cupy", "native", "numpy"}
    dtype : {"float32", "float64"}
    region : sequence of D pairs, optional
        Draw this part instead of all of the picture: where it begins and ends along each axis, in
        pixels of the fitted picture, fractions allowed. ((100, 164), (200, 264)) is what
        ``image[100:164, 200:264]`` is of the fitted one. It may lie beyond the picture, where the
        model goes on. It fills ``shape``: of other proportions, pixels are oblong.
    samples : int or "auto"
        A pixel is the mean of so many samples along each axis, evenly spread over its area; 1 is
        the model at the pixel's centre. "auto" takes one for each pixel of the fitted picture that
        a drawn one covers, so that nothing is missed where it is drawn smaller; that is 1 at the
        fitted size and above, and where the fitted size is not known.

    Returns
    -------
    (*shape,) or (*shape, C) array in [0, 1]
        Drawn in blocks where there are many samples, so that memory hardly depends on ``samples``.

    Raises
    ------
    ValueError, TypeError
        If ``shape``, ``region`` or ``samples`` does not fit the model, the model has no kernel of
        positive weight, or one without extent (det A = 0).
    """
    params = check_params(params)
    kept, view, engine = _to_draw(params, shape, region, backend, dtype)
    samples = _check_samples(samples, view, kept.image_shape)
    image = np.empty((*view.shape, kept.num_channels), check_dtype(dtype))
    for part, seen, fine in _parts(kept, view, samples):
        image[part] = mean_of_samples(engine(fine, dtype=image.dtype).render(seen), samples)
    image = array_module(params.pis).asarray(image)
    return image[..., 0] if kept.num_channels == 1 else image


def gating(params, shape=None, backend="auto", dtype="float32", region=None):
    """The index of the kernel with the largest gate at each pixel: (*shape,) int32.

    Parameters are those of ``render``. Indices are those of ``params``; those of kernels that no
    pixel is owned by are missing. The pixels of a kernel need not hang together: where another one
    lies across, or far from all centres, they may be in several parts.
    """
    params = check_params(params)
    kept, view, engine = _to_draw(params, shape, region, backend, dtype)
    there = np.flatnonzero(to_numpy(params.pis) > 0).astype(np.int32)
    owners = np.empty(view.shape, np.int32)
    for part, seen, fine in _parts(kept, view, 1):
        owners[part] = there[engine(fine, dtype=check_dtype(dtype)).gating(seen)]
    return array_module(params.pis).asarray(owners)


def loss_and_gradients(params, image, l1reg=0.0, bandwidth_reg=0.0, backend="auto",
                       dtype="float32", channel_axis="auto"):
    """The loss of a model on an image, and its gradients.

    L = mean (clip(y, 0, 1) − t)² + l1reg/K₀ Σ π + bandwidth_reg Σ|A_dd|

    K₀ is K here, the number of kernels of ``params``; in a training it is that of its start.

    Parameters
    ----------
    params : SmoeParams
    image : array
        (*shape,) or (*shape, C), float in [0, 1] or uint8/uint16.
    l1reg, bandwidth_reg : float
        Weights λ_S and λ_U of the regularisers.
    backend, dtype
        As for ``render``.
    channel_axis : "auto", None or int
        "auto": an array of 3 or more axes whose last has 1 to 4 entries has its channels there;
        None: all axes are space.

    Returns
    -------
    float
        L.
    SmoeParams
        ∂L/∂ each parameter, in the precision ``dtype``.

    Raises
    ------
    ValueError, TypeError
        If an argument is of the wrong kind, shape or range.
    """
    dtype = check_dtype(dtype)
    params = check_params(params)
    xp = array_module(image, *params.arrays().values())
    params = params.map(to_numpy)
    l1reg = check_number("l1reg", l1reg)
    bandwidth_reg = check_number("bandwidth_reg", bandwidth_reg)
    target, _ = check_image(image, dtype, channel_axis)
    check_fit(params, target)
    engine = engine_class(backend, params.num_dims, params.num_channels)(
        target.shape[:-1], target, dtype)
    mse, gradients = engine.loss_and_gradients(params)
    K = params.num_kernels
    add_penalty_gradients(gradients, params, l1reg, bandwidth_reg, K)
    return mse + penalty(params, l1reg, bandwidth_reg, K), gradients.astype(dtype).map(xp.asarray)


def _to_draw(params, shape, region, backend, dtype):
    """The kernels that take part, as arrays of NumPy, what is seen of them, and the engine."""
    check_dtype(dtype)
    params = params.map(to_numpy)
    fitted = params.image_shape
    if shape is None and fitted is None:
        raise ValueError("params does not hold the size of its picture; give shape")
    shape = fitted if shape is None else shape
    try:
        shape = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise ValueError(f"shape must be a tuple of whole numbers, got {shape!r}") from None
    if len(shape) != params.num_dims or min(shape) < 1:
        raise ValueError(
            f"shape must be {params.num_dims} sizes of at least 1 for this model, got {shape}")
    if math.prod(shape) > MOST_PIXELS:
        raise ValueError(f"shape {shape} has {math.prod(shape):g} pixels; at most {MOST_PIXELS:g} "
                         f"are drawn")
    if region is None and fitted is not None:
        region = [(0, n) for n in fitted]
    view = whole(shape) if region is None else crop(region, shape, fitted)
    params = taking_part(params)
    check_gates(params)
    return params, view, engine_class(backend, params.num_dims, params.num_channels)


def _check_samples(samples, view, image_shape):
    """The number of samples along an axis of a pixel, or an error that names what is wrong."""
    if isinstance(samples, str):
        if samples != "auto":
            raise ValueError(f'samples must be a whole number or "auto", got {samples!r}')
        samples = samples_needed(view, image_shape)
    samples = check_whole("samples", samples, 1)
    most = math.prod(view.shape) * samples ** len(view.shape)
    if most > MOST_PIXELS:
        raise ValueError(f"samples {samples} of a picture {view.shape} are {most:g} in all; at "
                         f"most {MOST_PIXELS:g} are drawn")
    return samples


def _parts(params, view, samples):
    """Parts of a picture that are drawn one after the other, to need little memory.

    Yields
    ------
    tuple of D slices
        Which pixels.
    SmoeParams
        What is seen there.
    tuple of D ints
        Samples along each axis.
    """
    for part in blocks(view.shape, samples, BLOCK):
        fine = view.part(part).finer(samples)
        yield part, fine.seen(params), fine.shape
