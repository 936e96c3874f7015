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
    d = x[:, None, :] - musX  # (N, K, D)
    z = np.einsum("kde,nkd->nke", A, d)  # z = Aᵀ(x − μ)
    # log|A_dd| through the square keeps the formula analytic, for complex-step derivatives
    logs = np.log(pis) + 0.5 * np.log(diagonal**2).sum(1) - 0.5 * (z**2).sum(2)  # (N, K)
    sign = np.sign(diagonal.real.prod(1))  # a gate is negative where det A < 0
    gate = sign * np.exp(logs - logs.real.max(1, keepdims=True))
    total = gate.sum(1, keepdims=True)
    # a sum of 0 or below, possible only with negative gates, counts as TINY, as in tf-smoe
    gate = gate / np.where(total.real > TINY, total, TINY)
    expert = nu_e + np.einsum("nd,kcd->nkc", x, gamma_e)  # (N, K, C)
    return d, z, gate, expert, np.einsum("nk,nkc->nc", gate, expert)


def render(params, shape):
    """The regression y, not clipped: (*shape, C) float64."""
    y = _forward(params, pixel_centres(shape))[-1]
    return y.reshape(*shape, -1)


def gating(params, shape):
    """The index of the kernel with the largest gate: (*shape) int."""
    return _forward(params, pixel_centres(shape))[2].argmax(1).reshape(shape)


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
    g = w * np.einsum("nc,nkc->nk", r, e - y[:, None])  # ∂L/∂ℓ
    diagonal = np.diagonal(params.A, axis1=1, axis2=2).astype(np.float64)
    grad_A = -np.einsum("nk,nkd,nke->kde", g, d, z)
    grad_A += np.eye(d.shape[2]) * (
        g.sum(0)[:, None] / diagonal + bandwidth_reg * np.sign(diagonal)
    )[:, None]
    return {
        "pis": g.sum(0) / params.pis + l1reg / (initial_kernels or params.num_kernels),
        "musX": np.einsum("nk,kde,nke->kd", g, params.A, z),
        "A": np.tril(grad_A),
        "gamma_e": np.einsum("nk,nc,nd->kcd", w, r, x),
        "nu_e": np.einsum("nk,nc->kc", w, r),
    }
