"""Where the time of compiled kernels goes, and how far they are from what the machine can do."""

import os
import site
import subprocess
import sys
import tempfile
import time

import numpy as np

from .kernel_buffers import TILE_THREADS
from .kernel_files import constants

STEP_KERNELS = ("step", "gather", "judge", "update")  # of ``train``; the others build lists
EXP_OPERATIONS = 13  # 2^t: to a whole number and a rest, 5 multiply-adds, scaling
CEILING_SECONDS = 0.1  # that a ceiling is looked for
MULTIPLY_ADD_BLOCKS, MULTIPLY_ADD_ROUNDS = 1024, 1000
TRIAD_BYTES = 1 << 26  # of each array: beyond caches


def operations_of_pair(channels):
    """Floating-point operations that a pair takes at a pixel in a step, in float32.

    They are counted from the formulas, in the order of the kernel ``step``, as the fewest that do:
    polynomials are followed from pixel to pixel by their differences, in any number of dimensions.
    What is done once for a pair of a tile is left out. A multiplication and an addition are two.

        log-gate     2         its value and its difference go on
        gate         13        2^t: EXP_OPERATIONS
        Σ gates      1
        y            3 C       the expert goes on; its product with the gate is added up
        h = w q      C         then, by these, the moments:
        Σ h, Σ b h   3 C
        pull         3 C       the expert goes on; Σ_c q_c e_c − q·y
        g            1
        Σ b^n g      1 + 2 + 2 n = 0, 1, 2 along the way through the tile
    """
    return 2 + EXP_OPERATIONS + 1 + 10 * channels + 1 + 5


def pixels_of_pair(engine):
    """At how many pixels of its tile a step looks at a pair, on the average."""
    found = engine.launch.zeros(engine.tiles, np.float64)
    engine._run("survey", engine.tiles, TILE_THREADS, *engine._tile, found)
    return float(engine.launch.host(found).sum()) / engine._num_pairs()


def bytes_of_step(engine):
    """Bytes that a step must move at least: the picture, lists, and rows of moments twice."""
    pairs = engine.pairs_per_pixel * int(np.prod(engine.shape)) / engine.grid.pixels
    row = engine.row_width * engine.dtype.itemsize
    rows = int(engine.launch.host(engine.first_row)[engine.patches])
    return engine.target.nbytes + pairs * (8 if engine.patch_level else 4) + rows * (4 + 2 * row)


# ---- where the time goes


class Profile:
    """Seconds that the steps of a training take, and each kernel in them.

    ``begin`` is to be called with the engine before anything is computed; ``look`` and ``count``
    are the last of the ``callbacks`` and the ``progress`` of ``Smoe.train``. What happens between
    steps, such as the loss of a validation, does not count.

    Parameters
    ----------
    threads : int, optional
    graphs : bool, optional
        On a GPU, whether steps are captured in graphs.
    by_kernel : bool
        Whether kernels are timed; on a GPU that needs ``graphs`` to be False.

    Attributes
    ----------
    seconds : float
    kernels : dict of float
        Seconds by name.
    steps : int
    """

    def __init__(self, threads=None, graphs=None, by_kernel=True):
        self.threads, self.graphs, self.by_kernel = threads, graphs, by_kernel
        self.seconds, self.steps, self.kernels, self._clocks = 0.0, 0, {}, {}

    def begin(self, engine):
        """Have an engine that is new computed as asked for, and timed."""
        launch = engine.launch
        if self.threads is not None:
            launch.threads = self.threads
        if self.graphs is not None:
            launch.graphs = self.graphs
        if self.by_kernel:
            self._clocks = _clocks(launch)
        self.kernels = dict.fromkeys(self._clocks, 0.0)

    def look(self, smoe):
        """Leave out what was done since the last steps."""
        self._before = self._now(smoe)

    def count(self, smoe):
        """Add what was done since the last steps or look."""
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
    """Functions by kernel that give its seconds so far."""
    if hasattr(launch, "profile"):
        return {kernel: seconds.item for kernel, seconds in launch.profile().items()}
    ahead = _Ahead(launch)
    launch.functions = {kernel: _Timed(launch.xp.cuda, function, ahead)
                        for kernel, function in launch.functions.items()}
    return {kernel: function.read for kernel, function in launch.functions.items()}


