"""Kernels as a GPU would run them: no race, no number out of nothing, and the oracle's results.

The kernel sources are compiled so that blocks have threads, visited backwards, and every element of
a SHARED array knows who touched it. That this finds what is wrong is tested first.
"""

import ctypes
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    gradient_errors,
    gradient_floors,
    needs_native,
    picture,
    random_model,
)
from kernel_runs import (
    EMULATED,
    EmulatedEngine,
    EmulatedLauncher,
    a_bit_of_everything,
    barriers,
    frame_settings,
    step_settings,
    train,
    turned_adam,
)

from smoe_np import dense
from smoe_np.engine_numpy import NumpyEngine
from smoe_np.kernel_files import kernel_folder, kernel_source
from smoe_np.launch_native import (
    OPTIONS,
    compile_kernels,
    find_compiler,
    load_kernels,
)

pytestmark = needs_native

IMAGE_TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
GRADIENT_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
# every pair of a number of dimensions, a number of channels and a dtype is among them
BUILDS = [(1, 1, "float32"), (1, 3, "float64"), (2, 1, "float32"), (2, 3, "float64"),
          (3, 1, "float32"), (3, 3, "float64")]
THREADS = 64


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """All builds, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda build: load_kernels(*build, EMULATED), BUILDS))


@pytest.fixture(params=BUILDS, ids=lambda build: f"{build[0]}d-{build[1]}c-{build[2]}")
def build(request):
    """A specialisation; the kernels that a test runs must be without fault."""
    library = load_kernels(*request.param, EMULATED)
    library.smoe_forget_races()
    yield request.param
    assert library.smoe_races() == 0


def assert_agrees_with_dense(engine, params, target, dtype, slack=1):
    y = np.clip(dense.render(params, target.shape[:-1]), 0, 1)
    assert np.abs(engine.render(params) - y).max() < slack * IMAGE_TOLERANCE[dtype]
    loss, gradients = engine.loss_and_gradients(params)
    tolerance = slack * GRADIENT_TOLERANCE[dtype]
    assert loss == pytest.approx(((y - target) ** 2).mean(), rel=tolerance)
    assert engine.loss(params) == loss
    assert_gradients_agree(gradients, dense.gradients(params, target), tolerance,
                           gradient_floors(params, target))


# ---- what is found

# Each begins with 64 threads that write their numbers; all but the first go on to do wrong.
EXAMPLES = """
#include "phases.cuh"
#define BEGIN SHARED(int, shared, PIXELS); SHARED(REAL, real, PIXELS); PER_PIXEL(pack); \\
    (void)out; FOR_PIXELS(i) { AT(pack, i) = i; shared[i] = i; real[i] = i; } BARRIER;

