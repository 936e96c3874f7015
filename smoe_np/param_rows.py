"""Parameters as rows, one for each kernel, as kernels/ takes them: see gate.cuh."""

import numpy as np

from .params import unchecked


def lower_entries(D):
    """The (i, j), i ≥ j, of a lower triangle, row by row."""
    return [(i, j) for i in range(D) for j in range(i + 1)]


def names_of_row(D, C):
    """The name of the parameter that each number of a row belongs to."""
    return ["pis", *["musX"] * D, *["A"] * len(lower_entries(D)),
            *["nu_e", *["gamma_e"] * D] * C]


def rows_of(params):
    """The parameters of a model as rows.

    Returns
    -------
    (K, W) array in the dtype of the model
        π, μ, the lower triangle of A, then for each channel ν and γ.
    """
    K, D = params.musX.shape
    lower = lower_entries(D)
    rows = np.empty((K, 1 + D + len(lower) + params.num_channels * (D + 1)), params.dtype)
    rows[:, 0], rows[:, 1 : 1 + D] = params.pis, params.musX
    for place, (i, j) in enumerate(lower, start=1 + D):
        rows[:, place] = params.A[:, i, j]
    experts = rows[:, 1 + D + len(lower) :].reshape(K, -1, D + 1)
    experts[:, :, 0], experts[:, :, 1:] = params.nu_e, params.gamma_e
    return rows


def params_of_rows(rows, D, image_shape=None):
    """The SmoeParams, not checked, of ``rows_of`` a model of D dimensions; all is copied."""
    K, lower = len(rows), lower_entries(D)
    A = np.zeros((K, D, D), rows.dtype)
    for place, (i, j) in enumerate(lower, start=1 + D):
        A[:, i, j] = rows[:, place]
    experts = rows[:, 1 + D + len(lower) :].reshape(K, -1, D + 1)
    return unchecked({"pis": rows[:, 0].copy(), "musX": rows[:, 1 : 1 + D].copy(), "A": A,
                      "gamma_e": experts[:, :, 1:].copy(), "nu_e": experts[:, :, 0].copy()},
                     image_shape)
