"""The engine through a training run: lists, batches and threads never change what comes out."""

import gc
import tracemalloc

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    gate_terms,
    gradient_floors,
    make_engine,
    picture,
    random_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runs import step_settings, train

import smoe_np
from smoe_np import Smoe, SmoeParams, dense
from smoe_np.params import NAMES

IMAGE_TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
GRADIENT_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


pytestmark = pytest.mark.usefixtures("each_engine")


def assert_agrees_with_dense(engine, params, target, dtype, floors=None):
    """Picture, loss and gradients of an engine, whatever lists it holds; returns the latter two."""
    y = np.clip(dense.render(params, target.shape[:-1]), 0, 1)
    assert np.abs(engine.render(params) - y).max() < IMAGE_TOLERANCE[dtype]
    loss, gradients = engine.loss_and_gradients(params)
    assert loss == pytest.approx(((y - target) ** 2).mean(), rel=GRADIENT_TOLERANCE[dtype])
    expected = dense.gradients(params, target)
    assert_gradients_agree(gradients, expected, GRADIENT_TOLERANCE[dtype], floors)
    return loss, gradients


# ---- culling


@pytest.mark.parametrize(("shape", "C", "k", "dtype"), [
    ((40, 35), 1, 8, "float32"), ((33, 40), 3, 7, "float32"), ((11, 9, 8), 1, 5, "float32"),
    ((40, 35), 1, 8, "float64")])
def test_culling_never_changes_the_picture_nor_a_gradient_during_training(
        shape, C, k, dtype):
    target = picture(shape, C)
    smoe = Smoe(target, k, dtype=dtype, channel_axis=-1)
    kernels = []

    def check(smoe):
        if smoe.iteration % 2:
            assert_agrees_with_dense(smoe.engine, smoe.params, target, dtype)
        kernels.append(smoe.params.num_kernels)

    smoe.train(30, val_iter=1000, l1reg=0.1, lr_div=2, progress=check)
    smoe.train(30, val_iter=1000, l1reg=0.1, lr_div=0.25, base_lr=1e-4, progress=check)
    assert len(kernels) == 60
    assert len(set(kernels)) > 2  # kernels left, at more than one iteration
    assert smoe.engine.builds < 60  # and at the slower rate, lists served again


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), D=st.sampled_from([1, 2, 3]),
       pace=st.sampled_from([1e-4, 1e-2, 0.3]), dtype=st.sampled_from(["float32", "float64"]))
def test_culling_holds_whatever_way_the_kernels_go(seed, D, pace, dtype):
    # not a training: kernels wander, at a pace that changes, jump, and leave, winners too
    rng = np.random.default_rng(seed)
    target = picture((130, 36, 11)[D - 1 : D] * D, 1, seed)
    params = random_model(seed, K=25, D=D, sigma=0.12)
    engine = make_engine(target.shape[:-1], target, dtype)
    for _ in range(10):
        assert_agrees_with_dense(engine, params, target, dtype,
                                 gradient_floors(params, target))
        step = pace * 10 ** rng.uniform(-1, 0.5) * (rng.random(params.num_kernels) < 0.7)
        params = params.copy()
        params.musX += 0.3 * step[:, None] * rng.normal(size=params.musX.shape)
        params.pis *= np.exp(step * rng.normal(size=params.num_kernels))
        params.A *= np.exp(step * rng.normal(size=params.num_kernels))[:, None, None]
        if rng.random() < 0.3:  # one leaps, in or out of the picture
            params.musX[rng.integers(params.num_kernels)] = rng.uniform(-1, 2, D)
        if rng.random() < 0.4 and params.num_kernels > 3:
            staying = rng.random(params.num_kernels) > 0.1
            staying[0] = True
            params = params.select(staying)
            engine.keep(staying)


