"""The speed of training on this machine: what ``smoe bench`` measures.

Each case is a training run from the start in a process of its own, so that its peak of memory is
its own too. The yardstick is np.exp alone over as many float32 values as there are pixels times
kernels: the least that a program would do which looks at every kernel for every pixel.
"""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import time

import numpy as np

from . import __version__, bench_dense, bench_kernels, dense
from .engine import ENGINES, engine_class, loss_and_gradients, render
from .engine_kernels import KernelEngine
from .files import open_to_read
from .images import read_image
from .params import SmoeParams
from .smoe import Smoe

# Pixels, channels, kernels along the longest axis, iterations.
STANDARD = (((128, 128), 1, 12, 200), ((512, 512), 1, 32, 100), ((512, 512), 1, 128, 40),
            ((512, 768), 3, 197, 20))
LARGE = (4000, 6000), 3, 1225, 5
RENDERED, RENDERED_KERNELS = (2160, 3840), 134  # kernels along the longest axis
MANY = 1000  # kernels along an axis, whose weights are not trained
DENSE_PAIRS = 1 << 23  # pixels × kernels of a step of the dense rival; its time is scaled up
SMALL_KERNELS, SMALL_ITERATIONS = 6, 10
PICTURE_KERNELS, PICTURE_ITERATIONS = 32, 40
IMAGE_TOLERANCE = 1e-5  # largest difference
GRADIENT_TOLERANCE = {"float32": 2e-4, "float64": 1e-9}  # relative L2, of each parameter
EXP_BLOCK = 1 << 14  # float32 values; they and their exp stay in the L2 cache
EXP_MOST = 1 << 30  # values that exp is timed on; for more, its time is scaled up


class Incorrect(Exception):
    """An engine does not compute the model."""


