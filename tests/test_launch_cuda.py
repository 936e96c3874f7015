"""The launcher for GPUs, on a pretended CuPy: see fake_cupy."""

import contextlib
import inspect
import math

import fake_cupy
import numpy as np
import pytest
from helpers import (
    needs_native,
)

from smoe_np import launch_cuda
from smoe_np.kernel_files import constants
from smoe_np.launch_cuda import CudaLauncher, _Sequence, compiler_options, why_no_cuda
from smoe_np.launch_native import NativeLauncher

WORD = constants()

pytestmark = needs_native


@pytest.fixture
def launcher(cupy):
    return CudaLauncher(2, 1, "float32")


# ---- the interface, and what is compiled


@pytest.mark.parametrize("name", ["list_costs", "zeros", "array", "host", "record", "run", "train"])
def test_launchers_are_called_alike(name):
    ours, theirs = (inspect.signature(getattr(launcher, name))
                    for launcher in (CudaLauncher, NativeLauncher))
    assert ours == theirs


def test_a_specialisation_is_compiled_once(cupy):
    for _ in range(2):
        CudaLauncher(2, 1, "float32")
    (code, options, backend), = cupy.machine.modules
    assert "KERNEL(step" in code
    assert options == compiler_options(2, 1, "float32")
    assert {"-std=c++17", "-ftz=true", "-DNDIM=2", "-DNCHAN=1", "-DREAL=float", "-DREAL_BYTES=4",
            } == set(options)
    assert backend == "nvrtc"


def test_other_specialisations_have_other_options():
    assert {"-DNDIM=3", "-DNCHAN=8", "-DREAL=double", "-DREAL_BYTES=8"} < set(
        compiler_options(3, 8, np.float64))


# ---- arguments


def scan_arguments(launcher, **changed):
    zeros = launcher.zeros
    given = {"control": zeros(16, np.int32), "counts": zeros(4, np.int32),
             "starts": zeros(5, np.int32), "n": 4, "capacity": 10, "which": 0, **changed}
    return "scan", 1, 64, tuple(given.values())


def test_numbers_become_what_the_kernel_declares(cupy, launcher):
    launcher.run(launcher.record([scan_arguments(launcher, n=4.0, which=True)]))
    (kernel, blocks, threads, arguments, stream), = cupy.machine.launches
    assert (kernel, blocks, threads) == ("scan", 1, 64)
    assert [type(a) for a in arguments] == [cupy.ndarray] * 3 + [np.int32] * 3
    assert stream is launcher.stream


@pytest.mark.parametrize(("changed", "message"), [
    ({"n": 4.5}, "argument n of scan must be a int32, got 4.5"),
    ({"counts": np.zeros(4, np.int32)}, "argument counts of scan must be a ndarray"),
    ({"counts": None}, "must be a ndarray, got None"),
    ({"more": 0}, "scan takes 6 arguments, got 7")])
def test_wrong_arguments_are_refused(launcher, changed, message):
    with pytest.raises(TypeError, match=message):
        launcher.record([scan_arguments(launcher, **changed)])


def test_arrays_of_another_type_and_views_are_refused(launcher):
    with pytest.raises(TypeError, match="counts of scan must be of int32, got int64"):
        launcher.record([scan_arguments(launcher, counts=launcher.zeros(4, np.int64))])
    with pytest.raises(TypeError, match="counts of scan must be contiguous"):
        launcher.record([scan_arguments(launcher, counts=launcher.zeros(8, np.int32)[::2])])


def test_launches_of_no_blocks_are_left_out(cupy, launcher):
    kernel, _, threads, arguments = scan_arguments(launcher)
    launcher.run(launcher.record([(kernel, 0, threads, arguments)]))
    assert cupy.machine.launches == []


# ---- arrays, and their order with the kernels


def test_arrays_come_and_go(cupy, launcher):
    numbers = np.arange(6.0).reshape(2, 3).T
    there = launcher.array(numbers, np.float32)
    assert isinstance(there, cupy.ndarray)
    assert there.flags.c_contiguous
    assert there.dtype == np.float32
    assert launcher.array(there) is there
    assert launcher.array(there, np.float64).dtype == np.float64
    np.testing.assert_array_equal(launcher.host(there), numbers)
    assert launcher.zeros((2, 3), np.int32).shape == (2, 3)


