"""The gate and the experts as polynomials over a tile, and the chain rule back to the parameters.

Over a tile, in pixels u from the tile's centre, a log-gate is a polynomial of degree 2,
ℓ(u) = θ · φ(u) with M = (D+1)(D+2)/2 monomials φ = (1, u_i, u_i u_j), and an expert is one of
degree 1. So all that a pair (tile, kernel) contributes to any gradient is in its moments Σ_u g φ(u)
and Σ_u w r (1, u). Everything here is arithmetic on kernels and pairs, in float64, for the NumPy
engine; nothing here handles single pixels. The compiled kernels do the same: gate.cuh.

Indices: K kernels, D dimensions, C channels, J = 1 + C (D + 1) columns of an expert with a leading
1 for the normaliser. A leading "..." stands for any shape of pairs.
"""

from typing import NamedTuple

import numpy as np

from .params import unchecked

DEAD = -1e30  # log weight of an absent kernel: finite, so that differences stay finite


def quadratic_terms(D):
    """The (i, j), i ≤ j, of the monomials of degree 2, in the order of φ."""
    return [(i, j) for i in range(D) for j in range(i, D)]


def monomials(u):
    """The monomials φ of points u (D, P): (M, P). The first D + 1 rows are (1, u)."""
    D = len(u)
    rows = [np.ones_like(u[0]), *u, *(u[i] * u[j] for i, j in quadratic_terms(D))]
    return np.stack(rows)


class PixelKernels(NamedTuple):
    """K kernels in units of pixels, float64, followed by one absent kernel (log weight DEAD)."""

    log_weight: object  # (K+1,) log π + Σ log|A_dd|
    sign: object  # (K+1,) of det A
    centre: object  # (K+1, D) in pixels
    A: object  # (K+1, D, D) per pixel
    value: object  # (K+1, C) expert at the centre
    slope: object  # (K+1, C, D) per pixel

    def take(self, index):
        """The kernels of an array of indices."""
        return PixelKernels(*(array[index] for array in self))


def pixel_kernels(params, longest):
    """The PixelKernels of a model over a picture whose longest axis has ``longest`` pixels."""
    K, D = params.musX.shape

    def padded(array):
        return np.concatenate([array, np.zeros_like(array[:1])]).astype(float, copy=False)

    musX, gamma_e = params.musX.astype(float), params.gamma_e.astype(float)
    A = padded(params.A)
    A[K] = np.eye(D)
    A /= longest
    determinant = A[:, 0, 0].copy()
    for d in range(1, D):
        determinant *= A[:, d, d]
    log_weight = np.log(np.abs(determinant))
    log_weight[:K] += np.log(params.pis.astype(float))
    log_weight[K] = DEAD
    value = params.nu_e.astype(float)
    for d in range(D):
        value += gamma_e[:, :, d] * musX[:, None, d]
    return PixelKernels(
        log_weight, np.sign(determinant), padded(musX * longest), A,
        padded(value), padded(gamma_e / longest),
    )


def precisions(A):
    """The elements i ≤ j of A Aᵀ for lower triangular A (K, D, D), by (i, j): (K,) each."""
    return {(i, j): sum(A[:, i, m] * A[:, j, m] for m in range(i + 1))
            for i, j in quadratic_terms(A.shape[1])}


class PairColumns:
    """Kernel data for the pairs, with one contiguous row for each number of a kernel.

    Parameters
    ----------
    kernels : PixelKernels
    """

    def __init__(self, kernels):
        D, C = kernels.centre.shape[1], kernels.value.shape[1]
        self.D, self.C = D, C
        rows = [kernels.log_weight, *kernels.centre.T]
        rows += [kernels.A[:, i, j] for i in range(D) for j in range(i + 1)]
        rows += [(-0.5 if i == j else -1.0) * p for (i, j), p in precisions(kernels.A).items()]
        for c in range(C):
            rows += [kernels.value[:, c], *kernels.slope[:, c].T]
        self.rows = np.stack(rows)
        self.signed = bool((kernels.sign < 0).any())
        if self.signed:
            self.rows = np.concatenate([self.rows, kernels.sign[None]])

    def polynomials(self, index, origin, reference, columns):
        """Polynomials of log-gates and experts of the kernels ``index`` round given origins.

        Parameters
        ----------
        index : (pairs,) int array
        origin : (D, pairs) array
            In pixels.
        reference : (C, pairs) array
            A nearby level of the picture, subtracted from the experts: the differences between
            experts, which are all that matters, then stay accurate in float32.
        columns : (J, pairs) array, any float
            Output: 1, then for each channel the expert's value at the origin and its D slopes per
            pixel; all of them times the sign of the gate.

        Returns
        -------
        theta : (M, pairs) float64
        offset : (D, pairs) float64
            origin − μ.
        """
        D, M = self.D, (self.D + 1) * (self.D + 2) // 2
        of_pair = self.rows.take(index, axis=1)
        log_weight, centre = of_pair[0], of_pair[1 : 1 + D]
        first = 1 + D
        A = {}
        for i in range(D):
            for j in range(i + 1):
                A[i, j] = of_pair[first]
                first += 1
        offset = origin - centre
        theta = np.empty((M, index.size))
        theta[0] = log_weight
        theta[1 : 1 + D] = 0
        scratch = np.empty(index.size)
        for j in range(D):
            z = A[j, j] * offset[j]  # z = Aᵀ(origin − μ)
            for i in range(j + 1, D):
                z += np.multiply(A[i, j], offset[i], out=scratch)
            for i in range(j, D):
                theta[1 + i] -= np.multiply(A[i, j], z, out=scratch)
            z *= z
            z *= 0.5
            theta[0] -= z
        theta[1 + D :] = of_pair[first : first + M - 1 - D]
        first += M - 1 - D
        columns[0] = 1
        for c in range(self.C):
            value, slope = of_pair[first], of_pair[first + 1 : first + 1 + D]
            value -= reference[c]
            for i in range(D):
                value += np.multiply(slope[i], offset[i], out=scratch)
            columns[1 + c * (D + 1) : 1 + (c + 1) * (D + 1)] = of_pair[first : first + 1 + D]
            first += 1 + D
        if self.signed:
            columns *= of_pair[first]
        return theta, offset


