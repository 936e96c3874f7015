"""Smoe: options, pictures of every kind, training that goes on bit for bit."""

import copy
import math
import os
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from helpers import assert_same_model, picture, random_model, relative_error
from trainings import DTYPES, SPARSE, assert_same_training

import smoe_np
from smoe_np import Smoe, SmoeParams, dense
from smoe_np.initialize import initial_params
from smoe_np.params import NAMES

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture(scope="module")
def image(each_engine):
    return picture((40, 35))[..., 0]


# ---- the start


def test_without_params_it_starts_from_the_grid(image):
    smoe = Smoe(image, kernels_per_dim=6)
    assert_same_model(smoe.params, initial_params(image[..., None].astype(np.float32), 6))
    assert smoe.iteration == 0
    assert smoe.history == []
    assert smoe.stopped is None
    assert_same_model(smoe.best_params, smoe.params)


@DTYPES
def test_the_dtype_is_that_of_the_model_and_of_the_picture(image, dtype):
    smoe = Smoe(image, 4, dtype=dtype).train(3)
    assert smoe.params.dtype == smoe.best_params.dtype == smoe.reconstruction.dtype == dtype


def test_a_model_given_is_trained_on_and_left_as_it_was(image):
    given = random_model(0, K=9, dtype=np.float32)
    before = given.copy()
    smoe = Smoe(image, params=given)
    assert_same_model(smoe.params, before)
    smoe.train(5)
    assert_same_model(given, before)
    assert smoe.params.num_kernels == smoe.initial_kernels == 9
    assert smoe.params.image_shape == (40, 35)


def test_kernels_without_weight_are_left_out(image):
    given = random_model(1, K=9, dtype=np.float32)
    given.pis[[2, 5]] = [0, -1]
    assert_same_model(Smoe(image, params=given).params, given.select(given.pis > 0))


def test_negative_gates_are_flipped_with_a_warning_that_counts_them(image):
    given = random_model(2, K=12, negative=0.4)
    count = (np.linalg.det(given.A) < 0).sum()
    with pytest.warns(UserWarning, match=f"^{count} kernels of params have negative gates"):
        smoe = Smoe(image, params=given)
    assert (np.diagonal(smoe.params.A, axis1=1, axis2=2) > 0).all()
    np.testing.assert_array_equal(np.abs(smoe.params.A), np.abs(given.A).astype(np.float32))


def test_two_negative_columns_are_flipped_without_a_word(image):
    given = random_model(3, K=4)
    given.A[1] *= -1
    smoe = Smoe(image, params=given, dtype="float64")
    np.testing.assert_allclose(smoe.params.A[1], -given.A[1])


def test_weights_too_small_for_float32_leave_no_trap(image):
    given = random_model(4, K=5, dtype=np.float64)
    given.pis[2] = 1e-60  # 0 in float32
    smoe = Smoe(image, params=given, dtype="float32").train(3)
    assert np.isfinite(smoe.history[-1].loss)
    assert smoe.params.num_kernels == 4