@pytest.mark.parametrize("what", ["gains weight", "comes from afar", "widens", "turns"])
def test_the_one_kernel_that_changes_is_noticed_in_time(what):
    # all others rest, and at first its gate is left out everywhere or nearly
    target, start = picture((50, 44)), random_model(1, K=30, sigma=0.08, anisotropy=3)
    engine = make_engine((50, 44), target)
    for i in range(25):
        params = start.copy()
        if what == "gains weight":
            params.pis[7] *= np.exp(i - 20)
        elif what == "comes from afar":
            params.musX[7] = start.musX[7] + (25 - i) / 25 * np.array([0.5, -1.5])
        elif what == "widens":
            params.A[7] *= 1.2 ** (12 - i)
        else:
            turn = np.array([[np.cos(i / 8), -np.sin(i / 8)], [np.sin(i / 8), np.cos(i / 8)]])
            params.A[7] = np.linalg.cholesky(turn @ np.diag([10.0, 200.0]) ** 2 @ turn.T)
        y = np.clip(dense.render(params, (50, 44)), 0, 1)
        assert np.abs(engine.render(params) - y).max() < 1e-5
        found, wanted = engine.loss_and_gradients(params)[1], dense.gradients(params, target)
        found.pis *= params.pis  # a kernel of hardly any weight may lose its own gradient
        wanted["pis"] *= params.pis
        assert_gradients_agree(found, wanted, 1e-4)


def test_lists_are_not_built_anew_for_kernels_that_rest():
    target, params = picture((64, 48)), random_model(0, K=30, sigma=0.1)
    engine = make_engine((64, 48), target)
    first = engine.loss_and_gradients(params)
    for _ in range(5):
        again = engine.loss_and_gradients(params)
        assert again[0] == first[0]
        assert_same_model(again[1], first[1])
        for look in (engine.render, engine.gating, engine.loss):
            look(params)
    assert engine.builds == 1


def test_lists_outlive_a_kernel_that_wins_nowhere():
    target, params = picture((64, 48)), random_model(0, K=30, sigma=0.1)
    params.pis[7] *= 1e-3
    engine = make_engine((64, 48), target)
    engine.loss(params)
    staying = np.arange(30) != 7
    engine.keep(staying)
    assert_agrees_with_dense(engine, params.select(staying), target, "float32")
    assert engine.builds == 1


def test_looking_at_the_model_does_not_change_the_bits_of_its_training():
    target = picture((64, 48))
    plain, watched = Smoe(target, 7), Smoe(target, 7)

    def look(smoe):
        return smoe.reconstruction, smoe.gating, smoe.engine.loss(smoe.params)

    look(watched)
    plain.train(25, val_iter=1000)
    watched.train(25, val_iter=1, callbacks=[look], progress=look)
    assert_same_model(watched.params, plain.params)


def test_an_engine_may_be_asked_about_another_model_in_between():
    target = picture((40, 60))
    engine = make_engine((40, 60), target)
    one, other, few = (random_model(i, K=K, sigma=0.1) for i, K in enumerate((20, 20, 7)))
    for params in (one, other, one, few, other, few, one):
        assert_agrees_with_dense(engine, params, target, "float32")
    engine.loss(one)
    engine.keep(np.arange(20) % 3 > 0)
    for params in (one, few, other):
        assert_agrees_with_dense(engine, params, target, "float32")


def test_a_leap_does_not_make_later_lists_long_for_good():
    target = picture((256, 256))
    engine = make_engine((256, 256), target)
    params = random_model(1, K=400, sigma=0.04)
    engine.loss(params)
    usual = engine.pairs_per_pixel
    leaping = params.copy()
    leaping.A *= 1e6
    leaping.musX += 5
    engine.loss(leaping)
    for _ in range(30):
        params = params.copy()
        params.musX += 1e-5
        engine.loss(params)
    assert engine.pairs_per_pixel < 2 * usual


# ---- batches, threads, engines


