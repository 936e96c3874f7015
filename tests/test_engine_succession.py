"""Engines that go on with another model: after an event, at another tau, from a state."""

import inspect
import math

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    make_engine,
    picture,
    random_model,
)
from kernel_runs import frame_settings

from smoe_np import dense, engine_kernels, engine_numpy
from smoe_np.adam import Adam
from smoe_np.kernel_buffers import WORDS
from smoe_np.live_lists import is_forged

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@DTYPES
def test_after_a_succession_an_engine_sees_what_a_fresh_one_sees(each_engine, dtype):
    params, target = random_model(20, 30, sigma=0.1), picture((40, 50))
    engine = make_engine((40, 50), target, dtype)
    tolerance = {"float32": 1e-5, "float64": 1e-11}[dtype]
    for _ in range(6):  # kernels move, so that lists have allowances
        engine.loss(params)
        params = params.copy()
        params.musX += 2e-3
    for seed, count in enumerate((30, 45, 12, 1, 60)):
        parents = np.random.default_rng(seed).integers(params.num_kernels, size=count)
        params = params.select(parents)
        params.musX += 1e-2 * np.random.default_rng(seed).normal(size=params.musX.shape)
        params.pis *= np.random.default_rng(seed).uniform(0.5, 2, count)
        engine.succeed(parents)
        loss, gradients = engine.loss_and_gradients(params)
        wanted, others = make_engine((40, 50), target, dtype).loss_and_gradients(params)
        assert loss == pytest.approx(wanted, rel=tolerance)
        assert_gradients_agree(gradients, others, 10 * tolerance)
        np.testing.assert_array_equal(engine.gating(params), dense.gating(params, (40, 50)))


def test_what_is_forgotten_leaves_no_trace(each_engine):
    params, target = random_model(21, 30, sigma=0.1), picture((40, 50))
    other = random_model(22, 30, sigma=0.1, dtype=np.float32)
    used = make_engine((40, 50), target)
    for _ in range(5):
        params = params.copy()
        params.musX += 3e-3
        used.loss(params)
    used.forget()
    fresh, models = make_engine((40, 50), target), []
    for engine in (used, fresh):
        model, adam = other, Adam(other)
        while adam.steps < 5:
            model = engine.advance(model, adam, frame_settings(), math.inf, 5 - adam.steps).params
        models.append((model, engine.loss(model), engine.state()))
    assert_same_model(models[0][0], models[1][0])
    assert models[0][1] == models[1][1]
    assert models[0][2].keys() == models[1][2].keys()
    for name, array in models[1][2].items():
        np.testing.assert_array_equal(models[0][2][name], array, err_msg=name)


def test_children_are_expected_to_move_as_their_parents_did(each_engine):
    # so that lists last from the first step on
    params, target = random_model(23, 25, sigma=0.1), picture((64, 64))
    engine, moving = make_engine((64, 64), target), np.isin(np.arange(25), [3, 4])
    for _ in range(12):
        engine.loss(params)
        params = params.copy()
        params.musX[moving] += [0.02, 0.02]
    parents = np.append(np.arange(25), [3, 4, 4])
    for tell, builds in ((lambda: engine.succeed(parents), 0), (engine.forget, 1)):
        children = params.select(parents)
        tell()
        engine.loss(children)
        before = engine.builds
        children = children.copy()
        children.musX[moving[parents]] += [0.02, 0.02]
        engine.loss(children)
        assert engine.builds == before + builds


def test_an_engine_that_knows_of_no_model_can_be_told_to_forget_it(each_engine):
    params, target = random_model(24, 9), picture((20, 20))
    for tell in (lambda engine: engine.forget(), lambda engine: engine.succeed(np.array([0, 0]))):
        engine = make_engine((20, 20), target, "float64")
        tell(engine)
        assert engine.loss(params) == pytest.approx(dense.loss(params, target), rel=1e-10)


def assert_exact(engine, params, target, dtype):
    wanted = np.clip(dense.render(params, target.shape[:-1]), 0, 1)
    assert np.abs(engine.render(params) - wanted).max() < {"float32": 1e-5, "float64": 1e-10}[dtype]
    tolerance = {"float32": 1e-4, "float64": 1e-8}[dtype]
    assert engine.loss(params) == pytest.approx(dense.loss(params, target), rel=tolerance)
    found = engine.loss_and_gradients(params)[1]
    assert_gradients_agree(found, dense.gradients(params, target), tolerance)


@pytest.mark.parametrize(("look", "dtype"), [
    ("advance", "float32"), ("weigh", "float32"), ("halve", "float32"), ("loss", "float32"),
    ("render", "float32"), ("gating", "float32"), ("advance", "float64"), ("render", "float64")])
def test_a_smaller_tau_is_cheaper_and_leaves_no_trace_when_it_is_put_back(each_engine, look, dtype):
    params, target = random_model(25, 70, sigma=0.06, dtype=np.dtype(dtype)), picture((40, 37))
    engine = make_engine((40, 37), target, dtype)
    full = engine.tau
    assert_exact(engine, params, target, dtype)
    usual = engine.pairs_per_pixel
    for tell in (engine.forget, lambda: None):
        tell()
        engine.tau = 1.0
        if look == "advance":
            params = engine.advance(params, Adam(params), frame_settings(0.05), math.inf, 1).params
        else:
            seen = getattr(engine, look)(params)
        if tell == engine.forget:
            assert engine.pairs_per_pixel < 0.9 * usual
            if look == "render":
                wanted = np.clip(dense.render(params, (40, 37)), 0, 1)
                assert np.abs(seen - wanted).max() > 1e-3
        engine.tau = full
        assert_exact(engine, params, target, dtype)