def moments_at_kernels(moments, offset):
    """Move moments of pairs from round the tile's centre to round the kernel's centre.

    Parameters
    ----------
    moments : (M + C (D + 1), pairs) array, any float
        Σ g φ(u), and for each channel Σ w r and Σ w r u_i.
    offset : (D, pairs) float64 array
        Tile's centre − μ.

    Returns
    -------
    (M + C (D + 1), pairs) float64
        Σ g φ(x − μ), and for each channel Σ w r and Σ w r (x − μ)_i.
    """
    D = len(offset)
    M = (D + 1) * (D + 2) // 2
    moved = moments.astype(float)
    scratch = np.empty(moved.shape[1])
    for i in range(D):
        moved[1 + i] += np.multiply(offset[i], moved[0], out=scratch)
    # Σ g (u+o)_i (u+o)_j = Σ g u_i u_j + o_i Σ g (u+o)_j + o_j Σ g u_i
    for m, (i, j) in enumerate(quadratic_terms(D), start=1 + D):
        moved[m] += np.multiply(offset[i], moved[1 + j], out=scratch)
        moved[m] += np.multiply(offset[j], moments[1 + i], out=scratch)
    for first in range(M, len(moved), D + 1):
        for i in range(D):
            moved[first + 1 + i] += np.multiply(offset[i], moved[first], out=scratch)
    return moved


def chain_rule(moments, params, longest, scale):
    """Gradients of the mean squared error from each kernel's moments, as in ``dense``.

    Parameters
    ----------
    moments : (M + C (D + 1), K) float64 array
        Sums over the tiles of the results of ``moments_at_kernels``.
    params : SmoeParams
    longest : int
        Pixels along the longest axis of the picture.
    scale : float
        2 / (N C), the factor of r.

    Returns
    -------
    SmoeParams
        ∂L/∂ each parameter, float64.
    """
    K, D = params.musX.shape
    C = params.num_channels
    M = (D + 1) * (D + 2) // 2
    moments = moments * scale
    total, first = moments[0], moments[1 : 1 + D] / longest  # Σ g, Σ g (x − μ)
    second = {}  # Σ g (x − μ)(x − μ)ᵀ
    for m, (i, j) in enumerate(quadratic_terms(D), start=1 + D):
        second[i, j] = second[j, i] = moments[m] / longest**2
    A, musX = params.A.astype(float), params.musX.astype(float)
    z = [sum(A[:, i, j] * first[i] for i in range(j, D)) for j in range(D)]  # Σ g Aᵀ(x − μ)
    grad_musX = np.stack([sum(A[:, i, j] * z[j] for j in range(i + 1)) for i in range(D)], axis=1)
    grad_A = np.zeros((K, D, D))
    for i in range(D):
        for j in range(i + 1):  # (x − μ) zᵀ = (x − μ)(x − μ)ᵀ A
            grad_A[:, i, j] = -sum(second[i, m] * A[:, m, j] for m in range(j, D))
        grad_A[:, i, i] += total / A[:, i, i]
    grad_gamma, grad_nu = np.empty((K, C, D)), np.empty((K, C))
    for c in range(C):
        error, *around = moments[M + c * (D + 1) : M + (c + 1) * (D + 1)]  # Σ w r, Σ w r (x − μ)
        grad_nu[:, c] = error
        for d in range(D):
            grad_gamma[:, c, d] = around[d] / longest + error * musX[:, d]
    return unchecked({"pis": total / params.pis, "musX": grad_musX, "A": grad_A,
                      "gamma_e": grad_gamma, "nu_e": grad_nu})