@DTYPES
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("shape", "C"), [((70, 53), 1), ((40, 33), 3), ((13, 9, 11), 3)])
def test_the_number_of_batches_does_not_change_a_bit(shape, C, dtype):
    target, params = picture(shape, C), random_model(2, K=40, D=len(shape), C=C, sigma=0.1)
    results = []
    for batches in (None, 1, 2, 7, 1000):
        engine = make_engine(shape, target, dtype, batches)
        loss, gradients = engine.loss_and_gradients(params)
        results.append((loss, *gradients.arrays().values(), engine.render(params),
                        engine.gating(params), engine.weigh(params), engine.halve(params)))
        assert engine.name != "numpy" or len(engine.chunks) >= min(batches or 1, 4)
    for others in zip(*results, strict=True):
        for other in others[1:]:
            np.testing.assert_array_equal(other, others[0])


@DTYPES
def test_two_engines_give_the_same_bits(dtype):
    target, params = picture((90, 110), 3), random_model(3, K=150, C=3, sigma=0.05)
    one, two = (make_engine((90, 110), target, dtype) for _ in range(2))
    for _ in range(4):
        (loss, gradients), (again, others) = (e.loss_and_gradients(params) for e in (one, two))
        assert loss == again
        assert_same_model(gradients, others)
        np.testing.assert_array_equal(one.render(params), two.render(params))
        params = params.copy()
        params.musX += 1e-3


@DTYPES
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("batches", [None, 9])
def test_the_number_of_threads_does_not_change_a_bit(dtype, batches):
    target, params = picture((200, 130)), random_model(4, K=400, sigma=0.03)
    results = []
    for threads in (1, 2, 5):
        engine = make_engine((200, 130), target, dtype, batches)
        engine.threads = threads
        results.append((*engine.loss_and_gradients(params), engine.render(params),
                        engine.gating(params)))
    for loss, gradients, image, winners in results[1:]:
        assert loss == results[0][0]
        assert_same_model(gradients, results[0][1])
        np.testing.assert_array_equal(image, results[0][2])
        np.testing.assert_array_equal(winners, results[0][3])


@DTYPES
@pytest.mark.parametrize("list_life", [0, 8])
def test_an_engine_restored_goes_on_bit_for_bit_however_fast_kernels_move(dtype, list_life):
    target = picture((40, 40))
    settings = step_settings(base_lr=0.03, lr_mult=1000, kernels=60)._replace(explosion=np.inf)
    for seed in range(12):
        engine = make_engine((40, 40), target, dtype)
        engine.list_life = list_life
        params = random_model(seed, K=60, sigma=0.05, dtype=np.dtype(dtype))
        if seed % 3 == 2:  # half of the kernels are far weaker than their mean
            params.pis[:32] *= 1e-30
        params, taken = train(engine, params, settings, 20)
        again = make_engine((40, 40), target, dtype)
        again.list_life = list_life
        again.restore({name: array.copy() for name, array in engine.state().items()})
        builds = engine.builds
        found, wanted = (one.loss_and_gradients(params) for one in (again, engine))
        assert found[0] == wanted[0]
        assert_same_model(found[1], wanted[1])
        assert again.builds == 1 + engine.builds - builds or taken < 20


