"""Quantization of a model to few bits per number, with training that compensates for rounding.

If a model is rounded all at once, the errors add up, and a few needle-shaped kernels, which own
pixels far from their centres, then miss them. Here the kinds of numbers (``packed``) are rounded
one after another, beginning with those that cost most. After each, the kinds that are not rounded
yet are trained for a while, in each kernel's own frame, to compensate. Kernels that increase the
error, mostly needles, are removed.
"""

import math

import numpy as np

from .adam import Adam
from .allocation import BitsByBytes, allocate_bits, check_bits
from .backend import to_numpy
from .packed import arrays_of, bits_of, kinds_of, packed_bytes, rounded
from .params import SmoeParams
from .recipe import Recipe, contrast_of, frame_steps, looser_lists

TUNING_ITERATIONS = 100  # after each kind
RATE = 0.3  # learning rates, relative to those of a fit
FREE_LOSS = 0.01  # dB that rounding may cost without compensation
OUTLIERS = 0.01  # fraction of the pixels that is ignored in the allocation: see allocate_bits
TRIES = 4  # to keep a size limit: trained numbers may take more bytes than predicted
LEAST_GAIN = 0.2  # decrease of the error from which removing harmful kernels is worth a try
SPARE_BYTES = 8  # bytes that each further try leaves free in addition
MOST_REMOVED = 0.005  # fraction of the kernels that may be removed if a file is slightly too large
# Kinds in the order in which they are rounded; the part of the error that remains, about, after
# compensation; the parameters that are trained for that.
STAGES = (
    ("extents", 0.1, ("pis", "musX", "nu_e", "gamma_e")),
    ("shears", 0.12, ("pis", "musX", "nu_e", "gamma_e")),
    ("centres", 0.2, ("pis", "nu_e", "gamma_e")),
    ("weights", 0.3, ("nu_e", "gamma_e")),
    ("values", 0.4, ("gamma_e",)),
    ("slopes", 1.0, ()),
)
OF_CENTRES_ALONE = 0.6  # the part that remains for centres if there are no slopes
OF_GATES = ("extents", "shears", "centres")  # kinds whose rounding may make kernels harmful


def quantized(engine, params, bits=None, most_bytes=None, iterations=TUNING_ITERATIONS, fixed=()):
    """Quantize a model to values that a packed file of few bits can represent.

    Parameters
    ----------
    engine : see ``smoe_np.engine``
        Engine for the image that the model is fitted to.
    params : SmoeParams
        Model to quantize.
    bits : float or dict, optional
        Mean bits per number, 4 to 24, or the bits of each kind as ``allocate_bits`` returns them.
    most_bytes : int, optional
        Size limit of the packed file, in bytes, instead of ``bits``.
    iterations : int
        Number of steps after each kind; 0 rounds everything at once.
    fixed : sequence of str
        Names of parameters that are not trained.

    Returns
    -------
    SmoeParams
        The quantized model, possibly with fewer kernels. Saving it as a packed file with the
        returned bits changes it no further.
    dict of str to float
        The bits of each kind.

    Raises
    ------
    ValueError, TypeError
        If bits or bytes are out of range, or the model cannot be packed.
    """
    params = params.map(to_numpy)
    if iterations and params.num_kernels:  # first, so that no bits are spent on these kernels
        params = _without(engine, params, _harmful(engine, params, []))
    found = _kinds(params)
    if most_bytes is not None:
        return _within(engine, params, most_bytes, iterations, fixed)
    if isinstance(bits, dict):
        bits = bits_of(found, bits)
    else:
        bits = allocate_bits(params, check_bits(bits), *_how_to_allocate(engine, found))
    return _compensated(engine, params, bits, iterations, fixed), bits


def _how_to_allocate(engine, kinds):
    """The arguments of ``allocation`` besides the model: shape, backend, outliers, remaining."""
    remaining = {kind: part for kind, part, _ in STAGES if kind in kinds}
    if "slopes" not in kinds:
        remaining["centres"] = OF_CENTRES_ALONE
    remaining[list(remaining)[-1]] = 1.0  # nothing is left to compensate for the last kind
    return engine.shape, engine.name, OUTLIERS, remaining


def _within(engine, params, most_bytes, iterations, fixed):
    """The result of ``quantized`` for a file of at most ``most_bytes`` bytes."""
    allocation = BitsByBytes(params, *_how_to_allocate(engine, _kinds(params)))
    result, bits = _fitting(engine, params, allocation, most_bytes, iterations, fixed)
    if result.num_kernels < params.num_kernels:  # there may be room for more bits
        allocation = BitsByBytes(result, *_how_to_allocate(engine, _kinds(result)))
        if allocation.within(most_bytes) != bits:
            other = _fitting(engine, result, allocation, most_bytes, iterations, fixed)
            return min((result, bits), other, key=lambda found: engine.loss(found[0]))
    return result, bits