def test_what_is_done_between_launches_is_in_order(launcher):
    _, _, _, arguments = scan = scan_arguments(launcher)
    sequence = launcher.record([scan])
    control, counts, starts = arguments[:3]
    control[WORD["STALE"]] = control[WORD["TARGET"]] = 1
    counts[...] = 1
    launcher.run(sequence)
    starts[0] = 7  # after the kernel has written 0 there
    counts[...] = 2  # after the kernel has read 1
    np.testing.assert_array_equal(launcher.host(starts), [7, 1, 2, 3, 4])


def test_that_order_is_looked_at_closely(launcher, monkeypatch):
    monkeypatch.setattr(fake_cupy.Stream, "wait_event", lambda *_: None)
    with pytest.raises(AssertionError):
        test_what_is_done_between_launches_is_in_order(launcher)


def test_what_was_launched_before_an_exception_is_in_order_too(launcher):
    sequence = launcher.record([scan_arguments(launcher)])
    control, counts, starts = sequence.launches[0][3][:3]
    control[WORD["STALE"]] = control[WORD["TARGET"]] = 1
    counts[...] = 1
    with contextlib.suppress(KeyboardInterrupt), launcher._own_stream():
        launch_cuda._enqueue(sequence)
        raise KeyboardInterrupt
    starts[0] = 7
    counts[...] = 2
    np.testing.assert_array_equal(launcher.host(starts), [7, 1, 2, 3, 4])


def test_a_stream_of_ones_own_does_not_wait_for_the_default_one(launcher):
    assert launcher.stream.non_blocking


# ---- rounds of training


class Pretended:
    """Kernels that only count: lists last for `lasts` steps."""

    def __init__(self, cupy, lasts, halts_at=None):
        self.cupy, self.lasts, self.halts_at = cupy, lasts, halts_at
        self.control = cupy.zeros(WORD["CONTROL_WORDS"], np.int32)
        self.now = self.control.data
        self.now[WORD["STALE"]] = 1
        self.builds = self.steps = 0  # launched
        self.renew()

    def renew(self):
        self.sequences = [_Sequence([(self.kernel(work), (1,), (1,), ())])
                          for work in (self.build, self.step)]

    def kernel(self, work):
        return lambda *_: self.cupy.get_current_stream().enqueue(work)

    def build(self):
        self.builds += 1
        now = self.now
        if now[WORD["STALE"]] and not now[WORD["HALT"]] and now[WORD["STEP"]] < now[WORD["TARGET"]]:
            now[[WORD["STALE"], WORD["AGE"]]] = 0
            now[WORD["BUILDS"]] += 1

    def step(self):
        self.steps += 1
        now = self.now
        if now[WORD["STALE"]] or now[WORD["HALT"]] or now[WORD["STEP"]] >= now[WORD["TARGET"]]:
            return
        now[[WORD["STEP"], WORD["AGE"]]] += 1
        now[WORD["STALE"]] = now[WORD["AGE"]] >= self.lasts
        if now[WORD["STEP"]] == self.halts_at:
            now[WORD["HALT"]] = 3

    def train(self, launcher, steps):
        self.now[WORD["STEP"]], self.now[WORD["TARGET"]] = 0, steps
        for calls in range(10_000):
            if self.now[WORD["HALT"]] or self.now[WORD["STEP"]] >= steps:
                return calls
            assert launcher.train(*self.sequences, self.control) == 0.0
        raise AssertionError("no end")


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("lasts", [1, 2, 7, 20, 1000])
def test_as_many_steps_are_taken_as_asked_for(cupy, launcher, lasts, graphs):
    launcher.graphs = graphs
    pretended = Pretended(cupy, lasts)
    for steps in (1, 10, 333):
        pretended.train(launcher, steps)
        assert pretended.now[WORD["STEP"]] == steps
    assert pretended.now[WORD["BUILDS"]] == math.ceil(344 / lasts)
    assert bool(cupy.machine.captures) == graphs
    assert pretended.steps > 344  # and the others did nothing


@pytest.mark.parametrize("lasts", [1, 2, 3, 8, 12, 1000])
def test_rounds_fit_the_time_that_lists_last(cupy, launcher, lasts):
    pretended = Pretended(cupy, lasts)
    pretended.train(launcher, 500)
    pretended.builds = pretended.steps = 0
    pretended.train(launcher, 2000)
    assert pretended.steps < 1.2 * 2000
    assert pretended.builds < 1.2 * max(2000 / lasts, 2000 / 32)


