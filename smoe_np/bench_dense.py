"""What one would write without this library: every kernel meets every pixel, in array code.

Blocks of pixels bound the memory. It is here to be compared with, in speed; ``dense`` is the
definition, which results are compared with.
"""

import numpy as np

from .adam import Adam
from .params import unchecked

BLOCK = 1 << 22  # pixels × kernels at a time


def loss_and_gradients(params, target, x):
    """The mean squared error and its gradients, in the precision of the parameters.

    Parameters
    ----------
    params : SmoeParams
        Of NumPy or CuPy arrays.
    target : (N, C) array
    x : (N, D) array
        Pixel centres.

    Returns
    -------
    float, SmoeParams
    """
    xp = _module_of(target)
    K = params.num_kernels
    diagonal = xp.diagonal(params.A, axis1=1, axis2=2)
    weight = xp.log(params.pis) + xp.log(xp.abs(diagonal)).sum(axis=1)  # (K,)
    total = {name: xp.zeros_like(array) for name, array in params.arrays().items()}
    error, scale = 0.0, 2 / target.size
    for first in range(0, len(x), max(1, BLOCK // K)):
        part = slice(first, first + max(1, BLOCK // K))
        d = x[part, None] - params.musX  # (n, K, D)
        z = xp.einsum("kij,nki->nkj", params.A, d)
        gates = weight - 0.5 * (z * z).sum(axis=2)  # (n, K)
        gates -= gates.max(axis=1, keepdims=True)
        gates = xp.exp(gates)
        gates /= gates.sum(axis=1, keepdims=True)
        experts = params.nu_e + xp.einsum("nd,kcd->nkc", x[part], params.gamma_e)  # (n, K, C)
        y = xp.einsum("nk,nkc->nc", gates, experts)
        residual = xp.clip(y, 0, 1) - target[part]
        error += float((residual * residual).sum())
        r = scale * residual * ((y >= 0) & (y <= 1))
        g = gates * xp.einsum("nc,nkc->nk", r, experts - y[:, None])
        total["pis"] += g.sum(axis=0)
        total["musX"] += xp.einsum("nk,kij,nkj->ki", g, params.A, z, optimize=True)
        total["A"] -= xp.einsum("nk,nki,nkj->kij", g, d, z, optimize=True)
        total["gamma_e"] += xp.einsum("nk,nc,nd->kcd", gates, r, x[part], optimize=True)
        total["nu_e"] += gates.T @ r
    sums = total["pis"]
    total["pis"] = sums / params.pis
    total["A"] = xp.tril(total["A"])
    for i in range(x.shape[1]):
        total["A"][:, i, i] += sums / diagonal[:, i]
    return error / target.size, unchecked(total)


def train(params, image, iterations, base_lr=1e-3):
    """Some steps of Adam with the rates of ``Smoe.train``; the parameters after them.

    Parameters
    ----------
    params : SmoeParams
    image : (*shape, C) array
    iterations : int
    """
    xp = _module_of(image)
    shape = image.shape[:-1]
    x = xp.stack([axis.ravel() for axis in xp.indices(shape, dtype=params.dtype)], axis=1)
    x = (x + params.dtype.type(0.5)) / max(shape)
    rates = {"pis": base_lr / 100, "musX": base_lr, "A": base_lr * 1000, "gamma_e": base_lr,
             "nu_e": base_lr}
    adam = Adam(params)
    for _ in range(iterations):
        _, gradients = loss_and_gradients(params, image.reshape(len(x), -1), x)
        params = adam.step(params, gradients, rates, 1e-15)
    return params


def _module_of(array):
    if isinstance(array, np.ndarray):
        return np
    import cupy

    return cupy
