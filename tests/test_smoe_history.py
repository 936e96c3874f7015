"""What a training tells: its history, its callbacks, and its best model."""

import itertools
import math

import numpy as np
import pytest
from helpers import assert_same_model, picture
from trainings import SPARSE, assert_same_training

import smoe_np
from smoe_np import Record, Smoe, dense

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture(scope="module")
def image(each_engine):
    return picture((40, 35))[..., 0]


def test_history_has_the_multiples_of_val_iter_and_the_end(image):
    smoe = Smoe(image, 3)
    for iterations, val_iter, wanted in [
            (0, 10, [0]), (0, 10, [0]), (7, 3, [0, 3, 6, 7]), (5, 100, [0, 3, 6, 7, 12]),
            (6, 6, [0, 3, 6, 7, 12, 18]), (1, 1, [0, 3, 6, 7, 12, 18, 19])]:
        smoe.train(iterations, val_iter)
        assert [r.iteration for r in smoe.history] == wanted
        assert smoe.iteration == wanted[-1]


def test_a_record_is_of_the_very_parameters_held_at_its_iteration(image):
    smoe = Smoe(image, 8, dtype="float64")
    settings = {**SPARSE, "bandwidth_reg": 1e-6}

    def check(smoe):
        record, params = smoe.history[-1], smoe.params
        assert isinstance(record, Record)
        assert record.iteration == smoe.iteration
        assert record.kernels == params.num_kernels
        target = image[..., None]
        mse = dense.loss(params, target)
        loss = dense.loss(params, target, 0.1, 1e-6, initial_kernels=56)
        assert record.loss == pytest.approx(loss, rel=1e-9)
        assert record.mse == pytest.approx(mse * 255**2, rel=1e-9)
        assert record.psnr == pytest.approx(-10 * math.log10(mse), rel=1e-9)

    smoe.train(60, val_iter=7, callbacks=[check], **settings)
    assert len(smoe.history) == 10
    assert smoe.history[-1].kernels < 56
    seconds = [r.seconds for r in smoe.history]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


def test_psnr_is_that_of_the_picture(image):
    smoe = Smoe(image, 5).train(10)
    found = smoe_np.psnr(smoe.reconstruction, image)
    assert smoe.history[-1].psnr == pytest.approx(found, abs=1e-3)


def test_callbacks_are_called_at_every_validation_and_progress_after_every_step(image):
    smoe, calls, steps = Smoe(image, 3), [], []
    smoe.train(7, val_iter=3, progress=lambda s: steps.append((s is smoe, s.iteration)),
               callbacks=(lambda s: calls.append(("first", s.iteration, s.history[-1].iteration)),
                          lambda s: calls.append(("second", s.iteration, s is smoe))))
    assert calls == list(itertools.chain(*(
        (("first", i, i), ("second", i, True)) for i in (0, 3, 6, 7))))
    assert steps == [(True, i) for i in range(1, 8)]
    calls.clear()
    smoe.train(2, val_iter=100, callbacks=iter([lambda s: calls.append(s.iteration)]))
    assert calls == [9]


def test_callbacks_see_the_warnings_of_numpy_as_everyone_does(image):
    seen = []
    Smoe(image, 3).train(1, callbacks=[lambda s: seen.append(np.geterr())],
                         progress=lambda s: seen.append(np.geterr()))
    assert seen == [np.geterr()] * 3


def test_an_error_in_a_callback_comes_out_and_training_can_go_on(image):
    whole = Smoe(image, 4).train(9, val_iter=3)
    smoe = Smoe(image, 4)

    def fail(smoe):
        if smoe.iteration == 6:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        smoe.train(9, val_iter=3, progress=fail)
    smoe.resume()
    assert_same_training(smoe, whole)


@pytest.mark.parametrize(("given", "why"), [
    ({"callbacks": print}, "callbacks must be a list of functions, got <built-in function print>"),
    ({"callbacks": 3}, "callbacks must be a list of functions, got 3"),
    ({"callbacks": [print, 3]}, "callbacks must be functions of a Smoe, got 3 among them"),
    ({"progress": 3}, "progress must be a function of a Smoe, got 3")])
def test_what_is_no_callback_is_refused_before_anything_is_done(image, given, why):
    smoe = Smoe(image, 4)
    for training in (lambda: smoe.train(3, **given), lambda: smoe.fit(kernels=3, **given),
                     lambda: smoe.sparsify(5, **given)):
        with pytest.raises(TypeError, match=why):
            training()
    assert (smoe.iteration, smoe.history) == (0, [])


def test_it_is_known_what_trained_last(image, tmp_path):
    smoe = Smoe(image, 5)
    assert smoe.made_by is None
    for call, arguments in (("train", {"iterations": 3}), ("fit", {"kernels": 9, "iterations": 3}),
                            ("sparsify", {"target_kernels": 8, "iterations": (1, 1, 1)}),
                            ("train", {"iterations": 0})):
        assert getattr(smoe, call)(**arguments).made_by == call
        smoe.save_checkpoint(tmp_path / "c.npz")
        assert Smoe.from_checkpoint(tmp_path / "c.npz", image).made_by == call


def test_the_weight_of_sparsity_after_a_fit_is_that_for_its_kernels(image):
    fitted = Smoe(image).fit(kernels=20, iterations=30)
    params = fitted.params.copy()
    assert fitted.initial_kernels < 20
    losses = [smoe.train(1, l1reg=1.0).history[-1].loss
              for smoe in (fitted, Smoe(image, params=params))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_best_params_are_of_the_validation_with_the_lowest_loss(image):
    smoe, seen = Smoe(image, 4), []
    smoe.train(24, val_iter=4, base_lr=0.1, lr_mult=30,
               callbacks=[lambda s: seen.append(s.params)])
    losses = [r.loss for r in smoe.history]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) - 1  # at a rate this high the path is restless
    assert_same_model(smoe.best_params, seen[best])


def test_best_params_are_those_of_the_last_call(image):
    smoe = Smoe(image, 4).train(30)
    before = smoe.best_params
    smoe.train(3, val_iter=3, l1reg=100.0)  # another loss, far larger
    assert smoe.best_params is not before
    assert_same_model(smoe.best_params, smoe.params)
