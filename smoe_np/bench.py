"""``smoe bench``: the speed of training and drawing on this machine.

Each case is a training run from scratch, or the drawing of a model, in a process of its own, so
that its peak memory is measured separately. There are two references: np.exp alone over as many
float32 values as there are pixels times kernels, the minimum for a program that evaluates every
kernel at every pixel; and ``bench_dense``, the whole model in plain array code that does so.
"""

import json
import os
import platform
import subprocess
import sys

import numpy as np

from . import __version__, bench_kernels, bench_measure, dense, machine
from .arguments import check_image
from .bench_measure import picture
from .engine import ENGINES, engine_class, loss_and_gradients, render
from .engine_kernels import KernelEngine
from .images import read_image
from .params import SmoeParams

# Pixels, channels, kernels along the longest axis, iterations (0: a drawing).
STANDARD = (((128, 128), 1, 12, 200), ((512, 512), 1, 32, 100), ((512, 512), 1, 128, 40),
            ((512, 768), 3, 197, 20), ((2160, 3840), 1, 133, 0))
LARGE = (4000, 6000), 3, 1225, 3
LARGE_BYTES = 4 << 30  # memory for it, with some to spare
BYTES_A_PIXEL = 24  # least memory per pixel for a picture of any size, besides its model
SMALL_KERNELS, SMALL_ITERATIONS = 6, 10
PICTURE_KERNELS, PICTURE_ITERATIONS = 32, 40
IMAGE_TOLERANCE = 1e-5  # largest difference of pictures in [0, 1]
GRADIENT_TOLERANCE = {"float32": 2e-4, "float64": 1e-9}  # relative L2, of each parameter


class Incorrect(Exception):
    """An engine does not compute the model correctly."""