KERNEL(right, 64, int *out) {
    BEGIN
    WATCHED(int, there, out);
    FOR_EACH(i, PIXELS) there[i] = shared[PIXELS - 1 - i];
    BARRIER;
    FOR_EACH(i, PIXELS) shared[i] = there[i] + there[PIXELS - 1 - i];
    BARRIER;
    ONE_THREAD {
        int sum = 0;
        for (int i = 0; i < PIXELS; i++) sum += shared[i];
        out[0] = sum;
    }
    BARRIER;
    FOR_EACH(i, PIXELS) if (i % 2) MARK(shared[2]);
    BARRIER;
    if (shared[2] != 1) ONE_THREAD out[0] = -1;
    FOR_PIXELS(i) if (AT(pack, i) != i) out[0] = -1;
}
KERNEL(reads_what_another_writes, 64, int *out) {
    BEGIN
    FOR_EACH(i, PIXELS) shared[i] = i;
    FOR_EACH(i, PIXELS) out[i] = shared[PIXELS - 1 - i];
}
KERNEL(writes_what_another_reads, 64, int *out) {
    BEGIN
    FOR_EACH(i, PIXELS) out[i] = shared[PIXELS - 1 - i];
    FOR_EACH(i, PIXELS) shared[i] = i;
}
KERNEL(writes_what_two_others_read, 64, int *out) {
    BEGIN
    FOR_EACH(i, 2) out[i] = shared[i == 0 ? 1 : 1];
    ONE_THREAD shared[1] = 0;
}
KERNEL(writes_what_another_writes, 64, int *out) {
    BEGIN
    FOR_EACH(i, PIXELS) shared[i / 2] = i;
}
KERNEL(writes_what_another_adds_to, 64, int *out) {
    BEGIN
    FOR_EACH(i, PIXELS) shared[0] += i;
}
KERNEL(all_threads_write, 64, int *out) {
    BEGIN
    shared[0] = 1;
}
KERNEL(all_threads_read_and_one_writes, 64, int *out) {
    BEGIN
    if (shared[0] == 0) ONE_THREAD shared[0] = 1;
}
KERNEL(one_thread_writes_and_all_read, 64, int *out) {
    BEGIN
    ONE_THREAD shared[0] = 1;
    if (shared[0] == 1) ONE_THREAD out[0] = 1;
}
KERNEL(reads_what_others_mark, 64, int *out) {
    BEGIN
    FOR_EACH(i, PIXELS) MARK(shared[0]);
    ONE_THREAD out[0] = shared[0];
}
KERNEL(marks_what_another_writes, 64, int *out) {
    BEGIN
    ONE_THREAD shared[5] = 0;
    FOR_EACH(i, PIXELS) MARK(shared[5]);
}
KERNEL(tells_through_memory, 64, int *out) {
    BEGIN
    WATCHED(int, there, out);
    FOR_EACH(i, PIXELS) there[i] = i;
    FOR_EACH(i, PIXELS) shared[i] = there[PIXELS - 1 - i];
}
KERNEL(reads_what_nobody_wrote, 64, int *out) {
    BEGIN
    SHARED(int, other, PIXELS);
    FOR_EACH(i, PIXELS - 1) other[i] = i;
    BARRIER;
    FOR_EACH(i, PIXELS) out[i] = other[i];
}
KERNEL(reads_a_pack_that_nobody_wrote, 64, int *out) {
    BEGIN
    PER_PIXEL(other);
    FOR_PIXELS(i) out[i] = AT(other, i) > 0;
}
KERNEL(reads_the_pack_of_another, 64, int *out) {
    BEGIN
    FOR_PIXELS(i) out[i] = AT(pack, PIXELS - 1 - i);
}
KERNEL(barrier_that_some_reach, 64, int *out) {
    BEGIN
    FOR_EACH(i, 32) { BARRIER; }
}
"""
WRONG = [name for name in re.findall(r"^KERNEL\((\w+)", EXAMPLES, re.MULTILINE) if name != "right"]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = tmp_path_factory.mktemp("examples") / "examples.so"
    options = (*OPTIONS, f"-I{kernel_folder()}", *EMULATED, "-DNDIM=2", "-DNCHAN=1",
               "-DREAL=float", "-DREAL_BYTES=4")
    compile_kernels(find_compiler(), options, EXAMPLES, path)
    library = ctypes.CDLL(str(path))
    library.smoe_races.restype = ctypes.c_long
    return library


def run_example(library, name, threads=THREADS):
    """The faults that are counted in one block, and what it leaves."""
    out = np.zeros(THREADS, np.int32)
    address = ctypes.c_void_p(out.ctypes.data)
    library.smoe_forget_races()
    getattr(library, name)((ctypes.c_void_p * 1)(ctypes.addressof(address)), 0, 1, threads)
    return library.smoe_races(), out


def test_a_kernel_that_does_all_as_it_should_is_without_fault(examples):
    faults, out = run_example(examples, "right")
    assert faults == 0
    assert out[0] == 2 * sum(range(THREADS))


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_kernel_is_found_out(examples, name):
    assert run_example(examples, name)[0] > 0


def test_more_threads_than_a_kernel_is_declared_for_are_a_fault(examples):
    assert run_example(examples, "right", THREADS)[0] == 0
    assert run_example(examples, "right", THREADS + 1)[0] > 0


def test_pixels_beyond_the_threads_are_left_out_as_on_a_gpu(examples):
    # and then, what they should have written is missed
    assert run_example(examples, "right", THREADS // 2)[0] > 0


@pytest.mark.parametrize("line", barriers())
def test_without_any_one_barrier_there_is_a_race(line):
    launcher = EmulatedLauncher(2, 1, "float32")
    races = launcher.library.smoe_races
    launcher.library.smoe_forget_races()
    launcher.library.smoe_without_barrier(line)
    try:
        found = any(races() for _ in a_bit_of_everything(EmulatedEngine))
    finally:
        launcher.library.smoe_without_barrier(0)
    assert found, kernel_source().splitlines()[line - 3 : line + 2]


# ---- what is not there to be found


def test_nothing_is_at_fault_whatever_an_engine_is_asked(build):
    for _ in a_bit_of_everything(EmulatedEngine, *build):
        assert load_kernels(*build, EMULATED).smoe_races() == 0


@pytest.mark.parametrize("K", [1, 33, 130, 2100])
def test_tiles_of_any_number_of_pairs_agree_with_the_oracle(build, K):
    D, C, dtype = build
    shape = (50,) if D == 1 else (8, 5) if D == 2 else (3, 4, 2)
    target, params = picture(shape, C), random_model(K, K, D, C, sigma=0.6)
    engine = EmulatedEngine(shape, target, dtype)
    assert_agrees_with_dense(engine, params, target, dtype)
    assert engine._num_pairs() >= 0.7 * K
    np.testing.assert_array_equal(engine.gating(params), dense.gating(params, shape))


def test_steep_tiles_agree_with_the_oracle(build):
    D, C, dtype = build
    shape = (150,) if D == 1 else (18, 13) if D == 2 else (6, 5, 9)
    for K in (3, 150):  # the few reach nearly nowhere, and each owns pixels far away
        target = picture(shape, C)
        params = random_model(K, K, D, C, sigma=0.01, anisotropy=5)
        engine = EmulatedEngine(shape, target, dtype)
        # a log-gate of a thousand has so much less to tell fractions with
        assert_agrees_with_dense(engine, params, target, dtype, slack=10)


def test_signed_gates_give_what_numpy_gives(build):
    D, C, dtype = build
    shape = (100,) if D == 1 else (17, 12) if D == 2 else (5, 6, 7)
    target, params = picture(shape, C), random_model(1, 90, D, C, sigma=0.2, negative=0.1)
    found, wanted = (Engine(shape, target, dtype) for Engine in (EmulatedEngine, NumpyEngine))
    np.testing.assert_array_equal(found.gating(params), wanted.gating(params))
    # where positive and negative gates all but cancel, the quotient multiplies the rounding
    off = np.abs(found.render(params) - wanted.render(params)) > 100 * IMAGE_TOLERANCE[dtype]
    assert off.mean() < 0.05


def test_lists_over_several_levels_and_batches_agree_with_the_oracle(build):
    D, C, dtype = build
    shape = (700,) if D == 1 else (70, 53) if D == 2 else (19, 14, 9)
    target, params = picture(shape, C), random_model(2, 60, D, C, sigma=0.05)
    for batches in (None, 7):
        engine = EmulatedEngine(shape, target, dtype, batches)
        assert len(engine.levels) > 2
        assert_agrees_with_dense(engine, params, target, dtype)


def test_a_training_in_which_kernels_leave_goes_as_with_numpy(build):
    D, C, dtype = build
    shape = (90,) if D == 1 else (20, 27) if D == 2 else (6, 9, 7)
    target = picture(shape, C)
    start = random_model(3, 70, D, C, sigma=0.1, dtype=np.dtype(dtype))
    settings = step_settings(l1reg=1.0, lr_div=1, kernels=70)
    models = []
    for Engine in (EmulatedEngine, NumpyEngine):
        model, steps = train(Engine(shape, target, dtype, 2), start, settings, 15)
        assert steps == 15
        models.append(model)
    assert 10 < models[0].num_kernels < 70
    assert models[0].num_kernels == models[1].num_kernels
    errors = gradient_errors(*models)
    assert max(errors.values()) < {"float32": 1e-3, "float64": 1e-8}[dtype], errors


# ---- blocks of other sizes


@pytest.mark.parametrize("threads", [1, 7, 32, 100, 128])
def test_the_number_of_threads_of_a_block_does_not_matter(monkeypatch, threads):
    # but for kernels that look at pixels, which need a thread for each
    of_pixels = ("step", "render", "gating")
    declared = {"gather": 32, "arrange": 32, "settle": 32, "layout": 1, "turn": 32}
    monkeypatch.setattr(EmulatedLauncher, "threads_of", lambda self, kernel, wanted: (
        wanted if kernel in of_pixels else min(threads, declared.get(kernel, 128))))
    library = load_kernels(2, 1, "float32", EMULATED)
    library.smoe_forget_races()
    target, params = picture((45, 60)), random_model(0, 40, sigma=0.1)
    assert_agrees_with_dense(EmulatedEngine((45, 60), target), params, target, "float32")
    start = random_model(3, 70, sigma=0.1, dtype=np.float32)
    models = []
    for Engine in (EmulatedEngine, NumpyEngine):
        models.append(train(Engine((45, 60), target), start, step_settings(0.5, kernels=70), 5)[0])
    assert_gradients_agree(*models, 1e-3)
    # that two go apart where they turn is for other tests; here all threads must do their part
    along_axes = [train(EmulatedEngine((45, 60), target), start, frame_settings(), 5,
                        turned_adam(start))[0]]
    monkeypatch.undo()
    along_axes.append(train(EmulatedEngine((45, 60), target), start, frame_settings(), 5,
                            turned_adam(start))[0])
    assert_gradients_agree(*along_axes, 1e-6)
    assert library.smoe_races() == 0


def test_two_runs_in_emulation_give_the_same_bits():
    target, params = picture((45, 60)), random_model(0, 40, sigma=0.1, dtype=np.float32)
    models = []
    for threads in (1, 2):  # and workers' stacks are large enough for arrays that know so much
        engine = EmulatedEngine((45, 60), target)
        engine.threads = threads
        models.append(train(engine, params, step_settings(), 5)[0])
    assert_same_model(*models)
