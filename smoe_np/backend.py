"""Which array library an array belongs to, and why no GPU can be used."""

import sys

import numpy as np

LEAST_CAPABILITY = 70  # compute capability 7.0: threads of a block may return while others wait
WHEELS = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")


def array_module(*arrays):
    """Return the module, ``numpy`` or ``cupy``, that all given arrays belong to.

    CuPy is never imported, only looked up among the loaded modules: without it there, no CuPy array
    can exist.

    Parameters
    ----------
    *arrays : array_like
        Anything that is not a CuPy array (lists, scalars, NumPy arrays) counts as NumPy;
        ``None`` is ignored.

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


def to_numpy(array):
    """An array as a NumPy array; a NumPy array is returned without a copy."""
    return array.get() if hasattr(array, "get") else array


def why_no_gpu():
    """The reason why no GPU can be used, in one sentence; ``None`` if there is one."""
    wheels = _wheels()
    if len(wheels) > 1:
        return (
            f"there are {len(wheels)} installations of CuPy, {' and '.join(wheels)}, which break "
            f"each other; uninstall all of them, then install one"
        )
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
        capability = cupy.cuda.Device().compute_capability
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        return (
            f"CuPy is installed, but no CUDA driver answers ({what}); install NVIDIA's driver, or "
            f"a newer one"
        )
    if int(capability) < LEAST_CAPABILITY:
        return (
            f"the GPU has compute capability {capability[:-1]}.{capability[-1]}, and at least "
            f"{LEAST_CAPABILITY // 10}.{LEAST_CAPABILITY % 10} is needed; use a newer GPU "
            f"(CUDA_VISIBLE_DEVICES chooses between several)"
        )
    return None


def _wheels():
    """The CuPy packages that are installed."""
    import importlib.metadata  # slow to import

    found = []
    for name in WHEELS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found