def cases(size=None, image_path=None, kernels_per_dim=None, iterations=None, large=False):
    """What is to be measured.

    Parameters
    ----------
    size : int, optional
        Instead of the standard cases a small one of this many pixels along both axes.
    image_path : path, optional
        A picture to measure as well.
    kernels_per_dim : int, optional
        Its kernels along the longest axis.
    iterations : int, optional
        Iterations of every case, instead of numbers that suit each.
    large : bool
        Also measure a picture of 24 megapixels in colour with a million kernels.

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError, OSError
        If a number is out of range, or there is no such picture.
    """
    for name, value in (("size", size), ("kernels_per_dim", kernels_per_dim),
                        ("iterations", iterations)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if image_path is None and kernels_per_dim is not None:
        raise ValueError("kernels_per_dim is for a picture of your own; give its image_path too")
    found = []
    if image_path is not None:
        open_to_read(image_path).close()
        found.append({"image_path": os.fspath(image_path),
                      "kernels_per_dim": kernels_per_dim or PICTURE_KERNELS,
                      "iterations": iterations or PICTURE_ITERATIONS})
    wanted = list(STANDARD)
    if size is not None:
        wanted = [((size, size), 1, SMALL_KERNELS, SMALL_ITERATIONS)]
    if large:
        wanted.append(LARGE)
    return found + [{"shape": list(shape), "channels": channels, "kernels_per_dim": kernels,
                     "iterations": iterations or usual}
                    for shape, channels, kernels, usual in wanted]


def run(cases, backend="auto", say=lambda line: None):
    """Compare an engine with the definition of the model, then measure it.

    Parameters
    ----------
    cases : list of dict
        From ``cases``.
    backend : str
        Of one engine, "auto", or "all" for every one that works here.
    say : callable
        Is told, in a line, what happens next.

    Returns
    -------
    dict
        ``errors`` of the comparison, by backend, ``cases`` with what ``measure`` found, of each
        case and backend, ``render_ms`` of a large picture by backend, ``first_use`` of compiled
        kernels (seconds to compile, seconds to load), ``unavailable`` backends with the reasons,
        and the machine.

    Raises
    ------
    Incorrect
        If the engine is wrong; nothing is measured then.
    ValueError, OSError, MemoryError
        If a case cannot be run.
    """
    reasons = {}
    backends = [engine_class(backend).name] if backend != "all" else []
    for name, engine in ENGINES.items() if backend == "all" else ():
        why_not = engine.why_not()
        if why_not is None:
            backends.append(name)
        else:
            reasons[name] = why_not
    report = {"smoe_np": __version__, "numpy": np.__version__, "python": platform.python_version(),
              "machine": platform.machine(), "processors": os.cpu_count(), "unavailable": reasons,
              "errors": {}, "cases": [], "render_ms": {}}
    for name in backends:
        say(f"comparing the engine {name!r} with the definition of the model ...")
        report["errors"][name] = check(name)
    for number, case in enumerate(cases, 1):
        what = case.get("image_path") or _size(case["shape"])
        for name in backends:
            say(f"case {number} of {len(cases)}: {what}, {case['kernels_per_dim']} kernels along "
                f"the longest axis, {case['iterations']} iterations, backend {name!r} ...")
            report["cases"].append(_in_own_process({**case, "backend": name}))
    if cases[-1]["kernels_per_dim"] == SMALL_KERNELS:
        return report
    for name in backends:
        say(f"rendering {_size(RENDERED)} pixels, backend {name!r} ...")
        report["render_ms"][name] = _in_own_process(
            {"render": RENDERED, "kernels_per_dim": RENDERED_KERNELS, "backend": name})
    if "native" in backends:
        say("compiling kernels, and loading them ...")
        report["first_use"] = bench_kernels.seconds_of_first_use()
    return report


# ---- correctness


def check(backend="auto"):
    """Compare image and gradients of an engine with those of ``dense``, on random models.

    Returns
    -------
    dict
        The largest difference of an image and of a gradient (relative L2), by dtype.

    Raises
    ------
    Incorrect
        If one is larger than allowed.
    """
    shape, errors = (45, 58), {}  # no multiples of a tile
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
        raise Incorrect(f"{what} in {dtype} is off the definition of the model by "
                        f"{difference:.1e}, {allowed:.0e} is allowed; nothing was measured")


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


def _size(shape):
    return "×".join(map(str, shape))


def picture(shape, channels=1):
    """A picture by formula, of edges, gradients and texture: (*shape, channels) float32."""
    row, column = (np.indices(shape) + 0.5) / max(shape)
    grey = 0.45 + 0.3 * (row - column)
    grey += 0.3 * ((row - 0.4) ** 2 + (column - 0.6) ** 2 < 0.06)
    grey -= 0.25 * (row > 0.35 + 0.5 * column)
    grey += 0.12 * np.sin(90 * row + 40 * column**2) * (column > 0.55)
    grey += 0.08 * np.sin(35 * row) * np.sin(50 * column) * (row < 0.3)
    tints = np.array([1.0, 0.8, 0.6])[:channels]
    return (grey[..., None] * tints).clip(0, 1).astype(np.float32)


# ---- measuring


def measure(case):
    """Train as a case says, in this process.

    Returns
    -------
    dict
        The case and, of the whole run: ``ms_per_iteration``, ``pairs_per_pixel``, ``ns_per_pair``,
        ``builds`` of pair lists, ``ms_per_build``, ``build_ms_per_iteration``, ``peak_mib``,
        ``exp_ms`` and ``times_exp``.
    """
    if "image_path" in case:
        image = read_image(case["image_path"])
    else:
        image = picture(case["shape"], case["channels"])
    backend, iterations = case["backend"], case["iterations"]
    # kernels of a weight of 10⁻⁶ would leave at the first step
    smoe = Smoe(image, case["kernels_per_dim"], train_pis=case["kernels_per_dim"] < MANY,
                backend=backend)
    _warm_up(smoe, backend)
    kernels, pixels = smoe.params.num_kernels, int(np.prod(smoe.shape))
    pairs, exp_seconds = [], []

    def look(smoe):  # a callback: its time is not that of training
        pairs.append(smoe.engine.pairs_per_pixel)
        exp_seconds.append(seconds_of_exp(pixels * kernels))

    smoe.train(iterations, val_iter=-(-iterations // 2), callbacks=[look])
    if smoe.stopped is not None:
        raise ValueError(f"training {smoe.stopped} at iteration {smoe.iteration}")
    engine, record = smoe.engine, smoe.history[-1]
    ms = 1e3 * record.seconds / iterations
    pairs, exp_ms = float(np.mean(pairs)), 1e3 * float(np.median(exp_seconds))
    found = {
        **case, "backend": smoe.engine.name, "shape": list(smoe.shape), "channels": smoe.channels,
        "kernels": kernels, "psnr": record.psnr, "ms_per_iteration": ms,
        "pairs_per_pixel": pairs, "ns_per_pair": 1e6 * ms / (pixels * pairs),
        "builds": engine.builds, "ms_per_build": 1e3 * engine.build_seconds / max(engine.builds, 1),
        "build_ms_per_iteration": 1e3 * engine.build_seconds / iterations, "peak_mib": peak_mib(),
        "exp_ms": exp_ms, "times_exp": ms / exp_ms,
    }
    found["dense_ms"] = _dense_ms(smoe, image)
    if isinstance(engine, KernelEngine):
        found["details"] = bench_kernels.details(smoe, max(iterations // 4, 2))
    return found


def _dense_ms(smoe, image):
    """Milliseconds of a step of what one would write instead, from where a training stands.

    It is taken over a part of the picture, as large as the whole if that is small; its time is that
    of all pixels in proportion.
    """
    move = smoe.engine.launch.array if hasattr(smoe.engine, "launch") else np.asarray
    whole = np.reshape(image, (*smoe.shape, -1))
    rows = math.ceil(DENSE_PAIRS / (math.prod(smoe.shape[1:]) * smoe.params.num_kernels))
    part = move(whole[:rows].astype(np.float32))
    params = smoe.params.map(move)
    started = time.perf_counter()
    float(bench_dense.train(params, part, 1).pis[0])
    return 1e3 * (time.perf_counter() - started) * len(whole) / len(part)


def _render_ms(case):
    """Milliseconds to draw a picture from some 10,000 kernels, lists included."""
    shape = [n // 4 for n in case["render"]]
    smoe = Smoe(picture(shape), case["kernels_per_dim"], backend=case["backend"])
    params = smoe.train(5).params
    times = []
    for _ in range(3):
        started = time.perf_counter()
        render(params, case["render"], case["backend"])
        times.append(1e3 * (time.perf_counter() - started))
    return min(times)


def _warm_up(smoe, backend):
    """Have everything loaded and compiled that a first training of this kind needs."""
    shape = (8,) * len(smoe.shape)
    Smoe(np.full((*shape, smoe.channels), 0.5, np.float32), 2, backend=backend,
         channel_axis=-1).train(1)


def seconds_of_exp(values):
    """Time that np.exp alone takes over float32 values, on one thread and within the cache."""
    block = np.linspace(-20, 0, EXP_BLOCK, dtype=np.float32)
    out = np.empty_like(block)
    rounds = max(1, min(values, EXP_MOST) // EXP_BLOCK)
    started = time.perf_counter()
    for _ in range(rounds):
        np.exp(block, out=out)
    return (time.perf_counter() - started) * values / (rounds * EXP_BLOCK)


def peak_mib():
    """The most memory that this process has held so far, in MiB; None where nothing tells it."""
    # On Linux ru_maxrss starts at the peak of the process that started this one; VmHWM does not.
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


# ---- a process for each case


def _in_own_process(case):
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (parent, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", "from smoe_np.bench import _child; _child()"],
        input=json.dumps(case), capture_output=True, text=True, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"})
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it left no message"])[-1]
        raise OSError(f"a measurement ended with status {done.returncode}: {last}") from None
    if isinstance(answer, dict) and "error" in answer:
        raise _ERRORS[answer["error"]](answer["message"])
    return answer


_ERRORS = {kind.__name__: kind for kind in (OSError, ValueError, ImportError, MemoryError)}


def _child():
    """Measure the case that stdin gives; answer on stdout, as JSON."""
    case = json.load(sys.stdin)
    try:
        answer = _render_ms(case) if "render" in case else measure(case)
    except tuple(_ERRORS.values()) as error:
        kind = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
        answer = {"error": kind, "message": getattr(error, "strerror", None) or str(error)}
    json.dump(answer, sys.stdout)
