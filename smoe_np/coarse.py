"""A large picture at smaller sizes, for the steps of a fit that need no more."""

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

LEAST_FACTOR = 1.4  # by which an axis is shorter at least: less is not worth another engine
LEAST_PIXELS = 10_000  # that a smaller picture has ...
LEAST_SIDE = 32  # ... and along each axis: of a pixel at its end, a part is left out


class Stage(NamedTuple):
    """Until which part of the way a picture is regressed at which size, its longest axis."""

    until: float
    longest: int


def stages(shape, kernels, schedule):
    """The sizes at which a fit regresses a picture, one after the other.

    Parameters
    ----------
    shape : tuple of D ints
    kernels : int
        That there are in the end.
    schedule : iterable of (float, float)
        Until which part of the way how many pixels a kernel has.

    Returns
    -------
    list of Stage
        The last one at full size, until the end.
    """
    longest, D, found = max(shape), len(shape), []
    for until, pixels in schedule:
        factor = (math.prod(shape) / max(pixels * kernels, LEAST_PIXELS)) ** (1 / D)
        factor = min(factor, min(shape) / LEAST_SIDE)
        if factor < LEAST_FACTOR:
            break
        stage = Stage(until, round(longest / factor))
        if found and found[-1].longest == stage.longest:
            found.pop()
        found.append(stage)
    return [*found, Stage(math.inf, longest)]


def smaller(picture, longest):
    """A picture whose longest axis has fewer pixels; each is the mean over its area.

    Along the others a rest that is less than a pixel is left out.

    Parameters
    ----------
    picture : (*shape, C) array of float
    longest : int
        Pixels of the longest axis.

    Returns
    -------
    (*smaller shape, C) array
        Of the same part of the domain, so that a model of the one is one of the other.
    """
    *shape, _ = picture.shape
    side = max(shape) / longest  # of a new pixel, in old ones
    for d, n in enumerate(shape):
        many = max(1, math.floor(n / side * (1 + 1e-12)))
        rows = np.moveaxis(picture, d, 0)
        means = _means(n, many, side, picture.dtype) @ rows.reshape(n, -1)
        picture = np.moveaxis(means.reshape(many, *rows.shape[1:]), 0, d)
    return np.ascontiguousarray(picture)


def _means(n, many, side, dtype):
    """The matrix (many, n) of means over n pixels along an axis, ``side`` of them in each."""
    edges = np.minimum(np.arange(many + 1) * side, n)
    first = np.floor(edges[:-1]).astype(int)
    counts = np.ceil(edges[1:]).astype(int) - first
    rows = np.repeat(np.arange(many), counts)
    begin = np.cumsum(counts) - counts
    columns = np.arange(len(rows)) + np.repeat(first - begin, counts)
    parts = np.minimum(columns + 1, edges[rows + 1]) - np.maximum(columns, edges[rows])
    parts /= np.diff(edges)[rows]
    return sparse.csr_matrix((parts.astype(dtype), (rows, columns)), (many, n))
