"""The launcher for GPUs and its engine, on a pretended CuPy: see fake_cupy."""

import contextlib
import copy
import inspect
import logging
import math

import fake_cupy
import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    needs_native,
    picture,
    random_model,
)

import smoe_np
from smoe_np import Smoe, engine, launch_cuda
from smoe_np.engine_cupy import CupyEngine
from smoe_np.engine_numpy import NumpyEngine
from smoe_np.kernel_files import constants
from smoe_np.launch_cuda import CudaLauncher, _Sequence, compiler_options, why_no_cuda
from smoe_np.launch_native import NativeLauncher

WORD = constants()
IMAGE = picture((40, 33))[..., 0].astype(np.float32)

pytestmark = needs_native


@pytest.fixture
def cupy(monkeypatch):
    with fake_cupy.install(monkeypatch) as module:
        engine._choose.cache_clear()
        yield module
    engine._choose.cache_clear()


@pytest.fixture
def launcher(cupy):
    return CudaLauncher(2, 1, "float32")


# ---- the interface, and what is compiled


@pytest.mark.parametrize("name", ["zeros", "array", "host", "record", "run", "train"])
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


def test_an_engine_can_be_used_after_there_was_no_room(cupy):
    target = picture((40, 33)).astype(np.float32)
    params = random_model(3, K=20, dtype=np.float32)
    made = CupyEngine((40, 33), target)
    made._prepare(params)
    cupy.machine.room = 20_000  # the lists are there, the rows of moments are not
    with pytest.raises(MemoryError):
        made.loss_and_gradients(params)
    cupy.machine.room = math.inf
    assert made.loss_and_gradients(params)[0] == pytest.approx(made.loss(params), rel=1e-6)


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


@pytest.mark.parametrize(("devices", "capability", "words"), [
    (0, "90", "no CUDA device"), (1, "61", "compute capability 6.1, and at least 7.0"),
    (fake_cupy.CUDARuntimeError("cudaErrorInsufficientDriver: old"), "90",
     "cudaErrorInsufficientDriver")])
def test_why_there_is_no_gpu_is_why_there_is_no_engine(cupy, devices, capability, words):
    cupy.machine.devices, cupy.machine.capability = devices, capability
    assert words in CupyEngine.why_not()
    with pytest.raises(ValueError, match=f"backend 'cupy' cannot be used: .*{words}"):
        engine.engine_class("cupy")


@pytest.mark.parametrize("capability", ["70", "75", "90", "100", "121"])
def test_newer_gpus_will_do(cupy, capability):
    cupy.machine.capability = capability
    assert CupyEngine.why_not() is None


def test_dimensions_without_kernels_are_no_matter_of_the_gpu(cupy):
    assert "1 to 3 dimensions" in CupyEngine.why_not(4, 1)
    assert "1 to 8 channels" in CupyEngine.why_not(2, 9)


def test_auto_takes_the_gpu_where_one_answers(cupy, caplog):
    with caplog.at_level(logging.INFO, "smoe_np"):
        assert engine.engine_class("auto") is CupyEngine
    assert "backend 'cupy' computes" in caplog.text


def test_auto_goes_past_a_gpu_whose_kernels_fail(cupy, caplog):
    cupy.machine.failure = cupy.CompileException("kern.cu(1): error: everything")
    with caplog.at_level(logging.INFO, "smoe_np"):
        assert engine.engine_class("auto").name == "native"
    assert "not 'cupy': NVRTC fails" in caplog.text


# ---- the engine, on the kernels themselves


CASES = [((40, 33), 1, "float32"), ((150,), 3, "float64")]


