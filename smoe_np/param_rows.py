"""Parameters as rows, one per kernel: the layout of the compute kernels, see gate.cuh."""

import numpy as np

from .params import unchecked

PART = 2048  # rows copied at a time: they stay in the cache while their columns are copied


def lower_entries(D):
    """The (i, j), i ≥ j, of a lower triangle, row by row."""
    return [(i, j) for i in range(D) for j in range(i + 1)]


def names_of_row(D, C):
    """The parameter to which each number of a row belongs: list of W names."""
    return ["pis", *["musX"] * D, *["A"] * len(lower_entries(D)),
            *["nu_e", *["gamma_e"] * D] * C]


def rows_of(params, spare=None):
    """The parameters of a model as rows.

    Parameters
    ----------
    params : SmoeParams
    spare : array, optional
        Memory to reuse if it has the right shape and dtype: new memory costs more than filling it.

    Returns
    -------
    (K, W) array in the dtype of the model
        π, μ, the lower triangle of A, then for each channel ν and γ.
    """
    columns = _columns(params)
    rows, shape = spare, (params.num_kernels, len(columns))
    if spare is None or (spare.shape, spare.dtype) != (shape, params.dtype):
        rows = np.empty(shape, params.dtype)
    for part in _parts(len(rows)):
        of_part = rows[part]
        for place, column in enumerate(columns):
            of_part[:, place] = column[part]
    return rows


def params_of_rows(rows, D, image_shape=None):
    """The SmoeParams of rows, the inverse of ``rows_of``; not checked; all is copied."""
    (K, W), dtype = rows.shape, rows.dtype
    C = (W - 1 - D - len(lower_entries(D))) // (D + 1)
    params = unchecked({"pis": np.empty(K, dtype), "musX": np.empty((K, D), dtype),
                        "A": np.zeros((K, D, D), dtype), "gamma_e": np.empty((K, C, D), dtype),
                        "nu_e": np.empty((K, C), dtype)}, image_shape)
    columns = _columns(params)
    for part in _parts(K):
        of_part = rows[part]
        for place, column in enumerate(columns):
            column[part] = of_part[:, place]
    return params


def _columns(params):
    """The views of ``params`` that are the columns of ``rows_of``: W of (K,) each."""
    D = params.num_dims
    columns = [params.pis, *params.musX.T, *(params.A[:, i, j] for i, j in lower_entries(D))]
    for nu_e, gamma_e in zip(params.nu_e.T, params.gamma_e.transpose(1, 2, 0)):
        columns += [nu_e, *gamma_e]
    return columns


def _parts(K):
    """Slices of at most PART of K rows."""
    return [slice(first, first + PART) for first in range(0, K, PART)]
