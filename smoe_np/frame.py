"""Each kernel's own frame, z = Aᵀ(x − μ): gradients and steps that no size of anything enters.

A step in it is, by names of the parameters: ``pis`` a change of log π; ``musX`` a shift δ of the
centre, in z; ``A`` a change Ω, lower triangular, of A ← A exp(Ω); ``nu_e`` and ``gamma_e`` a
change of ν̂ and η, where the expert is ν̂ + η·z. Expert surfaces stay where they are in the picture
while centres and A move.
"""

import math

from .backend import array_module
from .params import unchecked

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-30, 1e8  # beyond ``params.LARGEST`` a model is refused
# where π itself steps, weights below this go with the first step, whatever their gradient, which
# divided by less would have a square beyond float32
LEAST_DIVISOR = 1e-15


def whitened(gradients, params, scale):
    """Gradients by the parameters as gradients in each kernel's frame.

    Parameters
    ----------
    gradients, params : SmoeParams
    scale : float
        A factor.

    Returns
    -------
    SmoeParams
        float64.
    """
    xp = array_module(params.A)
    A, musX = params.A.astype(float), params.musX.astype(float)
    g_mu, g_nu = gradients.musX.astype(float), gradients.nu_e.astype(float)
    shift = xp.linalg.solve(A, g_mu[:, :, None])[:, :, 0]
    shape = xp.tril(xp.swapaxes(A, 1, 2) @ gradients.A.astype(float))
    slope = (gradients.gamma_e - g_nu[:, :, None] * musX[:, None, :]) @ A
    return unchecked({"pis": params.pis.astype(float) * gradients.pis * scale,
                      "musX": shift * scale, "A": shape * scale,
                      "gamma_e": slope * scale, "nu_e": g_nu * scale})


def balanced(pis):
    """The same weights in another unit: they add up to 1, but none is below what a step leaves."""
    xp = array_module(pis)
    return xp.maximum(pis / pis.sum(dtype=float), SMALLEST_WEIGHT).astype(pis.dtype)


def retract(params, changes, least, most, beyond=math.inf, steepest=math.inf):
    """The parameters after a step, −``changes`` by name, in each kernel's frame.

    Δμ = A⁻ᵀ δ; A ← A exp(Ω), to first order, but exactly on the diagonal.

    Parameters
    ----------
    params : SmoeParams
    changes : dict
        What the step takes off; a parameter that is not there is not trained.
    least : float
        Below which no diagonal entry of A falls.
    most : float
        Of the sharpness along each axis, √(A Aᵀ)_dd: a row of A beyond it is shortened.
    beyond : float
        By how much an expert's value at its centre may lie outside [0, 1], if ν is trained.
    steepest : float
        Of an expert's slopes η along z, if γ is trained.

    Returns
    -------
    SmoeParams
        In the precision of ``params``.
    """
    xp, D = array_module(params.A), params.num_dims
    arrays = {name: array.astype(float) for name, array in params.arrays().items()}
    A = arrays["A"]
    if "pis" in changes:
        pis = arrays["pis"] * xp.exp(-changes["pis"].astype(float))
        arrays["pis"] = xp.clip(pis, SMALLEST_WEIGHT, LARGEST_WEIGHT)
    if "musX" in changes:
        shift = -changes["musX"].astype(float)[:, :, None]
        arrays["musX"] = arrays["musX"] + xp.linalg.solve(xp.swapaxes(A, 1, 2), shift)[:, :, 0]
    if "A" in changes:
        omega = -changes["A"].astype(float)
        diagonal = xp.diagonal(omega, axis1=1, axis2=2)
        A = A @ xp.tril(omega, -1) + A * xp.exp(diagonal)[:, None, :]
        sharpness = xp.sqrt((A * A).sum(2, keepdims=True))  # along each axis
        A = A * xp.minimum(1, most / xp.maximum(sharpness, least))
        for d in range(D):
            xp.maximum(A[:, d, d], least, out=A[:, d, d])
        arrays["A"] = A
    if "gamma_e" in changes:
        slope = -changes["gamma_e"].astype(float) @ xp.swapaxes(A, 1, 2)
        arrays["gamma_e"] = arrays["gamma_e"] + slope
        arrays["nu_e"] = arrays["nu_e"] - (slope * arrays["musX"][:, None, :]).sum(2)
    if "nu_e" in changes:
        arrays["nu_e"] = arrays["nu_e"] - changes["nu_e"]
    if "gamma_e" in changes and steepest < math.inf:
        eta = xp.linalg.solve(A, xp.swapaxes(arrays["gamma_e"], 1, 2))  # (K, D, C)
        slope = xp.swapaxes(A @ (xp.clip(eta, -steepest, steepest) - eta), 1, 2)
        arrays["gamma_e"] = arrays["gamma_e"] + slope
        arrays["nu_e"] = arrays["nu_e"] - (slope * arrays["musX"][:, None, :]).sum(2)
    if "nu_e" in changes and beyond < math.inf:
        value = arrays["nu_e"] + (arrays["gamma_e"] * arrays["musX"][:, None, :]).sum(2)
        arrays["nu_e"] = arrays["nu_e"] + xp.clip(value, -beyond, 1 + beyond) - value
    return unchecked({name: array.astype(params.dtype) for name, array in arrays.items()},
                     params.image_shape)
