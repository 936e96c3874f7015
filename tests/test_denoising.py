"""Denoising: gains, shapes, sameness, and what is refused."""

import builtins
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_runs import smoe
from helpers import picture

import smoe_np
from smoe_np import denoise, denoising, psnr
from smoe_np.denoising import _with_texture, estimate_sigma

CLEAN = picture((48, 40), noise=0)[..., 0]


def noisy_of(clean, sigma=10.0):
    noise = np.random.default_rng(1).normal(0, sigma / 255, clean.shape)
    return np.clip(clean + noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize("sigma", [5, 20])
@pytest.mark.parametrize("C", [1, 3])
def test_most_of_the_noise_is_taken_off(sigma, C):
    clean = picture((48, 40), C, noise=0) if C == 3 else CLEAN
    noisy = noisy_of(clean, sigma)
    found = denoise(noisy, sigma, fits=3)
    assert found.shape == noisy.shape
    assert found.dtype == np.float32
    assert psnr(clean, found) > psnr(clean, noisy) + 5


def test_a_mean_of_models_is_better_than_one():
    noisy, found = noisy_of(CLEAN), []
    denoise(noisy, 10, fits=4, progress=lambda mean, done, fits: found.append((mean, done, fits)))
    assert [(done, fits) for _, done, fits in found] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert psnr(CLEAN, found[-1][0]) > psnr(CLEAN, found[0][0]) + 0.3


def test_the_bandwidth_is_what_keeps_models_smooth(monkeypatch):
    noisy = noisy_of(CLEAN)
    smooth = denoise(noisy, 10, fits=2)
    monkeypatch.setattr(denoising, "STRENGTH", 0.0)
    assert psnr(CLEAN, smooth) > psnr(CLEAN, denoise(noisy, 10, fits=2)) + 1


def test_texture_that_models_miss_is_given_back_and_noise_is_not():
    rng = np.random.default_rng(0)
    texture, noise = rng.normal(0, 0.1, (2, 64, 64, 1)) * [[[[1.0]]], [[[0.4]]]]
    smooth = np.full((64, 64, 1), 0.5)
    with_texture = _with_texture(smooth, smooth + texture + noise, 0.04)
    assert psnr(smooth + texture, with_texture) > psnr(smooth + texture, smooth) + 6
    without = _with_texture(smooth, smooth + noise, 0.04)
    assert psnr(smooth, without) > psnr(smooth, smooth + noise) + 8


def test_the_same_seed_makes_the_same_picture_and_another_one_another():
    noisy = noisy_of(CLEAN)
    first = denoise(noisy, 10, fits=2, seed=3)
    np.testing.assert_array_equal(first, denoise(noisy, 10, fits=2, seed=3))
    assert (first != denoise(noisy, 10, fits=2, seed=4)).any()


@pytest.mark.parametrize(("shape", "axis"), [
    ((1, 1), "auto"), ((1, 17), "auto"), ((30,), "auto"), ((6, 7, 8), None), ((3, 12, 10), 0)])
def test_any_picture_comes_back_in_its_shape(shape, axis):
    noisy = np.random.default_rng(0).random(shape).astype(np.float32)
    found = denoise(noisy, 10, fits=1, channel_axis=axis)
    assert found.shape == shape
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("sigma", [0, 10])
def test_channels_stay_on_their_axis(count, sigma):
    noisy = picture((13, 9), count)
    last = denoise(noisy, sigma, fits=1, channel_axis=-1)
    first = denoise(np.moveaxis(noisy, -1, 0), sigma, fits=1, channel_axis=0)
    np.testing.assert_array_equal(first, np.moveaxis(last, -1, 0))


def test_integers_are_the_floats_that_they_stand_for():
    noisy = np.round(255 * noisy_of(CLEAN)).astype(np.uint8)
    np.testing.assert_array_equal(denoise(noisy, 10, fits=1),
                                  denoise((noisy / 255).astype(np.float32), 10, fits=1))


@pytest.mark.filterwarnings("ignore:sigma is on the scale")
@pytest.mark.parametrize("sigma", [0, 0.01])
def test_where_there_is_no_noise_nothing_changes(sigma):
    noisy = noisy_of(CLEAN)
    found = denoise(noisy, sigma)
    np.testing.assert_array_equal(found, noisy)
    assert not np.shares_memory(found, noisy)


def test_where_there_is_nothing_but_noise_it_goes_without_a_warning():
    noisy = 0.5 + np.random.default_rng(0).normal(0, 20 / 255, (48, 48))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = denoise(noisy, 20)
    assert np.abs(found - 0.5).mean() < np.abs(noisy - 0.5).mean() / 4


def test_sigma_on_the_scale_of_0_to_1_is_noticed():
    with pytest.warns(RuntimeWarning, match="sigma is on the scale of 0 to 255, also for an image"):
        denoise(noisy_of(CLEAN), 0.04)


def test_noise_is_estimated_where_it_is_not_given():
    pytest.importorskip("skimage")
    for sigma in (5, 20):
        assert estimate_sigma(noisy_of(CLEAN, sigma)) == pytest.approx(sigma, rel=0.15)
    noisy = noisy_of(CLEAN)
    np.testing.assert_array_equal(denoise(noisy, fits=1),
                                  denoise(noisy, estimate_sigma(noisy), fits=1))
    np.testing.assert_array_equal(denoise(np.full((9, 9), 0.25, np.float32)), 0.25)


@pytest.mark.parametrize(("options", "error", "match"), [
    ({"sigma": -1}, ValueError, "sigma must be 0 or more and finite, got -1"),
    ({"sigma": np.nan}, ValueError, "sigma must be 0 or more and finite"),
    ({"sigma": "10"}, TypeError, "sigma must be a number, got '10'"),
    ({"fits": 0}, ValueError, "fits must be at least 1, got 0"),
    ({"seed": 1.5}, TypeError, "seed must be a whole number"),
    ({"backend": "abacus"}, ValueError, "backend must be one of")])
def test_wrong_arguments_are_refused_in_words(options, error, match):
    with pytest.raises(error, match=match):
        denoise(CLEAN, **{"sigma": 10, **options})


def test_what_is_no_picture_is_refused():
    for wrong in (np.full((4, 4), np.nan), np.zeros((0, 4)), np.full((4, 4), 2.0)):
        with pytest.raises(ValueError, match="image"):
            denoise(wrong, 10)


# ---- the command line


def test_the_command_does_what_the_library_does(here, capsys):
    assert smoe("denoise", "grey.tif", "-o", "clean.tif", "--sigma", 8, "--fits", 2) == 0
    out, err = capsys.readouterr()
    assert out == "clean.tif: 14×18 pixels\n"
    assert re.sub(r"\d+ s", "- s", err).splitlines() == [
        "noise of σ = 8", "model 1 of 2, - s", "model 2 of 2, - s"]
    expected = denoise(smoe_np.read_image("grey.tif"), 8, fits=2)
    np.testing.assert_allclose(smoe_np.read_image("clean.tif") / 255, expected, atol=0.5001 / 255)
    assert smoe("denoise", "colour.tif", "-o", "quiet.tif", "--fits", 1, "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert smoe_np.read_image("quiet.tif").shape == (14, 18, 3)


@pytest.mark.parametrize(("command", "why"), [
    ("grey.tif -o colour.tif --sigma 9", "'colour.tif' exists; give another name, or --overwrite"),
    ("grey.tif -o new.tif --sigma -1", "--sigma must be 0 or more and finite, got -1.0"),
    ("grey.tif -o new.tif --sigma nan", "--sigma must be 0 or more and finite"),
    ("grey.tif -o new.tif --sigma 1e9", "--sigma must be at most 128, on the scale of 0 to 255"),
    ("grey.tif -o new.tif --seed -1", "--seed must be at least 0, got -1"),
    ("gone.tif -o new.tif --sigma 9", "there is no such file"),
    ("grey.tif -o new.tif --sigma 9 --fits 0", "--fits must be at least 1, got 0"),
    ("grey.tif --sigma 9", "required: -o")])
def test_errors_are_one_line(here, fails, command, why):
    assert why in fails("denoise", *command.split())
    assert not Path("new.tif").exists()


def test_without_scikit_image_the_noise_must_be_given(here, fails, monkeypatch):
    load = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("skimage"):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert "or give sigma" in fails("denoise", "grey.tif", "-o", "new.tif")
    assert smoe("denoise", "grey.tif", "-o", "new.tif", "--sigma", 5, "--fits", 1, "-q") == 0


def test_a_picture_that_is_the_same_everywhere_has_no_noise():
    pytest.importorskip("skimage")
    black = np.zeros((16, 16), np.uint8)
    assert estimate_sigma(black) == 0
    assert estimate_sigma(np.eye(3)) >= 0  # without a word on channels
    np.testing.assert_array_equal(denoise(black), black)
    noise = np.random.default_rng(0).integers(100, 140, (16, 16), dtype=np.uint8)
    one = estimate_sigma(noise)
    assert estimate_sigma(np.stack([noise, black, black], -1)) == pytest.approx(one / 3)


def test_a_sigma_beyond_any_picture_is_refused():
    with pytest.raises(ValueError, match="sigma must be at most 128, on the scale of 0 to 255"):
        denoise(np.zeros((4, 4)), 1e160)