def test_a_halt_ends_training(cupy, launcher):
    pretended = Pretended(cupy, 5, halts_at=17)
    pretended.train(launcher, 100)
    assert pretended.now[WORD["STEP"]] == 17


def test_nothing_is_launched_where_nothing_is_asked_for(cupy, launcher):
    pretended = Pretended(cupy, 5)
    launcher.train(*pretended.sequences, pretended.control)
    assert pretended.builds == pretended.steps == 0


def test_control_is_looked_at_about_every_tenth_of_a_second(cupy, launcher, monkeypatch):
    pretended, clock = Pretended(cupy, 4), [0.0]

    def step():
        clock[0] += 0.001
        Pretended.step(pretended)

    pretended.sequences[1].launches[0] = (pretended.kernel(step), (1,), (1,), ())
    monkeypatch.setattr(launch_cuda.time, "perf_counter", lambda: clock[0])
    pretended.train(launcher, 100)
    started = clock[0]
    pretended.now[WORD["STEP"]], pretended.now[WORD["TARGET"]] = 0, 100_000
    launcher.train(*pretended.sequences, pretended.control)
    assert 0.09 < clock[0] - started < 0.12
    assert 90 < pretended.now[WORD["STEP"]] < 120


def test_a_graph_is_captured_once_and_replayed(cupy, launcher):
    pretended = Pretended(cupy, 4)
    pretended.train(launcher, 200)
    captured = len(cupy.machine.captures)
    replayed = len(cupy.machine.replays)
    pretended.train(launcher, 200)
    assert len(cupy.machine.captures) == captured <= 3
    assert len(cupy.machine.replays) >= replayed + 50


def test_other_sequences_are_captured_anew_and_the_first_time_launched_plainly(cupy, launcher):
    pretended = Pretended(cupy, 4)
    pretended.train(launcher, 100)
    old = list(cupy.machine.captures)
    pretended.renew()
    replays = len(cupy.machine.replays)
    pretended.train(launcher, 1)
    assert len(cupy.machine.replays) == replays
    pretended.train(launcher, 100)
    assert cupy.machine.replays[-1] not in old


def test_few_rounds_are_not_captured(cupy, launcher):
    pretended = Pretended(cupy, 4)
    for _ in range(launch_cuda.PLAIN_ROUNDS):
        pretended.train(launcher, 1)
    assert cupy.machine.captures == []
    pretended.train(launcher, 1)
    assert len(cupy.machine.captures) == 1


def test_graphs_do_not_outlive_their_sequences(cupy, launcher):
    pretended = Pretended(cupy, 4)
    pretended.train(launcher, 100)
    graph = cupy.machine.captures[-1]
    assert graph in pretended.sequences[1].graphs.values()
    assert not any(value is graph or value is pretended.sequences[1]
                   for value in vars(launcher).values())


# ---- what can be wrong


def test_an_array_for_which_there_is_no_room_is_told(cupy, launcher):
    cupy.machine.room = 1 << 20
    message = r"no room for 8.0 MiB more \(Out of memory.*fewer kernels"
    with pytest.raises(MemoryError, match=message) as caught:
        launcher.zeros((1024, 1024), np.float64)
    assert not isinstance(caught.value, cupy.OutOfMemoryError)
    with pytest.raises(MemoryError, match=message):
        launcher.array(np.zeros((1024, 1024)))


def test_kernels_that_do_not_compile_are_told_in_a_sentence(cupy):
    cupy.machine.failure = cupy.CompileException(
        "kern.cu(5): warning: so so\nkern.cu(12): error: no such thing\nmore")
    with pytest.raises(RuntimeError, match=r"NVRTC fails on the kernels \(kern.cu\(12\): error: no "
                                           r"such thing\)"):
        CudaLauncher(2, 1, "float32")
    assert "NVRTC fails" in why_no_cuda()


def test_a_cupy_without_nvrtc_is_told_in_a_sentence(cupy):
    cupy.machine.failure = RuntimeError("CuPy failed to load libnvrtc.so.12:\n no such file")
    reason = why_no_cuda()
    assert "RuntimeError: CuPy failed to load libnvrtc.so.12: no such file" in reason
    assert "smoe_np[cuda12]" in reason
    assert "\n" not in reason