def cases(size=None, image_path=None, kernels_per_dim=None, iterations=None, large=False):
    """The cases to measure.

    Parameters
    ----------
    size : int, optional
        Pixels along both axes of a small case that replaces the standard cases.
    image_path : path, optional
        A picture to measure in addition.
    kernels_per_dim : int, optional
        Kernels along the longest axis of this picture.
    iterations : int, optional
        Iterations of every training run; by default each case has its own number.
    large : bool
        Also measure a picture of 24 megapixels in colour with a million kernels.

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError, OSError
        If a number is out of range, or the picture cannot be read or fitted.
    MemoryError
        If there is too little memory for a large case.
    """
    for name, value in (("size", size), ("kernels_per_dim", kernels_per_dim),
                        ("iterations", iterations)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if image_path is None and kernels_per_dim is not None:
        raise ValueError("kernels_per_dim is for a picture of your own; give its image_path too")
    found = []
    if image_path is not None:
        check_image(read_image(image_path), np.float32)
        found.append({"image_path": os.fspath(image_path), "renders": False,
                      "kernels_per_dim": kernels_per_dim or PICTURE_KERNELS,
                      "iterations": iterations or PICTURE_ITERATIONS})
    wanted = list(STANDARD)
    if size is not None:
        _refuse_too_large(f"a picture of {size}×{size} pixels", BYTES_A_PIXEL * size**2)
        wanted = [((size, size), 1, SMALL_KERNELS, SMALL_ITERATIONS)]
    if large:
        _refuse_too_large("the large picture", LARGE_BYTES)
        wanted.append(LARGE)
    return found + [{"shape": list(shape), "channels": channels, "renders": usual == 0,
                     "kernels_per_dim": kernels, "iterations": usual and (iterations or usual)}
                    for shape, channels, kernels, usual in wanted]


def _refuse_too_large(what, needed):
    free = machine.free_bytes()
    if free is not None and free < needed:
        raise MemoryError(f"{what} takes {needed / 2**30:,.1f} GiB, but only "
                          f"{free / 2**30:.1f} GiB are free")


def run(cases, backend="auto", say=lambda line: None):
    """Compare engines with the definition of the model, then measure them.

    Parameters
    ----------
    cases : list of dict
        From ``cases``.
    backend : str
        Name of an engine, "auto", or "all" for every engine that works here.
    say : callable
        Called with a line of text about the next step.

    Returns
    -------
    dict
        ``errors`` (of the comparison), ``first_use`` (seconds to compile and to load compiled
        kernels) and ``unavailable`` (with "all": why a backend does not work here) are dicts by
        backend. ``cases`` lists the measurements of ``bench_measure`` for each case and backend.
        The other entries describe the machine and the versions.

    Raises
    ------
    Incorrect
        If an engine is wrong; nothing is measured then.
    ValueError, OSError, MemoryError
        If a case cannot be run.
    """
    backends, reasons = _backends(backend)
    report = {"smoe_np": __version__, "numpy": np.__version__, "python": platform.python_version(),
              "machine": platform.machine(), "processors": machine.processors(),
              "unavailable": reasons,
              "errors": {}, "first_use": {}, "cases": []}
    for name in backends:
        say(f"comparing the engine {name!r} with the definition of the model ...")
        report["errors"][name] = check(name)
    for name in backends:
        if issubclass(ENGINES[name], KernelEngine):
            say(f"compiling kernels of {name!r}, and loading them ...")
            report["first_use"][name] = bench_kernels.seconds_of_first_use(name)
    for number, case in enumerate(cases, 1):
        what = case.get("image_path") or "×".join(map(str, case["shape"]))
        work = f"{case['iterations']} iterations" if not case["renders"] else "drawing"
        what = (f"case {number} of {len(cases)}: {what}, {case['kernels_per_dim']} kernels along "
                f"the longest axis, {work}")
        rivals = {}
        for name in backends:
            say(f"{what}, backend {name!r} ...")
            found = _in_own_process("rendering" if case["renders"] else "training",
                                    {**case, "backend": name})
            library = "cupy" if name == "cupy" else "numpy"
            if library not in rivals:
                say(f"{what}, dense in {library} ...")
                rivals[library] = _in_own_process("dense", {**case, "library": library})
            found.update(rivals[library])
            found["times_dense"] = found["dense_ms"] / found["ms_per_iteration"]
            report["cases"].append(found)
    return report


def _backends(backend):
    """The names of the chosen engines, and for "all" why the others do not work here."""
    if backend != "all":
        return [engine_class(backend).name], {}
    reasons = {name: engine.why_not() for name, engine in ENGINES.items()}
    return ([name for name, why_not in reasons.items() if why_not is None],
            {name: why_not for name, why_not in reasons.items() if why_not is not None})


# ---- correctness


def check(backend="auto"):
    """Compare image and gradients of an engine with those of ``dense``, on random models.

    Returns
    -------
    dict
        By dtype, the largest difference of an image, and of a gradient (relative L2).

    Raises
    ------
    Incorrect
        If a difference is larger than allowed.
    """
    shape, errors = (45, 58), {}  # not multiples of the tile size
    for dtype, allowed in GRADIENT_TOLERANCE.items():
        worst = {"image": 0.0, "gradient": 0.0}
        for channels in (1, 3):
            params, target = _random_model(shape, channels), picture(shape, channels)
            image = np.reshape(render(params, shape, backend, dtype), target.shape)
            difference = np.abs(image - dense.render(params, shape).clip(0, 1)).max()
            worst["image"] = max(worst["image"], float(difference))
            _demand("the image", dtype, difference, IMAGE_TOLERANCE)
            _, gradients = loss_and_gradients(params, target, backend=backend, dtype=dtype,
                                              channel_axis=-1)
            for name, exact in dense.gradients(params, target).items():
                found = getattr(gradients, name)
                difference = np.linalg.norm(found - exact) / np.linalg.norm(exact)
                worst["gradient"] = max(worst["gradient"], float(difference))
                _demand(f"the gradient of {name}", dtype, difference, allowed)
        errors[dtype] = worst
    return errors


def _demand(what, dtype, difference, allowed):
    if not difference <= allowed:
        raise Incorrect(f"{what} in {dtype} differs from the definition of the model by "
                        f"{difference:.1e}, but {allowed:.0e} is allowed; nothing was measured")


def _random_model(shape, channels, kernels=40):
    random = np.random.default_rng(0)
    longest = max(shape)
    A = np.tril(random.normal(0, 4, (kernels, 2, 2)))
    A[:, [0, 1], [0, 1]] = random.uniform(4, 20, (kernels, 2))
    return SmoeParams(
        pis=random.uniform(0.5, 1.5, kernels) / kernels,
        musX=random.uniform(0, 1, (kernels, 2)) * np.divide(shape, longest),
        A=A,
        gamma_e=random.normal(0, 0.3, (kernels, channels, 2)),
        nu_e=random.uniform(0.1, 0.9, (kernels, channels)),
    )


# ---- a process for each case


def _in_own_process(measurement, case):
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (parent, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", "from smoe_np.bench import _child; _child()", measurement],
        input=json.dumps(case), capture_output=True, text=True, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"})
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it left no message"])[-1]
        raise OSError(f"a measurement ended with status {done.returncode}: {last}") from None
    if "error" in answer:
        raise _ERRORS[answer["error"]](answer["message"])
    return answer


_MEASUREMENTS = {function.__name__: function for function in (
    bench_measure.training, bench_measure.rendering, bench_measure.dense)}
_ERRORS = {kind.__name__: kind for kind in (OSError, ValueError, ImportError, MemoryError)}


def _child():
    """Run the measurement named by the last argument; the case is on stdin, JSON to stdout."""
    case = json.load(sys.stdin)
    try:
        answer = _MEASUREMENTS[sys.argv[-1]](case)
    except tuple(_ERRORS.values()) as error:
        kind = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
        answer = {"error": kind, "message": getattr(error, "strerror", None) or str(error)}
    json.dump(answer, sys.stdout)