def _fitting(engine, params, allocation, most_bytes, iterations, fixed):
    """A model with as many bits as fit into the file, and these bits."""
    allowed, bits = most_bytes, allocation.within(most_bytes)
    first = bits
    for _ in range(TRIES):
        result = _compensated(engine, params, bits, iterations, fixed)
        found = packed_bytes(result.arrays(), bits)
        if found <= most_bytes:
            return result, bits
        lighter = _lightened(engine, result, bits, most_bytes, found)
        if lighter is not None:
            return lighter, bits
        unforeseen = found - packed_bytes(params.arrays(), bits)
        allowed = min(allowed, most_bytes - unforeseen) - SPARE_BYTES
        if allowed < allocation.least:
            break
        bits = allocation.within(allowed)
    return _compensated(engine, params, first, 0, fixed), first  # whose size was predicted exactly


def _lightened(engine, params, bits, most_bytes, found):
    """A rounded model of ``found`` bytes, with the fewest kernels removed that make it fit; None if
    more than MOST_REMOVED would have to go.
    """
    few = math.ceil(MOST_REMOVED * params.num_kernels)
    least = math.ceil((found - most_bytes) * params.num_kernels / found)
    if least > few:
        return None
    cost = engine.weigh(params)[:, 2]
    cost[_at_ends(params, _kinds(params))] = math.inf
    worth_least = cost.argsort()
    most = min(few, int(np.isfinite(cost).sum()))
    for leaving in range(least, most + 1):
        lighter = params.select(np.sort(worth_least[leaving:]))
        if packed_bytes(lighter.arrays(), bits) <= most_bytes:
            return lighter
    return None


def _compensated(engine, params, bits, iterations, fixed):
    """The model rounded kind by kind with training in between, or at once if that is better."""
    found = _kinds(params)
    at_once = _of_kinds(params, rounded(found, bits))
    if iterations == 0 or params.num_kernels == 0:
        return at_once
    loss = engine.loss(at_once)
    if loss <= engine.loss(params) * 10 ** (FREE_LOSS / 10):
        return at_once
    done, contrast = [], contrast_of(engine.picture())
    for kind, _, trained in STAGES:
        found = _kinds(params)
        if kind not in found:
            continue
        names = [name for name in trained if name not in fixed and (
            name != "gamma_e" or "slopes" in found)]
        params = _stage(engine, params, kind, bits, names, iterations, contrast, done)
        done.append(kind)
    return params if engine.loss(params) < loss else at_once


def _stage(engine, params, kind, bits, names, iterations, contrast, done):
    """The model with one more kind rounded, and the parameters ``names`` trained afterwards."""
    whole = _with_rounded(params, kind, bits)
    if not names:
        return whole
    if kind not in OF_GATES:
        return _trained(engine, whole, names, iterations, contrast)
    loss = engine.loss(whole)
    harmful = _harmful(engine, whole, done)
    best = _trained(engine, whole, names, iterations, contrast)
    if harmful.any():
        fewer = _with_rounded(params.select(~harmful), kind, bits)
        if engine.loss(fewer) < (1 - LEAST_GAIN) * loss:
            other = _trained(engine, fewer, names, iterations, contrast)
            best = min(best, other, key=engine.loss)
    harmful = _harmful(engine, best, [*done, kind])
    return min(best, best.select(~harmful), key=engine.loss) if harmful.any() else best


def _without(engine, params, harmful):
    """The model without some kernels if that decreases the error by LEAST_GAIN, else unchanged."""
    if not harmful.any():
        return params
    fewer = params.select(~harmful)
    return fewer if engine.loss(fewer) < (1 - LEAST_GAIN) * engine.loss(params) else params


def _with_rounded(params, kind, bits):
    found = _kinds(params)
    return _of_kinds(params, {**found, kind: rounded({kind: found[kind]}, bits)[kind]})


def _harmful(engine, params, done):
    """Mask (K,) of kernels whose removal, of each alone, would decrease the error; never all."""
    cost = engine.weigh(params)[:, 2]
    harmful = (cost < 0) & (cost < cost.max())
    harmful[_at_ends(params, done)] = False
    return harmful


def _at_ends(params, done):
    """Indices of the kernels with the extreme values of the kinds that are rounded already.

    They define the quantization levels: without them these kinds would have to be rounded again.
    """
    return [kernel for kind, numbers in _kinds(params).items() if kind in done
            for kernel in (numbers.min(1).argmin(), numbers.max(1).argmax())]


def _kinds(params):
    return kinds_of(params.arrays())


def _of_kinds(params, found):
    """A model from numbers by kind, with the dtype and image shape of ``params``."""
    arrays = arrays_of(found, params.num_dims, params.num_channels)
    return SmoeParams(**{name: array.astype(params.dtype) for name, array in arrays.items()},
                      image_shape=params.image_shape)


def _trained(engine, params, names, iterations, contrast):
    """The model after training the parameters ``names``, at falling learning rates."""
    recipe = Recipe()
    steps = frame_steps(recipe, engine.shape, params.num_kernels, True, 0, iterations,
                        contrast=contrast)
    rates = {name: RATE * rate for name, rate in steps.rates.items() if name in names}
    adam, lowest_loss, left = Adam(params, recipe.beta2), math.inf, iterations
    with looser_lists(engine, recipe):
        while left > 0:
            done = engine.advance(params, adam, steps._replace(rates=rates), lowest_loss, left)
            if done.failure is not None:
                return params
            params, lowest_loss, left = done.params, done.lowest_loss, left - done.steps
    return params
