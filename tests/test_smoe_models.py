"""Models of a training: what is shown of them, what is told of them, and others that are set."""

import copy
import pickle

import numpy as np
import pytest
from helpers import assert_gradients_agree, assert_same_model, picture
from trainings import assert_same_training

from smoe_np import Smoe, loss_and_gradients, psnr, render
from smoe_np.scene import Scene

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture(scope="module")
def image(each_engine):
    return picture((40, 35))[..., 0]


def test_a_training_that_makes_a_model_worse_leaves_that_with_which_it_began_the_best(image):
    smoe = Smoe(image, 4).train(25, val_iter=10)
    start = smoe.params.copy()
    smoe.train(4, val_iter=10, base_lr=0.05)
    assert smoe.history[-1].loss > smoe.history[-2].loss
    assert_same_model(smoe.best_params, start)
    start.nu_e += 1e-4
    smoe.params = start  # of which there is no record
    smoe.train(5, val_iter=10, base_lr=0.05)
    assert_same_model(smoe.best_params, start)


def test_what_is_told_of_a_model_is_never_that_of_another_which_was_set(image):
    smoe = Smoe(image, 4).train(20, val_iter=10)
    assert smoe.record is smoe.history[-1]
    dark = smoe.params.copy()
    dark.nu_e[:], dark.gamma_e[:] = 0.1, 0
    smoe.params, seen = dark, []
    assert smoe.record is None
    known = psnr(image, smoe.reconstruction)
    assert Scene.of(smoe).psnr == pytest.approx(known, abs=1e-3)
    smoe.train(0, callbacks=[lambda smoe: seen.append(smoe.iteration)])
    assert [r.iteration for r in smoe.history] == [0, 10, 20]
    assert smoe.history[-1].psnr == pytest.approx(known, abs=1e-3)
    assert seen == [20]
    smoe.train(0, callbacks=[lambda smoe: seen.append(smoe.iteration)])
    assert seen == [20]  # of this model all has been told


@pytest.mark.parametrize("recorded", [True, False])
def test_a_checkpoint_knows_whether_its_model_has_been_told_of(image, tmp_path, recorded):
    smoe = Smoe(image, 4).train(20)
    if not recorded:
        dark = smoe.params.copy()
        dark.nu_e[:], dark.gamma_e[:] = 0.1, 0
        smoe.params = dark
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", image)
    assert (again.record is not None) == recorded
    assert_same_training(again.train(0), smoe.train(0))
    assert again.record.psnr == pytest.approx(psnr(image, again.reconstruction), abs=1e-3)


def test_of_fits_to_a_psnr_the_model_is_taken_that_was_told_of(image):
    def darken(smoe):
        if smoe.iteration == smoe.until:
            dark = smoe.params.copy()
            dark.nu_e[:], dark.gamma_e[:] = 0.1, 0
            smoe.params = dark

    smoe = Smoe(image).fit(psnr=20, iterations=30, callbacks=[darken])
    assert smoe.record is smoe.history[-1]
    assert smoe.record.psnr == pytest.approx(psnr(image, smoe.reconstruction), abs=1e-3)


def test_a_model_that_is_set_on_the_way_may_be_the_best(image):
    good = Smoe(image).fit(kernels=20, iterations=100).params

    def mend(smoe):
        if smoe.iteration == 10:
            smoe.params = good

    smoe = Smoe(image, 4).train(14, val_iter=10, base_lr=0.004, callbacks=[mend])
    assert smoe.history[-1].psnr < psnr(image, render(good))
    assert_same_model(smoe.best_params, good)


def test_a_worse_model_that_is_set_on_the_way_is_trained_and_has_not_diverged(image):
    def darken(smoe):
        if smoe.iteration == 10:
            dark = smoe.params.copy()
            dark.nu_e[:], dark.gamma_e[:] = 0.0, 0
            smoe.params = dark

    smoe = Smoe(image, 4).train(30, val_iter=10, callbacks=[darken])
    assert (smoe.iteration, smoe.stopped) == (30, None)
    assert smoe.history[-1].psnr < smoe.history[1].psnr


