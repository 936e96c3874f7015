"""Which numbers of a model need how many bits, when it is to be written in few bytes."""

import math

import numpy as np

from .backend import to_numpy
from .engine import check_number, check_params, render
from .packed import FEWEST_BITS, MOST_BITS, arrays_of, bits_of, kinds_of, packable, rounded
from .params import SmoeParams

PROBE_BITS = 12  # at which the error of a kind falls by 4 with each bit, and can still be seen


def allocate_bits(params, average, shape=None, backend="auto", outliers=0.0):
    """Bits for each kind of numbers of a model, so many in the mean, for the least error.

    Rounding to b bits adds an error to the picture whose mean square is V 4⁻ᵇ. V is measured for
    each kind by drawing the model with that kind rounded; then bit after bit goes where it takes
    away most of the error for the numbers that get it.

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

    Returns
    -------
    dict of str to int
        What ``SmoeParams.save`` takes as ``bits``.

    Raises
    ------
    ValueError, TypeError
        If an argument is of the wrong kind or range, the size of the picture is not known, or the
        model cannot be packed.
    """
    check_params(params)
    average = check_number("average", average)
    if not FEWEST_BITS <= average <= MOST_BITS:
        raise ValueError(f"average must be {FEWEST_BITS} to {MOST_BITS} bits, got {average:g}")
    outliers = check_number("outliers", outliers)
    if outliers >= 1:
        raise ValueError(f"outliers must be below 1, got {outliers:g}")
    shape = params.image_shape if shape is None else shape
    if shape is None:
        raise ValueError("params does not hold the size of its picture; give shape")
    found = kinds_of(packable(params.map(to_numpy).arrays()))
    if params.num_kernels == 0:
        return bits_of(found, FEWEST_BITS)
    D, C = params.num_dims, params.num_channels
    finest = bits_of(found, MOST_BITS)

    def drawn(bits):
        return render(SmoeParams(**arrays_of(rounded(found, bits), D, C)), shape, backend)

    exact, errors = drawn(finest), {}
    for kind in found:
        coarse = drawn({**finest, kind: PROBE_BITS})
        square = np.sort(np.square(coarse.astype(float) - exact), axis=None)
        counted = square[: math.ceil((1 - outliers) * square.size)]
        errors[kind] = float(counted.sum()) * 4.0**PROBE_BITS
    return _shared_out(errors, {kind: numbers.shape[1] for kind, numbers in found.items()}, average)


def _shared_out(errors, counts, average):
    """Bits by kind, where a kind of ``counts`` numbers a kernel has the error V 4⁻ᵇ."""
    bits = dict.fromkeys(counts, FEWEST_BITS)
    left = average * sum(counts.values()) - FEWEST_BITS * sum(counts.values())
    while True:
        gains = {kind: errors[kind] * 4.0**-bits[kind] / count for kind, count in counts.items()
                 if count <= left and bits[kind] < MOST_BITS}
        if not gains:
            return bits
        best = max(gains, key=gains.get)
        bits[best] += 1
        left -= counts[best]
