"""A large picture at smaller sizes, for the steps of a fit that need no more."""

import bisect
import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

LEAST_FACTOR = 1.4  # by which an axis is shorter at least: less is not worth another engine
LEAST_PIXELS = 10_000  # that a smaller picture has ...
LEAST_SIDE = 32  # ... and along each axis: of a pixel at its end, a part is left out
PER_KERNEL = 150  # pixels whose steps take as long as what a kernel takes besides


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


class Sizes:
    """The sizes of a fit, one after the other: their engines, and how long their steps take.

    Parameters are those of ``stages``.
    """

    def __init__(self, shape, kernels, schedule):
        self.shape, self.kernels = shape, kernels
        self.stages = stages(shape, kernels, schedule)
        self._engine, self._longest = None, 0  # of a smaller picture, while it is of use
        self._seen = {}  # by size, the last one last: times that it was seen, its steps, seconds

    def stage(self, iteration, until):
        """The stage of an iteration."""
        return next((stage for stage in self.stages if iteration < stage.until * until),
                    self.stages[-1])

    def left(self, iteration, until):
        """Iterations that are left of the stage of an iteration."""
        return math.ceil(min(self.stage(iteration, until).until, 1.0) * until) - iteration

    def engine(self, engine, iteration, until):
        """The engine that takes the step of an iteration: of the picture at the size that is due.

        Parameters
        ----------
        engine : see ``smoe_np.engine``
            Of the picture itself.
        """
        # never back, where seconds are given and the end is reckoned anew
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
        """Go on with a model that has nothing to do with those before."""
        if self._engine is not None:
            self._engine.forget()

    def release(self):
        """Do without the engine of a smaller picture, which gives back what it has of others."""
        self.forget()
        self._engine = None

    def note(self, longest, steps, seconds):
        """Learn how long steps take at a size now: what was seen before counts half."""
        if steps == 0:
            return
        times, steps_before, seconds_before = self._seen.pop(longest, (0, 0, 0))
        part = 0.5 if times > 1 else 0.0  # the first time, lists are built and memory is claimed
        self._seen[longest] = (times + 1, steps + part * steps_before,
                               seconds + part * seconds_before)

    @property
    def knows(self):
        """Whether it has been seen how long steps take."""
        return any(times > 1 for times, _, _ in self._seen.values())

    def end(self, iteration, seconds, aside=0.0):
        """The iteration at which some seconds, from an iteration on, will have gone by.

        Only where it ``knows``.

        Parameters
        ----------
        iteration : int
        seconds : float
        aside : float
            Seconds by iteration that are not of steps.

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
        """Seconds of a step at a size, from the last size that was seen if not from itself."""
        known = [size for size, (times, _, _) in self._seen.items() if times > 1]
        size = longest if longest in known else known[-1]
        _, steps, seconds = self._seen[size]
        return seconds / steps * self._work(longest) / self._work(size)

    def _work(self, longest):
        pixels = math.prod(self.shape) * (longest / max(self.shape)) ** len(self.shape)
        return pixels + PER_KERNEL * self.kernels


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
