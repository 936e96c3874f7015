"""Where compiled kernels spend their time, and how close they come to the machine's limits."""

import os
import site
import subprocess
import sys
import tempfile
import time

import numpy as np

from .kernel_buffers import TILE_THREADS
from .kernel_files import constants

STEP_KERNELS = ("step", "gather", "judge", "update")  # the steps; other kernels build lists
EXP_OPERATIONS = 13  # 2^t: split t into integer and fraction, 5 multiply-adds, scaling
CEILING_SECONDS = 0.1  # time spent on measuring one limit of the machine
MULTIPLY_ADD_BLOCKS, MULTIPLY_ADD_ROUNDS = 1024, 1000
TRIAD_BYTES = 1 << 26  # size of each array, larger than the caches


def operations_of_pair(channels):
    """Floating-point operations of a step for one pair at one pixel, in float32.

    This is the minimum that the formulas need, in the order of the kernel ``step``: polynomials are
    evaluated from pixel to pixel by forward differences, in any number of dimensions. Work done
    once per pair and tile is left out. A multiply-add counts as two.

        log-gate     2         update its value and its difference
        gate         13        2^t: EXP_OPERATIONS
        Σ gates      1
        y            3 C       update the expert; add its product with the gate
        h = w q      C         then the moments:
        Σ h, Σ b h   3 C
        pull         3 C       update the expert; Σ_c q_c e_c − q·y
        g            1
        Σ b^n g      1 + 2 + 2 n = 0, 1, 2; b: position along the way through the tile
    """
    return 2 + EXP_OPERATIONS + 1 + 10 * channels + 1 + 5


def pixels_of_pair(engine):
    """Mean number of pixels of its tile at which a step evaluates a pair."""
    found = engine.launch.zeros(engine.tiles, np.float64)
    engine._run("survey", engine.tiles, TILE_THREADS, *engine._tile, found)
    return float(engine.launch.host(found).sum()) / engine._num_pairs()


def bytes_of_step(engine):
    """Least number of bytes that a step moves: picture, lists, and rows of moments twice."""
    pairs = engine.pairs_per_pixel * int(np.prod(engine.shape)) / engine.grid.pixels
    row = engine.row_width * engine.dtype.itemsize
    rows = int(engine.launch.host(engine.first_row)[engine.patches])
    return engine.target.nbytes + pairs * (8 if engine.patch_level else 4) + rows * (4 + 2 * row)


# ---- where the time goes


class Profile:
    """Times the steps of a training run, and each kernel in them.

    Call ``begin`` with the engine before anything is computed. Pass ``look`` to ``Smoe.train`` as
    the last of the ``callbacks``, and ``count`` as ``progress``. Work between steps, such as the
    loss of a validation, is not counted.

    Parameters
    ----------
    threads : int, optional
        Number of threads; that of the engine by default.
    graphs : bool, optional
        On a GPU, whether steps are captured in graphs.
    by_kernel : bool
        Whether kernels are timed one by one; on a GPU this needs ``graphs=False``.

    Attributes
    ----------
    seconds : float
        Time of all steps.
    kernels : dict of str to float
        Seconds of each kernel, by name.
    steps : int
        Number of steps.
    """

    def __init__(self, threads=None, graphs=None, by_kernel=True):
        self.threads, self.graphs, self.by_kernel = threads, graphs, by_kernel
        self.seconds, self.steps, self.kernels, self._clocks = 0.0, 0, {}, {}

    def begin(self, engine):
        """Set up a new engine: its threads, graphs and timers."""
        launch = engine.launch
        if self.threads is not None:
            launch.threads = self.threads
        if self.graphs is not None:
            launch.graphs = self.graphs
        if self.by_kernel:
            self._clocks = _clocks(launch)
        self.kernels = dict.fromkeys(self._clocks, 0.0)

    def look(self, smoe):
        """Do not count the time since the last steps."""
        self._before = self._now(smoe)

    def count(self, smoe):
        """Count the time since the last steps or the last ``look``."""
        now = self._now(smoe)
        self.seconds += now[0] - self._before[0]
        self.steps += now[1] - self._before[1]
        for kernel, seconds in now[2].items():
            self.kernels[kernel] += seconds - self._before[2][kernel]
        self._before = now

    def _now(self, smoe):
        kernels = {name: clock() for name, clock in self._clocks.items()}
        return time.perf_counter(), smoe.iteration, kernels


