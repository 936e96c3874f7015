"""Views of a model: which part of its domain is drawn, and with how many pixels.

A crop is an affine change of coordinates, x' = S (x − o) with diagonal S. The model in the new
coordinates is again a model:

    μ' = S (μ − o)    A' = S⁻¹ A    γ' = γ S⁻¹    ν' = ν + γ·o

z = Aᵀ (x − μ) does not change, and log|det A| changes by the same amount for all kernels, so the
gates do not change.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from .backend import array_module
from .params import unchecked

# Limits on a region, beyond which float64 would have too few digits.
LEAST_EXTENT = 1e-6  # extent along an axis, in pixels of the fitted image
FARTHEST = 1e3  # coordinates of its ends, in units of the longest axis of the fitted image


class View(NamedTuple):
    """A box of the domain, in the units of ``musX``, and the pixels that it is divided into."""

    begin: tuple  # D floats, the corner of the first pixel
    extent: tuple  # D floats
    shape: tuple  # D ints, number of pixels along each axis

    def part(self, slices):
        """The view of a block of its pixels, given by a slice with start and stop for each axis."""
        if all(s.stop - s.start == n for s, n in zip(slices, self.shape)):
            return self
        pixel = [e / n for e, n in zip(self.extent, self.shape)]
        return View(tuple(b + s.start * p for b, s, p in zip(self.begin, slices, pixel)),
                    tuple((s.stop - s.start) * p for s, p in zip(slices, pixel)),
                    tuple(s.stop - s.start for s in slices))

    def finer(self, n):
        """The same box with n times as many pixels along each axis."""
        return self._replace(shape=tuple(n * size for size in self.shape))

    def seen(self, params):
        """The model in the coordinates of this box, so that an engine for ``shape`` draws the box.

        Parameters
        ----------
        params : SmoeParams

        Returns
        -------
        SmoeParams
            Model in float64, or ``params`` itself if the coordinates are the same.
        """
        longest = max(self.shape)
        scale = [n / longest / e for n, e in zip(self.shape, self.extent)]
        if all(s == 1 for s in scale) and not any(self.begin):
            return params
        xp = array_module(params.musX)
        scale, begin = xp.asarray(scale), xp.asarray(self.begin, float)
        params = params.astype(np.float64)
        return unchecked({
            "pis": params.pis, "musX": (params.musX - begin) * scale,
            "A": params.A / scale[:, None], "gamma_e": params.gamma_e / scale,
            "nu_e": params.nu_e + params.gamma_e @ begin,
        })


def whole(shape):
    """The view of a whole image of some shape: its longest axis spans the unit of the domain."""
    return View((0.0,) * len(shape), tuple(n / max(shape) for n in shape), tuple(shape))


def crop(region, shape, image_shape):
    """The view of a region of the fitted image.

    Parameters
    ----------
    region : sequence of D pairs of numbers
        Begin and end along each axis, in pixels of the fitted image.
    shape : tuple of D ints
        Number of pixels to draw along each axis.
    image_shape : tuple of D ints or None
        Shape of the fitted image, if known.

    Returns
    -------
    View

    Raises
    ------
    ValueError
        If the region is not D pairs of finite numbers, is empty, too small or too far away, or
        ``image_shape`` is None.
    """
    D = len(shape)
    try:
        ends = np.array(region, dtype=np.float64)
    except (TypeError, ValueError):
        ends = np.empty(0)
    if ends.shape != (D, 2):
        raise ValueError(f"region must be {D} pairs (begin, end) in pixels of the fitted picture, "
                         f"one for each axis, got {region!r}")
    if image_shape is None:
        raise ValueError("region is in pixels of the fitted picture, but params does not hold its "
                         "size; set params.image_shape")
    longest = max(image_shape)
    if not (np.isfinite(ends).all() and np.abs(ends).max() <= FARTHEST * longest):
        raise ValueError(f"region must be finite, and at most {FARTHEST:g} times the size of the "
                         f"fitted picture away, got {region!r}")
    if (ends[:, 1] - ends[:, 0] < LEAST_EXTENT).any():
        raise ValueError(f"region must end at least {LEAST_EXTENT:g} pixels after it begins, along "
                         f"each axis, got {region!r}")
    begin, extent = ends[:, 0] / longest, (ends[:, 1] - ends[:, 0]) / longest
    return View(tuple(begin.tolist()), tuple(extent.tolist()), tuple(shape))


def samples_needed(view, image_shape):
    """Samples along each axis of a pixel such that no pixel of the fitted image is skipped."""
    if image_shape is None:
        return 1
    passed = max(e * max(image_shape) / n for e, n in zip(view.extent, view.shape))
    return max(1, math.ceil(passed - 1e-6))


def blocks(shape, n, most):
    """Cut an image into blocks of at most ``most`` samples, n along each axis of a pixel.

    Yields
    ------
    tuple of D slices
    """
    side = list(shape)
    while math.prod(side) * n ** len(side) > most and max(side) > 1:
        axis = side.index(max(side))
        side[axis] = -(-side[axis] // 2)
    for corner in itertools.product(*(range(0, size, s) for size, s in zip(shape, side))):
        yield tuple(slice(c, min(c + s, size)) for c, s, size in zip(corner, side, shape))


def mean_of_samples(image, n):
    """The mean over blocks of n samples along each axis of an image (*(n · shape), C)."""
    if n == 1:
        return image
    axes = [size for whole in image.shape[:-1] for size in (whole // n, n)]
    samples = image.reshape(*axes, image.shape[-1])
    return samples.mean(axis=tuple(range(1, len(axes), 2)), dtype=np.float64)
