"""Trainings that fail end in words, with the best model, and can go on."""

import warnings

import numpy as np
import pytest
from helpers import assert_same_model, picture

from smoe_np import Smoe, dense

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture(scope="module")
def image(each_engine):
    return picture((40, 35))[..., 0]


def assert_restored(smoe, image):
    """After a failure: the best model, finite, of the validation it was found at; it trains on."""
    assert smoe.stopped == "diverged"
    assert_same_model(smoe.params, smoe.best_params)
    assert all(np.isfinite(array).all() for array in smoe.params.arrays().values())
    assert (smoe.params.pis > 0).all()
    best = min(smoe.history, key=lambda r: r.loss)
    mse = ((smoe.reconstruction - image) ** 2).mean() * 255**2
    assert mse == pytest.approx(best.mse, rel=1e-3)
    before = smoe.history[-1].iteration
    smoe.train(20, val_iter=20)
    assert smoe.stopped is None
    assert smoe.history[-1].iteration > before
    assert smoe.history[-1].mse < best.mse


@pytest.mark.parametrize("base_lr", [1e20, 1e30, 1e37, 1e39, 1e300])
@pytest.mark.parametrize("train_pis", [True, False])
def test_a_rate_far_too_high_ends_with_one_warning_and_the_best_model(image, base_lr, train_pis):
    smoe = Smoe(image, 5, train_pis=train_pis).train(10, val_iter=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smoe.train(50, val_iter=5, base_lr=base_lr)
    assert [w.category for w in caught] == [RuntimeWarning]
    assert "training ended at iteration" in str(caught[0].message)
    assert "best parameters" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert_restored(smoe, image)


def test_a_loss_that_is_many_times_that_of_the_start_ends_training():
    # the error itself is at most 1; a good start that is lost must be noticed all the same
    smooth = 0.5 + 0.1 * dense.pixel_centres((40, 35)).sum(1).reshape(40, 35)
    smoe = Smoe(smooth, 6, train_pis=False)
    with pytest.warns(RuntimeWarning, match="training ended at iteration"):
        smoe.train(60, val_iter=10, base_lr=5.0)
    assert smoe.history[-1].mse < 100 * smoe.history[0].mse
    assert_restored(smoe, smooth)


def test_a_loss_that_explodes_by_its_regularisers_ends_training(image):
    smoe = Smoe(image, 5)
    with pytest.warns(RuntimeWarning, match=r"training ended at iteration \d+: the loss is"):
        smoe.train(60, val_iter=10, bandwidth_reg=1e-3, lr_mult=1e6, base_lr=1.0)
    assert smoe.stopped == "diverged"


def test_why_the_model_of_a_fit_cannot_be_trained_like_a_grid_is_told(image):
    params = Smoe(image, 5).params.copy()
    for least, advice in ((1e-12, "weights span 12 decades.* train_pis=False"),
                          (0.1, "train on with a lower base_lr, lr_mult or regularisation")):
        params.pis = np.geomspace(least, 1, params.num_kernels)
        with pytest.warns(RuntimeWarning, match=advice):
            Smoe(image, params=params).train(60, bandwidth_reg=1e-3, lr_mult=1e6, base_lr=1.0)


def test_weights_that_are_too_small_for_single_precision_are_told(image):
    params = Smoe(image, 5).params.map(np.float64)
    params.pis = np.full(params.num_kernels, 1e-42)
    with pytest.warns(RuntimeWarning, match="1e-42 are too large for float32: .* dtype float64"):
        Smoe(image, params=params).train(5)
    assert Smoe(image, params=params, dtype="float64").train(5).stopped is None


@pytest.mark.parametrize("base_lr", [0.02, 0.05, 0.1, 0.2, 0.5, 2.0])
def test_whatever_the_rate_the_engine_follows(image, base_lr):
    # kernels leap about, out of the picture and back, become needles and planes
    smoe = Smoe(image, 5, dtype="float64")

    def check(smoe):
        wanted = np.clip(dense.render(smoe.params, (40, 35))[..., 0], 0, 1)
        np.testing.assert_allclose(smoe.reconstruction, wanted, atol=1e-6)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training ended", RuntimeWarning)
        smoe.train(40, val_iter=5, base_lr=base_lr, lr_mult=100, callbacks=[check])


def test_when_all_kernels_would_leave_the_best_model_stays(image):
    smoe = Smoe(image, 5)
    with pytest.warns(RuntimeWarning, match="the last kernel's weight fell to 0"):
        smoe.train(50, val_iter=5, l1reg=1e3, lr_div=1e-3)
    assert_restored(smoe, image)


def test_a_single_kernel_does_not_leave_without_a_word(image):
    smoe = Smoe(image, 1)
    with pytest.warns(RuntimeWarning, match="the last kernel's weight fell to 0"):
        smoe.train(50, val_iter=5, l1reg=10.0, lr_div=0.01)
    assert smoe.params.num_kernels == 1


def test_training_after_a_failure_costs_what_it_did_before():
    smoe = Smoe(picture((128, 128))[..., 0], 20, train_pis=False).train(30)
    usual = smoe.engine.pairs_per_pixel
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        smoe.train(20, base_lr=1e35)
    assert smoe.stopped == "diverged"
    smoe.train(30)
    assert smoe.engine.pairs_per_pixel < 3 * usual