def _clocks(launch):
    """For each kernel, a function that returns its seconds so far."""
    if hasattr(launch, "profile"):
        return {kernel: seconds.item for kernel, seconds in launch.profile().items()}
    ahead = _Ahead(launch)
    launch.functions = {kernel: _Timed(launch.xp.cuda, function, ahead)
                        for kernel, function in launch.functions.items()}
    return {kernel: function.read for kernel, function in launch.functions.items()}


class _Ahead:
    """Keeps the host ahead of the GPU, which would otherwise wait between two events."""

    ROUNDS = 20_000  # of ``multiply_add``: some tenths of a millisecond

    def __init__(self, launch):
        self.function = launch.functions["multiply_add"]
        self.arguments = np.int32(self.ROUNDS), launch.zeros(TILE_THREADS, launch.dtype)
        self.last = None

    def keep(self):
        """Keep the GPU busy for a while if its queue is empty."""
        if self.last is None or self.last.done:
            self.function((1,), (TILE_THREADS,), self.arguments)


class _Timed:
    """A kernel on a GPU, with an event before and after each launch."""

    def __init__(self, cuda, function, ahead):
        self.cuda, self.function, self.ahead = cuda, function, ahead
        self.events, self.seconds = [], 0.0

    def __call__(self, *launch):
        stream = self.cuda.get_current_stream()
        self.ahead.keep()
        before = stream.record()
        self.function(*launch)
        self.ahead.last = stream.record()
        self.events.append((before, self.ahead.last))

    def read(self):
        """Seconds of all launches so far; they must have finished."""
        self.seconds += sum(1e-3 * self.cuda.get_elapsed_time(*pair) for pair in self.events)
        self.events.clear()
        return self.seconds


def details(train, graphs, channels):
    """Where a training run spends its time.

    Parameters
    ----------
    train : callable
        Trains from scratch with the ``Profile`` given; returns the engine, and the mean number of
        pairs per pixel times the number of pixels.
    graphs : bool
        Whether the launcher can capture steps in graphs, as the one for GPUs can.
    channels : int
        Channels of the picture.

    Returns
    -------
    dict
        Times of steps alone, without validations: ``ms``, time of a step; ``ms_in_kernels``, the
        part of it in kernels; ``kernels``, the same by name. Speeds per second: ``gflops`` of the
        kernel ``step``, ``gbytes`` of ``STEP_KERNELS``, and the limits of the machine,
        ``gflops_most`` and ``gbytes_most``. On a CPU also ``threads``, and on one thread
        ``ms_one_thread``, ``gflops_most_one_thread``, ``ns_per_pair``, and ``ns_per_pair_step`` of
        the kernel ``step``. On a GPU also ``ms_without_graphs``.
    """
    if graphs:
        plain, without = Profile(by_kernel=False), Profile(graphs=False, by_kernel=False)
        timed = Profile(graphs=False)
        runs = plain, without, timed
    else:
        plain = timed = Profile()
        one_thread = Profile(threads=1)
        runs = one_thread, timed
    for profile in runs:
        engine = None  # free its memory first
        engine, pairs = train(profile)
    kernels = {name: seconds / timed.steps for name, seconds in timed.kernels.items() if seconds}
    of_step = sum(kernels[name] for name in STEP_KERNELS)
    looked_at = pairs * pixels_of_pair(engine) / engine.grid.pixels
    found = {
        "ms": 1e3 * plain.seconds / plain.steps, "ms_in_kernels": 1e3 * sum(kernels.values()),
        "kernels": {name: 1e3 * seconds for name, seconds in kernels.items()},
        "gflops": 1e-9 * operations_of_pair(channels) * looked_at / kernels["step"],
        "gflops_most": 1e-9 * most_operations(engine),
        "gbytes": 1e-9 * bytes_of_step(engine) / of_step,
        "gbytes_most": 1e-9 * most_bytes(engine),
    }
    if graphs:
        found["ms_without_graphs"] = 1e3 * without.seconds / without.steps
    else:
        seconds = one_thread.seconds / one_thread.steps
        found.update(
            threads=engine.threads, ms_one_thread=1e3 * seconds, ns_per_pair=1e9 * seconds / pairs,
            ns_per_pair_step=1e9 * one_thread.kernels["step"] / one_thread.steps / pairs)
        engine.threads = 1
        found["gflops_most_one_thread"] = 1e-9 * most_operations(engine)
    return found


