"""A model of few bits that makes up for its own rounding.

Of a model that is rounded all at once, errors add up; and a few needles of kernels, whose part of
the picture is far from their centres, then miss it. Here the kinds of numbers (``packed``) are
rounded one after the other, those first for which it costs most; after each, the kinds that are not
rounded yet are trained for a while, in each kernel's own frame, so that they make up for it.
Kernels without which the error is lower then leave: needles, mostly.
"""

import math

import numpy as np

from .adam import Adam
from .allocation import BitsByBytes, allocate_bits, check_bits
from .backend import to_numpy
from .fit import Recipe, frame_steps
from .packed import arrays_of, bits_of, kinds_of, packed_bytes, rounded
from .params import SmoeParams

ITERATIONS = 100  # after each kind
RATE = 0.3  # by that of a fit
ENOUGH = 0.01  # dB that rounding may cost before anything is done about it
OUTLIERS = 0.01  # of the pixels, which do not count where bits are shared out: see allocate_bits
TRIES = 4  # to be within bytes: what is trained in between may be coded in more than was foreseen
HARM = 0.2  # of the error, which is worth a second try without the kernels that do it
SPARE = 8  # bytes that are left free besides, in each further try
LIGHT = 0.005  # of the kernels, those worth least, may leave instead, where few bytes are too many
# Kinds in the order in which they are rounded, about what part of the error remains when what is
# not rounded yet has made up for it, and what is trained to do so.
STAGES = (
    ("extents", 0.1, ("pis", "musX", "nu_e", "gamma_e")),
    ("shears", 0.12, ("pis", "musX", "nu_e", "gamma_e")),
    ("centres", 0.2, ("pis", "nu_e", "gamma_e")),
    ("weights", 0.3, ("nu_e", "gamma_e")),
    ("values", 0.4, ("gamma_e",)),
    ("slopes", 1.0, ()),
)
OF_CENTRES_ALONE = 0.6  # what remains of centres where there are no slopes
OF_GATES = ("extents", "shears", "centres")  # kinds whose rounding may turn kernels to harm


def quantized(engine, params, bits=None, most_bytes=None, iterations=ITERATIONS, fixed=()):
    """A model near another one, all of whose numbers are those that few bits can tell.

    Parameters
    ----------
    engine : see ``smoe_np.engine``
        Of the picture to regress.
    params : SmoeParams
    bits : float or dict, optional
        Of a number, in the mean, 4 to 24; or of each kind, as ``allocate_bits`` gives them.
    most_bytes : int, optional
        Instead: that a packed file of these numbers may take.
    iterations : int
        Steps after each kind; 0: all is rounded at once.
    fixed : sequence of str
        Names of parameters that are not to be trained.

    Returns
    -------
    SmoeParams
        Saving it with these bits, as a packed file, changes it no more. It may have fewer kernels.
    dict
        The bits of each kind.

    Raises
    ------
    ValueError, TypeError
        If bits or bytes are out of range, or the model cannot be packed.
    """
    params = params.map(to_numpy)
    if iterations and params.num_kernels:  # first of all: what leaves needs no bits
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
    """What ``allocation`` is given besides the model: the picture, what counts, what remains."""
    remaining = {kind: part for kind, part, _ in STAGES if kind in kinds}
    if "slopes" not in kinds:
        remaining["centres"] = OF_CENTRES_ALONE
    remaining[list(remaining)[-1]] = 1.0  # there is nothing left that could make up for it
    return engine.shape, engine.name, OUTLIERS, remaining


def _within(engine, params, most_bytes, iterations, fixed):
    """What ``quantized`` gives, in a file of so many bytes at most."""
    allocation = BitsByBytes(params, *_how_to_allocate(engine, _kinds(params)))
    result, bits = _fitting(engine, params, allocation, most_bytes, iterations, fixed)
    if result.num_kernels < params.num_kernels:  # there may be room for more bits
        allocation = BitsByBytes(result, *_how_to_allocate(engine, _kinds(result)))
        if allocation.within(most_bytes) != bits:
            other = _fitting(engine, result, allocation, most_bytes, iterations, fixed)
            return min((result, bits), other, key=lambda found: engine.loss(found[0]))
    return result, bits


