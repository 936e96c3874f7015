"""Moments of Adam stay with the engine while it trains, and are there for whoever looks."""

import pickle

import numpy as np
import pytest
from helpers import assert_same_model, needs_native, picture
from trainings import SPARSE

from smoe_np import Smoe, engine_kernels, launch_native
from smoe_np.adam import Adam
from smoe_np.turned_adam import TurnedAdam

pytestmark = needs_native
IMAGE = picture((40, 33))[..., 0]


@pytest.fixture(autouse=True)
def looks_up_after_each_step(monkeypatch):
    monkeypatch.setattr(launch_native, "STEADY", 0.0)


@pytest.fixture
def fetched(monkeypatch):
    """How often moments came from an engine so far: a list that grows."""
    times, fetch = [], engine_kernels.KernelEngine._moments_now

    def noted(self):
        times.append(self)
        return fetch(self)

    monkeypatch.setattr(engine_kernels.KernelEngine, "_moments_now", noted)
    return times


def started(fit=False):
    smoe = Smoe(IMAGE, 6, backend="native")
    return smoe.fit(kernels=25, iterations=30) if fit else smoe.train(20, **SPARSE)


def arrays(adam):
    return {name: array.copy() for name, array in adam.arrays().items()}


def assert_same_arrays(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_training_does_not_fetch_them_and_who_looks_does(fetched):
    smoe = started()
    kernels = smoe.params.num_kernels
    smoe.train(60, l1reg=0.3, lr_div=2)
    assert kernels > smoe.params.num_kernels
    assert (fetched, smoe.adam.lent) == ([], True)
    moments = arrays(smoe.adam)
    assert (len(fetched), smoe.adam.lent) == (1, False)
    assert moments["adam_m_A"].shape == smoe.params.A.shape
    assert moments["adam_v_A"].any()
    assert_same_arrays(arrays(smoe.adam), moments)
    assert len(fetched) == 1


@pytest.mark.parametrize("fit", [False, True])
def test_who_looks_after_each_step_changes_nothing(fit):
    seen, wanted = [], started(fit)
    options = {"kernels": 25, "iterations": 30} if fit else {**SPARSE, "iterations": 20}
    smoe = Smoe(IMAGE, 6, backend="native")
    train = smoe.fit if fit else smoe.train
    train(**options, progress=lambda smoe: seen.append(smoe.adam.m.pis.copy()))
    assert len(seen) >= 20
    assert_same_model(smoe.params, wanted.params)
    assert_same_arrays(arrays(smoe.adam), arrays(wanted.adam))


@pytest.mark.parametrize("change", [
    lambda adam: setattr(adam, "m", adam.m.map(lambda m: -2 * m)),
    lambda adam: setattr(adam, "v", adam.v.map(lambda v: 0 * v)),
    lambda adam: adam.m.musX.__iadd__(1)], ids=["m", "v", "in place"])
def test_a_moment_that_was_changed_outside_counts(change):
    smoe, other = started(), started()
    for one in (smoe, other):
        assert one.adam.lent
    change(smoe.adam)
    for one in (smoe, other):
        one.train(1)
    assert np.abs(smoe.params.musX - other.params.musX).max() > 1e-5


@pytest.mark.parametrize("use", [
    lambda smoe: smoe.engine.forget(),
    lambda smoe: smoe.engine.loss(smoe.params.select(np.arange(3))),
    lambda smoe: smoe.engine.keep(np.arange(smoe.params.num_kernels) > 1),
    lambda smoe: smoe.engine.succeed(np.arange(smoe.params.num_kernels)),
    lambda smoe: smoe.engine.restore(smoe.engine.state()),
    lambda smoe: smoe.engine.advance(smoe.params, Adam(smoe.params), smoe._step_settings(), 1, 3),
    lambda smoe: pickle.dumps(smoe.engine)],
    ids=["forget", "loss", "keep", "succeed", "restore", "advance", "pickle"])
def test_they_are_saved_before_the_engine_does_something_else(use):
    smoe, wanted = started(), arrays(started().adam)
    assert smoe.adam.lent
    use(smoe)
    assert_same_arrays(arrays(smoe.adam), wanted)


def broken_off(engine, *arguments):
    """An advance that ends in the middle, when steps have been taken."""
    train_on = engine._train_on

    def out_of_memory():
        train_on()
        raise MemoryError

    engine._train_on = out_of_memory
    with pytest.raises(MemoryError):
        engine.advance(*arguments)
    engine._train_on = train_on


def test_a_training_that_was_broken_off_leaves_no_other_model_behind():
    smoe, steps = started(), started()._step_settings()
    before = smoe.engine.loss(smoe.params)
    broken_off(smoe.engine, smoe.params, smoe.adam, steps, 1, 3)
    assert smoe.engine.loss(smoe.params) == pytest.approx(before, rel=1e-6)


def test_a_training_that_was_broken_off_leaves_others_their_moments():
    smoe, wanted = started(), started()
    steps = wanted._step_settings()
    broken_off(smoe.engine, smoe.params, Adam(smoe.params), steps, 1, 3)
    found, expected = (one.engine.advance(one.params, one.adam, steps, 1, 1).params
                       for one in (smoe, wanted))
    assert_same_model(found, expected)


def test_moments_of_their_own_go_on_after_a_training_that_was_broken_off():
    smoe, wanted = started(), started()
    steps = wanted._step_settings()
    moments = arrays(smoe.adam)  # which are looked at, and so not lent
    broken_off(smoe.engine, smoe.params, smoe.adam, steps, 1, 3)
    assert_same_arrays(arrays(smoe.adam), moments)
    found, expected = (one.engine.advance(one.params, one.adam, steps, 1, 1).params
                       for one in (smoe, wanted))
    assert_same_model(found, expected)


def test_an_engine_goes_on_in_a_process_whose_kernels_have_wider_rows():
    smoe = started()
    state = {**smoe.engine.__getstate__(), "row_width": 1}
    assert "rows" not in state
    engine = type(smoe.engine).__new__(type(smoe.engine))
    engine.__setstate__(state)
    assert engine.row_width == smoe.engine.row_width
    assert engine.loss_and_gradients(smoe.params)[0] == smoe.engine.loss(smoe.params)


def test_moments_that_are_set_while_others_are_lent_are_as_set():
    smoe, wanted = started(), arrays(started().adam)
    mine = smoe.params.map(np.ones_like)
    smoe.adam.m = mine
    assert not smoe.adam.lent
    np.testing.assert_array_equal(smoe.adam.v.A, wanted["adam_v_A"])
    assert smoe.adam.m is mine
    smoe = started(fit=True)
    kept = arrays(started(fit=True).adam)
    smoe.adam.restore(kept, 30)
    assert_same_arrays(arrays(smoe.adam), kept)


def test_a_copy_has_its_own():
    smoe = started(fit=True)
    assert isinstance(smoe.adam, TurnedAdam)
    assert smoe.adam.lent
    copied, unpickled = smoe.adam.copy(), pickle.loads(pickle.dumps(smoe.adam))
    wanted = arrays(copied)
    smoe.adam.m.pis += 1
    assert_same_arrays(arrays(copied), wanted)
    assert_same_arrays(arrays(unpickled), wanted)
    smoe.adam.become(copied)
    assert_same_arrays(arrays(smoe.adam), wanted)


def test_a_lent_one_can_become_another_and_another_become_it():
    first, second = started(), started()
    wanted = arrays(started().adam)
    Adam(first.params).become(first.adam)
    fresh = Adam(second.params)
    zeros = arrays(fresh)
    fresh.become(second.adam)
    assert_same_arrays(arrays(fresh), wanted)
    second = started()
    second.adam.become(Adam(second.params))
    assert_same_arrays(arrays(second.adam), zeros)


def test_what_is_not_there_is_said_as_always():
    with pytest.raises(AttributeError, match="'Adam' object has no attribute 'moment'"):
        started().adam.moment  # noqa: B018
    with pytest.raises(AttributeError, match="'Adam' object has no attribute 'outer'"):
        started().adam.outer  # noqa: B018
