"""Smoe.fit from end to end: it reaches its target, repeats, goes on, and is never at a loss."""

import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same_model, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe, read_image
from smoe_np.fit import Recipe, Try, fit_settings, kernels_for, next_try, scalars_of

CAMERA = Path(__file__).parents[1] / "examples" / "pictures" / "camera.png"
QUICK = {"iterations": 60, "val_iter": 25}


def test_a_fit_ends_with_the_kernels_that_are_wanted(each_engine):
    smoe = Smoe(picture((40, 50)))
    smoe.fit(kernels=37, **QUICK)
    assert smoe.params.num_kernels == 37
    assert smoe.history[0].kernels < 37


def test_of_a_photograph_a_fit_is_better_than_training_with_as_many_kernels(each_engine):
    image = read_image(CAMERA)[192:256, 192:256]
    fitted = Smoe(image).fit(kernels=36, iterations=200)
    trained = Smoe(image, kernels_per_dim=6).train(200)
    assert fitted.history[-1].psnr > trained.history[-1].psnr + 1


def test_the_last_record_is_of_the_model_that_is_left(each_engine):
    image = picture((40, 50))
    smoe = Smoe(image).fit(kernels=20, **QUICK)
    mse = np.mean((smoe.reconstruction - image) ** 2)
    assert smoe.history[-1].mse == pytest.approx(mse * 255**2, rel=1e-4)
    assert smoe.history[-1].iteration == 60


def test_a_seed_makes_the_same_model_whatever_the_threads(each_engine):
    image = picture((40, 50))

    def fitted(threads, seed):
        smoe = Smoe(image)
        smoe.engine.threads = threads
        return smoe.fit(kernels=30, seed=seed, **QUICK).params

    assert_same_model(fitted(1, 3), fitted(2, 3))
    assert not np.array_equal(fitted(1, 3).musX, fitted(1, 4).musX)


def test_constant_experts_have_no_slopes(each_engine):
    smoe = Smoe(picture((30, 30), 3)).fit(kernels=9, experts="constant", **QUICK)
    assert not smoe.params.gamma_e.any()


def test_volumes_are_fitted_by_the_same_code(each_engine):
    volume = picture((10, 12, 9))
    smoe = Smoe(volume[..., 0], channel_axis=None).fit(kernels=12, **QUICK)
    assert smoe.params.musX.shape == (12, 3)
    assert smoe.history[-1].psnr > smoe.history[0].psnr


@pytest.mark.parametrize("target", [{"kernels": 40}, {"psnr": 25.0}])
@pytest.mark.parametrize("stop", [2, 9, 20])
def test_an_interrupted_fit_goes_on_bit_for_bit(each_engine, target, stop, tmp_path):
    image, calls = picture((40, 50)), []

    def interrupt(smoe):
        calls.append(smoe.iteration)
        if len(calls) == stop:
            signal.raise_signal(signal.SIGINT)

    whole = Smoe(image).fit(**target, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        Smoe(image).fit(**target, **QUICK, checkpoint=tmp_path / "c.npz",
                                         progress=interrupt)
    rest = Smoe.from_checkpoint(tmp_path / "c.npz", image).resume()
    assert_same_model(rest.params, whole.params)
    assert rest.tried == whole.tried
    assert [r.iteration for r in rest.history] == [r.iteration for r in whole.history]


def test_a_fit_that_is_done_is_not_done_again_when_resumed():
    smoe = Smoe(picture((30, 30))).fit(psnr=22.0, **QUICK)
    before, tried = smoe.params, list(smoe.tried)
    smoe.resume()
    assert smoe.tried == tried
    assert_same_model(smoe.params, before)


def test_a_psnr_is_reached(each_engine):
    smoe = Smoe(picture((40, 50))).fit(psnr=25.0, **QUICK)
    assert smoe.history[-1].psnr >= 25.0
    assert smoe.history[-1].kernels == smoe.params.num_kernels


def test_a_psnr_out_of_reach_is_said_and_the_best_model_kept():
    noise = np.random.default_rng(0).random((8, 8))
    with pytest.warns(RuntimeWarning, match="psnr 90 is out of reach"):
        smoe = Smoe(noise).fit(psnr=90, iterations=20)
    assert smoe.params.num_kernels <= 64


def test_a_budget_of_seconds_ends():
    smoe = Smoe(picture((20, 20))).fit(kernels=10, seconds=0.2)
    assert smoe.iteration == smoe.until >= 20
    assert smoe.params.num_kernels == 10


def test_training_goes_on_from_a_fit(each_engine):
    smoe = Smoe(picture((30, 30))).fit(kernels=12, **QUICK)
    reached = smoe.history[-1].loss
    smoe.train(30, base_lr=1e-4)
    assert smoe.history[-1].iteration == 90
    assert smoe.history[-1].loss < 2 * reached


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 14), st.sampled_from([1, 3]), st.integers(1, 60),
       st.integers(1, 60), st.sampled_from(["noise", "flat", "ramp", "checks", "spot"]))
