"""Gradients and steps in each kernel's own frame, z = Aᵀ(x − μ).

In this frame, a step does not depend on the size of the kernel or of the picture. By parameter
name, a step is: for ``pis`` a change of log π; for ``musX`` a shift δ of the centre, in z; for
``A`` a lower triangular Ω in A ← A exp(Ω); for ``nu_e`` and ``gamma_e`` a change of ν̂ and η in the
expert ν̂ + η·z. Expert surfaces stay where they are in the picture while centres and A move.
"""

import math

import numpy as np

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
    A, musX = params.A.astype(float), params.musX.astype(float)
    g_mu, g_nu = gradients.musX.astype(float), gradients.nu_e.astype(float)
    shift = np.linalg.solve(A, g_mu[:, :, None])[:, :, 0]
    shape = np.tril(np.swapaxes(A, 1, 2) @ gradients.A.astype(float))
    slope = (gradients.gamma_e - g_nu[:, :, None] * musX[:, None, :]) @ A
    return unchecked({"pis": params.pis.astype(float) * gradients.pis * scale,
                      "musX": shift * scale, "A": shape * scale,
                      "gamma_e": slope * scale, "nu_e": g_nu * scale})


def balanced(pis):
    """The weights scaled to add up to 1, but none below SMALLEST_WEIGHT, the least after a step."""
    return np.maximum(pis / pis.sum(dtype=float), SMALLEST_WEIGHT).astype(pis.dtype)


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
    D = params.num_dims
    arrays = {name: array.astype(float) for name, array in params.arrays().items()}
    A = arrays["A"]
    if "pis" in changes:
        pis = arrays["pis"] * np.exp(-changes["pis"].astype(float))
        arrays["pis"] = np.clip(pis, SMALLEST_WEIGHT, LARGEST_WEIGHT)
    if "musX" in changes:
        shift = -changes["musX"].astype(float)[:, :, None]
        arrays["musX"] = arrays["musX"] + np.linalg.solve(np.swapaxes(A, 1, 2), shift)[:, :, 0]
    if "A" in changes:
        omega = -changes["A"].astype(float)
        diagonal = np.diagonal(omega, axis1=1, axis2=2)
        A = A @ np.tril(omega, -1) + A * np.exp(diagonal)[:, None, :]
        sharpness = np.sqrt((A * A).sum(2, keepdims=True))  # along each axis
        A = A * np.minimum(1, most / np.maximum(sharpness, least))
        for d in range(D):
            np.maximum(A[:, d, d], least, out=A[:, d, d])
        arrays["A"] = A
    if "gamma_e" in changes:
        slope = -changes["gamma_e"].astype(float) @ np.swapaxes(A, 1, 2)
        arrays["gamma_e"] = arrays["gamma_e"] + slope
        arrays["nu_e"] = arrays["nu_e"] - (slope * arrays["musX"][:, None, :]).sum(2)
    if "nu_e" in changes:
        arrays["nu_e"] = arrays["nu_e"] - changes["nu_e"]
    if "gamma_e" in changes and steepest < math.inf:
        eta = np.linalg.solve(A, np.swapaxes(arrays["gamma_e"], 1, 2))  # (K, D, C)
        slope = np.swapaxes(A @ (np.clip(eta, -steepest, steepest) - eta), 1, 2)
        arrays["gamma_e"] = arrays["gamma_e"] + slope
        arrays["nu_e"] = arrays["nu_e"] - (slope * arrays["musX"][:, None, :]).sum(2)
    if "nu_e" in changes and beyond < math.inf:
        value = arrays["nu_e"] + (arrays["gamma_e"] * arrays["musX"][:, None, :]).sum(2)
        arrays["nu_e"] = arrays["nu_e"] + np.clip(value, -beyond, 1 + beyond) - value
    return unchecked({name: array.astype(params.dtype) for name, array in arrays.items()},
                     params.image_shape)
