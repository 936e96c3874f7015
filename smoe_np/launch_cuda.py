"""Kernels on a GPU: the kernel sources compiled by NVRTC through CuPy, and their launches.

CuPy is imported when a launcher is made, not before.

Kernels run on the launcher's own stream. It waits for earlier work on the caller's stream, and the
caller's stream waits for it, so arrays may be used between two launches without further
synchronisation. The default stream could not be captured into CUDA graphs.

During training, the host does not wait for each step. Launches of a build or of a step do nothing
unless ``control`` asks for them, so the host enqueues rounds, each one build and then several
steps, for about as long as wanted, and reads ``control`` only afterwards. A round costs its
launches even if they do nothing, so it has about as many steps as lists have lasted recently.
"""

import contextlib
import math
import time
from functools import cache

import numpy as np

from .backend import why_no_gpu
from .kernel_files import (
    STEADY,
    check_arguments,
    constants,
    definitions,
    kernel_source,
    signatures,
)

# flush float denormals; double keeps them, and divisions stay exact
OPTIONS = ("-std=c++17", "-ftz=true")
ROUND_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # possible numbers of steps of a round
# Rounds of a sequence that are launched plainly before a graph is captured. The first must be, as a
# kernel may be loaded at its first launch, which cannot be captured; and capturing takes about a
# millisecond, which pays off only if more rounds follow than there are between two events of a fit.
PLAIN_ROUNDS = 4


class _Sequence:
    """A sequence of launches; as a training step, also the CUDA graphs of rounds of it.

    Sequences add up.
    """

    def __init__(self, launches):
        self.launches = launches
        self.build = None  # the sequence that builds lists in these rounds
        self.rounds = 0  # number of rounds with that sequence so far
        self.graphs = {}  # by number of steps of a round

    def __add__(self, other):
        return _Sequence([*self.launches, *other.launches])


class CudaLauncher:
    """Launches the kernels for one D, C and dtype on the GPU that is current when it is made.

    Parameters
    ----------
    D, C : int
        Dimensions and channels.
    dtype : str

    Attributes
    ----------
    graphs : bool
        Whether rounds of training are captured in CUDA graphs; results do not depend on it.
    counter_sets : int
        Number of sets of row counters: one, shared by all blocks.
    least_share : int
        Least number of kernels in a share of a large box, which a block bounds. Small, as there are
        many blocks to be used.
    lifetime : float
        Number of steps that lists have lasted recently.

    Raises
    ------
    RuntimeError
        If the kernels do not compile or cannot be loaded.
    """

    name = "cupy"
    least_share = 256

    def __init__(self, D, C, dtype):
        import cupy

        self.xp = cupy
        self.dtype = np.dtype(dtype)
        self.signatures = signatures(self.dtype.name)
        self.device = cupy.cuda.Device()
        self.functions = load_kernels(D, C, self.dtype.name)
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.graphs, self.counter_sets = True, 1
        self.threads = None  # the device chooses
        self.lifetime = 4.0  # for a start
        self._step_seconds = None  # not known yet

    @staticmethod
    def list_costs(pixels):
        """As ``NativeLauncher.list_costs``; estimated from numbers of launches and operations.

        A step takes some 25 µs plus 0.2 ns per pixel, and building lists 100 µs plus half as much
        per pixel: of small images it takes several steps. A pair that is listed is computed.
        """
        computing = 2e-4 * pixels
        return (100 + 0.5 * computing) / (25 + computing), 1.0

    def zeros(self, shape, dtype):
        """A new array of zeros."""
        with self._memory(shape, dtype):
            return self.xp.zeros(shape, dtype)

    def array(self, array, dtype=None):
        """A contiguous array that kernels can read; not copied if it is one already."""
        if isinstance(array, self.xp.ndarray):
            with self._memory(array.shape, dtype or array.dtype):
                return self.xp.ascontiguousarray(array, dtype)
        array = np.ascontiguousarray(array, dtype)
        with self._memory(array.shape, array.dtype):
            return self.xp.asarray(array)

    def host(self, array):
        """An array as a NumPy array, after all work on it is done."""
        with self.device:
            return self.xp.asnumpy(array)

    def record(self, launches):
        """Record a sequence of launches, to be run any number of times.

        Parameters
        ----------
        launches : list of (kernel, blocks, threads, arguments)

        Returns
        -------
        sequence
            Two of them may be added: the sum is the one and then the other.
        """
        return _Sequence([
            (self.functions[kernel], (blocks,), (threads,), tuple(check_arguments(
                kernel, self.signatures[kernel], arguments, self.xp.ndarray)))
            for kernel, blocks, threads, arguments in launches if blocks > 0])

    def run(self, sequence):
        """Run a sequence once."""
        with self._own_stream():
            _enqueue(sequence)

    def train(self, build, step, control, patience=1.0):
        """Build lists and take steps as ``control`` asks, for ``patience`` times STEADY seconds.

        Returns
        -------
        float
            0: the seconds spent on lists are not known.
        """
        begun = clock = time.perf_counter()
        seconds = patience * STEADY
        with self._own_stream():
            now = control.get()
            while now[_HALT] == 0 and now[_STEP] < now[_TARGET]:
                before, started = now, clock
                size = next((n for n in ROUND_SIZES if n >= self.lifetime), ROUND_SIZES[-1])
                expected = min(size, self.lifetime)  # steps that a round takes
                rounds = 1
                if self._step_seconds is not None:
                    steps = (begun + seconds - clock) / self._step_seconds
                    rounds = max(1, math.ceil(min(steps, now[_TARGET] - now[_STEP]) / expected))
                for _ in range(rounds):
                    self._enqueue_round(build, step, size)
                now = control.get()
                clock = time.perf_counter()
                if now[_STEP] > before[_STEP]:
                    self._learn(before, now, clock - started)
                if clock - begun >= seconds:
                    break
        return 0.0

    def _learn(self, before, now, seconds):
        """Estimate the seconds of a step and the life of lists from ``control`` then and now."""
        taken = int(now[_STEP] - before[_STEP])
        self._step_seconds = seconds / taken
        # lists that still hold are not at their end
        ages = [0 if control[_STALE] else int(control[_AGE]) for control in (before, now)]
        ended = int(now[_BUILDS] - before[_BUILDS]) + int(now[_STALE]) - int(before[_STALE])
        if ended > 0:
            self.lifetime = max(1.0, (ages[0] + taken - ages[1]) / ended)
        else:
            self.lifetime = max(self.lifetime, ages[1])

    def _enqueue_round(self, build, step, size):
        if step.build is not build:
            step.build, step.rounds, step.graphs = build, 0, {}
        step.rounds += 1
        if not self.graphs or step.rounds <= PLAIN_ROUNDS:
            _enqueue(build, *[step] * size)
            return
        if size not in step.graphs:
            step.graphs[size] = self._capture(build, step, size)
        step.graphs[size].launch(self.stream)

    def _capture(self, build, step, size):
        self.stream.begin_capture()
        try:
            _enqueue(build, *[step] * size)
        finally:
            graph = self.stream.end_capture()
        return graph

    @contextlib.contextmanager
    def _own_stream(self):
        """Switch to the launcher's stream, in order with the caller's."""
        with self.device:
            callers = self.xp.cuda.get_current_stream()
            self._wait(self.stream, callers)
            try:
                with self.stream:
                    yield
            finally:  # what was enqueued before an exception is done all the same
                self._wait(callers, self.stream)

    def _wait(self, stream, other):
        """Have a stream wait for what another one was given so far."""
        stream.wait_event(other.record(self.xp.cuda.Event(disable_timing=True)))

    @contextlib.contextmanager
    def _memory(self, shape, dtype):
        """Allocate on the launcher's GPU; if memory runs out, say how much was wanted."""
        try:
            with self.device:
                yield
        except self.xp.cuda.memory.OutOfMemoryError as error:
            size = np.prod(shape, dtype=float) * np.dtype(dtype).itemsize
            raise MemoryError(
                f"the GPU has no room for {size / 2**20:.1f} MiB more ({_brief(error)}); free what "
                f"else is held there, or take fewer kernels, more batches, or a backend of the "
                f"CPU") from None


