"""Bit allocation: the bit depth of each kind of numbers of a model that is saved in few bytes."""

import bisect
import math

import numpy as np

from .arguments import check_number, check_params
from .backend import to_numpy
from .engine import render
from .packed import FEWEST_BITS, MOST_BITS, arrays_of, kinds_of, packed_bytes
from .params import SmoeParams

BIT_STEP = 0.25  # step in bits in which the bit depth of a kind is raised
# with fewer kernels whole bits are allocated: their numbers may be stored uncoded, where a fraction
# of a bit saves nothing
FEW_KERNELS = 100
# bit depth at which errors are measured: fine enough for an error V 4⁻ᵇ, coarse enough to be seen
PROBE_BITS = 12


def allocate_bits(params, average, shape=None, backend="auto", outliers=0.0, remaining=None):
    """The bit depths of the kinds of numbers of a model, of a given mean, with the least error.

    Rounding to b bits adds an error to the picture whose mean square is V 4⁻ᵇ. V is measured for
    each kind by rendering the model with random errors in that kind. Then steps of a quarter of a
    bit (with few kernels, one bit) go one by one to the kind in which a step reduces the error most
    per number that gets it.

    Parameters
    ----------
    params : SmoeParams
    average : float
        Mean bits per number, over all numbers of the model, 4 to 24; an upper limit.
    shape : tuple of D ints, optional
        Size of the picture in which errors are measured, by default that of ``params.image_shape``.
    backend : str
        As for ``render``.
    outliers : float
        Fraction of the pixels, those of the largest errors, that is ignored. Otherwise a few
        kernels that are hard to round would raise the bit depth for all, although others can
        compensate.
    remaining : dict of str to float, optional
        Fraction of the error of each kind that remains after other parameters compensate; default
        1.

    Returns
    -------
    dict of str to float
        Bits by kind, as ``SmoeParams.save`` takes them; multiples of a quarter, or with fewer than
        100 kernels of 1.

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
    """A mean number of bits, checked, as a float; an error says what is allowed."""
    bits = check_number(name, bits)
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{name} must be {FEWEST_BITS} to {MOST_BITS}, got {bits:g}")
    return bits


class BitsByBytes:
    """The bit depths of a model's kinds of numbers that fit into a packed file of a given size.

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
        """The largest bit depths by kind with which the file takes at most ``most`` bytes.

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
        # where the next step does not fit, that of another kind, with fewer numbers, may
        while (kind := self._next(bits, counts)) is not None:
            more = {**bits, kind: bits[kind] + self.step}
            if packed_bytes(self.arrays, more) <= most:
                bits = more
            else:
                del counts[kind]
        return bits


def _errors_of(params, shape, backend, outliers, remaining):
    """The remaining V of each kind, and how many numbers of it a kernel has: two dicts."""
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
        # random errors of the size of rounding errors; rounding itself would change nothing if the
        # numbers were rounded before
        step = np.ptp(numbers) / ((1 << PROBE_BITS) - 1)
        wrong = numbers + step * generator.uniform(-0.5, 0.5, numbers.shape)
        square = np.square(drawn({**found, kind: wrong}).astype(float) - exact).ravel()
        count = math.ceil((1 - outliers) * square.size)
        square.partition(count - 1)  # the largest behind
        errors[kind] = (float(square[:count].sum()) * 4.0**PROBE_BITS
                        * (remaining or {}).get(kind, 1.0))
    return errors, counts


def _step(params):
    return BIT_STEP if params.num_kernels >= FEW_KERNELS else 1


def _most_useful(bits, errors, counts, step, left=math.inf):
    """The kind for which one more step reduces the error most per number; None: there is none."""
    gains = {kind: errors[kind] * 4.0**-bits[kind] / count for kind, count in counts.items()
             if step * count <= left and bits[kind] < MOST_BITS}
    return max(gains, key=gains.get) if gains else None
