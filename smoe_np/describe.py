"""What a model consists of: counts, ranges, sizes of its kernels."""

import math

import numpy as np

from .numerals import counted, decibels
from .packed import numbers_of

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent


def describe(params, in_bytes=None, bits=None):
    """Facts about a model.

    Parameters
    ----------
    params : SmoeParams
    in_bytes : int, optional
        Size in bytes of the packed file that the model was read from.
    bits : dict, optional
        Bits per number in that file, by kind of numbers.

    Returns
    -------
    dict
        Plain numbers, strings, lists and dicts, including the facts of ``size_of``.
        ``sigma_in_pixels`` has quantiles of the kernels' largest and smallest standard deviations
        in pixels, if the size of the picture is known; ``None`` in it stands for infinity.
    """
    K, D, C = params.num_kernels, params.num_dims, params.num_channels
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
        "experts": "affine" if params.gamma_e.any() else "constant",
        "image_shape": None if params.image_shape is None else list(params.image_shape),
        **size_of(params),
        "packed_bytes": in_bytes,
        "packed_bits": bits,
        "ranges": ranges,
        "negative_gates": int((np.sign(diagonal).prod(axis=1) < 0).sum()),
        "weights_not_above_0": int((params.pis <= 0).sum()),
        "sigma_in_pixels": None,
    }
    if params.image_shape is not None and K:
        facts["sigma_in_pixels"] = _sigma_quantiles(params.A, max(params.image_shape))
    return facts


def size_of(params):
    """The size of a model.

    Parameters
    ----------
    params : SmoeParams

    Returns
    -------
    dict
        ``scalars`` is the number of free parameters: a steering matrix counts with its lower
        triangle, or as one number if the model is radial; slopes count only if any is not 0.
        ``bytes_as_float16`` is their size as float16, ``bits_per_pixel`` that size in bits per
        pixel, or ``None`` if the size of the picture is not known.
    """
    D = params.num_dims
    counts = numbers_of(D, params.num_channels, bool(params.gamma_e.any()), params.radial)
    scalars, shape = params.num_kernels * sum(counts.values()), params.image_shape
    return {
        "scalars": scalars,
        "bytes_as_float16": 2 * scalars,
        "bits_per_pixel": None if shape is None else 16 * scalars / math.prod(shape),
    }


def size_as_text(size, in_bytes=None):
    """The facts of ``size_of`` as text; with ``in_bytes``, for a file of that size."""
    bits, usual = size["bits_per_pixel"], size["bytes_as_float16"]
    if in_bytes is not None and bits is not None:
        bits = bits * in_bytes / usual if usual else None
    each = "" if bits is None else f", {bits:.3g} bits a pixel"
    where = f"{usual:,} bytes as float16" if in_bytes is None else f"{in_bytes:,} bytes"
    return f"{size['scalars']:,} scalars ({where}{each})"


def as_text(facts):
    """The facts of ``describe`` as lines for a terminal."""
    shape = facts["image_shape"]
    lines = [
        ("kernels", facts["kernels"]),
        ("dimensions", facts["dimensions"]),
        ("channels", facts["channels"]),
        ("dtype", facts["dtype"]),
        ("radial", "yes" if facts["radial"] else "no"),
        ("experts", facts["experts"]),
        ("image shape", "×".join(map(str, shape)) if shape else "not in the file"),
        ("size", size_as_text(facts, facts["packed_bytes"])),
        ("negative gates", counted(facts["negative_gates"], "kernel")),
        ("weights ≤ 0", counted(facts["weights_not_above_0"], "kernel")),
    ]
    if "psnr" in facts:
        known = math.inf if facts["psnr"] is None else facts["psnr"]
        lines += [("PSNR", decibels(known)), ("SSIM", f"{facts['ssim']:.4f}")]
    if facts["packed_bits"] is not None:
        bits = (f"{number:.4g} of {kind}" for kind, number in facts["packed_bits"].items())
        lines.append(("bits", ", ".join(bits)))
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
    """Quantiles, over the kernels, of the largest and smallest σ; the covariance is (A Aᵀ)⁻¹."""
    singular = np.linalg.svd(A.astype(np.float64), compute_uv=False)  # (K, D), descending
    with np.errstate(divide="ignore", invalid="ignore"):
        quantiles = {
            name: longest / np.percentile(singular[:, column], np.subtract(100, QUANTILES))
            for name, column in (("largest", -1), ("smallest", 0))
        }
    return {"percent": list(QUANTILES), **{
        name: [float(value) if np.isfinite(value) else None for value in values]
        for name, values in quantiles.items()}}
