"""Choice of an engine, and the functions that draw and evaluate a model with it.

``ENGINES`` lists the engines, the fastest first. Which one "auto" chose, and why, is logged once,
to the logger ``smoe_np``.

An engine is made for one image, ``Engine(shape, target=None, dtype="float32", batches=None)``, and
has the attributes and methods documented in ``NumpyEngine``: ``loss_and_gradients``, ``loss``,
``render``, ``gating``, ``picture``, ``another``, ``weigh``, ``halve``, ``advance``, ``keep``,
``succeed``, ``forget``, ``state``, ``restore``, ``memory_needed``, ``why_not``; ``name``,
``shape``, ``dtype``, ``batches``, ``threads``, ``tau``, ``list_life``, ``pairs_per_pixel``,
``builds`` and ``build_seconds``. What else they hold is their own. All engines take and return
NumPy arrays, wherever they compute. The public functions convert: if they are given CuPy arrays,
they return CuPy arrays.
"""

import logging
import math
import operator
from functools import cache

import numpy as np

from .arguments import check_dtype, check_fit, check_image, check_number, check_params, check_whole
from .backend import array_module, to_numpy
from .engine_cupy import CupyEngine
from .engine_native import NativeEngine
from .engine_numpy import NumpyEngine
from .params import check_gates, taking_part
from .regularize import add_penalty_gradients, penalty
from .view import blocks, crop, mean_of_samples, samples_needed, whole

MOST_PIXELS = 1 << 36  # limit on the samples of a drawing, over all its pixels
BLOCK = 1 << 23  # samples drawn at a time
# By number of dimensions, the sharpness 1/σ per pixel up to which float32 is precise to 2e-4: over
# a tile, a log-gate is a sum of terms that grow with the square of sharpness × tile, and cancel.
MOST_SHARPNESS = {1: 4.0, 2: 15.0, 3: 35.0}
_log = logging.getLogger("smoe_np")
ENGINES = {"cupy": CupyEngine, "native": NativeEngine, "numpy": NumpyEngine}


