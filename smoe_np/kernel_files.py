"""Where the CUDA sources lie: in the installed package, or in the checkout."""

from pathlib import Path


def kernel_folder():
    """Return the folder of the ``*.cu`` and ``*.cuh`` files.

    It is ``smoe_np/kernels`` when the package is installed, and the ``kernels`` folder beside
    ``smoe_np`` in a checkout, whether installed with ``pip install -e`` or not at all.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If neither folder is there.
    """
    package = Path(__file__).resolve().parent
    places = package / "kernels", package.parent / "kernels"
    for folder in places:
        # Not is_dir(): an empty folder left behind by git or by an uninstall is no hit.
        if (folder / "__init__.py").is_file():
            return folder
    raise FileNotFoundError(f"no CUDA sources in {places[0]} or {places[1]}: install smoe_np again")
