"""How few kernels reach a PSNR: what to fit next, and which fit is the one that was looked for."""

import math
from typing import NamedTuple

FIRST_TRY = 256  # pixels for a kernel, where nothing is known yet
DECIBELS = 4.0  # that twice as many kernels usually bring ...
LEAST_DECIBELS = 0.5  # ... and that they are taken to bring at least
SHORT, SHORT_LACKS = 10, 1.9  # a short fit has 1/10 of the iterations, and usually so many dB less
WITHIN = 0.1  # dB above what is wanted is near enough
STEP = 1.005  # times as many kernels is near enough, too
TRIES = 10


class Try(NamedTuple):
    """A fit on the way to a PSNR."""

    kernels: int
    iterations: int
    psnr: float = -math.inf  # that it reached


def next_try(tried, wanted, most, iterations, first=None):
    """What to fit next so as to have as few kernels as reach a PSNR, or None where that is done.

    Two short fits tell where to look; then PSNR is taken to be linear in log K, through the two
    fits that are nearest. As long as all fall short, or none does, strides grow.

    Parameters
    ----------
    tried : list of Try
    wanted : float
        dB.
    most : int
        Kernels, beyond which nothing is tried.
    iterations : int
        Of a fit that counts.
    first : int, optional
        Kernels to begin with, where that is known well enough to do without short fits.
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
    if high and low and high.kernels <= max(low.kernels * STEP, low.kernels + 1):
        return None
    if len(full) == TRIES or (not high and low.kernels == most):
        return None
    nearest = [low, high] if low and high else missed[-2:] if low else full[:2]
    guess = _where(nearest if len(nearest) > 1 else [*short, *nearest], wanted + WITHIN / 2)
    if low:
        stride = 2 * (low.kernels - missed[-2].kernels) if not high and len(missed) > 1 else 1
        guess = max(guess, math.ceil(low.kernels * STEP), low.kernels + stride)
    if high:
        stride = 2 * (full[1].kernels - high.kernels) if not low and len(full) > 1 else 1
        least = low.kernels + 1 if low else 1
        guess = min(guess, max(int(high.kernels / STEP), least), max(high.kernels - stride, least))
    return Try(max(1, min(guess, most)), iterations)


def best_fit(fits, wanted):
    """Of fits, (params, history), the smallest that reaches a PSNR, else the one that is nearest.
    """
    def rank(fit):
        last = fit[1][-1]
        return last.psnr >= wanted, -last.kernels if last.psnr >= wanted else last.psnr

    return max(fits, key=rank)


def _where(tried, wanted):
    """The number of kernels at which a PSNR is expected, from the one nearest to it."""
    *_, a, b = [tried[0], *tried]
    slope = DECIBELS
    if a.kernels != b.kernels and a.iterations == b.iterations:
        slope = max(LEAST_DECIBELS, (b.psnr - a.psnr) / math.log2(b.kernels / a.kernels))
    nearest = min(tried, key=lambda one: abs(one.psnr - wanted))
    octaves = (min(wanted, nearest.psnr + 100) - nearest.psnr) / slope
    return round(nearest.kernels * 2 ** min(max(octaves, -4), 4))
