"""Gradients and steps in each kernel's own frame, z = Aᵀ(x − μ).

In this frame, a step does not depend on the size of the kernel or of the picture. By parameter
name, a step is: for ``pis`` a change of log π; for ``musX`` a shift δ of the centre, in z; for
``A`` a lower triangular Ω in A ← A exp(Ω); for ``nu_e`` and ``gamma_e`` a change of ν̂ and η in the
expert ν̂ + η·z. Expert surfaces stay where they are in the picture while centres and A move.
"""

import math

from .backend import array_module
from .params import unchecked

# limits of π; within ``params.LARGEST``, beyond which a model is refused
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-30, 1e8
# Where π itself is stepped, ∂L/∂π is ∂L/∂log π divided by π, or by this if π is less: otherwise the
# square of the gradient would exceed float32. Such small weights leave with their first step
# whatever their gradient is.
LEAST_DIVISOR = 1e-15


def whitened(gradients, params, scale):
    """Convert gradients with respect to the parameters to gradients in each kernel's frame.

    Parameters
    ----------
    gradients, params : SmoeParams
    scale : float
        Factor of all gradients.

    Returns
    -------
    SmoeParams
        In float64.
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
    """The weights scaled to add up to 1, but none below SMALLEST_WEIGHT, the least after a step."""
    xp = array_module(pis)
    return xp.maximum(pis / pis.sum(dtype=float), SMALLEST_WEIGHT).astype(pis.dtype)


def retract(params, changes, least, most, beyond=math.inf, steepest=math.inf):
    """The parameters after a step of −``changes`` in each kernel's frame.

    Δμ = A⁻ᵀ δ; A ← A exp(Ω), with exp exact on the diagonal and to first order off it.

    Parameters
    ----------
    params : SmoeParams
    changes : dict
        Arrays by parameter name; a parameter that is missing is not trained.
    least : float
        Lower limit of the diagonal entries of A.
    most : float
        Upper limit of the sharpness along each axis, √(A Aᵀ)_dd: a row of A beyond it is shortened.
    beyond : float
        How far an expert's value at its centre may lie outside [0, 1], if ν is trained.
    steepest : float
        Upper limit of the magnitude of an expert's slopes η along z, if γ is trained.

    Returns
    -------
    SmoeParams
        In the dtype of ``params``.
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
