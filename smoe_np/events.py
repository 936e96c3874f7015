"""Events of a fit: kernels of little use are removed, others are split where the error is large."""

import math

import numpy as np

from .frame import balanced
from .gate import quadratic_terms
from .params import unchecked

ANGLES = 8  # directions in which a kernel of two dimensions may be split
RIDGE = 1e-3  # regularisation, relative to the mass: experts of hardly any pixels gain nothing


def directions(D):
    """Unit vectors (R, D) along which kernels may be split, evenly spread; one of n and −n each."""
    if D == 2:
        angles = np.arange(ANGLES) * (math.pi / ANGLES)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = np.stack(np.meshgrid(*[[-1, 0, 1]] * D, indexing="ij"), -1).reshape(-1, D)
    corners = corners[len(corners) // 2 + 1 :]  # the second half is the first one mirrored
    return corners / np.linalg.norm(corners, axis=1, keepdims=True)


def expert_gains(sums, A, affine):
    """The gain from additional experts: the decrease of Σ ρ² by a least-squares fit of w e to ρ.

    Parameters
    ----------
    sums : (..., K, W) float64 array
        Sums from an engine's ``halve``.
    A : (K, D, D) array
        Steering matrices, per pixel.
    affine : bool
        Whether experts have slopes.

    Returns
    -------
    (..., K) array
        Decrease of the sum of squared errors.
    """
    D = A.shape[-1]
    M = (D + 1) * (D + 2) // 2
    size = D + 1 if affine else 1
    # kernels as the last axis, arithmetic on whole arrays: the matrices are too small for LAPACK
    sums = np.moveaxis(sums, -1, 0)
    first, experts = sums[1 : D + 1], sums[M:].reshape(-1, D + 1, *sums.shape[1:])
    second = np.empty((D, D, *sums.shape[1:]))
    for m, (i, j) in enumerate(quadratic_terms(D), start=1 + D):
        second[i, j] = second[j, i] = sums[m]

    def in_frame(vectors):  # from x − μ to z, along the first axis
        return np.stack([sum(A[:, k, i] * vectors[k] for k in range(i, D)) for i in range(D)])

    gram = np.empty((D + 1, D + 1, *sums.shape[1:]))
    gram[0, 0] = sums[0]
    gram[0, 1:] = gram[1:, 0] = in_frame(first)
    gram[1:, 1:] = in_frame(np.swapaxes(in_frame(second), 0, 1))
    wanted = np.concatenate([experts[None, :, 0], in_frame(np.swapaxes(experts[:, 1:], 0, 1))])
    ridge = RIDGE * (sums[0] + RIDGE)
    for i in range(size):
        gram[i, i] += ridge
    return _forms(gram[:size, :size], wanted[:size])


def _forms(gram, wanted):
    """Σ_c b_cᵀ G⁻¹ b_c for G (n, n, ...) and b (n, C, ...), which are overwritten.

    Pivots are bounded below, so that rounding errors contribute nothing.
    """
    total = 0
    for i in range(len(gram)):
        pivot = np.maximum(gram[i, i], RIDGE * RIDGE)  # the ridge of an empty half
        total = total + (wanted[i] * wanted[i]).sum(0) / pivot
        for j in range(i + 1, len(gram)):
            factor = gram[i, j] / pivot
            gram[j, i + 1 :] -= factor * gram[i, i + 1 :]
            wanted[j] -= factor * wanted[i]
    return total


def split_gains(engine, params, affine):
    """The decrease of the error if each half of a kernel had an expert of its own.

    Parameters
    ----------
    engine : see ``smoe_np.engine``
    params : SmoeParams
    affine : bool
        Whether experts have slopes.

    Returns
    -------
    (K,) array
        Decrease of the sum of squared errors for the best of ``directions``.
    (K, D) array
        That direction, in the kernel's own frame.
    """
    A, normals = params.A.astype(float) / max(engine.shape), directions(params.num_dims)
    whole, *halves = engine.halve(params, normals)
    halves = np.stack(halves)
    gains = expert_gains(halves, A, affine) + expert_gains(whole - halves, A, affine)
    best = gains.argmax(axis=0)
    gain = np.take_along_axis(gains, best[None], axis=0)[0]
    return gain - expert_gains(whole, A, affine), normals[best]


def split(params, kernels, normals, shift):
    """Split some kernels in two, along unit vectors in their own frames.

    The two children of a kernel lie at ± shift · n in its frame. Each has half its weight, its
    variance along n times 1 − shift², and its expert. Together they have the weight, mean and
    covariance of the kernel.

    Parameters
    ----------
    params : SmoeParams
    kernels : (n,) int array
        Indices of the kernels to split.
    normals : (n, D) array
        Unit vectors n.
    shift : float
        Distance of the children from the kernel's centre, above 0 and below 1.

    Returns
    -------
    SmoeParams
        The model with one child of each kernel in its place, and the other n at the end.
    """
    A, musX = params.A[kernels].astype(float), params.musX[kernels].astype(float)
    offset = np.linalg.solve(np.swapaxes(A, 1, 2), shift * normals[:, :, None])[:, :, 0]
    outer = normals[:, :, None] * normals[:, None, :]
    # S Sᵀ = I + (1/(1 − shift²) − 1) n nᵀ; A S is lower triangular, as A and S are
    S = np.linalg.cholesky(np.eye(params.num_dims) + (1 / (1 - shift * shift) - 1) * outer)
    child = {name: array[kernels] for name, array in params.arrays().items()}
    child["pis"] = child["pis"] / 2
    child["A"] = A @ S
    arrays = {}
    for name, array in params.arrays().items():
        first = child[name] if name != "musX" else musX + offset
        second = child[name] if name != "musX" else musX - offset
        arrays[name] = np.concatenate([array, second.astype(array.dtype)])
        arrays[name][kernels] = first
    return unchecked(arrays, params.image_shape)


def relocate(engine, params, adam, target, removed, recipe, affine, random):
    """Remove some kernels, and split others to reach a target number.

    Parameters
    ----------
    engine : see ``smoe_np.engine``
        Engine that weighs the kernels; it is notified of the new ones.
    params : SmoeParams
        Current model.
    adam : Adam
        Optimiser; new kernels start with moments of 0 and the identity as axes.
    target : int
        Target number of kernels. It is not reached if it is more than twice the kernels kept.
    removed : int
        Number of kernels to remove; more are removed if there are too many, fewer if splitting
        could not reach the target otherwise.
    recipe : Recipe
        Rules for removing and splitting.
    affine : bool
        Whether experts have slopes.
    random : numpy.random.Generator
        Random generator for directions.

    Returns
    -------
    SmoeParams
    """
    K = params.num_kernels
    # each kept kernel can be split once
    removed = max(min(removed, K - (target + 1) // 2, K - 1), K - target, 0)
    mass, error, cost = engine.weigh(params).T
    worth = {"cost": cost, "weight": params.pis, "error": error}[recipe.remove_by]
    leaving = np.argsort(worth, kind="stable")[:removed]
    stays = np.ones(K, bool)
    stays[leaving] = False
    number = np.cumsum(stays) - 1
    splits = min(target - int(stays.sum()), int(stays.sum()))
    normals = None
    if recipe.best_direction and splits:
        gains, normals = split_gains(engine, params, affine)
    score = error / np.maximum(mass, np.finfo(float).tiny) ** recipe.mass_power
    if recipe.split_by_gain and normals is not None:
        score = np.sqrt(score * np.maximum(gains, 0))
    order = np.argsort(np.where(stays, -score, np.inf), kind="stable")[:splits]
    if normals is None:
        normals = random.standard_normal(params.musX.shape)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    parents = np.concatenate([np.flatnonzero(stays), order])
    params = params.select(stays)
    params.pis = balanced(params.pis)
    params = split(params, number[order], normals[order], recipe.shift)
    is_new = parents.copy()
    is_new[number[order]] = is_new[len(is_new) - splits :] = -1
    adam.add_born(is_new)
    engine.succeed(parents)
    return params