def test_no_picture_is_too_odd(height, width, channels, kernels, iterations, kind):
    shape = height, width, channels
    row, column = np.indices((height, width))
    image = {
        "noise": np.random.default_rng(7).random(shape), "flat": np.full(shape, 0.3),
        "ramp": np.broadcast_to(((row + column) / (height + width))[..., None], shape),
        "checks": np.broadcast_to(((row + column) % 2.0)[..., None], shape),
        "spot": np.broadcast_to(((row == height // 2) & (column == 0))[..., None] * 1.0, shape),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoe = Smoe(image, channel_axis=-1).fit(kernels=kernels, iterations=iterations)
    mse = np.mean((smoe.reconstruction - image) ** 2)
    assert mse <= np.mean((image - image.mean((0, 1))) ** 2) + 1e-7
    assert smoe.params.num_kernels <= kernels


# ---- settings


@given(st.integers(2, 3), st.integers(1, 4), st.booleans(), st.integers(1, 10**6))
def test_scalars_and_bytes_are_never_exceeded(D, C, affine, budget):
    each = scalars_of(D, C, affine)
    experts = "affine" if affine else "constant"
    for name, size in (("scalars", each), ("bytes", 2 * each)):
        wanted = fit_settings(**{name: budget}, experts=experts)
        if budget < size:
            with pytest.raises(ValueError, match=f"{name} must be at least {size}"):
                kernels_for(wanted, D, C)
        else:
            assert budget - size < kernels_for(wanted, D, C) * size <= budget


@pytest.mark.parametrize(("given", "message"), [
    ({}, "exactly one of kernels, psnr, scalars, bytes"),
    ({"kernels": 3, "psnr": 30}, "exactly one of .* got kernels and psnr"),
    ({"kernels": 0}, "kernels must be at least 1, got 0"),
    ({"psnr": float("nan")}, "psnr must be above 0 and finite"),
    ({"kernels": 3, "iterations": 5, "seconds": 1}, "iterations or seconds, not both"),
    ({"psnr": 30, "seconds": 1}, "seconds goes with kernels, scalars or bytes"),
    ({"kernels": 3, "iterations": 0}, "iterations must be at least 1, got 0"),
    ({"kernels": 3, "experts": "round"}, "experts must be one of .* got 'round'"),
    ({"kernels": 3, "seed": -1}, "seed must be at least 0"),
    ({"kernels": 3, "recipe": Recipe(shift=1.0)}, "recipe.shift"),
    ({"kernels": 3, "recipe": Recipe(remove_by="age")}, "recipe.remove_by"),
    ({"kernels": 3, "recipe": Recipe(rate=-1.0)}, "recipe.rate must be like 0.1"),
])
def test_wrong_settings_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        fit_settings(**given)


def test_kernels_that_must_stay_round_are_not_fitted():
    with pytest.raises(ValueError, match="radial is True"):
        Smoe(picture((9, 9)), radial=True).fit(kernels=3)


@given(st.floats(15, 45), st.floats(1, 6), st.floats(-0.05, 0.05), st.integers(20, 35))
def test_few_tries_find_the_fewest_kernels_of_a_psnr(wanted, slope, noise, level):
    def psnr(kernels, iterations):
        wobble = noise * np.sin(kernels)
        return level + slope * np.log2(kernels / 500) + wobble - (iterations < 1000)

    tried = []
    while (one := next_try(tried, wanted, 100_000, 1000)) is not None:
        tried.append(one._replace(psnr=psnr(*one[:2])))
        assert len(tried) <= 12
    full = [one for one in tried if one.iterations == 1000]
    assert all(isinstance(one, Try) and 1 <= one.kernels <= 100_000 for one in tried)
    reached = [one for one in full if one.psnr >= wanted]
    if reached and len(full) < 10:
        fewest = min(reached)
        missed = [one.kernels for one in full if one.psnr < wanted]
        near = any(fewest.kernels <= max(1.03 * k, k + 1) for k in missed)
        assert fewest.psnr <= wanted + 0.1 or fewest.kernels == 1 or near
