"""Where the time of compiled kernels goes, and how far it is from what the machine can do.

Operations of a pair at a pixel, counted from the formulas, with M monomials up to degree 2, D
dimensions and C channels; a multiplication and an addition are two:

    log-gate      2 (M − 1)       Horner's rule over φ
    exp           EXP             its polynomial and the scaling
    sums          1 + C (2 D + 2) the gates' sum; experts, and their sums
    pull          C (2 D + 2)     Σ_c q_c e_c + q_0, the experts again
    g, h          1 + C
    moments       2 (M + C (D + 1))

Fewer may be done: polynomials can be followed by differences, moments be added up by rows.
"""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from .engine_kernels import allow

EXP = 16
REPEATS = 5
CEILING_SECONDS = 0.05  # that a measurement of a ceiling takes
TRIAD_BYTES = 1 << 26  # of each array: beyond caches


def operations_of_pair(D, C):
    """Floating-point operations of a pair at a pixel, forward and backward."""
    M = (D + 1) * (D + 2) // 2
    forward = 2 * (M - 1) + EXP + 1 + C * (2 * D + 2)
    return forward + C * (2 * D + 2) + 1 + C + 2 * (M + C * (D + 1))


def bytes_of_step(engine):
    """Bytes that a step must move at least: the picture, lists, and rows of moments twice."""
    pairs = engine.pairs_per_pixel * int(np.prod(engine.shape)) / engine.grid.pixels
    row = engine.row_width * engine.dtype.itemsize
    return engine.target.nbytes + pairs * (8 + 2 * row)


def seconds_of_launches(engine, part):
    """Seconds that each kernel takes alone, by name, in a step ("step") or a build ("lists")."""
    launches = engine.launches[part]
    sequences = [engine.launch.record([launch]) for launch in launches]
    times = np.empty((REPEATS, len(launches)))
    for round_of_all in times:  # in their order: one works on what the one before has left
        allow(engine, part)
        for i, sequence in enumerate(sequences):
            started = time.perf_counter()
            engine.launch.run(sequence)
            round_of_all[i] = time.perf_counter() - started
    found = {}
    for (kernel, *_), seconds in zip(launches, times.min(axis=0)):
        found[kernel] = found.get(kernel, 0.0) + float(seconds)
    return found


def ceilings(engine):
    """Operations and bytes a second that the machine reaches with nothing else to do."""
    launch, pixels = engine.launch, engine.grid.pixels
    blocks, rounds = 1024, 1000
    out = launch.zeros(blocks * pixels, engine.dtype)
    operations = 2 * 12 * rounds * pixels * blocks
    flops = operations / _seconds(launch, ("multiply_add", blocks, pixels, (rounds, out)))
    blocks = TRIAD_BYTES // (pixels * engine.dtype.itemsize)
    a, b, out = (launch.zeros(blocks * pixels, engine.dtype) for _ in range(3))
    a += 1  # pages that were never written to are none
    b += 1
    rate = 3 * a.nbytes / _seconds(launch, ("triad", blocks, pixels, (a, b, out)))
    return {"flops": flops, "bytes": rate}


def _seconds(launch, wanted):
    sequence, times, until = launch.record([wanted]), [], time.perf_counter() + CEILING_SECONDS
    launch.run(sequence)
    while len(times) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        launch.run(sequence)
        times.append(time.perf_counter() - started)
    return min(times)


def details(smoe, iterations):
    """Where the time of a training run goes that has gone on for a while.

    Returns
    -------
    dict
        ``threads``; ``ms_one_thread`` and ``ms_all_threads``, of an iteration; ``ns_per_pair`` of
        an iteration and ``ns_per_pair_step`` of the kernel ``step``, on one thread;
        ``ms_in_kernels``, of an iteration on all threads, lists aside, and ``kernels``, its parts;
        ``gflops`` and ``gbytes`` a second of the kernels of a step, and of the machine.
    """
    engine = smoe.engine
    pixels = int(np.prod(smoe.shape))
    found = {"threads": engine.threads}
    for name, threads in (("ms_one_thread", 1), ("ms_all_threads", engine.threads)):
        engine.threads = threads
        started, steps = smoe.history[-1].seconds, smoe.iteration
        smoe.train(iterations, val_iter=10**9)
        found[name] = 1e3 * (smoe.history[-1].seconds - started) / (smoe.iteration - steps)
        pairs = engine.pairs_per_pixel * pixels
        if threads == 1:
            found["ns_per_pair"] = 1e6 * found[name] / pairs
            step = seconds_of_launches(engine, "step")["step"]
            found["ns_per_pair_step"] = 1e9 * step / pairs
    engine.threads = found["threads"]
    kernels = seconds_of_launches(engine, "step")
    seconds = sum(kernels.values())
    most = ceilings(engine)
    operations = operations_of_pair(len(smoe.shape), smoe.channels) * pairs
    found.update(
        ms_in_kernels=1e3 * seconds, kernels={n: 1e3 * s for n, s in kernels.items()},
        lists={n: 1e3 * s for n, s in seconds_of_launches(engine, "lists").items()},
        gflops=1e-9 * operations / seconds, gflops_most=1e-9 * most["flops"],
        gbytes=1e-9 * bytes_of_step(engine) / seconds, gbytes_most=1e-9 * most["bytes"])
    return found


def seconds_of_first_use():
    """Seconds to compile the native kernels of grey pictures, and to load them from the cache."""
    script = ("import time; from smoe_np import launch_native as n; s = time.perf_counter(); "
              "n.load_kernels(2, 1, 'float32'); print(time.perf_counter() - s)")
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (parent, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        home = {"XDG_CACHE_HOME": folder, "LOCALAPPDATA": folder, "HOME": folder}
        runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                               check=True, env={**os.environ, **home, "PYTHONPATH": path})
                for _ in range(2)]
    return [float(run.stdout) for run in runs]