@DTYPES
def test_an_engine_restored_goes_on_bit_for_bit(dtype):
    # at every point of a history in which lists are built, age, and lose kernels
    target, steps = picture((64, 80)), 24
    rng = np.random.default_rng(0)
    params = random_model(5, K=80, sigma=0.08)
    models, staying = [], []  # of each step, and the kernels that stay after it
    for step in range(steps):
        models.append(params)
        left = 0.05 if step % 5 == 3 else 0
        staying.append(rng.random(params.num_kernels) >= left)
        params = params.select(staying[-1])
        params.musX += 1e-3 * rng.normal(size=params.musX.shape)
    assert models[-1].num_kernels < 75

    def go_on(engine, first):
        for step in range(first, steps):
            before = engine.state()
            result = engine.loss_and_gradients(models[step])
            yield result, before, engine.state()
            engine.keep(staying[step])

    def copied(state):
        return {name: array.copy() for name, array in state.items()}

    whole = [(result, copied(before), copied(after)) for result, before, after
             in go_on(make_engine((64, 80), target, dtype), 0)]
    for first, (_, *states) in enumerate(whole):
        for when, state in zip(("before", "after"), states):  # the engine was asked at this step
            engine = make_engine((64, 80), target, dtype)
            engine.restore(copied(state))
            for step, (result, _, _) in enumerate(go_on(engine, first), start=first):
                where = f"at step {step}, restored {when} step {first}"
                assert result[0] == whole[step][0][0], where
                for name in NAMES:
                    found, wanted = (getattr(r[1], name) for r in (result, whole[step][0]))
                    np.testing.assert_array_equal(found, wanted, err_msg=f"{name} {where}")
                if step == first + 6:
                    break


# ---- gating


@DTYPES
@pytest.mark.parametrize("shape", [(53,), (45, 38), (9, 11, 7)])
def test_gating_is_that_of_the_oracle(shape, dtype):
    params = random_model(6, K=30, D=len(shape), sigma=0.1)
    found = smoe_np.gating(params, shape, dtype=dtype)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, dense.gating(params, shape))


def test_gating_and_render_pass_over_kernels_without_weight():
    params = random_model(7, K=12)
    params.pis[[0, 3, 7]] = [0.0, -0.5, -1e-9]
    alive = params.select(params.pis > 0)
    number = np.flatnonzero(params.pis > 0)
    np.testing.assert_array_equal(smoe_np.gating(params, (20, 30)),
                                  number[dense.gating(alive, (20, 30))])
    np.testing.assert_allclose(smoe_np.render(params, (20, 30)),
                               np.clip(dense.render(alive, (20, 30))[..., 0], 0, 1), atol=1e-5)


def test_gating_counts_the_kernels_that_are_left_after_others_have_gone():
    target, params = picture((40, 40)), random_model(8, K=30, sigma=0.1)
    engine = make_engine((40, 40), target)
    engine.loss(params)
    staying = np.arange(30) % 4 > 0
    engine.keep(staying)
    params = params.select(staying)
    np.testing.assert_array_equal(engine.gating(params), dense.gating(params, (40, 40)))


# ---- negative gates, which only files of tf-smoe have


def signed_sums(params, shape):
    """S, N and Σ |gate|, up to a factor for each pixel: Σ s exp ℓ, Σ s exp ℓ e."""
    _, log_gate, sign, expert, _ = gate_terms(params, shape)
    p = np.exp(log_gate - log_gate.max(axis=1, keepdims=True))
    S, N = (sign * p).sum(1), np.einsum("nk,nkc->nc", sign * p, expert)
    return (array.reshape(*shape, -1) for array in (S, N, p.sum(1)))


SIGNED = pytest.mark.parametrize(("negative", "seed"), [
    (0.1, 0), (0.1, 1), (0.3, 2), (0.3, 3), (0.5, 4), (0.5, 5)])


@DTYPES
@SIGNED
def test_negative_gates_render_as_the_formula_says_where_their_sum_is_positive(
        negative, seed, dtype):
    shape = (37, 29)
    params = random_model(seed, K=12, negative=negative, sigma=0.2)
    S, N, total = signed_sums(params, shape)
    # where positive and negative gates all but cancel, the quotient multiplies the rounding
    clear = (S > 0.01 * total)[..., 0]
    assert clear.mean() > 0.05
    image = smoe_np.render(params, shape, dtype=dtype)
    expected = np.clip(N / np.where(S > 0, S, 1), 0, 1)[..., 0]
    assert np.abs(image - expected)[clear].max() < 100 * IMAGE_TOLERANCE[dtype]
    very_clear = (S > 0.5 * total)[..., 0]
    assert np.abs(image - expected)[very_clear].max(initial=0) < IMAGE_TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("with_target", [False, True])
