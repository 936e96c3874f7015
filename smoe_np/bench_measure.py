"""The measurements of ``bench``; each runs in a process of its own."""

import contextlib
import math
import statistics
import sys
import time

import numpy as np

from . import bench_dense, bench_kernels
from .arguments import check_image
from .engine import engine_class
from .images import read_image
from .initialize import initial_params
from .smoe import Smoe

# kernels along the longest axis from which on mixing weights are not trained
FIXED_WEIGHTS_FROM = 1000
FITTED = 8  # a model to draw is fitted to a picture with this many times fewer pixels per axis ...
FIT_ITERATIONS = 20  # ... in this many iterations
DRAWINGS = 3
STRIP = 1 << 20  # pixels of the synthetic picture that are computed at a time
EXP_BLOCK = 1 << 14  # float32 values; they and their exp stay in the L2 cache
EXP_MOST = 1 << 30  # values that exp is timed on; for more, the time is extrapolated
DENSE_SECONDS = 2.0  # time limit of the dense model; beyond it, the time is extrapolated


def picture(shape, channels=1):
    """A synthetic picture with edges, gradients and texture: (*shape, channels) float32."""
    height, width = shape
    found = np.empty((height, width, channels), np.float32)
    tints = np.array([1.0, 0.8, 0.6])[:channels]
    column = (np.arange(width) + 0.5) / max(shape)
    rows = max(1, STRIP // width)
    for first in range(0, height, rows):
        strip = found[first : first + rows]
        row = (np.arange(first, first + len(strip))[:, None] + 0.5) / max(shape)
        grey = 0.45 + 0.3 * (row - column)
        grey += 0.3 * ((row - 0.4) ** 2 + (column - 0.6) ** 2 < 0.06)
        grey -= 0.25 * (row > 0.35 + 0.5 * column)
        grey += 0.12 * np.sin(90 * row + 40 * column**2) * (column > 0.55)
        grey += 0.08 * np.sin(35 * row) * np.sin(50 * column) * (row < 0.3)
        strip[...] = (grey[..., None] * tints).clip(0, 1)
    return found


def training(case):
    """Measure the training run of a case.

    Returns
    -------
    dict
        The case, and for the whole run: ``ms_per_iteration``, ``pairs_per_pixel``,
        ``ns_per_pair``, ``builds`` (how often pair lists were built), ``ms_per_build``,
        ``build_ms_per_iteration``, ``peak_mib``, ``exp_ms``, ``times_exp`` and ``psnr``; for
        compiled kernels also ``details``, see ``bench_kernels.details``.
    """
    image = _image(case)
    smoe, pairs, exp_ms = _train(image, case)
    peak, engine, record = peak_mib(), smoe.engine, smoe.history[-1]
    ms, pixels, iterations = 1e3 * record.seconds / smoe.iteration, _pixels(smoe), smoe.iteration
    found = {
        **_facts(case, engine, smoe.channels, smoe.history[0].kernels), "psnr": record.psnr,
        **_pace(ms, pairs, pixels, exp_ms), "builds": engine.builds, "peak_mib": peak,
        "ms_per_build": 1e3 * engine.build_seconds / max(engine.builds, 1),
        "build_ms_per_iteration": 1e3 * engine.build_seconds / iterations,
    }
    if not hasattr(engine, "launch"):
        return found
    graphs, channels = hasattr(engine.launch, "graphs"), smoe.channels
    del smoe, engine

    def train(profile):
        smoe, pairs, _ = _train(image, case, profile)
        return smoe.engine, pairs * pixels

    found["details"] = bench_kernels.details(train, graphs, channels)
    return found


def _train(image, case, profile=None):
    """The trained Smoe, its mean pairs per pixel, and (without a profile) milliseconds of exp."""
    _warm_up(image, case["backend"])
    # if trained, weights of 10⁻⁶ would reach 0 at the first step, and their kernels would leave
    smoe = Smoe(image, case["kernels_per_dim"],
                train_pis=case["kernels_per_dim"] < FIXED_WEIGHTS_FROM,
                backend=case["backend"])
    values, pairs, exp_seconds = _pixels(smoe) * smoe.params.num_kernels, [], []

    def look(smoe):  # a callback: its time does not count as training
        pairs.append(smoe.engine.pairs_per_pixel)
        if profile is None:
            exp_seconds.append(seconds_of_exp(values))
        else:
            profile.look(smoe)

    if profile is not None:
        profile.begin(smoe.engine)
    smoe.train(case["iterations"], val_iter=-(-case["iterations"] // 2), callbacks=[look],
               progress=None if profile is None else profile.count)
    if smoe.stopped is not None:
        raise ValueError(f"training {smoe.stopped} at iteration {smoe.iteration}")
    return smoe, statistics.mean(pairs), _median_ms(exp_seconds)


def _warm_up(image, backend):
    """Load and compile everything that a training run of this kind needs."""
    few, _ = check_image(image[tuple(slice(8) for _ in image.shape)], np.float32)
    Smoe(few, 2, backend=backend, channel_axis=-1).train(1)


def rendering(case):
    """Measure the drawing of a case, pair lists included; the keys are those of ``training``."""
    params = _model_to_draw(case)
    drawer = engine_class(case["backend"], 2, case["channels"])
    drawer(params.image_shape).render(params)  # loads and compiles everything
    shape, seconds, exp_seconds = tuple(case["shape"]), [], []
    for _ in range(DRAWINGS):
        started = time.perf_counter()
        engine = drawer(shape)
        engine.render(params)
        seconds.append(time.perf_counter() - started)
        exp_seconds.append(seconds_of_exp(math.prod(shape) * params.num_kernels))
    return {**_facts(case, engine, case["channels"], params.num_kernels),
            **_pace(_median_ms(seconds), engine.pairs_per_pixel, math.prod(shape),
                    _median_ms(exp_seconds)),
            "builds": engine.builds, "ms_per_build": None, "build_ms_per_iteration": None,
            "peak_mib": peak_mib()}


def _model_to_draw(case):
    small = picture([-(-n // FITTED) for n in case["shape"]], case["channels"])
    # weights are not trained, so that no kernel leaves
    return Smoe(small, case["kernels_per_dim"], train_pis=False, backend=case["backend"]).train(
        FIT_ITERATIONS).params


def dense(case):
    """Milliseconds of an iteration, or of the drawing, of a case in ``bench_dense``."""
    if case["library"] == "cupy":
        import cupy as xp
    else:
        xp = np
    if case["renders"]:
        params = _model_to_draw({**case, "backend": "auto"}).map(xp.asarray)
        seconds = bench_dense.seconds_of_rendering(params, tuple(case["shape"]), DENSE_SECONDS)
    else:
        target, _ = check_image(_image(case), np.float32)
        params = initial_params(target, case["kernels_per_dim"]).map(xp.asarray)
        seconds = bench_dense.seconds_of_step(params, xp.asarray(target), DENSE_SECONDS)
    return {"dense_ms": 1e3 * seconds}


# ---- shared by the measurements


def _image(case):
    if "image_path" in case:
        return read_image(case["image_path"])
    return picture(case["shape"], case["channels"])


def _pixels(smoe):
    return math.prod(smoe.shape)


def _facts(case, engine, channels, kernels):
    return {**case, "backend": engine.name, "shape": list(engine.shape), "channels": channels,
            "kernels": kernels}


def _pace(ms, pairs, pixels, exp_ms):
    return {"ms_per_iteration": ms, "pairs_per_pixel": pairs,
            "ns_per_pair": 1e6 * ms / (pixels * pairs),
            "exp_ms": exp_ms, "times_exp": ms / exp_ms}


def _median_ms(seconds):
    return 1e3 * statistics.median(seconds) if seconds else None


def seconds_of_exp(values):
    """Seconds of np.exp alone over float32 values, on one thread and within the cache."""
    block = np.linspace(-20, 0, EXP_BLOCK, dtype=np.float32)
    out = np.empty_like(block)
    rounds = max(1, min(values, EXP_MOST) // EXP_BLOCK)
    started = time.perf_counter()
    for _ in range(rounds):
        np.exp(block, out=out)
    return (time.perf_counter() - started) * values / (rounds * EXP_BLOCK)


def peak_mib():
    """Peak memory of this process so far, in MiB; None if the system does not report it."""
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