@pytest.mark.parametrize(("shape", "C", "dtype"), CASES)
def test_loss_gradients_picture_and_map_are_those_of_numpy(cupy, shape, C, dtype):
    params = random_model(5, K=30, D=len(shape), C=C, dtype=np.dtype(dtype))
    target = picture(shape, C).astype(dtype)
    ours, theirs = (kind(shape, target, dtype) for kind in (CupyEngine, NumpyEngine))
    (loss, gradients), (wanted, wanted_gradients) = (
        made.loss_and_gradients(params) for made in (ours, theirs))
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert_gradients_agree(gradients, wanted_gradients, 1e-4)
    np.testing.assert_allclose(ours.render(params), theirs.render(params), atol=1e-5)
    assert (ours.gating(params) == theirs.gating(params)).mean() > 0.999
    assert ours.loss(params) == pytest.approx(wanted, rel=1e-5)
    assert ours.pairs_per_pixel > 1
    assert ours.memory_needed(params) > 10_000


def test_training_is_that_of_numpy(cupy):
    ours, theirs = (Smoe(IMAGE, 6, backend=name).train(100, val_iter=25, lr_mult=100)
                    for name in ("cupy", "numpy"))
    found, wanted = ([record.psnr for record in smoe.history] for smoe in (ours, theirs))
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert cupy.machine.replays
    assert ours.engine.launch.lifetime > 1


def trained(graphs, **options):
    smoe = Smoe(IMAGE, 6, backend="cupy")
    smoe.engine.launch.graphs = graphs
    return smoe.train(60, val_iter=30, **options)


def test_graphs_change_no_bit(cupy):
    with_graphs = trained(True)
    replays = len(cupy.machine.replays)
    assert replays > 10
    assert_same_model(with_graphs.params, trained(False).params)
    assert len(cupy.machine.replays) == replays


def test_kernels_leave_in_the_middle_of_a_run(cupy):
    smoe = Smoe(IMAGE, 6, backend="cupy").train(120, val_iter=40, l1reg=0.3, lr_div=1)
    assert smoe.history[-1].kernels == smoe.params.num_kernels < 36
    assert smoe.stopped is None
    mse = NumpyEngine(IMAGE.shape, IMAGE[..., None]).loss(smoe.params)
    assert smoe.history[-1].mse == pytest.approx(mse * 255**2, rel=1e-4)


def test_training_goes_on_from_a_checkpoint_bit_for_bit(cupy, tmp_path):
    at_once = Smoe(IMAGE, 6, backend="cupy").train(40)
    first = Smoe(IMAGE, 6, backend="cupy").train(20)
    first.save_checkpoint(tmp_path / "half.npz")
    then = Smoe.from_checkpoint(tmp_path / "half.npz", cupy.asarray(IMAGE), backend="cupy")
    then.train(20)
    assert_same_model(then._params, at_once.params)


@pytest.mark.parametrize("rounds", [1, 3])
def test_no_bit_depends_on_the_number_of_rounds(cupy, monkeypatch, rounds):
    def sparse():
        smoe = Smoe(IMAGE, 8, backend="cupy")
        return smoe.sparsify(target_kernels=20, iterations=(30, 30, 60))

    usual, enqueue = sparse(), CudaLauncher._enqueue_round
    monkeypatch.setattr(CudaLauncher, "_enqueue_round",
                        lambda *given: [enqueue(*given) for _ in range(1 + rounds)])
    assert_same_model(sparse().params, usual.params)


def test_a_copy_stays_on_the_device_of_the_engine(cupy):
    cupy.machine.devices, cupy.machine.current = 2, 1
    smoe = Smoe(IMAGE, 6, backend="cupy").train(5)
    cupy.machine.current = 0
    copied = copy.deepcopy(smoe.engine)
    assert copied.device == copied.launch.device.id == 1
    np.testing.assert_array_equal(copied.render(smoe.params), smoe.engine.render(smoe.params))


def test_an_engine_stays_on_its_device(cupy):
    cupy.machine.devices, cupy.machine.current = 2, 1
    smoe = Smoe(IMAGE, 6, backend="cupy")
    cupy.machine.current = 0
    smoe.train(10, l1reg=0.3, lr_div=1)
    assert smoe.reconstruction.shape == IMAGE.shape
    smoe.engine.restore(smoe.engine.state())
    assert cupy.machine.current == 0


