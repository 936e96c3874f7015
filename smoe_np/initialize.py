"""Starting models: grids of kernels with means of the image, or a given model."""

import math
import warnings

import numpy as np

from .arguments import check_fit, check_params
from .backend import to_numpy
from .params import SmoeParams, positive_diagonals, taking_part

MOST_PER_PIXEL = 4  # limit on kernels per pixel along an axis, to catch typing errors ...
LEAST_LIMIT = 100  # ... of more kernels than this
MOST_KERNELS = 10**8


def kernel_grid(shape, kernels_per_dim):
    """Kernels along each axis: ``kernels_per_dim`` on the longest, the same spacing on the others.

    Returns
    -------
    tuple of D ints, at least 1 each
    """
    longest = max(shape)
    return tuple(max(1, round(kernels_per_dim * n / longest)) for n in shape)


def initial_params(target, kernels_per_dim, dtype=np.float32):
    """The starting grid of tf-smoe, for any numbers of dimensions and channels and any proportions.

    Centres lie at (i + ½)/k; A = 2(k + 1) I, π = 1/K, γ = 0, and ν is the mean of the image in the
    box of half-width ½/k around the centre.

    Parameters
    ----------
    target : (*shape, C) array of float
        The image.
    kernels_per_dim : int
        Number of kernels along the longest axis, k.

    Raises
    ------
    ValueError
        If there are far more kernels along the longest axis than pixels, or too many in all.
    """
    shape = target.shape[:-1]
    D, longest = len(shape), max(shape)
    most = max(MOST_PER_PIXEL * longest, LEAST_LIMIT)
    if kernels_per_dim > most:
        raise ValueError(f"kernels_per_dim must be at most {most} for a picture whose longest axis "
                         f"has {longest} pixels, got {kernels_per_dim}")
    counts = kernel_grid(shape, kernels_per_dim)
    if math.prod(counts) > MOST_KERNELS:
        raise ValueError(f"kernels_per_dim = {kernels_per_dim} makes {math.prod(counts):g} kernels "
                         f"over {D} dimensions; at most {MOST_KERNELS:g} are made")
    A = 2 * (kernels_per_dim + 1) * np.eye(D)
    return _grid_params(target, counts, A, dtype)


def spread_kernels(shape, kernels):
    """Kernels along each axis of an evenly spread grid of at most ``kernels``, one per pixel.

    Returns
    -------
    tuple of D ints, at least 1 each
    """
    counts = [1] * len(shape)
    while True:  # add one along the axis with the widest spacing, as long as there is room
        for axis in sorted(range(len(shape)), key=lambda d: counts[d] / shape[d]):
            more = [n + (d == axis) for d, n in enumerate(counts)]
            if more[axis] <= shape[axis] and math.prod(more) <= kernels:
                break
        else:
            return tuple(counts)
        counts = more


def spacing_of(shape, kernels):
    """The spacing in pixels of ``kernels`` kernels that are evenly spread; a float."""
    sides = sorted(shape)
    while True:
        spacing = (math.prod(sides) / kernels) ** (1 / len(sides))
        if len(sides) == 1 or sides[0] >= spacing:
            return spacing
        sides.pop(0)  # too short for more than one kernel


def fit_start(target, counts, jitter, random, most_sharpness):
    """The starting model of ``Smoe.fit``: kernels on a jittered grid.

    Standard deviations are half the spacing along each axis, π = 1/K, γ = 0, and ν is the mean of
    the image in the kernel's box.

    Parameters
    ----------
    target : (*shape, C) array of float
        The image.
    counts : tuple of D ints
        Number of kernels along each axis.
    jitter : float
        Largest random displacement of centres along each axis, in spacings.
    random : numpy.random.Generator
        Random generator.
    most_sharpness : float
        Upper limit on 1/σ along each axis, per pixel.

    Returns
    -------
    SmoeParams
    """
    shape = target.shape[:-1]
    spacing = np.array([n / k for n, k in zip(shape, counts)])  # pixels
    A = np.diag(max(shape) * np.minimum(2 / spacing, most_sharpness))
    params = _grid_params(target, counts, A, target.dtype)
    shake = random.uniform(-jitter, jitter, params.musX.shape) * spacing / max(shape)
    params.musX = (params.musX + shake).astype(target.dtype)
    return params


def constant_model(target):
    """The best constant model, which has a single kernel, and its mean squared error."""
    shape = target.shape[:-1]
    params = _grid_params(target, [1] * len(shape), np.eye(len(shape)), target.dtype)
    residual = target - params.nu_e[0]
    return params, float(np.mean(residual * residual, dtype=float))


def _grid_params(target, counts, A, dtype):
    """Kernels on a grid, with the same A and π = 1/K, and with the mean of the image around each.
    """
    shape = target.shape[:-1]
    longest = max(shape)
    # along each axis: centres in units of the longest axis; first and last pixels of each box
    centres, edges = [], []
    for n, k in zip(shape, counts, strict=True):
        centres.append((np.arange(k) + 0.5) * (n / longest / k))
        low = np.ceil(np.arange(k) * (n / k) - 0.5 - 1e-9).astype(int)
        high = np.floor(np.arange(1, k + 1) * (n / k) - 0.5 + 1e-9).astype(int) + 1
        # a box that is too small to contain a pixel's centre takes the pixel at its middle
        low = np.where(high > low, low, ((np.arange(k) + 0.5) * (n / k)).astype(int))
        edges.append((low, np.maximum(high, low + 1)))
    means = _box_means(target, edges)  # (*counts, C)
    musX = np.stack([g.ravel() for g in np.meshgrid(*centres, indexing="ij")], axis=1)
    K = len(musX)
    return SmoeParams(
        pis=np.full(K, 1 / K, dtype),
        musX=musX.astype(dtype),
        A=np.tile(A.astype(dtype), (K, 1, 1)),
        gamma_e=np.zeros((K, target.shape[-1], len(shape)), dtype),
        nu_e=means.reshape(K, -1).astype(dtype),
        image_shape=shape,
    )


def _box_means(target, edges):
    """Means over the boxes of a grid, one axis after the other; float64."""
    means = target
    for axis, (low, high) in enumerate(edges):
        means = np.stack(
            [means.take(range(a, b), axis).mean(axis, dtype=np.float64)
             for a, b in zip(low, high, strict=True)], axis)
    return means


def ready_to_train(params, shape, channels, dtype, radial):
    """A given model, checked and converted for training: positive weights and diagonals."""
    params = check_params(params).map(to_numpy)
    params = params.astype(dtype)  # first, as weights that underflow count as 0
    params = taking_part(params)
    params.image_shape = shape
    check_fit(params, len(shape), channels)
    params, flipped = positive_diagonals(params)
    if flipped:
        warnings.warn(
            f"{flipped} kernels of params have negative gates (det A < 0), which training does not "
            f"support; a column of A is negated in each, and the picture changes there",
            UserWarning, stacklevel=3)
    if radial and not params.radial:
        raise ValueError("radial is True, but params has kernels that are not multiples of the "
                         "identity; train them with radial=False")
    return params