@SIGNED
def test_a_sum_of_gates_that_is_not_positive_counts_as_tiny(negative, seed, with_target, dtype):
    # so the picture is 1 or 0 there, by the sign of Σ s exp ℓ e: tf-smoe's floor in the limit
    shape = (37, 29)
    params = random_model(seed, K=12, negative=negative, sigma=0.2)
    S, N, total = signed_sums(params, shape)
    sure = ((S < -1e-4 * total) & (np.abs(N) > 1e-4 * total))[..., 0]
    if negative >= 0.3:
        assert sure.any()
    target = picture(shape) if with_target else None
    image = make_engine(shape, target, dtype).render(params)[..., 0]
    np.testing.assert_array_equal(image[sure], (N > 0)[..., 0][sure])


def test_a_kernel_of_negative_gate_alone_is_black_as_in_tf_smoe():
    params = SmoeParams([1.0], [[0.5, 0.5]], [[[3.0, 0], [0, -3.0]]], [[0.0, 0]], [0.5])
    np.testing.assert_array_equal(smoe_np.render(params, (5, 4)), 0)


@DTYPES
@SIGNED
def test_negative_gates_have_finite_gradients_and_the_oracles_where_the_sum_is_positive(
        negative, seed, dtype):
    shape, params = (20, 25), random_model(seed, K=12, negative=negative, sigma=0.2)
    target = picture(shape)
    loss, gradients = smoe_np.loss_and_gradients(params, target, dtype=dtype, channel_axis=-1)
    assert np.isfinite(loss)
    assert all(np.isfinite(array).all() for array in gradients.arrays().values())
    S, _, total = signed_sums(params, shape)
    if (S > 0.1 * total).all():
        assert_gradients_agree(gradients, dense.gradients(params, target),
                               10 * GRADIENT_TOLERANCE[dtype], gradient_floors(params, target))


def test_gating_honours_the_sign_and_names_a_kernel_everywhere():
    for seed in range(6):
        params = random_model(seed, K=10, negative=0.5, sigma=0.2)
        _, log_gate, sign, _, _ = gate_terms(params, (21, 30))
        gate = sign * np.exp(log_gate - log_gate.max(axis=1, keepdims=True))
        found = smoe_np.gating(params, (21, 30), dtype="float64")
        np.testing.assert_array_equal(found, gate.argmax(1).reshape(21, 30))


@pytest.mark.parametrize("shape", [(16, 16), (20, 37)])
def test_gating_names_a_kernel_even_where_every_gate_is_negative(shape):
    params = random_model(9, K=5)
    params.A[:, :, 0] *= -1
    params.A[3] *= [-1, 1]  # no: one is positive, but has next to no weight
    params.pis[3] = 1e-30
    found = smoe_np.gating(params, shape)
    assert found.min() >= 0
    assert found.max() < 5


# ---- memory


def test_no_array_of_pixels_times_kernels_is_ever_held():
    # 65,536 pixels × 4,096 kernels × 4 bytes would be 1,074 MB
    target = picture((256, 256)).astype(np.float32)
    smoe = Smoe(target[..., 0], 64)
    gc.collect()
    tracemalloc.start()
    try:
        smoe.train(2, val_iter=1000, callbacks=[lambda s: (s.reconstruction, s.gating)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert smoe.params.num_kernels == 4096
    assert peak < 60e6


def test_gradients_are_float64_however_the_engine_computes():
    engine = make_engine((12, 9), picture((12, 9)), "float32")
    _, gradients = engine.loss_and_gradients(random_model(18, K=5, dtype=np.float32))
    assert {getattr(gradients, name).dtype for name in NAMES} == {np.dtype(np.float64)}