WRONG_ARGUMENTS = [
    ({"kernels_per_dim": 0}, ValueError, "kernels_per_dim must be at least 1, got 0"),
    ({"kernels_per_dim": 2.5}, TypeError, "kernels_per_dim must be a whole number, got 2.5"),
    ({"kernels_per_dim": "12"}, TypeError, "kernels_per_dim must be a whole number"),
    ({"batches": 0}, ValueError, "batches must be at least 1, got 0"),
    ({"batches": 1.5}, TypeError, "batches must be a whole number"),
    ({"batches": True}, TypeError, "batches must be a whole number, got True"),
    *[({name: wrong}, TypeError, f"{name} must be True or False, got {wrong!r}")
      for name in ("radial", "train_pis", "train_gammas") for wrong in ("False", 1, None)],
    ({"backend": "tensorflow"}, ValueError, "backend must be one of 'auto', 'cupy', 'native'"),
    ({"dtype": "float16"}, ValueError, 'dtype must be "float32" or "float64", got .float16.'),
    ({"dtype": "real"}, ValueError, "dtype must be"),
    ({"channel_axis": 5}, ValueError, "channel_axis"),
    ({"channel_axis": "last"}, ValueError, "channel_axis"),
    ({"params": "model.npz"}, TypeError, "params must be a SmoeParams, got str.*load_params"),
    ({"params": random_model(0, K=3, D=3)}, ValueError, "3 dimensions and 1 channel, the image"),
    ({"params": random_model(0, K=3, C=3)}, ValueError, "2 dimensions and 3 channels, the image"),
    ({"params": random_model(0, K=3).map(np.negative)}, ValueError, "no weight above 0"),
    ({"params": random_model(0, K=3), "radial": True}, ValueError, "radial is True, but params"),
    ({"params": random_model(0, K=3).map(lambda a: a * (a.ndim != 3))}, ValueError, "no extent"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_in_words(arguments, error, message):
    with pytest.raises(error, match=message):
        Smoe(np.zeros((8, 8)), **arguments)


@pytest.mark.parametrize(("wrong", "error"), [
    (np.full((8, 8), 1.5), ValueError), (np.full((8, 8), -0.1), ValueError),
    (np.full((8, 8), np.nan), ValueError), (np.zeros((8, 0)), ValueError), (0.5, ValueError),
    (np.zeros((8, 8), complex), TypeError), (np.zeros((8, 8), int), TypeError),
    (np.array([["a", "b"]]), TypeError)])
def test_what_is_no_image_is_refused_in_words(wrong, error):
    with pytest.raises(error, match="image"):
        Smoe(wrong)


WRONG_SETTINGS = [
    ({"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
    ({"iterations": 1.5}, TypeError, "iterations must be a whole number, got 1.5"),
    ({"iterations": None}, TypeError, "iterations must be a whole number"),
    ({"val_iter": 0}, ValueError, "val_iter must be at least 1, got 0"),
    ({"val_iter": 0.5}, TypeError, "val_iter must be a whole number"),
    *[({name: value}, ValueError, f"{name} must be (above 0|0 or more) and finite, got {value}")
      for name in ("base_lr", "lr_div", "lr_mult", "l1reg", "bandwidth_reg", "grad_clip",
                   "adam_eps") for value in (-1.0, math.nan, math.inf)],
    *[({name: 0}, ValueError, f"{name} must be above 0 and finite, got 0")
      for name in ("lr_div", "grad_clip", "adam_eps")],
    *[({name: wrong}, TypeError, f"{name} must be a number, got")
      for name in ("base_lr", "lr_div", "lr_mult", "l1reg", "bandwidth_reg", "adam_eps")
      for wrong in (None, "0.1", [1, 2], 1j, True)],
    ({"grad_clip": "0.1"}, TypeError, "grad_clip must be a number"),
]


@pytest.mark.parametrize(("settings", "error", "message"), WRONG_SETTINGS)
def test_wrong_settings_are_refused_in_words_and_change_nothing(settings, error, message):
    smoe = Smoe(picture((8, 8)), 2, channel_axis=-1).train(2)
    before, held = smoe.params, smoe.settings
    with pytest.raises(error, match=message):
        smoe.train(**settings)
    assert smoe.params is before
    assert smoe.settings is held
    smoe.resume()
    assert smoe.iteration == 2


def test_numbers_of_numpy_are_numbers():
    smoe = Smoe(picture((8, 8)), np.int64(2), batches=np.int32(3), channel_axis=-1)
    smoe.train(np.int64(2), np.int8(1), np.float32(1e-3), np.int64(100), l1reg=np.float64(0))
    assert smoe.iteration == 2


# ---- pictures of every kind


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_picture_with_its_channels_first_is_not_silently_a_volume(count):
    image = np.moveaxis(picture((8, 9), count), -1, 0)
    with pytest.warns(UserWarning, match="taken for a volume; give channel_axis=0"):
        assert Smoe(image, 2).shape == (count, 8, 9)
    assert Smoe(image, 2, channel_axis=None).shape == (count, 8, 9)
    assert Smoe(image, 2, channel_axis=0).shape == (8, 9)


def test_a_picture_of_many_channels_is_not_silently_a_volume():
    image = picture((30, 32), 8)
    with pytest.warns(UserWarning, match="taken for a volume; give channel_axis=-1"):
        assert Smoe(image, 2).channels == 1
    assert Smoe(image, 2, channel_axis=None).shape == (30, 32, 8)
    assert Smoe(image, 2, channel_axis=-1).channels == 8
    assert Smoe(picture((20, 21, 12)), 2, channel_axis=-1).shape == (20, 21, 12)
    assert Smoe(picture((20, 21, 12))[..., 0], 2).channels == 1  # thick enough for a volume


def test_a_thin_volume_is_taken_as_its_model_says(tmp_path):
    volume = np.moveaxis(picture((8, 9), 3), -1, 0)
    smoe = Smoe(volume, 2, channel_axis=None)
    smoe_np.loss_and_gradients(smoe.params, volume)
    assert Smoe(volume, params=smoe.params).shape == (3, 8, 9)
    smoe.save_checkpoint(tmp_path / "c.npz")
    assert Smoe.from_checkpoint(tmp_path / "c.npz", volume).shape == (3, 8, 9)


@pytest.mark.parametrize(("shape", "axis", "k"), [
    ((1, 1), "auto", 3), ((2, 3), "auto", 1), ((2, 3, 3), "auto", 2), ((9, 7, 1), "auto", 3),
    ((17, 40), "auto", 4), ((40, 17, 3), "auto", 4), ((5, 6, 7), "auto", 3), ((5, 6, 3), None, 3),
    ((3, 11, 9), 0, 3), ((6, 7, 8, 3), "auto", 3), ((50,), "auto", 9), ((5, 5), "auto", 12),
    ((3, 4, 5, 6), None, 2)])
def test_any_picture_can_be_trained_and_comes_back_in_its_shape(shape, axis, k):
    image = np.random.default_rng(0).random(shape)
    smoe = Smoe(image, k, channel_axis=axis)
    assert smoe.train(6, val_iter=2) is smoe
    assert [r.iteration for r in smoe.history] == [0, 2, 4, 6]
    channels = np.moveaxis(image, 0, -1) if axis == 0 else image
    assert smoe.reconstruction.shape == channels.shape
    space = channels.shape[: smoe.params.num_dims]
    assert smoe.gating.shape == space
    assert smoe.gating.max() < smoe.params.num_kernels
    error = ((smoe.reconstruction - channels) ** 2).mean() * 255**2
    assert error == pytest.approx(smoe.history[-1].mse, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_train_as_the_floats_they_stand_for(dtype, image):
    whole = np.round(image * np.iinfo(dtype).max).astype(dtype)
    one = Smoe(whole, 4, dtype="float64").train(5)
    other = Smoe(whole / np.iinfo(dtype).max, 4, dtype="float64").train(5)
    assert relative_error(one.params.A, other.params.A) < 1e-9


def test_the_image_given_is_left_as_it_was(image):
    before = image.copy()
    Smoe(image, 4).train(3)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_constant_picture_stays_as_it_is(level):
    smoe = Smoe(np.full((20, 20), level), 4).train(20, val_iter=5)
    assert smoe.stopped is None
    # with so small an ε, Adam makes steps even of gradients that are rounding errors
    np.testing.assert_allclose(smoe.reconstruction, level, atol=2e-3)
    assert smoe.history[0].psnr > 100


@pytest.mark.parametrize("D", [2, 3])
def test_one_kernel_regresses_a_plane(D):
    shape = (16, 12, 5)[:D]
    x = dense.pixel_centres(shape).reshape(*shape, D)
    smoe = Smoe(0.2 + x @ np.array([0.3, 0.2, 0.1])[:D], 1, channel_axis=None)
    smoe.train(600, val_iter=600, base_lr=5e-3)
    assert smoe.params.num_kernels == 1
    assert smoe.history[-1].psnr > 45


# ---- training


def test_training_improves_a_picture_by_decibels():
    smoe = Smoe(picture((48, 64), 3, noise=0), 8).train(200, val_iter=50)
    assert smoe.history[-1].psnr > smoe.history[0].psnr + 7
    assert [r.kernels for r in smoe.history] == [48] * 5
    losses = [r.loss for r in smoe.history]
    assert losses == sorted(losses, reverse=True)


@DTYPES
def test_a_step_is_that_of_adam_on_the_oracles_gradients(image, dtype):
    settings = {"l1reg": 0.3, "bandwidth_reg": 1e-5}
    smoe = Smoe(image, 4, dtype=dtype)
    before = smoe.params
    target = image[..., None].astype(dtype).astype(float)
    gradients = dense.gradients(before.astype(float), target, **settings)
    smoe.train(1, base_lr=2e-3, lr_div=50, lr_mult=300, adam_eps=1e-8, **settings)
    rates = {"pis": 2e-3 / 50, "musX": 2e-3, "A": 2e-3 * 300, "gamma_e": 2e-3, "nu_e": 2e-3}
    for name in NAMES:
        g = gradients[name]
        step = rates[name] * math.sqrt(0.001) / 0.1 * 0.1 * g / (math.sqrt(0.001) * abs(g) + 1e-8)
        moved = getattr(smoe.params, name).astype(float) - getattr(before, name)
        tolerance = 1e-10 if dtype == "float64" else 1e-2
        assert relative_error(moved, -step) < tolerance, name


@pytest.mark.parametrize(("option", "name"), [("train_pis", "pis"), ("train_gammas", "gamma_e")])
def test_what_is_not_trained_stays_bit_for_bit(image, option, name):
    smoe = Smoe(image, params=random_model(5, K=12), **{option: False})
    before = smoe.params
    smoe.train(10, l1reg=0.5)
    for other in NAMES:
        same = np.array_equal(getattr(smoe.params, other), getattr(before, other))
        assert same == (other == name)


@DTYPES
@pytest.mark.parametrize("D", [2, 3])
def test_radial_kernels_stay_radial_through_sign_changes_and_clipping(dtype, D):
    smoe = Smoe(picture((20, 16, 7)[:D])[..., 0], 4, radial=True, dtype=dtype)
    smoe.train(40, val_iter=1, lr_mult=20000, grad_clip=1e-3, bandwidth_reg=1e-6,
               callbacks=[lambda s: s.params.radial or pytest.fail("no longer radial")])
    assert smoe.params.radial
    assert (smoe.params.A[:, 0, 0] > 0).all()
    assert not np.allclose(smoe.params.A[:, 0, 0], smoe.params.A[0, 0, 0], rtol=1e-3)


def test_without_radial_kernels_do_not_stay_radial(image):
    assert not Smoe(image, 4).train(5).params.radial


def test_sparsity_drives_kernels_out_and_their_moments_leave_with_them(image):
    smoe = Smoe(image, 8).train(60, val_iter=5, **SPARSE)
    kernels = [r.kernels for r in smoe.history]
    assert kernels[0] == smoe.initial_kernels == 56
    assert kernels == sorted(kernels, reverse=True)
    assert kernels[-1] == smoe.params.num_kernels < 56
    assert (smoe.params.pis > 0).all()
    for moment in (smoe.adam.m, smoe.adam.v):
        for name in NAMES:
            assert getattr(moment, name).shape == getattr(smoe.params, name).shape
    assert smoe.gating.max() < smoe.params.num_kernels


def test_sparsity_counts_the_kernels_at_the_start_and_not_those_left(image):
    smoe = Smoe(image, 8, dtype="float64").train(60, val_iter=60, **SPARSE)
    record, params = smoe.history[-1], smoe.params
    assert params.num_kernels < 56
    mse = ((np.clip(dense.render(params, (40, 35))[..., 0], 0, 1) - image) ** 2).mean()
    assert record.loss == pytest.approx(mse + 0.1 / 56 * params.pis.sum(), rel=1e-9)


def test_a_kernel_whose_weight_falls_to_zero_is_gone_for_good(image):
    given = random_model(6, K=10, dtype=np.float32)
    given.pis[4] = 1e-6  # one step of the sparsity is more than this
    smoe = Smoe(image, params=given).train(1, l1reg=1000.0)
    assert smoe.params.num_kernels == 9
    np.testing.assert_allclose(smoe.params.nu_e[4], given.nu_e[5], atol=2e-3)


def test_grad_clip_bounds_what_the_moments_have_seen(image):
    free = Smoe(image, 4).train(8)
    loose = Smoe(image, 4).train(8, grad_clip=1e3)
    assert_same_model(loose.params, free.params)
    tight = Smoe(image, 4).train(8, grad_clip=1e-5, l1reg=5.0, bandwidth_reg=1.0)
    largest = max(np.abs(array).max() for array in tight.adam.m.arrays().values())
    assert 0 < largest <= 1e-5  # the regularisers' gradients are clipped too
    assert max(np.abs(array).max() for array in free.adam.m.arrays().values()) > 1e-4


@pytest.mark.usefixtures("small_chunks")
def test_batches_do_not_change_a_bit(image):
    whole = Smoe(image, 6).train(20)
    for batches in (1, 5):
        assert_same_training(Smoe(image, 6, batches=batches).train(20), whole)


# ---- going on


@DTYPES
@pytest.mark.parametrize("parts", [(30, 30), (0, 60), (60, 0), (1, 59), (7, 13, 40), (3,) * 20])
def test_training_in_parts_is_training_in_one_go_bit_for_bit(image, dtype, parts):
    whole = Smoe(image, 8, dtype=dtype).train(60, val_iter=1000, **SPARSE)
    assert whole.params.num_kernels < 56
    smoe = Smoe(image, 8, dtype=dtype)
    for iterations in parts:
        smoe.train(iterations, val_iter=1000, **SPARSE)
    assert_same_model(smoe.params, whole.params)
    for name, array in whole.adam.arrays().items():
        np.testing.assert_array_equal(smoe.adam.arrays()[name], array)
    assert smoe.history[-1].loss == pytest.approx(whole.history[-1].loss, rel=1e-6)


def test_validations_do_not_change_the_training(image):
    seldom = Smoe(image, 8).train(40, val_iter=1000, **SPARSE)
    often = Smoe(image, 8).train(40, val_iter=1, **SPARSE)
    assert_same_model(often.params, seldom.params)


def test_two_trainings_are_the_same_bit_for_bit(image):
    assert_same_training(*(Smoe(image, 8).train(40, val_iter=7, **SPARSE) for _ in range(2)))


def test_resume_needs_a_training(image):
    with pytest.raises(ValueError, match="no training to resume"):
        Smoe(image, 3).resume()


def test_resume_after_the_end_changes_nothing(image):
    smoe = Smoe(image, 4).train(5)
    before = smoe.params
    smoe.resume()
    assert smoe.params is before
    assert smoe.iteration == 5
    assert len(smoe.history) == 2


# ---- memory


@pytest.mark.parametrize(("shape", "C", "k"), [((256, 256), 1, 24), ((128, 96), 3, 40),
                                               ((24, 24, 24), 1, 8)])
def test_memory_needed_is_about_the_peak_of_training(shape, C, k):
    Smoe(np.eye(4), 1).train(1)  # modules that are loaded at first use are not counted
    smoe = Smoe(picture(shape, C), k, channel_axis=-1)
    tracemalloc.start()
    try:
        smoe.train(3, val_iter=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    needed = smoe.memory_needed()
    assert peak < 1.3 * needed
    assert needed < 5 * peak


def test_params_of_a_training_are_a_model_like_any_other(image, tmp_path):
    smoe = Smoe(image, 8).train(50, **SPARSE)
    assert isinstance(smoe.params, SmoeParams)
    smoe.params.save(tmp_path / "params.npz")
    again = smoe_np.load_params(tmp_path / "params.npz")
    assert again.image_shape == (40, 35)
    found = smoe_np.render(again, (40, 35))
    np.testing.assert_array_equal(found, smoe_np.render(smoe.params, (40, 35)))
    np.testing.assert_allclose(found, smoe.reconstruction, atol=1e-5)


# ---- use that is out of the ordinary


def test_a_copy_trains_as_the_original_does(image):
    smoe = Smoe(image, 5).train(3)
    other = copy.deepcopy(smoe).train(4)
    assert_same_model(smoe.train(4).params, other.params)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy,
                                    lambda smoe: pickle.loads(pickle.dumps(smoe))])
def test_a_copy_that_a_callback_makes_goes_on_by_itself(image, copied):
    copies = []
    smoe = Smoe(image, 5).train(6, val_iter=3, callbacks=[lambda smoe: copies.append(copied(smoe))])
    assert [other.iteration for other in copies] == [0, 3, 6]
    for other in copies[1::-1]:
        assert_same_model(other.resume().params, smoe.params)


def test_training_from_within_training_is_refused(image):
    smoe = Smoe(image, 4)
    with pytest.raises(RuntimeError, match="training already"):
        smoe.train(3, val_iter=1, callbacks=[lambda smoe: smoe.train(1)])
    assert smoe.train(1).iteration == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_was_forked_trains_on(image):
    smoe = Smoe(image, 8).train(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads may deadlock
        child = os.fork()
    if child == 0:
        smoe.train(2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_numbers_whose_squares_overflow_are_refused(image):
    with pytest.raises(ValueError, match=r"params\.musX holds 1e\+12; .* at most 1e\+09"):
        Smoe(image, params=Smoe(image, 3).params.map(lambda a: a + 1e12 * (a.shape == (9, 2))))
