"""Array code without this library's methods: every kernel is evaluated at every pixel.

It is as fast as such code gets: arrays of pixels × kernels for each axis, sums over either by
matrix products, and blocks of pixels small enough that these arrays stay in the cache (on a GPU: in
memory). It is the reference for speed; the reference for results is ``dense``.
"""

import functools
import math
import time
from typing import NamedTuple

from .adam import Adam
from .backend import array_module
from .params import unchecked

BLOCK = {"numpy": 1 << 16, "cupy": 1 << 24}  # pixels × kernels per block ...
LEAST_PIXELS = 4  # ... but at least this many pixels, as some work is done once per block


def loss_and_gradients(params, target):
    """The mean squared error and its gradients, in the precision of the parameters.

    Parameters
    ----------
    params : SmoeParams
        With NumPy or CuPy arrays; every A_dd > 0.
    target : (*shape, C) array

    Returns
    -------
    float, SmoeParams
    """
    xp = array_module(target, params.pis)
    sums, parts = _zeros(params), _parts(params)
    for first, last in _blocks(xp, params, target.shape[:-1]):
        _add_block(parts, target, first, last, sums)
    return float(sums["error"]) / target.size, _gradients(params, sums)


def render(params, shape):
    """The regression, clipped to [0, 1]: (*shape, C)."""
    xp, parts = array_module(params.pis), _parts(params)
    y = [_regress(parts, _pixels(xp, shape, params.dtype, first, last))[-1]
         for first, last in _blocks(xp, params, shape)]
    return xp.clip(xp.concatenate(y), 0, 1).reshape(*shape, -1)


def train(params, target, iterations, base_lr=1e-3):
    """The parameters after some steps of Adam with the default rates of ``Smoe.train``.

    Parameters
    ----------
    params : SmoeParams
    target : (*shape, C) array
    iterations : int
    """
    adam = Adam(params)
    for _ in range(iterations):
        params = _step(adam, params, loss_and_gradients(params, target)[1], base_lr)
    return params


def seconds_of_step(params, target, limit):
    """Seconds of a step; beyond ``limit`` seconds, extrapolated from part of the pixels."""
    xp = array_module(target, params.pis)
    sums, parts, pixels = _zeros(params), _parts(params), math.prod(target.shape[:-1])

    def add(first, last):
        _add_block(parts, target, first, last, sums)
        return float(sums["error"])  # waits for the result

    seconds = _seconds_of_blocks(add, _blocks(xp, params, target.shape[:-1]), pixels, limit)
    adam, started = Adam(params), time.perf_counter()
    float(_step(adam, params, _gradients(params, sums)).pis[0])
    return seconds + time.perf_counter() - started


def seconds_of_rendering(params, shape, limit):
    """Seconds of ``render``; beyond ``limit`` seconds, extrapolated from part of the pixels."""
    xp, parts = array_module(params.pis), _parts(params)

    def draw(first, last):
        x = _pixels(xp, shape, params.dtype, first, last)
        return float(xp.clip(_regress(parts, x)[-1], 0, 1)[0, 0])  # waits for the result

    return _seconds_of_blocks(draw, _blocks(xp, params, shape), math.prod(shape), limit)


def _seconds_of_blocks(do, blocks, pixels, limit):
    do(*blocks[0])  # warm-up, not timed
    started, last = time.perf_counter(), 0
    for first, last in blocks:
        do(first, last)
        if time.perf_counter() - started > limit:
            break
    return (time.perf_counter() - started) * pixels / last


# ---- the model


class _Parts(NamedTuple):
    """The parameters as contiguous arrays, with the numbers of all kernels side by side."""

    log_weight: object  # (K,) log π + Σ log A_dd
    centre: list  # D of (K,)
    steering: dict  # (K,) by (i, j), i ≥ j
    experts: list  # C of (1 + D, K): ν and γ


