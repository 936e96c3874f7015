"""The search for the smallest number of kernels that reaches a PSNR."""

import math
from typing import NamedTuple

FIRST_TRY = 256  # pixels per kernel of the first try
DECIBELS = 4.0  # usual gain in dB from twice as many kernels ...
LEAST_DECIBELS = 0.5  # ... and the smallest one that is assumed
SHORT, SHORT_LACKS = 10, 1.9  # a short fit has 1/10 of the iterations, and usually 1.9 dB less
WITHIN = 0.1  # tolerance in dB above the target
NEAREST_RATIO = 1.005  # tolerance as a ratio of numbers of kernels
TRIES = 10  # limit on full-length fits


class Try(NamedTuple):
    """A fit or sparsification on the way to a PSNR.

    Attributes
    ----------
    kernels : int
        Number of kernels.
    iterations : int
        Number of iterations.
    psnr : float
        PSNR reached, in dB.
    """

    kernels: int
    iterations: int
    psnr: float = -math.inf


def next_try(tried, wanted, most, iterations, first=None):
    """The next try in the search for the smallest number of kernels that reaches a PSNR.

    Two short fits give a first estimate. After that, the PSNR is assumed to be linear in log K,
    through the two nearest tries. While all tries miss the target, or all reach it, the step in the
    number of kernels grows.

    Parameters
    ----------
    tried : list of Try
        Tries so far.
    wanted : float
        Target PSNR in dB.
    most : int
        Largest number of kernels to try.
    iterations : int
        Number of iterations of a full-length try.
    first : int, optional
        Number of kernels of the first try; if given, there are no short fits.

    Returns
    -------
    Try or None
        The next try; None if the search has ended.
    """
    full = sorted(one for one in tried if one.iterations == iterations)
    short = [one for one in tried if one.iterations != iterations]
    if not tried and first is not None:
        return Try(max(1, min(first, most)), iterations)
    if not full and len(short) < 2:
        guess = _where(short, wanted - SHORT_LACKS) if short else most // FIRST_TRY
        return Try(max(1, min(guess, most)), max(1, iterations // SHORT))
    if not full:
        return Try(max(1, min(_where(short, wanted - SHORT_LACKS), most)), iterations)
    high = next((one for one in full if one.psnr >= wanted), None)
    missed = [one for one in full if one.psnr < wanted and (not high or one.kernels < high.kernels)]
    low = missed[-1] if missed else None
    if high and (high.psnr <= wanted + WITHIN or high.kernels == 1):
        return None
    if high and low and high.kernels <= max(low.kernels * NEAREST_RATIO, low.kernels + 1):
        return None
    if len(full) == TRIES or (not high and low.kernels == most):
        return None
    nearest = [low, high] if low and high else missed[-2:] if low else full[:2]
    guess = _where(nearest if len(nearest) > 1 else [*short, *nearest], wanted + WITHIN / 2)
    if low:
        stride = 2 * (low.kernels - missed[-2].kernels) if not high and len(missed) > 1 else 1
        guess = max(guess, math.ceil(low.kernels * NEAREST_RATIO), low.kernels + stride)
    if high:
        ratio, least = NEAREST_RATIO, low.kernels + 1 if low else 1
        if not low and len(full) > 1:  # a stride that grows would soon lead to a single kernel
            ratio = max(ratio, (full[1].kernels / high.kernels) ** 2)
        guess = min(guess, max(min(int(high.kernels / ratio), high.kernels - 1), least))
    return Try(max(1, min(guess, most)), iterations)


def best_fit(fits, wanted):
    """The smallest of the fits that reach a PSNR, else the one with the highest PSNR.

    Parameters
    ----------
    fits : list of (params, history, rounds)
        Fits to choose from.
    wanted : float
        Target PSNR in dB.
    """
    def rank(fit):
        last = fit[1][-1]
        return last.psnr >= wanted, -last.kernels if last.psnr >= wanted else last.psnr

    return max(fits, key=rank)


def _where(tried, wanted):
    """The number of kernels at which a PSNR is expected, extrapolated from the nearest try."""
    *_, a, b = [tried[0], *tried]
    slope = DECIBELS
    if a.kernels != b.kernels and a.iterations == b.iterations:
        slope = max(LEAST_DECIBELS, (b.psnr - a.psnr) / math.log2(b.kernels / a.kernels))
    nearest = min(tried, key=lambda one: abs(one.psnr - wanted))
    octaves = (min(wanted, nearest.psnr + 100) - nearest.psnr) / slope
    return round(nearest.kernels * 2 ** min(max(octaves, -4), 4))