def test_a_fit_looks_for_the_pairs_of_a_model_that_is_set_on_the_way(image):
    def turned(smoe, forgets):
        if smoe.iteration == 20:
            params = smoe.params.copy()
            params.musX[:] = params.musX[::-1]
            smoe.params = params
            if forgets:
                smoe.engine.forget()

    one, two = (Smoe(image).fit(kernels=12, iterations=30, val_iter=10, callbacks=[
        lambda smoe, forgets=forgets: turned(smoe, forgets)]) for forgets in (False, True))
    assert_same_training(one, two)


def test_models_of_a_training_cannot_be_written_to(image):
    smoe = Smoe(image, 4).train(9, val_iter=3)
    assert smoe.params is smoe.params
    best = smoe.best_params
    for _ in range(4):  # models come and go, and the best one stays what it was
        smoe._params = smoe._params.copy()
        assert smoe.params is smoe.params
        assert smoe.best_params is best
    for params in (smoe.params, smoe.best_params):
        for array in params.arrays().values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        with pytest.raises(AttributeError, match=r"nu_e cannot be set .* change a copy\(\)"):
            params.nu_e = np.zeros_like(params.nu_e)
        with pytest.raises(AttributeError, match="image_shape cannot be set"):
            params.image_shape = (5, 5)
        with pytest.raises(AttributeError, match="pis cannot be set"):
            del params.pis
        for other in (copy.copy(params), copy.deepcopy(params), params.copy(),
                      pickle.loads(pickle.dumps(params))):
            other.nu_e = np.zeros_like(params.nu_e)  # nobody shows these
    assert smoe.reconstruction.flags.writeable
    changed = smoe.params.copy()
    changed.nu_e *= 0
    smoe.params = changed
    changed.nu_e += 1  # what was set is a copy, or this model: training is not disturbed
    smoe.train(2)
    assert np.isfinite(smoe.history[-1].psnr)


def test_a_model_that_is_set_by_hand_is_checked_and_trained(image):
    smoe = Smoe(image, 5).train(3)
    smoe.params = smoe.params.select(np.arange(10))
    smoe.train(3)
    assert smoe.params.num_kernels == 10
    with pytest.raises(TypeError, match="params must be a SmoeParams"):
        smoe.params = None
    with pytest.raises(ValueError, match="no kernels"):
        smoe.params = smoe.params.select([])


def test_a_model_without_any_weight_is_told_so_wherever_it_is_given(image):
    smoe = Smoe(image, 3)
    empty = smoe.params.copy()
    empty.pis[:] = -np.arange(len(empty.pis))
    for take in (lambda: Smoe(image, params=empty),
                 lambda: setattr(smoe, "params", empty), lambda: render(empty)):
        with pytest.raises(ValueError, match="pis has no weight above 0, its maximum is 0"):
            take()


# ---- gradients for an optimiser of one's own


@pytest.mark.parametrize("penalties", [{}, {"l1reg": 0.1, "bandwidth_reg": 1e-3}])
def test_gradients_of_any_model_on_the_image_are_those_of_the_function(image, penalties):
    smoe = Smoe(image, 4).train(5)
    fewer = smoe.params.copy().select(np.arange(3, 9))
    for params in (None, fewer, smoe.params):
        loss, gradients = smoe.loss_and_gradients(params, **penalties)
        wanted_loss, wanted = loss_and_gradients(params or smoe.params, image, **penalties)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        assert_gradients_agree(gradients, wanted, 1e-4)
        assert gradients.dtype == np.float32


def test_asking_for_gradients_changes_neither_the_model_nor_its_training(image):
    asked, other = (Smoe(image, 4).train(5) for _ in range(2))
    asked.loss_and_gradients(l1reg=0.5)
    assert_same_model(asked.params, other.params)
    assert_same_model(asked.train(5).params, other.train(5).params)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"l1reg": -1}, ValueError, "l1reg must be 0 or more"),
    ({"bandwidth_reg": "1"}, TypeError, "bandwidth_reg must be a number"),
    ({"params": 3}, TypeError, "params must be a SmoeParams"),
    ({"params": Smoe(picture((9, 9), 3), 2, backend="numpy").params}, ValueError,
     "2 dimensions and 3 channels, the image has 2 dimensions and 1 channel")])
def test_gradients_of_what_is_no_model_of_the_image_are_refused(image, arguments, error, message):
    with pytest.raises(error, match=message):
        Smoe(image, 2).loss_and_gradients(**arguments)
