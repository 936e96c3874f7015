"""Which array library an array belongs to, and why there may be no GPU."""

import sys

import numpy as np


def array_module(*arrays):
    """Return the module, ``numpy`` or ``cupy``, that all given arrays belong to.

    CuPy is looked up among the modules that are already loaded, never imported: an array of it
    cannot exist otherwise.

    Parameters
    ----------
    *arrays : array_like
        Anything that is not a CuPy array (lists, scalars, NumPy arrays) counts as NumPy;
        ``None`` is passed over.

    Raises
    ------
    TypeError
        If NumPy and CuPy arrays are mixed.
    """
    cupy = sys.modules.get("cupy")
    given = [array for array in arrays if array is not None]
    if cupy is None or not hasattr(cupy, "ndarray"):
        return np
    on_gpu = [isinstance(array, cupy.ndarray) for array in given]
    if not any(on_gpu):
        return np
    if not all(on_gpu):
        raise TypeError(
            "the arrays given are partly NumPy and partly CuPy; move them to one side first, "
            "with cupy.asarray(...) or cupy.asnumpy(...)"
        )
    return cupy


def why_no_gpu():
    """Say in one sentence why no GPU can be used, or return ``None`` if one answers."""
    try:
        import cupy
    except Exception as error:  # a broken CuPy fails in more ways than ImportError
        return (
            f'CuPy cannot be imported ({type(error).__name__}); install it with '
            f'pip install "smoe_np[cuda12]" or "smoe_np[cuda13]"'
        )
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "CuPy is installed, but the driver reports no CUDA device"
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        return f"CuPy is installed, but no CUDA driver answers ({what})"
    return None