def _enqueue(*sequences):
    """Launch on the current stream."""
    for sequence in sequences:
        for function, blocks, threads, arguments in sequence.launches:
            function(blocks, threads, arguments)


@cache
def why_no_cuda():
    """Say in one sentence why kernels cannot run on a GPU here, or return ``None``."""
    reason = why_no_gpu()
    if reason is not None:
        return reason
    try:
        launcher = CudaLauncher(2, 1, "float32")
        found = launcher.zeros(3, np.int32)
        launcher.run(launcher.record([("layout", 1, 1, (found,))]))
        launcher.host(found)
    except (MemoryError, RuntimeError) as error:
        return _brief(error)
    return None


@cache
def load_kernels(D, C, dtype):
    """The kernels of one specialisation by name, as CuPy launches them; see ``CudaLauncher``."""
    import cupy

    module = cupy.RawModule(code=_ascii_source(), options=compiler_options(D, C, dtype),
                            backend="nvrtc")
    try:
        return {name: module.get_function(name) for name in signatures(dtype)}
    except cupy.cuda.compiler.CompileException as error:
        lines = str(error).splitlines()
        complaint = next((line for line in lines if "error" in line.lower()), lines[0])
        raise RuntimeError(f"NVRTC fails on the kernels ({_brief(complaint)}); install another "
                           f"CuPy, or take a backend of the CPU") from None
    except Exception as error:  # NVRTC may be missing, or the driver may refuse what it made
        raise RuntimeError(
            f"CuPy cannot compile and load kernels ({type(error).__name__}: {_brief(error)}); "
            f'install CuPy with pip install "smoe_np[cuda12]" or "smoe_np[cuda13]", as the driver '
            f"needs it") from error


def compiler_options(D, C, dtype):
    """The options with which NVRTC compiles a specialisation."""
    return (*OPTIONS, *definitions(D, C, dtype))


def _ascii_source():
    # CuPy writes it to a file in the encoding of the locale, which may lack the Greek of comments
    return kernel_source().encode("ascii", "ignore").decode("ascii")


def _brief(error):
    return " ".join(str(error).split())[:300] or type(error).__name__


_STALE, _HALT, _STEP, _TARGET, _AGE, _BUILDS = (
    constants()[name] for name in ("STALE", "HALT", "STEP", "TARGET", "AGE", "BUILDS"))
