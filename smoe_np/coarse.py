"""Downscaled versions of a large image, for the early steps of a fit."""

import bisect
import math
from typing import NamedTuple

import numpy as np

LEAST_FACTOR = 1.4  # minimum factor of downscaling that is worth another engine
LEAST_PIXELS = 10_000  # minimum size of a downscaled image
LEAST_SIDE = 32  # minimum pixels along each axis, as up to one pixel at its end is left out
PER_KERNEL = 150  # cost of a kernel per step apart from its pixels, in pixels


class Stage(NamedTuple):
    """A part of a fit at one size of the image."""

    until: float  # end of the stage, as a fraction of the iterations
    longest: int  # pixels of the longest axis


def stages(shape, kernels, schedule):
    """The stages of a fit, from small sizes of the image to the full size.

    Parameters
    ----------
    shape : tuple of D ints
        Spatial shape of the image.
    kernels : int
        Number of kernels at the end.
    schedule : iterable of (float, float)
        End of each stage, as a fraction of the iterations, and its number of pixels per kernel.

    Returns
    -------
    list of Stage
        The last one is at full size, until the end.
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


class Sizes:
    """The stages of a fit, with their engines and the measured times of their steps.

    Parameters
    ----------
    shape, kernels, schedule
        As for ``stages``.
    """

    def __init__(self, shape, kernels, schedule):
        self.shape, self.kernels = shape, kernels
        self.stages = stages(shape, kernels, schedule)
        self._engine, self._longest = None, 0  # engine of a downscaled image; its longest axis
        # by size, the latest last: number of measurements, weighted sums of steps and of seconds
        self._seen = {}

    def stage(self, iteration, until):
        """The stage of an iteration."""
        return next((stage for stage in self.stages if iteration < stage.until * until),
                    self.stages[-1])

    def left(self, iteration, until):
        """Iterations that are left in the stage of an iteration."""
        return math.ceil(min(self.stage(iteration, until).until, 1.0) * until) - iteration

    def engine(self, engine, iteration, until):
        """The engine for the step of an iteration, at the size of its stage.

        Parameters
        ----------
        engine : see ``smoe_np.engine``
            Engine of the full-size image.
        iteration, until : int
            Current and last iteration.
        """
        # never back to a smaller size, if a budget of seconds moves the end
        longest = self._longest = max(self._longest, self.stage(iteration, until).longest)
        if longest == max(self.shape):
            self.release()
            return engine
        if self._engine is None or max(self._engine.shape) != longest:
            self.release()
            self._engine = engine.another(smaller(engine.picture(), longest))
        self._engine.threads = engine.threads
        return self._engine

    def forget(self):
        """Make the engine drop its kernel lists: the next model is unrelated to the last."""
        if self._engine is not None:
            self._engine.forget()

    def release(self):
        """Discard the engine of a downscaled image."""
        self.forget()  # so that the engine hands back moments that it holds
        self._engine = None

    def note(self, longest, steps, seconds):
        """Record the time of some steps at a size; earlier measurements count half."""
        if steps == 0:
            return
        times, steps_before, seconds_before = self._seen.pop(longest, (0, 0, 0))
        part = 0.5 if times > 1 else 0.0  # the first one includes building lists and allocation
        self._seen[longest] = (times + 1, steps + part * steps_before,
                               seconds + part * seconds_before)

    @property
    def knows(self):
        """Whether the time of a step is known."""
        return any(times > 1 for times, _, _ in self._seen.values())

    def end(self, iteration, seconds, aside=0.0):
        """Predict the iteration at which a budget of seconds ends; only valid if it ``knows``.

        Parameters
        ----------
        iteration : int
            Current iteration.
        seconds : float
            Seconds left.
        aside : float
            Seconds per iteration that are not spent on steps.

        Returns
        -------
        int
        """
        paces = [self._pace(stage.longest) + aside for stage in self.stages]

        def needed(until):
            total, begin = 0.0, iteration
            for stage, pace in zip(self.stages, paces, strict=True):
                end = max(begin, min(stage.until, 1.0) * until)
                total += (end - begin) * pace
                begin = end
            return total

        most = iteration + int(max(seconds, 0) / min(paces)) + 1
        return iteration - 1 + bisect.bisect_right(range(iteration, most + 1), max(seconds, 0),
                                                   key=needed)

    def _pace(self, longest):
        """Seconds per step at a size, estimated from the latest other size if not measured."""
        known = [size for size, (times, _, _) in self._seen.items() if times > 1]
        size = longest if longest in known else known[-1]
        _, steps, seconds = self._seen[size]
        return seconds / steps * self._work(longest) / self._work(size)

    def _work(self, longest):
        pixels = math.prod(self.shape) * (longest / max(self.shape)) ** len(self.shape)
        return pixels + PER_KERNEL * self.kernels


def smaller(picture, longest):
    """Downscale an image; each new pixel is the mean over its area.

    Along the shorter axes a remainder of less than a pixel is left out.

    Parameters
    ----------
    picture : (*shape, C) array of float
        The image.
    longest : int
        Number of pixels of the longest axis after downscaling.

    Returns
    -------
    (*smaller shape, C) array
        The downscaled image, with the same coordinates, so that it has the same models.
    """
    *shape, _ = picture.shape
    side = max(shape) / longest  # side of a new pixel, in old pixels
    for d, n in enumerate(shape):
        many = max(1, math.floor(n / side * (1 + 1e-12)))
        rows = np.moveaxis(picture, d, 0)
        means = _means(n, many, side, picture.dtype) @ rows.reshape(n, -1)
        picture = np.moveaxis(means.reshape(many, *rows.shape[1:]), 0, d)
    return np.ascontiguousarray(picture)


def _means(n, many, side, dtype):
    """The matrix (many, n) that averages n pixels along an axis, ``side`` at a time."""
    from scipy import sparse

    edges = np.minimum(np.arange(many + 1) * side, n)
    first = np.floor(edges[:-1]).astype(int)
    counts = np.ceil(edges[1:]).astype(int) - first
    rows = np.repeat(np.arange(many), counts)
    begin = np.cumsum(counts) - counts
    columns = np.arange(len(rows)) + np.repeat(first - begin, counts)
    parts = np.minimum(columns + 1, edges[rows + 1]) - np.maximum(columns, edges[rows])
    parts /= np.diff(edges)[rows]
    return sparse.csr_matrix((parts.astype(dtype), (rows, columns)), (many, n))