class _Ahead:
    """Keeps the host ahead of a GPU, which would else wait for it between two events."""

    ROUNDS = 20_000  # of ``multiply_add``: some tenths of a millisecond

    def __init__(self, launch):
        self.function = launch.functions["multiply_add"]
        self.arguments = np.int32(self.ROUNDS), launch.zeros(TILE_THREADS, launch.dtype)
        self.last = None

    def keep(self):
        """Have the GPU busy for a while if it has nothing left to do."""
        if self.last is None or self.last.done:
            self.function((1,), (TILE_THREADS,), self.arguments)


class _Timed:
    """A kernel on a GPU with an event before and one after each of its launches."""

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
        """Seconds of all launches so far, which must have ended."""
        self.seconds += sum(1e-3 * self.cuda.get_elapsed_time(*pair) for pair in self.events)
        self.events.clear()
        return self.seconds


def details(train, graphs, channels):
    """Where the time of a training goes.

    Parameters
    ----------
    train : callable
        Does the training from the start with the ``Profile`` given; returns its engine, and the
        mean of its pairs times pixels.
    graphs : bool
        Whether the launcher can capture steps in graphs, as one for a GPU does.
    channels : int

    Returns
    -------
    dict
        Of steps alone: ``ms``, of one; ``ms_in_kernels``, and ``kernels``, its parts by name;
        ``gflops`` of the kernel ``step`` and ``gbytes`` of those of a step, a second; and what the
        machine reaches, ``gflops_most`` and ``gbytes_most``. On a CPU ``threads``; and on one
        thread ``ms_one_thread``, ``gflops_most_one_thread``, ``ns_per_pair``, and
        ``ns_per_pair_step`` of the kernel ``step``. On a GPU ``ms_without_graphs``.
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
        engine = None  # whose memory is needed
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


# ---- what the machine can do


def most_operations(engine):
    """Floating-point operations a second that a launcher reaches with nothing else to do."""
    launch, pixels, chains = engine.launch, engine.grid.pixels, constants()["CHAINS"]
    blocks, rounds = MULTIPLY_ADD_BLOCKS, MULTIPLY_ADD_ROUNDS
    out = launch.zeros(blocks * pixels, launch.dtype)
    operations = 2 * chains * rounds * pixels * blocks
    return operations / _least_seconds(launch, "multiply_add", blocks, (rounds, out))


def most_bytes(engine):
    """Bytes a second that a launcher moves with nothing else to do: two arrays in, one out."""
    launch, pixels = engine.launch, engine.grid.pixels
    blocks = TRIAD_BYTES // (pixels * launch.dtype.itemsize)
    arrays = [launch.zeros(blocks * pixels, launch.dtype) for _ in range(3)]
    for array in arrays:
        array += 1  # pages that were never written to are none
    return 3 * arrays[0].nbytes / _least_seconds(launch, "triad", blocks, arrays)


def _least_seconds(launch, kernel, blocks, arguments):
    """Seconds of a launch, without what it costs the host to begin it and to see it end."""
    once = [(kernel, blocks, TILE_THREADS, tuple(arguments))]

    def seconds_of(sequence):
        started = time.perf_counter()
        launch.run(sequence)
        launch.host(arguments[-1][:1])  # when it is computed
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
    """Seconds to have the kernels of grey pictures: compiled, and then from the cache.

    Raises
    ------
    OSError
        If a process that tries it fails.
    """
    script = ("import time; from smoe_np import backend, engine; backend.why_no_gpu(); "
              "started = time.perf_counter(); "
              f"engine.ENGINES[{backend!r}].launcher(2, 1, 'float32'); "
              "print(time.perf_counter() - started)")
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (parent, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        caches = dict.fromkeys(("XDG_CACHE_HOME", "CUPY_CACHE_DIR", "LOCALAPPDATA"), folder)
        if sys.platform == "darwin":  # whose cache is in the home folder, as packages may be
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