# ---- limits of the machine


def most_operations(engine):
    """Floating-point operations per second of multiply-adds alone."""
    launch, pixels, chains = engine.launch, engine.grid.pixels, constants()["CHAINS"]
    blocks, rounds = MULTIPLY_ADD_BLOCKS, MULTIPLY_ADD_ROUNDS
    out = launch.zeros(blocks * pixels, launch.dtype)
    operations = 2 * chains * rounds * pixels * blocks
    return operations / _least_seconds(launch, "multiply_add", blocks, (rounds, out))


def most_bytes(engine):
    """Bytes per second when only reading two arrays and writing one."""
    launch, pixels = engine.launch, engine.grid.pixels
    blocks = TRIAD_BYTES // (pixels * launch.dtype.itemsize)
    arrays = [launch.zeros(blocks * pixels, launch.dtype) for _ in range(3)]
    for array in arrays:
        array += 1  # pages exist only after they are written to
    return 3 * arrays[0].nbytes / _least_seconds(launch, "triad", blocks, arrays)


def _least_seconds(launch, kernel, blocks, arguments):
    """Seconds of a launch, without what starting it and noticing its end takes on the host."""
    once = [(kernel, blocks, TILE_THREADS, tuple(arguments))]

    def seconds_of(sequence):
        started = time.perf_counter()
        launch.run(sequence)
        launch.host(arguments[-1][:1])  # waits for the result
        return time.perf_counter() - started

    first = launch.record(once)
    seconds_of(first)
    repeats = max(1, int(CEILING_SECONDS / 10 / seconds_of(first)))
    sequence, times = launch.record(once * repeats), []
    until = time.perf_counter() + CEILING_SECONDS
    while len(times) < 3 or time.perf_counter() < until:
        times.append(seconds_of(sequence) / repeats)
    return min(times)


# ---- first use


def seconds_of_first_use(backend):
    """Seconds to get the kernels for grey pictures: first by compiling, then from the cache.

    Raises
    ------
    OSError
        If a process that gets them fails.
    """
    script = ("import time; from smoe_np import backend, engine; backend.why_no_gpu(); "
              "started = time.perf_counter(); "
              f"engine.ENGINES[{backend!r}].launcher(2, 1, 'float32'); "
              "print(time.perf_counter() - started)")
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (parent, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        caches = dict.fromkeys(("XDG_CACHE_HOME", "CUPY_CACHE_DIR", "LOCALAPPDATA"), folder)
        if sys.platform == "darwin":  # its cache is in the home folder, and packages may be
            caches.update(HOME=folder, PYTHONUSERBASE=site.getuserbase())
        found = []
        for _ in range(2):
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                                  check=False, env={**os.environ, **caches, "PYTHONPATH": path})
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["it left no message"])[-1]
                raise OSError(f"kernels cannot be compiled in an empty cache: {last}")
            found.append(float(done.stdout))
    return found