@DTYPES
def test_lists_are_used_for_their_life_by_kernels_that_move_but_never_when_it_is_over(
        each_engine, dtype):
    params, target = random_model(27, 50, sigma=0.08, dtype=np.dtype(dtype)), picture((40, 37))
    engine, adam = make_engine((40, 37), target, dtype), Adam(params)
    for life, least, most in ((0, 8, 12), (4, 2, 3), (1000, 0, 0)):
        engine.forget()
        engine.loss(params)
        model, before = params, engine.builds
        for _ in range(12):  # so fast that lists hardly hold for two steps
            engine.list_life = life
            model = engine.advance(model, adam, frame_settings(0.3), math.inf, 1).params
            engine.list_life = 0
        assert least <= engine.builds - before <= most
        assert_exact(engine, model, target, dtype)


@DTYPES
def test_nothing_overflows_however_far_kernels_move_in_the_life_of_lists(each_engine, dtype):
    # so that whoever won a tile is far below the others there
    params, target = random_model(29, 40, sigma=0.06, dtype=np.dtype(dtype)), picture((40, 37))
    engine, adam = make_engine((40, 37), target, dtype), Adam(params)
    engine.loss(params)
    before, engine.list_life = engine.builds, 1000
    settings = frame_settings()._replace(rates={"musX": 30.0})
    for _ in range(3):
        done = engine.advance(params, adam, settings, math.inf, 1)
        assert done.failure is None
        params = done.params
    for look in (engine.render, engine.weigh, engine.halve):
        assert np.isfinite(look(params)).all()
    assert engine.builds == before
    engine.list_life = 0
    wanted = np.clip(dense.render(params, (40, 37)), 0, 1)
    assert np.abs(engine.render(params) - wanted).max() < {"float32": 1e-3, "float64": 1e-9}[dtype]


def test_a_checkpoint_of_an_engine_remembers_the_tau_of_its_lists(each_engine):
    params, target = random_model(26, 80, sigma=0.06), picture((48, 40))
    engine = make_engine((48, 40), target)
    full, engine.tau = engine.tau, 2.0
    loss = engine.loss(params)
    state = {name: array.copy() for name, array in engine.state().items()}
    assert state["tau"] == 2
    for tau, wanted in ((2.0, loss), (full, make_engine((48, 40), target).loss(params))):
        again = make_engine((48, 40), target)
        again.restore(state)
        assert again.tau == full
        again.tau = tau
        assert again.loss(params) == pytest.approx(wanted, rel=1e-9 if tau == 2 else 1e-6)
    assert loss != pytest.approx(wanted, rel=1e-6)


def test_the_doors_of_events_have_the_same_signatures_in_each_engine():
    from smoe_np.engine_kernels import KernelEngine

    for name in ("weigh", "halve", "succeed", "forget"):
        mine, theirs = (inspect.signature(getattr(kind, name))
                        for kind in (engine_numpy.NumpyEngine, KernelEngine))
        assert mine == theirs


def test_a_model_that_takes_long_to_bring_is_trained_for_longer_at_a_time():
    target, start = picture((20, 20)), random_model(0, 30, sigma=0.1, dtype=np.float32)
    engine = make_engine((20, 20), target, "float32")
    if engine.name == "numpy":
        pytest.skip("takes one step at a time")
    engine.advance(start, Adam(start), frame_settings(), math.inf, 1)
    patiences, train = [], engine.launch.train

    def watch(build, step, control, patience):
        patiences.append(patience)
        return train(build, step, control, patience)

    engine.launch.train = watch
    for engine._aside in (0.0, 5 * engine_kernels.ASIDE, 1e9):
        engine.advance(start, Adam(start), frame_settings(), math.inf, 1)
    assert patiences == [1.0, 5.0, 20.0]


# ---- states of other engines, and of models most of whose kernels are fast


@DTYPES
def test_lists_that_rest_on_kernels_which_have_left_are_not_restored(each_engine, dtype):
    params, target = random_model(23, 12, sigma=0.08), picture((40, 50))
    engine = make_engine((40, 50), target, dtype)
    engine.loss(params)
    state = engine.state()
    for lost in range(params.num_kernels):  # which another engine may have let go
        staying = np.delete(np.arange(params.num_kernels), lost)
        columns = np.append(staying, params.num_kernels)
        again = make_engine((40, 50), target, dtype)
        again.restore({**state, "slots": staying, "stale": np.array(False),
                       "moved": state["moved"][:, columns],
                       **({"rate": state["rate"][:, columns]} if "rate" in state else {})})
        left = params.select(staying)
        assert again.loss(left) == pytest.approx(dense.loss(left, target), rel=1e-5)


def test_lists_of_few_kernels_most_of_which_are_fast_are_restored():
    state = {"A": np.full((5, 1, 1), 9.0), "pis": np.ones(5), "allowance": np.full((3, 6), 0.1)}
    state["allowance"][:, :4] = WORDS.BOUNDLESS
    assert not is_forged(state)
    many = {"A": np.full((30, 1, 1), 9.0), "pis": np.ones(30), "allowance": np.full((3, 31), 0.1)}
    many["allowance"][:, : WORDS.MOST_FAST + 1] = WORDS.BOUNDLESS
    assert is_forged(many)
    state["allowance"][:, 3:5] = 1e20
    assert is_forged(state)
