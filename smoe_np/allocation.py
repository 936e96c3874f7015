"""Which numbers of a model need how many bits, when it is to be written in few bytes."""

import bisect
import math

import numpy as np

from .backend import to_numpy
from .engine import check_number, check_params, render
from .packed import FEWEST_BITS, MOST_BITS, arrays_of, kinds_of, packed_bytes
from .params import SmoeParams

STEP = 0.25  # bits by which kinds of numbers differ
FEW_KERNELS = 100  # of which numbers may not be coded, so that fractions of bits are not spared
PROBE_BITS = 12  # at which the error of a kind falls by 4 with each bit, and can still be seen


def allocate_bits(params, average, shape=None, backend="auto", outliers=0.0, remaining=None):
    """Bits for each kind of numbers of a model, so many in the mean, for the least error.

    Rounding to b bits adds an error to the picture whose mean square is V 4⁻ᵇ. V is measured for
    each kind by drawing the model with errors in that kind; then a quarter of a bit after the other
    (of few kernels, a bit) goes where it takes away most of the error for the numbers that get it.

    Parameters
    ----------
    params : SmoeParams
    average : float
        Bits of a number, in the mean over all numbers of the model, 4 to 24; no more are used.
    shape : tuple of D ints, optional
        Of the picture in which errors count, by default that of ``params.image_shape``.
    backend : str
        As for ``render``.
    outliers : float
        Part of the pixels, those of the largest errors, that do not count. A few kernels that are
        hard to round would get bits for all, where others can make up for them.
    remaining : dict of str to float, optional
        Part of the error of a kind that remains where others make up for it; all by default.

    Returns
    -------
    dict of str to float
        What ``SmoeParams.save`` takes as ``bits``; of many kernels multiples of a quarter.

    Raises
    ------
    ValueError, TypeError
        If an argument is of the wrong kind or range, the size of the picture is not known, or the
        model cannot be packed.
    """
    average = check_bits(average, "average")
    errors, counts = _errors_of(params, shape, backend, outliers, remaining)
    bits, step = dict.fromkeys(counts, FEWEST_BITS), _step(params)
    left = (average - FEWEST_BITS) * sum(counts.values())
    while (kind := _most_useful(bits, errors, counts, step, left)) is not None:
        bits[kind] += step
        left -= step * counts[kind]
    return bits


def check_bits(bits, name="bits"):
    """Bits of a number in the mean, as a float; else an error that says what they may be."""
    bits = check_number(name, bits)
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{name} must be {FEWEST_BITS} to {MOST_BITS}, got {bits:g}")
    return bits


class BitsByBytes:
    """Bits for each kind of numbers of a model, as many as a packed file of some size has room for.

    Parameters
    ----------
    params, shape, backend, outliers, remaining
        As for ``allocate_bits``.

    Raises
    ------
    ValueError, TypeError
        As for ``allocate_bits``.
    """

    def __init__(self, params, shape=None, backend="auto", outliers=0.0, remaining=None):
        self.errors, self.counts = _errors_of(params, shape, backend, outliers, remaining)
        self.arrays, self.step = params.map(to_numpy).arrays(), _step(params)
        # from the fewest bits to the most
        self.choices = [dict.fromkeys(self.counts, FEWEST_BITS)]
        self.least = packed_bytes(self.arrays, self.choices[0])
        while (kind := self._next(self.choices[-1], self.counts)) is not None:
            self.choices.append({**self.choices[-1], kind: self.choices[-1][kind] + self.step})

    def _next(self, bits, counts):
        return _most_useful(bits, self.errors, counts, self.step)

    def within(self, most):
        """The most bits by kind with which a file takes so many bytes at most.

        Raises
        ------
        ValueError
            If there are none.
        """
        fitting = bisect.bisect_right(
            self.choices, most, key=lambda bits: packed_bytes(self.arrays, bits))
        if not fitting:
            raise ValueError(f"bytes must be at least {self.least} for these "
                             f"{len(self.arrays['pis'])} kernels, with {FEWEST_BITS} bits a "
                             f"number, got {most}; smoe fit --bytes N takes fewer kernels")
        bits, counts = self.choices[fitting - 1], dict(self.counts)
        # where the next step has no room, that of another kind, of fewer numbers, may have
        while (kind := self._next(bits, counts)) is not None:
            more = {**bits, kind: bits[kind] + self.step}
            if packed_bytes(self.arrays, more) <= most:
                bits = more
            else:
                del counts[kind]
        return bits


def _errors_of(params, shape, backend, outliers, remaining):
    """What remains of V of each kind of numbers, and how many of them a kernel has: two dicts."""
    params = check_params(params)
    outliers = check_number("outliers", outliers)
    if outliers >= 1:
        raise ValueError(f"outliers must be below 1, got {outliers:g}")
    shape = params.image_shape if shape is None else shape
    if shape is None:
        raise ValueError("params does not hold the size of its picture; give shape")
    found = kinds_of(params.map(to_numpy).arrays())
    counts = {kind: numbers.shape[1] for kind, numbers in found.items()}
    if params.num_kernels == 0:
        return dict.fromkeys(found, 0.0), counts
    D, C, generator = params.num_dims, params.num_channels, np.random.default_rng(0)

    def drawn(numbers):
        return render(SmoeParams(**arrays_of(numbers, D, C)), shape, backend)

    exact, errors = drawn(found), {}
    for kind, numbers in found.items():
        # errors as of rounding; rounding itself may change nothing, if these were rounded before
        step = np.ptp(numbers) / ((1 << PROBE_BITS) - 1)
        wrong = numbers + step * generator.uniform(-0.5, 0.5, numbers.shape)
        square = np.sort(np.square(drawn({**found, kind: wrong}).astype(float) - exact), axis=None)
        counted = square[: math.ceil((1 - outliers) * square.size)]
        errors[kind] = float(counted.sum()) * 4.0**PROBE_BITS * (remaining or {}).get(kind, 1.0)
    return errors, counts


def _step(params):
    return STEP if params.num_kernels >= FEW_KERNELS else 1


def _most_useful(bits, errors, counts, step, left=math.inf):
    """The kind that some more bits do most for, of those that may have one; None: there is none."""
    gains = {kind: errors[kind] * 4.0**-bits[kind] / count for kind, count in counts.items()
             if step * count <= left and bits[kind] < MOST_BITS}
    return max(gains, key=gains.get) if gains else None