@pytest.mark.parametrize("use", [
    lambda smoe: smoe.fit(kernels=30, iterations=60),
    lambda smoe: smoe.quantize(bits=5),
    lambda smoe: smoe.sparsify(target_kernels=10, iterations=(10, 20, 20)),
    lambda smoe: copy.deepcopy(smoe).train(4)], ids=["fit", "quantize", "sparsify", "copy"])
def test_whatever_an_engine_is_for_it_does_on_its_device(cupy, use):
    cupy.machine.devices, cupy.machine.current = 2, 1
    smoe = Smoe(IMAGE, 6, backend="cupy").train(4)
    cupy.machine.current = 0
    use(smoe)
    assert cupy.machine.current == 0


# ---- what lies on the GPU stays there


def test_an_image_on_the_gpu_gives_results_there(cupy):
    smoe = Smoe(cupy.asarray(IMAGE), 5, backend="cupy").train(5)
    results = [smoe.reconstruction, smoe.gating]
    for params in (smoe.params, smoe.best_params):
        results += params.arrays().values()
    assert all(isinstance(array, cupy.ndarray) for array in results)
    same = Smoe(IMAGE, 5, backend="cupy").train(5)
    assert_same_model(smoe._params, same.params)
    np.testing.assert_array_equal(smoe.gating.get(), same.gating)
    assert isinstance(same.reconstruction, np.ndarray)


def test_colours_on_the_gpu_keep_their_axis(cupy):
    image = cupy.asarray((255 * picture((20, 20), 3)).astype(np.uint8))
    smoe = Smoe(image, 3, backend="numpy").train(2)
    assert isinstance(smoe.reconstruction, cupy.ndarray)
    assert smoe.reconstruction.shape == (20, 20, 3)


def test_a_copy_of_what_lies_on_the_gpu_trains_as_the_original_does(cupy):
    smoe = Smoe(cupy.asarray(IMAGE), 5, backend="numpy").train(3)
    other = copy.deepcopy(smoe).train(4)
    assert_same_model(smoe.train(4)._params, other._params)
    assert isinstance(other.params.A, cupy.ndarray)


def test_a_model_on_the_gpu_gives_pictures_and_gradients_there(cupy):
    host = random_model(6, K=9, dtype=np.float32)
    params = host.map(cupy.asarray)
    found = smoe_np.render(params, (24, 24)), smoe_np.gating(params, (24, 24))
    wanted = smoe_np.render(host, (24, 24)), smoe_np.gating(host, (24, 24))
    for ours, theirs in zip(found, wanted):
        assert isinstance(ours, cupy.ndarray)
        np.testing.assert_array_equal(ours.get(), theirs)
    loss, gradients = smoe_np.loss_and_gradients(params, cupy.asarray(IMAGE), l1reg=0.1)
    wanted, wanted_gradients = smoe_np.loss_and_gradients(host, IMAGE, l1reg=0.1)
    assert loss == wanted
    assert isinstance(gradients.A, cupy.ndarray)
    assert_same_model(gradients.map(lambda array: array.get()), wanted_gradients)


def test_a_model_on_the_gpu_goes_with_an_image_on_the_gpu(cupy):
    host = random_model(6, K=9, dtype=np.float32)
    params = host.map(cupy.asarray)
    smoe = Smoe(cupy.asarray(IMAGE), params=params, backend="cupy").train(3)
    assert isinstance(smoe.params.pis, cupy.ndarray)
    smoe.params = params
    assert_same_model(smoe._params, host.map(np.asarray))
    for image, model in ((IMAGE, params), (cupy.asarray(IMAGE), host)):
        with pytest.raises(TypeError, match="partly NumPy and partly CuPy"):
            Smoe(image, params=model)
        with pytest.raises(TypeError, match="partly NumPy and partly CuPy"):
            smoe_np.loss_and_gradients(model, image)
