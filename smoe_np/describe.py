"""What a model is made of: counts, ranges, sizes of its kernels."""

import numpy as np

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent


def describe(params):
    """Facts about a model.

    Parameters
    ----------
    params : SmoeParams

    Returns
    -------
    dict
        Plain numbers, texts and lists. ``scalars`` counts the free numbers of the model: of a
        steering matrix the lower triangle, of a radial one a single number. ``sigma_in_pixels`` has
        the quantiles of the kernels' largest and smallest standard deviation, where the picture's
        size is known; ``None`` stands for an extent without end.
    """
    K, D, C = params.num_kernels, params.num_dims, params.num_channels
    steering = 1 if params.radial else D * (D + 1) // 2
    scalars = K * (1 + D + steering + C * D + C)
    ranges = {}
    for name, array in params.arrays().items():
        if name == "A":
            array = array[(slice(None), *np.tril_indices(D))]
        ranges[name] = [float(array.min()), float(array.max())] if array.size else None
    diagonal = np.diagonal(params.A, axis1=1, axis2=2)
    facts = {
        "kernels": K,
        "dimensions": D,
        "channels": C,
        "dtype": params.dtype.name,
        "radial": params.radial,
        "image_shape": None if params.image_shape is None else list(params.image_shape),
        "scalars": scalars,
        "bytes_as_float16": 2 * scalars,
        "ranges": ranges,
        "negative_gates": int((np.sign(diagonal).prod(axis=1) < 0).sum()),
        "weights_not_above_0": int((params.pis <= 0).sum()),
        "sigma_in_pixels": None,
    }
    if params.image_shape is not None and K:
        facts["sigma_in_pixels"] = _sigma_quantiles(params.A, max(params.image_shape))
    return facts


def as_text(facts):
    """The facts of ``describe`` as lines for a terminal."""
    shape = facts["image_shape"]
    lines = [
        ("kernels", facts["kernels"]),
        ("dimensions", facts["dimensions"]),
        ("channels", facts["channels"]),
        ("dtype", facts["dtype"]),
        ("radial", "yes" if facts["radial"] else "no"),
        ("image shape", "×".join(map(str, shape)) if shape else "not in the file"),
        ("scalars", f"{facts['scalars']} ({facts['bytes_as_float16']} bytes as float16)"),
        ("negative gates", f"{facts['negative_gates']} kernels"),
        ("weights ≤ 0", f"{facts['weights_not_above_0']} kernels"),
    ]
    for name, bounds in facts["ranges"].items():
        lines.append((name, f"{bounds[0]:.6g} … {bounds[1]:.6g}" if bounds else "empty"))
    text = [f"{name:<15}{value}" for name, value in lines]
    sigma = facts["sigma_in_pixels"]
    if sigma:
        text.append("sigma in pixels" + "".join(f"{percent:>8}%" for percent in QUANTILES))
        for name in ("largest", "smallest"):
            values = ("inf" if value is None else f"{value:.3g}" for value in sigma[name])
            text.append(f"  {name:<13}" + "".join(f"{value:>9}" for value in values))
    return "\n".join(text)


def _sigma_quantiles(A, longest):
    """Quantiles over the kernels of the extreme σ; the covariance is (A Aᵀ)⁻¹."""
    singular = np.linalg.svd(A.astype(np.float64), compute_uv=False)  # (K, D), descending
    with np.errstate(divide="ignore", invalid="ignore"):
        quantiles = {
            name: longest / np.percentile(singular[:, column], np.subtract(100, QUANTILES))
            for name, column in (("largest", -1), ("smallest", 0))
        }
    return {"percent": list(QUANTILES), **{
        name: [float(value) if np.isfinite(value) else None for value in values]
        for name, values in quantiles.items()}}
