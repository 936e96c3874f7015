"""The loss terms for sparsity and bandwidth, with their gradients; gradient clipping."""

import numpy as np


def penalty(params, l1reg, bandwidth_reg, initial_kernels):
    """The regularisation term of the loss, λ_S/K₀ Σ π + λ_U Σ|A_dd|: float.

    λ_S is ``l1reg``, λ_U ``bandwidth_reg``, and K₀ ``initial_kernels``.
    """
    value = 0.0
    if l1reg:
        value += l1reg / initial_kernels * float(params.pis.sum(dtype=float))
    if bandwidth_reg:
        value += bandwidth_reg * float(abs(_diagonals(params.A)).sum(dtype=float))
    return value


def add_penalty_gradients(gradients, params, l1reg, bandwidth_reg, initial_kernels):
    """Add the gradients of ``penalty`` to the gradients of the error, in place."""
    if l1reg:
        gradients.pis += l1reg / initial_kernels
    if bandwidth_reg:
        sign = np.sign(_diagonals(params.A)).astype(gradients.A.dtype)
        for d in range(params.num_dims):
            gradients.A[:, d, d] += bandwidth_reg * sign[:, d]


def tie_radial(gradients):
    """Keep radial kernels radial, A = α I: every A_dd gets ∂L/∂α, the trace of ∂L/∂A; in place."""
    alpha = _diagonals(gradients.A).sum(axis=1)
    gradients.A = alpha[:, None, None] * np.eye(gradients.num_dims)


def clip_gradients(gradients, grad_clip):
    """Clip every element of the gradients to ±``grad_clip``, as tf-smoe does; in place."""
    for array in gradients.arrays().values():
        np.clip(array, -grad_clip, grad_clip, out=array)


def _diagonals(A):
    return np.diagonal(A, axis1=1, axis2=2)