def engine_class(backend, D=2, C=1):
    """The engine with a given name, or for "auto" the first of ``ENGINES`` that works here.

    Parameters
    ----------
    backend : str
        "auto" or a name in ``ENGINES``.
    D, C : int
        Numbers of dimensions and channels of the image.

    Returns
    -------
    type

    Raises
    ------
    ValueError
        If there is no engine with that name, or it cannot be used here.
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
    """The name of the engine that "auto" stands for; logged once, with the reasons."""
    reasons = []
    for name, engine in ENGINES.items():
        why_not = engine.why_not(D, C)
        if why_not is None:
            # a warning, as NumPy alone is ten times slower than compiled kernels
            level = logging.WARNING if name == "numpy" and reasons else logging.INFO
            _log.log(level, "backend %r computes%s", name, "".join(f"; {r}" for r in reasons))
            return name
        reasons.append(f"not {name!r}: {why_not}")
    raise AssertionError("NumPy is always there")


def render(params, shape=None, backend="auto", dtype="float32", region=None, samples=1):
    """Draw the image that a model describes, or a part of it, at any resolution.

    Parameters
    ----------
    params : SmoeParams
        Model to draw. Kernels with a weight of 0 or below are ignored.
    shape : tuple of D ints, optional
        Number of pixels along each axis; by default that of the fitted image,
        ``params.image_shape``. The whole image is drawn; with other proportions the pixels are
        oblong. If the model does not hold the size of its image, the longest axis of ``shape``
        spans the unit of the domain.
    backend : {"auto", "cupy", "native", "numpy"}
        Engine that computes; "auto" takes the first of these that works on this machine.
    dtype : {"float32", "float64"}
        Precision of the result and of the computation; the latter is double where kernels are too
        sharp for float32, as they may be in a smaller drawing without ``samples``.
    region : sequence of D pairs of floats, optional
        Part of the image to draw: begin and end along each axis, in pixels of the fitted image.
        For example, ((100, 164), (200, 264)) is the region of ``image[100:164, 200:264]``.
        The region may extend beyond the image, as the model has no borders. It fills ``shape``;
        with other proportions the pixels are oblong.
    samples : int or "auto"
        Number of samples of each pixel along each axis. They are spread evenly over the pixel, and
        their mean is its value; 1 samples the centre alone. "auto" takes as many samples as there
        are pixels of the fitted image in a drawn pixel, which avoids aliasing in smaller images; it
        takes 1 at the fitted size and above, and if that size is unknown.

    Returns
    -------
    (*shape,) or (*shape, C) array
        The image, in [0, 1].

    Raises
    ------
    ValueError, TypeError
        If ``shape``, ``region`` or ``samples`` does not fit the model, or the model has no kernel
        of positive weight, or has one without extent (det A = 0).

    Notes
    -----
    Large drawings are computed in blocks, so that ``samples`` hardly affects the memory needed.
    The negative gates of some files of tf-smoe (det A < 0) keep their sign. If the sum of the gates
    at a pixel is not positive, it is replaced by a tiny positive number.

    Examples
    --------
    >>> params = smoe_np.load_params("model.npz")
    >>> large = smoe_np.render(params, (2048, 2048))
    >>> detail = smoe_np.render(params, (512, 512), region=((100, 164), (200, 264)))
    >>> thumbnail = smoe_np.render(params, (64, 64), samples="auto")
    """
    params = check_params(params)
    dtype = check_dtype(dtype)
    kept, view, engine = _to_draw(params, shape, region, backend)
    samples = _check_samples(samples, view, kept.image_shape)
    image = np.empty((*view.shape, kept.num_channels), dtype)
    for part, seen, fine in _parts(kept, view, samples):
        drawn = engine(fine, dtype=_precision(seen, fine, dtype)).render(seen)
        image[part] = mean_of_samples(drawn, samples)
    image = array_module(params.pis).asarray(image)
    return image[..., 0] if kept.num_channels == 1 else image


def gating(params, shape=None, backend="auto", dtype="float32", region=None):
    """Compute which kernel has the largest gate at each pixel.

    Parameters
    ----------
    params, shape, backend, dtype, region
        As for ``render``.

    Returns
    -------
    (*shape,) int32 array
        Index into ``params`` of the kernel with the largest gate at the centre of each pixel.

    Raises
    ------
    ValueError, TypeError
        As for ``render``.

    Notes
    -----
    Kernels that own no pixel do not occur. The pixels that a kernel owns need not be connected:
    another kernel may lie across them, and far from all centres they may be in several parts.
    """
    params, dtype = check_params(params), check_dtype(dtype)
    kept, view, engine = _to_draw(params, shape, region, backend)
    there = np.flatnonzero(to_numpy(params.pis) > 0).astype(np.int32)
    owners = np.empty(view.shape, np.int32)
    for part, seen, fine in _parts(kept, view, 1):
        owners[part] = there[engine(fine, dtype=_precision(seen, fine, dtype)).gating(seen)]
    return array_module(params.pis).asarray(owners)


def loss_and_gradients(params, image, l1reg=0.0, bandwidth_reg=0.0, backend="auto",
                       dtype="float32", channel_axis="auto"):
    """Compute the loss of a model on an image, and its gradients.

    L = mean (clip(y, 0, 1) − t)² + l1reg/K₀ Σ π + bandwidth_reg Σ|A_dd|

    with the image t and the model's image y. K₀ is the number of kernels of ``params`` here; during
    training it is the number of kernels at the start.

    Parameters
    ----------
    params : SmoeParams
        Model, with mixing weights above 0. Keep the diagonal of A above 0 as well: the gate of a
        kernel with det A < 0 is negative, as in tf-smoe. An optimiser may use log π and log A_dd,
        whose gradients are these times π and A_dd. These are as exact as gates are: a kernel
        whose gate is below e^-12 in a tile (float64: e^-30) is left out there, and ∂L/∂π of one so
        weak (π about 1e-6 of its neighbours') may be 0.
    image : array
        The image, (*shape,) or (*shape, C): floats in [0, 1], or uint8 or uint16.
    l1reg, bandwidth_reg : float
        Weights λ_S of the sparsity term and λ_U of the bandwidth term.
    backend, dtype
        As for ``render``.
    channel_axis : "auto", None or int
        Axis that holds the channels. "auto": the last one, if the image has 3 or more axes and the
        last has 1 to 4 entries, else none. None: all axes are spatial.

    Returns
    -------
    loss : float
        The loss L.
    gradients : SmoeParams
        Derivatives of L with respect to each parameter, in precision ``dtype``.

    Raises
    ------
    ValueError, TypeError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    Smoe.loss_and_gradients : Faster for many models of one image, as in an optimiser.
    """
    dtype = check_dtype(dtype)
    params = check_params(params)
    xp = array_module(image, *params.arrays().values())
    params = params.map(to_numpy)
    l1reg = check_number("l1reg", l1reg)
    bandwidth_reg = check_number("bandwidth_reg", bandwidth_reg)
    target, _ = check_image(image, dtype, channel_axis)
    *shape, channels = target.shape
    check_fit(params, len(shape), channels)
    precision = _precision(params, shape, dtype)
    if precision != dtype:
        target, _ = check_image(image, precision, channel_axis)
    engine = engine_class(backend, len(shape), channels)(tuple(shape), target, precision)
    loss, gradients = penalized(engine, params, l1reg, bandwidth_reg)
    return loss, gradients.astype(dtype).map(xp.asarray)


def penalized(engine, params, l1reg, bandwidth_reg):
    """The loss of a model with an engine's image, penalties included, and its gradients."""
    mse, gradients = engine.loss_and_gradients(params)
    K = params.num_kernels
    add_penalty_gradients(gradients, params, l1reg, bandwidth_reg, K)
    return mse + penalty(params, l1reg, bandwidth_reg, K), gradients


def _to_draw(params, shape, region, backend):
    """The kernels of positive weight as NumPy arrays, the view to draw, and the engine."""
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
    """The number of samples along each axis of a pixel; ValueError or TypeError if it is wrong."""
    if isinstance(samples, str):
        if samples != "auto":
            raise ValueError(f'samples must be a whole number or "auto", got {samples!r}')
        samples = samples_needed(view, image_shape)
    samples = check_whole("samples", samples, 1)
    most = math.prod(view.shape) * samples ** len(view.shape)
    if most > MOST_PIXELS:
        raise ValueError(f"samples {samples} for a picture of shape {view.shape} makes {most:g} in "
                         f"all; at most {MOST_PIXELS:g} are drawn")
    return samples


def _precision(params, shape, dtype):
    """The dtype in which a model is computed on pixels: float64 if kernels are too sharp there."""
    most = MOST_SHARPNESS[min(len(shape), 3)] * max(shape)
    sharpness = np.abs(params.A).sum(axis=2, dtype=float)  # at least 1/σ along each axis
    return dtype if sharpness.max() <= most else np.dtype("float64")


def _parts(params, view, samples):
    """Divide a drawing into blocks, which need less memory one after another.

    Yields
    ------
    tuple of D slices
        Pixels of the block.
    SmoeParams
        Model in the coordinates of the block.
    tuple of D ints
        Number of samples of the block along each axis.
    """
    for part in blocks(view.shape, samples, BLOCK):
        fine = view.part(part).finer(samples)
        yield part, fine.seen(params), fine.shape
