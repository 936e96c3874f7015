"""Kernels on a GPU: the kernel sources compiled by NVRTC through CuPy, and their launches.

CuPy is imported when a launcher is made, not before.

Kernels run on a stream of their launcher's own, which waits for what the caller's stream was given
before, and for which the caller's stream waits: whatever is done with the arrays between two
launches is in order, and CUDA graphs, which the default stream cannot be captured into, can be had.

The host does not follow the training of a model. Kernels that build lists, and those of a step, do
nothing unless ``control`` asks for them, so rounds, one build and then a few steps, are enqueued
blindly, as many as take about as long as is wanted; only then is ``control`` looked at. A round
costs its launches even where they do nothing, so it has about as many steps as lists have lasted of
late.
"""

import contextlib
import math
import time
from functools import cache

import numpy as np

from .backend import why_no_gpu
from .kernel_files import check_arguments, constants, kernel_source, signatures
from .launch_native import STEADY

OPTIONS = ("-std=c++17", "-ftz=true")  # double keeps its denormals, and all divisions their digits
ROUND_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # steps of a round
# Rounds of a sequence before one is captured. The first one must not be, as a kernel may be loaded
# when it is first launched; a graph costs a millisecond, which the few rounds between two events of
# a fit do not bring in again.
PLAIN_ROUNDS = 4


class _Sequence:
    """Launches one after the other; and graphs of rounds with these as their steps."""

    def __init__(self, launches):
        self.launches = launches
        self.build = None  # the other sequence of the rounds
        self.rounds = 0  # with that, so far
        self.graphs = {}  # by the number of steps


class CudaLauncher:
    """Launches kernels of one specialisation on the GPU that is current when it is made.

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
        Of counters of rows: one, for all blocks.
    least_share : int
        Kernels of the model below which a block bounds all of a large box: blocks are many.
    lifetime : float
        Steps that lists have lasted of late.

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
        self.threads = None  # which are for the device to choose
        self.lifetime = 4.0  # for a start
        self._step_seconds = None  # not known yet

    def zeros(self, shape, dtype):
        """A new array of zeros."""
        with self._memory(shape, dtype):
            return self.xp.zeros(shape, dtype)

    def array(self, array, dtype=None):
        """An array where kernels can read it; not copied if it is there."""
        if isinstance(array, self.xp.ndarray):
            with self._memory(array.shape, dtype or array.dtype):
                return self.xp.ascontiguousarray(array, dtype)
        array = np.ascontiguousarray(array, dtype)
        with self._memory(array.shape, array.dtype):
            return self.xp.asarray(array)

    def host(self, array):
        """An array as a NumPy array, when all that was to be done with it is done."""
        with self.device:
            return self.xp.asnumpy(array)

    def record(self, launches):
        """A sequence of launches, to be run as often as one likes.

        Parameters
        ----------
        launches : list of (kernel, blocks, threads, arguments)
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
        """How long a step takes, and how long lists last, from what `control` was and is."""
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
        """Go over to the launcher's stream, in order with what the caller's is given."""
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
        """Make an array on the launcher's GPU, or say how large it was to be."""
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
    """What NVRTC is told for a specialisation."""
    dtype = np.dtype(dtype)
    real = {"float32": "float", "float64": "double"}[dtype.name]
    return (*OPTIONS, f"-DNDIM={D}", f"-DNCHAN={C}", f"-DREAL={real}",
            f"-DREAL_BYTES={dtype.itemsize}")


def _ascii_source():
    # CuPy writes it to a file in the encoding of the locale, which may lack the Greek of comments
    return kernel_source().encode("ascii", "ignore").decode("ascii")


def _brief(error):
    return " ".join(str(error).split())[:300] or type(error).__name__


_STALE, _HALT, _STEP, _TARGET, _AGE, _BUILDS = (
    constants()[name] for name in ("STALE", "HALT", "STEP", "TARGET", "AGE", "BUILDS"))