def _parts(params):
    xp, D = array_module(params.pis), params.num_dims
    steering = {(i, j): params.A[:, i, j].copy() for i in range(D) for j in range(i + 1)}
    return _Parts(
        xp.log(params.pis) + sum(xp.log(steering[i, i]) for i in range(D)),
        [params.musX[:, i].copy() for i in range(D)], steering,
        [xp.stack([params.nu_e[:, c], *params.gamma_e[:, c].T])
         for c in range(params.num_channels)])


def _blocks(xp, params, shape):
    """The first pixel, and the last + 1, of each block."""
    pixels = math.prod(shape)
    size = max(LEAST_PIXELS, BLOCK[xp.__name__] // params.num_kernels)
    return [(first, min(first + size, pixels)) for first in range(0, pixels, size)]


def _pixels(xp, shape, dtype, first, last):
    """(P, 1 + D): 1 and the coordinates of the pixel centres."""
    at = xp.unravel_index(xp.arange(first, last), shape)
    centres = [(axis.astype(dtype) + dtype.type(0.5)) / max(shape) for axis in at]
    return xp.stack([xp.ones_like(centres[0]), *centres], axis=1)


def _regress(parts, x):
    """x − μ and z for each axis, and the gates, all (P, K); and the regression y (P, C)."""
    xp, D = array_module(x), len(parts.centre)
    d = [x[:, 1 + i, None] - parts.centre[i] for i in range(D)]
    z = [sum(d[i] * parts.steering[i, j] for i in range(j, D)) for j in range(D)]
    gates = parts.log_weight - 0.5 * sum(z_j * z_j for z_j in z)
    gates -= gates.max(axis=1, keepdims=True)
    gates = xp.exp(gates)
    gates /= gates.sum(axis=1, keepdims=True)
    y = [((gates @ expert.T) * x).sum(axis=1) for expert in parts.experts]
    return d, z, gates, xp.stack(y, axis=1)


def _zeros(params):
    """Zeros for the sums: the squared error, and for each kernel those of its moments."""
    xp, D, K = array_module(params.pis), params.num_dims, params.num_kernels
    zeros = functools.partial(xp.zeros, dtype=params.dtype)
    return {"error": 0.0, "gate": zeros(K), "z": zeros((D, K)), "d z": zeros((D, D, K)),
            "experts": zeros((params.num_channels, 1 + D, K))}


def _add_block(parts, target, first, last, sums):
    xp, D = array_module(target), len(parts.centre)
    x = _pixels(xp, target.shape[:-1], parts.log_weight.dtype, first, last)
    d, z, gates, y = _regress(parts, x)
    residual = xp.clip(y, 0, 1) - target.reshape(-1, target.shape[-1])[first:last]
    sums["error"] = sums["error"] + (residual * residual).sum()
    r = (2 / target.size) * residual * ((y >= 0) & (y <= 1))
    g = -(r * y).sum(axis=1, keepdims=True)
    for c, expert in enumerate(parts.experts):
        r_x = r[:, c, None] * x
        g = g + r_x @ expert
        sums["experts"][c] += r_x.T @ gates
    g *= gates  # ∂L/∂ℓ
    sums["gate"] += g.sum(axis=0)
    for j in range(D):
        g_z = g * z[j]
        sums["z"][j] += g_z.sum(axis=0)
        for i in range(j, D):
            sums["d z"][i, j] += (g_z * d[i]).sum(axis=0)


def _gradients(params, sums):
    xp, D = array_module(params.pis), params.num_dims
    A = -xp.moveaxis(sums["d z"], -1, 0)
    for i in range(D):
        A[:, i, i] += sums["gate"] / params.A[:, i, i]
    experts = xp.moveaxis(sums["experts"], -1, 0)
    return unchecked({
        "pis": sums["gate"] / params.pis, "musX": xp.einsum("kij,jk->ki", params.A, sums["z"]),
        "A": A, "gamma_e": experts[:, :, 1:], "nu_e": experts[:, :, 0]})


def _step(adam, params, gradients, base_lr=1e-3):
    rates = {"pis": base_lr / 100, "musX": base_lr, "A": base_lr * 1000, "gamma_e": base_lr,
             "nu_e": base_lr}
    return adam.step(params, gradients, rates, 1e-15)
