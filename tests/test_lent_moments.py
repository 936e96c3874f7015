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


def test_a_moment_that_was_changed_outside_is_taken_back():
    smoe, other = started(), started()
    for one in (smoe, other):
        one.adam.m, one.adam.v = one.adam.m.copy(), one.adam.v.copy()
    smoe.adam.m.musX += 1
    for one in (smoe, other):
        one.train(1)
    assert np.abs(smoe.params.musX - other.params.musX).max() > 1e-4


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