def _fitting(engine, params, allocation, most_bytes, iterations, fixed):
    """A model of as many bits as there is room for, and they."""
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
        allowed = min(allowed, most_bytes - unforeseen) - SPARE
        if allowed < allocation.least:
            break
        bits = allocation.within(allowed)
    return _compensated(engine, params, first, 0, fixed), first  # of which the size was known


def _lightened(engine, params, bits, most_bytes, found):
    """A rounded model, of ``found`` bytes, without the few kernels that are too many, or None."""
    few = math.ceil(LIGHT * params.num_kernels)
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
    """The model rounded kind after kind, and trained in between; or at once, if that is better."""
    found = _kinds(params)
    at_once = _of_kinds(params, rounded(found, bits))
    if iterations == 0 or params.num_kernels == 0:
        return at_once
    loss = engine.loss(at_once)
    if loss <= engine.loss(params) * 10 ** (ENOUGH / 10):
        return at_once
    done = []
    for kind, _, trained in STAGES:
        found = _kinds(params)
        if kind not in found:
            continue
        names = [name for name in trained if name not in fixed and (
            name != "gamma_e" or "slopes" in found)]
        params = _stage(engine, params, kind, bits, names, iterations, done)
        done.append(kind)
    return params if engine.loss(params) < loss else at_once


def _stage(engine, params, kind, bits, names, iterations, done):
    """The model with one more kind rounded, and what is not rounded yet trained after it."""
    whole = _with_rounded(params, kind, bits)
    if not names:
        return whole
    if kind not in OF_GATES:
        return _trained(engine, whole, names, iterations)
    loss = engine.loss(whole)
    harmful = _harmful(engine, whole, done)
    best = _trained(engine, whole, names, iterations)
    if harmful.any():
        fewer = _with_rounded(params.select(~harmful), kind, bits)
        if engine.loss(fewer) < (1 - HARM) * loss:
            best = min(best, _trained(engine, fewer, names, iterations), key=engine.loss)
    harmful = _harmful(engine, best, [*done, kind])
    return min(best, best.select(~harmful), key=engine.loss) if harmful.any() else best


def _without(engine, params, harmful):
    """The model without some kernels, if that is better by far; else as it is."""
    if not harmful.any():
        return params
    fewer = params.select(~harmful)
    return fewer if engine.loss(fewer) < (1 - HARM) * engine.loss(params) else params


def _with_rounded(params, kind, bits):
    found = _kinds(params)
    return _of_kinds(params, {**found, kind: rounded({kind: found[kind]}, bits)[kind]})


def _harmful(engine, params, done):
    """Kernels, not all, without which the error would be lower, each by itself: (K,) bool."""
    cost = engine.weigh(params)[:, 2]
    harmful = (cost < 0) & (cost < cost.max())
    harmful[_at_ends(params, done)] = False
    return harmful


def _at_ends(params, done):
    """Indices of kernels at the ends of the ranges of kinds that are rounded already.

    Without them, all numbers of these kinds would have to be rounded again.
    """
    return [kernel for kind, numbers in _kinds(params).items() if kind in done
            for kernel in (numbers.min(1).argmin(), numbers.max(1).argmax())]


def _kinds(params):
    return kinds_of(params.arrays())


def _of_kinds(params, found):
    """The model of numbers by kind, in the precision and of the picture of another."""
    arrays = arrays_of(found, params.num_dims, params.num_channels)
    return SmoeParams(**{name: array.astype(params.dtype) for name, array in arrays.items()},
                      image_shape=params.image_shape)


def _trained(engine, params, names, iterations):
    """The model after some steps of the parameters of some names, at falling rates."""
    recipe = Recipe()
    steps = frame_steps(recipe, engine.shape, params.num_kernels, True, 0, iterations)
    rates = {name: RATE * rate for name, rate in steps.rates.items() if name in names}
    adam, lowest_loss, left = Adam(params, recipe.beta2), math.inf, iterations
    exact = engine.tau, engine.list_life
    engine.tau, engine.list_life = min(recipe.tau, engine.tau), recipe.list_life
    try:
        while left > 0:
            done = engine.advance(params, adam, steps._replace(rates=rates), lowest_loss, left)
            if done.failure is not None:
                return params
            params, lowest_loss, left = done.params, done.lowest_loss, left - done.steps
    finally:
        engine.tau, engine.list_life = exact
    return params
