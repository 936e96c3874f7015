"""The definition of the model, its loss and its gradients: float64, dense, slow, plain.

Every kernel is evaluated at every pixel. The engines are tested against this module; it is slow,
and shares no code with them. Shapes: N pixels, K kernels, D dimensions, C channels.
"""

import numpy as np

# least sum of gates, relative to the largest: a sum that is not positive counts as this
TINY = 1e-19


def pixel_centres(shape):
    """Coordinates of the pixel centres, (i + ½)/n with n the size of the longest axis: (N, D)."""
    grids = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1) / max(shape)


def _forward(params, x):
    pis, musX, A, gamma_e, nu_e = (
        np.asarray(a, np.result_type(a, np.float64)) for a in params.arrays().values()
    )
    diagonal = np.diagonal(A, axis1=1, axis2=2)  # (K, D)
    d = x - musX[:, None]  # (K, N, D)
    z = d @ A  # each row z = Aᵀ(x − μ)
    # log|A_dd| through the square keeps the formula analytic, for complex-step derivatives
    log_weight = np.log(pis) + 0.5 * np.log(diagonal**2).sum(1)
    logs = log_weight[:, None] - 0.5 * np.einsum("knd,knd->kn", z, z)
    sign = np.sign(diagonal.real.prod(1))  # a gate is negative where det A < 0
    gate = sign[:, None] * np.exp(logs - logs.real.max(0))
    total = gate.sum(0)
    # a sum of 0 or below, possible only with negative gates, counts as TINY, as in tf-smoe
    gate = gate / np.where(total.real > TINY, total, TINY)
    expert = nu_e[:, None] + x @ gamma_e.swapaxes(1, 2)  # (K, N, C)
    return d, z, gate, expert, (gate[:, :, None] * expert).sum(0)


def render(params, shape):
    """The regression y, not clipped: (*shape, C) float64."""
    y = _forward(params, pixel_centres(shape))[-1]
    return y.reshape(*shape, -1)


def gating(params, shape):
    """The index of the kernel with the largest gate: (*shape) int."""
    return _forward(params, pixel_centres(shape))[2].argmax(0).reshape(shape)


def loss(params, target, l1reg=0.0, bandwidth_reg=0.0, initial_kernels=None):
    """The loss L for a target (*shape, C) in [0, 1]; complex parameters give a complex L."""
    y = render(params, target.shape[:-1])
    clipped = np.where(y.real < 0, 0, np.where(y.real > 1, 1, y))
    K0 = initial_kernels or params.num_kernels
    diagonal = np.diagonal(params.A, axis1=1, axis2=2)
    magnitude = np.where(diagonal.real < 0, -diagonal, diagonal)
    return (
        ((clipped - target) ** 2).mean()
        + l1reg / K0 * params.pis.sum()
        + bandwidth_reg * magnitude.sum()
    )


def gradients(params, target, l1reg=0.0, bandwidth_reg=0.0, initial_kernels=None):
    """The gradients of L by parameter name, float64, in the shapes of the parameters."""
    x = pixel_centres(target.shape[:-1])
    d, z, w, e, y = _forward(params, x)
    t = np.asarray(target, np.float64).reshape(y.shape)
    r = np.where((y >= 0) & (y <= 1), 2 / t.size * (np.clip(y, 0, 1) - t), 0)  # (N, C)
    g = w * np.einsum("knc,nc->kn", e - y, r)  # ∂L/∂ℓ
    gz, sums = g[:, :, None] * z, g.sum(1)
    A = params.A.astype(np.float64)
    diagonal = np.diagonal(A, axis1=1, axis2=2)
    grad_A = -d.swapaxes(1, 2) @ gz
    grad_A += np.eye(d.shape[2]) * (
        sums[:, None] / diagonal + bandwidth_reg * np.sign(diagonal)
    )[:, None]
    return {
        "pis": sums / params.pis + l1reg / (initial_kernels or params.num_kernels),
        "musX": (A @ gz.sum(1)[:, :, None])[:, :, 0],
        "A": np.tril(grad_A),
        "gamma_e": (w[:, :, None] * r).swapaxes(1, 2) @ x,
        "nu_e": w @ r,
    }
