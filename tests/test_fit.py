"""Smoe.fit: targets that are kept, sameness, interruptions, checkpoints, the search for a PSNR."""

import dataclasses
import json
import math
import signal
import warnings

import numpy as np
import pytest
from helpers import assert_same_model, picture, random_model, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe, dense, engine, files, launch_native, psnr
from smoe_np.fit import (
    DECIBELS,
    FIRST_TRY,
    LEAST_ITERATIONS,
    SHORT,
    STEP,
    TRIES,
    WITHIN,
    Plan,
    Recipe,
    Try,
    fit_settings,
    kernels_for,
    next_try,
    scalars_of,
    settings_of,
    usual_recipe,
)
from smoe_np.params import NAMES

GREY, COLOURS = picture((28, 23))[..., 0], picture((19, 22), 3)
VOLUME = picture((9, 8, 10))[..., 0]
PICTURES = pytest.mark.parametrize(("image", "options"), [
    (GREY, {}), (COLOURS, {}), (VOLUME, {"channel_axis": None}), (picture((90,))[..., 0], {}),
    (GREY, {"dtype": "float64"})], ids=["grey", "colours", "volume", "line", "float64"])


def same_history(found, wanted):
    """All of it but the seconds."""
    without = [[dataclasses.replace(r, seconds=0) for r in history] for history in (found, wanted)]
    assert without[0] == without[1]


def assert_same_fit(found, wanted):
    """Two fits that stand at the same point, bit for bit, moments and history included."""
    assert (found.iteration, found.until) == (wanted.iteration, wanted.until)
    assert found.tried == wanted.tried
    assert_same_model(found.params, wanted.params)
    assert_same_model(found.best_params, wanted.best_params)
    assert found.adam.steps == wanted.adam.steps
    assert found.adam.beta2 == wanted.adam.beta2
    for name, array in wanted.adam.arrays().items():
        np.testing.assert_array_equal(found.adam.arrays()[name], array, err_msg=name)
    same_history(found.history, wanted.history)


def interrupt_at(*iterations, after=0):
    """Ctrl-C at some iterations, of the fit that comes after so many others."""
    def progress(smoe):
        if smoe.iteration in iterations and len(smoe.tried) == after:
            signal.raise_signal(signal.SIGINT)

    return progress


# ---- settings

WRONG = [
    ({}, ValueError, "exactly one of kernels, psnr, scalars, bytes as its target, got none"),
    ({"kernels": 9, "psnr": 30}, ValueError, "exactly one of .*, got kernels and psnr"),
    ({"scalars": 90, "bytes": 90, "psnr": 3}, ValueError, "got psnr and scalars and bytes"),
    *[({name: 0}, ValueError, f"{name} must be at least 1, got 0")
      for name in ("kernels", "scalars", "bytes")],
    *[({name: wrong}, TypeError, f"{name} must be a whole number, got")
      for name in ("kernels", "scalars", "bytes") for wrong in (2.5, "9", [9])],
    *[({"psnr": wrong}, ValueError, f"psnr must be above 0 and finite, got {wrong}")
      for wrong in (0, -3.0, math.nan, math.inf)],
    ({"psnr": "30"}, TypeError, "psnr must be a number, got '30'"),
    ({"scalars": 8}, ValueError,
     "scalars must be at least 9, which a single kernel of 2 dimensions and 1 channels takes, got"),
    ({"bytes": 17}, ValueError, "bytes must be at least 18, which a single kernel"),
    ({"scalars": 6, "experts": "constant"}, ValueError, "scalars must be at least 7"),
    ({"kernels": 9, "iterations": 9, "seconds": 9}, ValueError, "iterations or seconds, not both"),
    ({"psnr": 30, "seconds": 9}, ValueError, "seconds goes with kernels, scalars or bytes"),
    ({"kernels": 9, "iterations": 0}, ValueError, "iterations must be at least 1, got 0"),
    ({"kernels": 9, "iterations": 1.5}, TypeError, "iterations must be a whole number, got 1.5"),
    *[({"kernels": 9, "seconds": wrong}, ValueError, "seconds must be above 0 and finite, got")
      for wrong in (0, -1, math.nan, math.inf)],
    ({"kernels": 9, "seconds": "1"}, TypeError, "seconds must be a number, got '1'"),
    *[({"kernels": 9, "experts": wrong}, ValueError, "experts must be one of .*affine.*constant")
      for wrong in ("linear", None, 1)],
    ({"kernels": 9, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ({"kernels": 9, "seed": None}, TypeError, "seed must be a whole number, got None"),
    ({"kernels": 9, "val_iter": 0}, ValueError, "val_iter must be at least 1, got 0"),
    ({"kernels": 9, "val_iter": 2.5}, TypeError, "val_iter must be a whole number, got 2.5"),
    ({"kernels": 9, "recipe": "slow"}, TypeError, "recipe must be a smoe_np.fit.Recipe, got 'slo"),
    ({"kernels": 9, "recipe": Recipe(rate=-1)}, ValueError, "recipe.rate must be like 0.1, got -1"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_arguments_are_refused_in_words_and_change_nothing(arguments, error, message):
    smoe = Smoe(GREY, 2, backend="numpy").train(1)
    params, held, history = smoe.params, smoe.settings, smoe.history
    with pytest.raises(error, match=message):
        smoe.fit(**arguments)
    assert smoe.params is params
    assert smoe.settings is held
    assert smoe.history is history


@pytest.mark.parametrize("name", Recipe._fields)
def test_every_number_of_a_recipe_is_checked_by_its_name(name):
    usual = getattr(Recipe(), name)
    if isinstance(usual, bool):
        wrong = (1, 0.5, "yes", None)
    elif isinstance(usual, str):
        wrong = ("luck", 1, None)
    elif isinstance(usual, int):
        wrong = (-1, 2.5, "8", None)
    else:
        wrong = (-1, math.nan, math.inf, "0.1", None)
    for value in wrong:
        with pytest.raises(ValueError, match=rf"recipe\.{name} must be"):
            fit_settings(kernels=9, recipe=Recipe()._replace(**{name: value}))
    assert fit_settings(kernels=9, recipe=Recipe())["recipe"][name] == usual


@pytest.mark.parametrize("wrong", [{"shift": 0}, {"shift": 1}, {"beta2": 0}, {"beta2": 1.0},
                                   {"event_every": 0}, {"tau": 0.0}])
def test_numbers_of_a_recipe_that_divide_by_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} .*must (lie between 0|be above 0)"):
        fit_settings(kernels=9, recipe=Recipe(**wrong))


def test_settings_outlive_a_file_of_facts():
    for asked in ({"kernels": 9, "seconds": 2}, {"psnr": 30.5, "iterations": 7, "seed": 3},
                  {"bytes": 999, "experts": "constant", "val_iter": 5,
                   "recipe": Recipe(rate=0.2, remove_by="weight", best_direction=False)}):
        found = fit_settings(**asked)
        assert settings_of(json.loads(json.dumps(found))) == found
        assert found["target"] in asked
        assert found["value"] == asked[found["target"]]


def test_without_iterations_or_seconds_there_are_3000_iterations():
    assert fit_settings(kernels=9)["iterations"] == 3000
    assert fit_settings(kernels=9, seconds=1)["iterations"] is None


def test_the_recipe_is_the_usual_one_unless_another_is_given():
    for iterations in (50, 20000):
        found = fit_settings(kernels=9, iterations=iterations)["recipe"]
        assert found == usual_recipe(iterations)._asdict()
    assert usual_recipe(20000) != usual_recipe(50) == usual_recipe(None)
    assert fit_settings(kernels=9, recipe=Recipe(tau=3))["recipe"]["tau"] == 3


def test_numbers_of_a_kernel_are_counted():
    assert scalars_of(2, 1, True) == 9
    assert scalars_of(2, 1, False) == 7
    assert scalars_of(2, 3, True) == 15
    assert scalars_of(2, 3, False) == 9
    assert scalars_of(3, 1, True) == 14
    for D, C in ((1, 1), (2, 3), (3, 2)):
        one = random_model(0, 1, D, C)
        numbers = (1 + one.musX.size + len(one.A[0][np.tril_indices(D)]) + one.nu_e.size
                   + one.gamma_e.size)
        assert scalars_of(D, C, True) == numbers


@settings(max_examples=200)
@given(value=st.integers(1, 10**6), D=st.integers(1, 4), C=st.integers(1, 4),
       experts=st.sampled_from(["affine", "constant"]), name=st.sampled_from(["scalars", "bytes"]))
def test_a_budget_is_never_exceeded_and_a_kernel_more_would_exceed_it(value, D, C, experts, name):
    found = fit_settings(**{name: value}, experts=experts)
    each = scalars_of(D, C, experts == "affine") * {"scalars": 1, "bytes": 2}[name]
    if value < each:
        with pytest.raises(ValueError, match=f"{name} must be at least {each}, .*, got {value}"):
            kernels_for(found, D, C)
    else:
        K = kernels_for(found, D, C)
        assert K * each <= value < (K + 1) * each


def test_radial_kernels_are_not_fitted():
    smoe = Smoe(GREY, 3, radial=True, backend="numpy")
    with pytest.raises(ValueError, match="radial is True, but fit steers kernels"):
        smoe.fit(kernels=9)
    assert smoe.train(1).iteration == 1


# ---- targets


@pytest.mark.parametrize(("K", "iterations"), [
    (1, 24), (2, 24), (3, 30), (7, 24), (16, 24), (37, 30), (40, 60), (200, 40)])
def test_as_many_kernels_are_there_in_the_end_as_are_wanted(each_engine, K, iterations):
    smoe = Smoe(GREY).fit(kernels=K, iterations=iterations, val_iter=1000)
    assert smoe.params.num_kernels == smoe.history[-1].kernels == K
    assert smoe.stopped is None


@PICTURES
@pytest.mark.parametrize(("experts", "name"), [("affine", "scalars"), ("constant", "bytes")])
def test_a_model_has_no_more_numbers_than_are_wanted(each_engine, image, options, experts, name):
    size = {"scalars": 1, "bytes": 2}[name]

    def numbers(params):
        D = params.num_dims
        slopes = params.gamma_e.size if experts == "affine" else 0
        return size * (params.num_kernels * (1 + D + D * (D + 1) // 2) + params.nu_e.size + slopes)

    smoe = Smoe(image, **options)
    smoe.fit(**{name: 300}, experts=experts, iterations=26, val_iter=3,
             callbacks=[lambda smoe: numbers(smoe.params) <= 300 or pytest.fail("too many")])
    params = smoe.params
    assert 300 - numbers(params) < numbers(params.select([0]))


@settings(max_examples=12)
@given(K=st.integers(1, 60), iterations=st.integers(1, 40), experts=st.sampled_from(["affine",
       "constant"]), name=st.sampled_from(["scalars", "bytes", "kernels"]), extra=st.integers(0, 6))
def test_a_fit_of_any_length_never_has_more_than_it_may(each_engine, K, iterations, experts, name,
                                                        extra):
    each = {"scalars": 1, "bytes": 2, "kernels": 0}[name] * scalars_of(2, 1, experts == "affine")
    smoe = Smoe(GREY[:13])
    smoe.fit(**{name: K * each + extra if each else K}, iterations=iterations, experts=experts,
             val_iter=1)
    assert [r.iteration for r in smoe.history] == list(range(iterations + 1))
    assert max(r.kernels for r in smoe.history) <= K
    assert smoe.params.num_kernels <= K


@pytest.mark.parametrize("C", [1, 3])
def test_slopes_of_constant_experts_are_0_all_the_way(each_engine, C):
    def check(smoe):
        assert not smoe.params.gamma_e.any()
        assert not smoe.adam.m.gamma_e.any()

    smoe = Smoe(GREY if C == 1 else COLOURS)
    smoe.fit(kernels=12, experts="constant", iterations=40, val_iter=5, callbacks=[check],
             progress=check)
    assert smoe.history[-1].psnr > smoe.history[0].psnr + 1
    assert Smoe(GREY).fit(kernels=12, iterations=40).params.gamma_e.any()


# ---- sameness


@PICTURES
def test_the_same_seed_makes_the_same_model_and_another_one_another(each_engine, image, options):
    one, again, other = (Smoe(image, **options).fit(kernels=9, iterations=30, seed=seed,
                                                    val_iter=10) for seed in (4, 4, 5))
    assert_same_fit(again, one)
    assert relative_error(other.params.musX, one.params.musX) > 1e-3


def test_the_number_of_threads_does_not_change_a_bit(each_engine):
    fits = []
    for threads in (1, 2, 3):
        smoe = Smoe(picture((70, 61))[..., 0])
        smoe.engine.threads = threads
        fits.append(smoe.fit(kernels=60, iterations=30, val_iter=10))
    for other in fits[1:]:
        assert_same_fit(other, fits[0])


def test_the_number_of_looks_that_an_engine_takes_does_not_change_a_bit(each_engine, monkeypatch):
    one = Smoe(GREY).fit(kernels=15, iterations=40, val_iter=15)
    monkeypatch.setattr(launch_native, "STEADY", 10.0)
    assert_same_fit(Smoe(GREY).fit(kernels=15, iterations=40, val_iter=15), one)


def test_what_was_trained_before_is_forgotten(each_engine):
    fresh = Smoe(GREY).fit(kernels=15, iterations=40, val_iter=15)
    trained = Smoe(GREY, 5).train(20, val_iter=7)
    trained.fit(kernels=15, iterations=40, val_iter=15)
    assert_same_fit(trained, fresh)
    assert trained.initial_kernels == fresh.initial_kernels
    few = Smoe(GREY, params=random_model(0, fresh.initial_kernels)).train(20)
    assert_same_fit(few.fit(kernels=15, iterations=40, val_iter=15), fresh)
    trained.fit(kernels=7, experts="constant", iterations=30, seed=3)
    trained.fit(kernels=15, iterations=40, val_iter=15)
    assert_same_fit(trained, fresh)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numpy_and_native_fit_about_alike(seed):
    if engine.ENGINES["native"].why_not() is not None:
        pytest.skip(engine.ENGINES["native"].why_not())
    for image, K in ((COLOURS, 20), (GREY, 20)):
        found = [Smoe(image, backend=name).fit(kernels=K, iterations=80, seed=seed).history[-1]
                 for name in ("numpy", "native")]
        assert found[0].kernels == found[1].kernels == K
        assert found[0].psnr == pytest.approx(found[1].psnr, abs=0.3)


def test_training_after_a_fit_goes_on_from_its_model_as_from_any_other(each_engine):
    smoe = Smoe(GREY, dtype="float64").fit(kernels=12, iterations=40)
    fresh = Smoe(GREY, params=smoe.params, dtype="float64").train(10)
    before = smoe.history[-1].iteration
    smoe.train(10, val_iter=5)
    for name in NAMES:
        assert relative_error(getattr(smoe.params, name), getattr(fresh.params, name)) < 1e-7
    assert [r.iteration for r in smoe.history if r.iteration > before] == [before + 5, before + 10]


# ---- what comes of it


@PICTURES
def test_the_last_record_is_of_the_very_model_that_is_left(each_engine, image, options):
    smoe = Smoe(image, **options).fit(kernels=9, iterations=30, val_iter=12)
    record = smoe.history[-1]
    assert [r.iteration for r in smoe.history] == [0, 12, 24, 30]
    assert smoe.iteration == smoe.until == record.iteration == 30
    assert record.kernels == smoe.params.num_kernels == 9
    tolerance = {"abs": 1e-3} if smoe.params.dtype == np.float32 else {"rel": 1e-9}
    assert record.psnr == pytest.approx(psnr(smoe.reconstruction, image), **tolerance)
    target = image.reshape(*smoe.shape, smoe.channels)
    mse = dense.loss(smoe.params.astype(float), target)
    assert record.mse == pytest.approx(mse * 255**2, rel=1e-4)
    assert record.psnr == pytest.approx(-10 * math.log10(mse), abs=1e-3)
    assert_same_model(smoe.best_params, smoe.params)
    assert smoe.params.image_shape == smoe.shape
    assert smoe.reconstruction.shape == image.shape


def test_the_model_of_an_earlier_validation_is_left_if_that_was_better(each_engine):
    # rates far too high that never fade: the path is restless
    recipe = Recipe(rate=1.0, shape_rate=0.6, expert_rate=0.3, slope_rate=0.2, fade_from=1)
    smoe, seen = Smoe(GREY), []
    smoe.fit(kernels=10, iterations=60, val_iter=5, recipe=recipe,
             callbacks=[lambda smoe: seen.append(smoe.params)])
    mses = [r.mse for r in smoe.history]
    best = int(np.argmin(mses[:-1]))
    assert mses[-1] == pytest.approx(min(mses[:-1]), rel=1e-12)
    assert best < len(mses) - 2
    assert_same_model(smoe.params, seen[best])
    assert smoe.history[-1].psnr == pytest.approx(psnr(smoe.reconstruction, GREY), abs=1e-3)
    # and all that goes on from there has so many kernels
    assert len(smoe.adam.born) == smoe.params.num_kernels
    assert smoe.train(3).stopped is None


def test_a_fit_is_better_than_training_with_as_many_kernels_and_iterations(each_engine):
    image = picture((64, 64), seed=3, noise=0)[..., 0]
    trained = Smoe(image, 7).train(200)
    fitted = Smoe(image).fit(kernels=trained.params.num_kernels, iterations=200)
    assert fitted.params.num_kernels == trained.params.num_kernels
    assert fitted.history[-1].psnr > trained.history[-1].psnr + 2


@pytest.mark.parametrize("image", [GREY, VOLUME], ids=["grey", "volume"])
def test_there_may_be_more_kernels_than_pixels(each_engine, image):
    small = image[:4, :5] if image.ndim == 2 else image[:3, :2, :3]
    K = 3 * small.size
    smoe = Smoe(small, channel_axis=None).fit(kernels=K, iterations=60, val_iter=1000)
    assert all(np.isfinite(array).all() for array in smoe.params.arrays().values())
    assert smoe.params.num_kernels <= K
    assert smoe.history[-1].psnr > 30


ODD = {
    "a constant": lambda shape, rng: np.full(shape, rng.random()),
    "black": lambda shape, rng: np.zeros(shape),
    "white": lambda shape, rng: np.ones(shape),
    "a checkerboard": lambda shape, rng: np.indices(shape).sum(0) % 2 * 1.0,
    "a bright pixel": lambda shape, rng: (np.arange(math.prod(shape)) == rng.integers(
        math.prod(shape))).reshape(shape) * 1.0,
    "noise": lambda shape, rng: rng.random(shape),
    "a slope": lambda shape, rng: np.indices(shape).sum(0) / sum(shape),
    "a step": lambda shape, rng: (np.indices(shape)[0] > shape[0] // 2) * 1.0,
}


@settings(max_examples=40)
@given(kind=st.sampled_from(sorted(ODD)), seed=st.integers(0, 1000),
       shape=st.lists(st.sampled_from([1, 1, 2, 3, 7, 8, 9, 16, 17]), min_size=1, max_size=3),
       K=st.sampled_from([1, 2, 5, 17, 60]), iterations=st.integers(1, 40),
       experts=st.sampled_from(["affine", "constant"]), C=st.sampled_from([None, None, 3]))
def test_any_picture_is_fitted_no_worse_than_by_a_constant(each_engine, kind, seed, shape, K,
                                                           iterations, experts, C):
    shape = tuple(shape) if math.prod(shape) < 600 else tuple(shape[:2])
    image = ODD[kind](shape, np.random.default_rng(seed))
    if C is not None:
        image = np.stack([image, 1 - image, image / 2], axis=-1)
    smoe = Smoe(image, channel_axis=None if C is None else -1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(launch_native, "STEADY", 0.1)  # as ever
        smoe.fit(kernels=K, iterations=iterations, val_iter=13, experts=experts, seed=seed)
    assert smoe.stopped is None
    assert all(np.isfinite(array).all() for array in smoe.params.arrays().values())
    assert smoe.params.num_kernels <= K
    pixels = image.reshape(-1, C or 1)
    constant = ((pixels - pixels.mean(0)) ** 2).mean()
    assert smoe.history[-1].mse / 255**2 <= constant + 1e-7
    assert ((smoe.reconstruction - image) ** 2).mean() <= constant + 1e-7


def test_a_fit_that_learns_nothing_from_a_start_worse_than_a_constant_is_that_constant(each_engine):
    recipe = Recipe(rate=0, shape_rate=0, expert_rate=0, slope_rate=0, events_until=0, jitter=3)
    smoe = Smoe(GREY).fit(kernels=9, iterations=5, val_iter=1, recipe=recipe)
    assert smoe.history[0].mse > smoe.history[-1].mse
    assert smoe.history[-1].mse == pytest.approx(GREY.var() * 255**2, rel=1e-4)
    np.testing.assert_allclose(smoe.reconstruction, GREY.mean(), atol=1e-5)


# ---- on the way


def test_callbacks_are_called_at_every_validation_and_progress_after_every_step(each_engine):
    smoe, calls, steps = Smoe(GREY), [], []
    found = smoe.fit(kernels=9, iterations=26, val_iter=10,
                     callbacks=iter([lambda s: calls.append((s is smoe, s.iteration,
                                                             s.history[-1].iteration)),
                                     lambda s: calls.append("second")]),
                     progress=lambda s: steps.append(s.iteration))
    assert found is smoe
    assert calls[::2] == [(True, i, i) for i in (0, 10, 20, 26)]
    assert calls[1::2] == ["second"] * 4
    assert steps == list(range(1, 27))
    seconds = [r.seconds for r in smoe.history]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


def test_a_fit_grows_early_and_keeps_its_number_then(each_engine):
    smoe = Smoe(GREY).fit(kernels=40, iterations=100, val_iter=1)
    kernels = [r.kernels for r in smoe.history]
    assert kernels[0] == smoe.initial_kernels <= 10
    assert kernels == sorted(kernels)
    assert kernels[24:] == [40] * 77
    assert kernels[7] < 40
    # rates fade: in the end hardly anything moves
    losses = np.array([r.loss for r in smoe.history])
    assert np.ptp(losses[-3:]) < 0.01 * losses[-1]


@pytest.mark.parametrize("seconds", [0.05, 1e-9])
def test_a_fit_of_some_seconds_comes_to_an_end(each_engine, seconds):
    smoe = Smoe(GREY).fit(kernels=5, seconds=seconds, val_iter=10)
    assert smoe.stopped is None
    assert smoe.until >= LEAST_ITERATIONS
    assert smoe.history[-1].iteration == smoe.iteration == smoe.until
    assert smoe.history[-1].psnr == pytest.approx(psnr(smoe.reconstruction, GREY), abs=1e-3)


def test_a_fit_from_within_a_fit_is_refused(each_engine):
    smoe = Smoe(GREY)
    with pytest.raises(RuntimeError, match="training already"):
        smoe.fit(kernels=3, iterations=9, val_iter=3, callbacks=[lambda s: s.fit(kernels=2)])
    with pytest.raises(RuntimeError, match="training already"):
        smoe.train(3, val_iter=3, callbacks=[lambda s: s.fit(kernels=2)])
    assert smoe.fit(kernels=3, iterations=9).iteration == 9


@pytest.mark.parametrize("at", [22, 24])
def test_after_an_error_on_the_way_all_is_as_exact_as_ever_and_the_fit_goes_on(
        each_engine, monkeypatch, tmp_path, at):
    run, events = {"kernels": 15, "iterations": 40, "val_iter": 15}, []
    whole, smoe, event = Smoe(GREY).fit(**run), Smoe(GREY), Plan.event

    def noted(plan, engine, params, adam, iteration, until):
        events.append(iteration)
        return event(plan, engine, params, adam, iteration, until)

    monkeypatch.setattr(Plan, "event", noted)
    exact, advance = (smoe.engine.tau, smoe.engine.list_life), smoe.engine.advance

    def fail(*arguments):
        if smoe.iteration == at:
            raise MemoryError
        return advance(*arguments)

    monkeypatch.setattr(smoe.engine, "advance", fail)
    with pytest.raises(MemoryError):
        smoe.fit(**run)
    assert (smoe.engine.tau, smoe.engine.list_life) == exact
    smoe.save_checkpoint(tmp_path / "c.npz")
    monkeypatch.setattr(smoe.engine, "advance", advance)
    again = Smoe.from_checkpoint(tmp_path / "c.npz", GREY)
    wanted = np.clip(dense.render(again.params, GREY.shape)[..., 0], 0, 1)
    np.testing.assert_allclose(again.reconstruction, wanted, atol=2e-5)
    assert_same_fit(smoe.resume(), whole)
    assert events == [6, 12, 18, 24, 30]  # none twice, whenever it failed
    events.clear()
    again.resume()
    assert events == [24, 30] if at < 24 else events == [30]
    assert again.history[-1].psnr == pytest.approx(whole.history[-1].psnr, abs=0.5)


def test_a_fit_that_breaks_down_says_so_once_and_leaves_its_best_model(each_engine):
    smoe = Smoe(GREY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smoe.fit(kernels=9, iterations=40, val_iter=5, recipe=Recipe(rate=1e300))
    assert [w.category for w in caught] == [RuntimeWarning]
    assert "training ended at iteration" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert smoe.stopped == "diverged"
    assert_same_model(smoe.params, smoe.best_params)
    assert all(np.isfinite(array).all() for array in smoe.params.arrays().values())
    assert smoe.fit(kernels=9, iterations=30).history[-1].psnr > 20


# ---- interruptions and checkpoints

RUN = {"kernels": 24, "iterations": 60, "val_iter": 17}


@pytest.fixture(scope="module")
def whole_fits(each_engine):
    """Fits without interruption; they grow until iteration 12, with events until 42."""
    return {dtype: Smoe(GREY, dtype=dtype).fit(**RUN) for dtype in ("float32", "float64")}


@pytest.mark.parametrize(("dtype", "at"), [
    *[("float32", at) for at in (1, 5, 6, 7, 12, 17, 18, 23, 42, 43, 51, 59)],
    *[("float64", at) for at in (6, 17, 23)]])
def test_a_fit_goes_on_bit_for_bit_from_anywhere(whole_fits, dtype, at, tmp_path):
    smoe, path, whole = Smoe(GREY, dtype=dtype), tmp_path / "c.npz", whole_fits[dtype]
    with pytest.raises(KeyboardInterrupt):
        smoe.fit(**RUN, checkpoint=path, progress=interrupt_at(at))
    assert smoe.stopped == "interrupted"
    assert smoe.iteration == at
    again = Smoe.from_checkpoint(path, GREY)
    assert again.stopped == "interrupted"
    assert again.settings == smoe.settings == whole.settings
    assert_same_fit(again, smoe)
    for interrupted in (smoe, again):
        assert interrupted.resume() is interrupted
        assert interrupted.stopped is None
        assert_same_fit(interrupted, whole)


@pytest.mark.parametrize(("dtype", "at"), [
    ("float32", 0), ("float32", 17), ("float32", 34), ("float32", 60), ("float64", 34)])
def test_a_checkpoint_of_a_validation_goes_on_bit_for_bit(whole_fits, dtype, at, tmp_path):
    smoe, path = Smoe(GREY, dtype=dtype), tmp_path / "c.npz"
    smoe.fit(**RUN, callbacks=[lambda s: s.save_checkpoint(path) if s.iteration == at else None])
    again = Smoe.from_checkpoint(path, GREY)
    assert again.iteration == at
    assert_same_fit(again.resume(), whole_fits[dtype])


@PICTURES
@pytest.mark.parametrize("experts", ["affine", "constant"])
def test_a_fit_of_any_picture_goes_on_bit_for_bit(each_engine, image, options, experts, tmp_path):
    run = {"scalars": 150, "iterations": 30, "val_iter": 1000, "experts": experts, "seed": 6}
    whole = Smoe(image, **options).fit(**run)
    with pytest.raises(KeyboardInterrupt):
        Smoe(image, **options).fit(**run, checkpoint=tmp_path / "c.npz", progress=interrupt_at(14))
    axis = options.get("channel_axis", "auto")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", image, channel_axis=axis)
    assert_same_fit(again.resume(), whole)


def test_a_short_fit_that_goes_on_grows_as_was_planned(each_engine, tmp_path):
    run = {"kernels": 24, "iterations": 14, "val_iter": 1, "recipe": Recipe(growth_until=1)}
    whole = Smoe(GREY).fit(**run)
    assert whole.initial_kernels == 12  # one event, at which they can double
    with pytest.raises(KeyboardInterrupt):
        Smoe(GREY).fit(**run, checkpoint=tmp_path / "c.npz", progress=interrupt_at(3))
    assert_same_fit(Smoe.from_checkpoint(tmp_path / "c.npz", GREY).resume(), whole)


def test_ctrl_c_may_come_again_and_again(each_engine, tmp_path):
    run = {"kernels": 8, "iterations": 24, "val_iter": 9}
    whole, path = Smoe(GREY).fit(**run), tmp_path / "c.npz"
    progress = interrupt_at(*range(1, 24, 2))
    with pytest.raises(KeyboardInterrupt):
        Smoe(GREY).fit(**run, checkpoint=path, progress=progress)
    for i in range(3, 24, 2):
        smoe = Smoe.from_checkpoint(path, GREY)
        with pytest.raises(KeyboardInterrupt):
            smoe.resume(progress=progress, checkpoint=path)
        assert smoe.iteration == i
    assert_same_fit(Smoe.from_checkpoint(path, GREY).resume(), whole)


def test_resume_after_the_end_changes_nothing(each_engine):
    smoe = Smoe(GREY).fit(kernels=6, iterations=24)
    before, history = smoe.params, list(smoe.history)
    assert smoe.resume().params is before
    assert smoe.history == history


def test_a_fit_whose_best_model_was_an_earlier_one_leaves_a_checkpoint_that_can_be_read(
        each_engine, tmp_path):
    # of a constant picture nothing is better than the constant, which is a single kernel
    image, seen = np.random.default_rng(0).permutation(np.indices((9, 8)).sum(0) % 2 * 1.0), []
    smoe = Smoe(image).fit(kernels=4, iterations=24, val_iter=6, recipe=Recipe(rate=3.0),
                           callbacks=[lambda s: seen.append(s.params.num_kernels)])
    assert smoe.params.num_kernels == 1 < max(seen)
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", image)
    assert_same_fit(again, smoe)
    assert_same_model(again.train(3).params, smoe.train(3).params)


def test_a_fit_of_one_engine_goes_on_with_another(tmp_path):
    for name in ("native", "numpy"):
        if engine.ENGINES[name].why_not() is not None:
            pytest.skip(engine.ENGINES[name].why_not())
    for first, then in (("native", "numpy"), ("numpy", "native")):
        whole = Smoe(GREY, backend=first).fit(**RUN)
        smoe = Smoe(GREY, backend=first)
        smoe.fit(**RUN, callbacks=[lambda s: s.iteration == 34 and s.save_checkpoint(
            tmp_path / "c.npz")])
        other = Smoe.from_checkpoint(tmp_path / "c.npz", GREY, backend=then).resume()
        assert other.engine.name == then
        assert other.history[-1].psnr == pytest.approx(whole.history[-1].psnr, abs=0.3)
        assert other.params.num_kernels == 24


def test_a_checkpoint_of_a_fit_of_some_seconds_comes_to_an_end(each_engine, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Smoe(GREY).fit(kernels=5, seconds=0.05, checkpoint=tmp_path / "c.npz",
                       progress=interrupt_at(9))
    again = Smoe.from_checkpoint(tmp_path / "c.npz", GREY).resume()
    assert again.iteration == again.until == again.history[-1].iteration >= LEAST_ITERATIONS


def test_a_model_that_was_fitted_and_then_trained_goes_on_bit_for_bit(each_engine, tmp_path):
    smoe = Smoe(GREY).fit(kernels=8, iterations=24)
    smoe.train(6, val_iter=4)
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", GREY)
    for one in (smoe, again):
        one.train(7, val_iter=4)
    assert_same_fit(again, smoe)


# ---- checkpoints that are refused


@pytest.fixture(scope="module")
def checkpoint(each_engine, tmp_path_factory):
    """A checkpoint in the middle of a search for a PSNR, with a model found already."""
    path = tmp_path_factory.mktemp("checkpoint") / "good.npz"

    def progress(smoe):
        if smoe._found is not None and smoe.iteration == 9:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Smoe(GREY).fit(psnr=SEARCH["psnr"], iterations=SEARCH["iterations"], checkpoint=path,
                       progress=progress)
    smoe = Smoe.from_checkpoint(path, GREY)
    assert smoe._found is not None
    assert len(smoe.tried) > 2
    return path


SEARCH = {"psnr": 24.5, "iterations": 30}


def tampered(checkpoint, tmp_path, change):
    arrays, facts = files.load_arrays(checkpoint)
    change(arrays, facts)
    files.save_arrays(tmp_path / "tampered.npz", arrays, facts)
    return tmp_path / "tampered.npz"


def refused(path, message=""):
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        Smoe.from_checkpoint(path, GREY)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["kernels", "planned", "last_event", "tried", "found"])
def test_a_checkpoint_of_a_fit_without_a_fact_is_refused_by_its_name(checkpoint, tmp_path, name):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: facts["fit"].pop(name)),
            f"damaged.*{name}.*missing")


@pytest.mark.parametrize("wrong", [5, [], "x", {}])
def test_a_checkpoint_whose_facts_of_a_fit_are_none_is_refused(checkpoint, tmp_path, wrong):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: facts.update(fit=wrong)))


@pytest.mark.parametrize(("name", "value"), [
    *[("kernels", wrong) for wrong in (0, -1, 2.5, "x", None, True)],
    *[("planned", wrong) for wrong in (0, 2.5, "x", None)],
    *[("last_event", wrong) for wrong in (-1, 2.5, "x", None)],
    *[("tried", wrong) for wrong in (
        None, 5, [5], [[5]], [[0, 9, 1.0]], [[5, 9, "x"]], [[5, 0, 1.0]], [[5, 9, math.nan]],
        [[5.5, 9, 1.0]], [[5, 9, 1.0, 2]])],
    *[("found", wrong) for wrong in ([], 5, "x", [5], [{}], [{"iteration": 3}])]])
def test_a_fact_of_a_fit_that_does_not_fit_is_refused(checkpoint, tmp_path, name, value):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: facts["fit"].update(
        {name: value})))


@pytest.mark.parametrize("name", ["target", "value", "recipe", "experts"])
def test_settings_of_a_fit_are_checked_as_they_are_when_given(checkpoint, tmp_path, name):
    for wrong in ("x", None, -1, []):
        if (name, wrong) != ("recipe", None):
            refused(tampered(checkpoint, tmp_path, lambda arrays, facts, wrong=wrong:
                             facts["settings"].update({name: wrong})))
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: facts["settings"].update(
        recipe={"rate": -1})), "recipe.rate must be")
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: facts["settings"].update(
        recipe={"haste": 1})))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_was_found_is_checked_as_every_model(checkpoint, tmp_path, name):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: arrays.pop(f"found_{name}")),
            f"damaged.*found_{name}.*missing")
    for change in (lambda a: a[:-1], lambda a: a * np.nan, lambda a: a[..., None]):
        def replace(arrays, facts, change=change):
            arrays[f"found_{name}"] = change(arrays[f"found_{name}"])

        refused(tampered(checkpoint, tmp_path, replace))


@pytest.mark.parametrize("change", [
    lambda a: a[:-1], lambda a: a - 1000, lambda a: a + 1000, lambda a: a.astype(float),
    lambda a: a[:, None]], ids=["one less", "before 0", "unborn", "floats", "one axis more"])
def test_times_of_birth_that_cannot_be_are_refused(checkpoint, tmp_path, change):
    def replace(arrays, facts):
        arrays["adam_born"] = change(arrays["adam_born"])

    refused(tampered(checkpoint, tmp_path, replace), "adam_born")


@pytest.mark.parametrize("tau", [0, -1, 101, math.nan, math.inf, [6, 6]])
def test_a_tau_of_lists_that_cannot_be_is_refused(checkpoint, tmp_path, tau):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: arrays.update(
        lists_tau=np.array(tau, float))), "lists_tau")


@pytest.mark.parametrize("tau", [1e-6, 1.0, 50.0, None])
def test_no_tau_of_lists_changes_the_picture(checkpoint, tmp_path, tau):
    def replace(arrays, facts):
        if tau is None:
            arrays.pop("lists_tau")
        else:
            arrays["lists_tau"] = np.array(tau)

    smoe = Smoe.from_checkpoint(tampered(checkpoint, tmp_path, replace), GREY)
    wanted = np.clip(dense.render(smoe.params, GREY.shape)[..., 0], 0, 1)
    np.testing.assert_allclose(smoe.reconstruction, wanted, atol=2e-5)


def test_a_fit_is_no_training_and_a_training_no_fit(checkpoint, each_engine, tmp_path):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: facts.update(fit=None)))
    Smoe(GREY, 3).train(2).save_checkpoint(tmp_path / "trained.npz")
    fit = files.load_arrays(checkpoint)[1]["fit"]
    refused(tampered(tmp_path / "trained.npz", tmp_path, lambda arrays, facts: facts.update(
        fit={**fit, "found": None})))


# ---- to a PSNR


@pytest.fixture(scope="module")
def search(each_engine):
    """A search that has come to an end."""
    return Smoe(GREY).fit(**SEARCH)


def test_a_psnr_is_reached_with_as_few_kernels_as_were_tried(search):
    found = search.history[-1]
    assert found.psnr >= SEARCH["psnr"]
    assert found.psnr == pytest.approx(psnr(search.reconstruction, GREY), abs=1e-3)
    assert found.iteration == search.iteration == SEARCH["iterations"]
    assert found.kernels == search.params.num_kernels
    full = [one for one in search.tried if one.iterations == SEARCH["iterations"]]
    assert 1 < len(full) <= TRIES
    assert found.kernels == min(one.kernels for one in full if one.psnr >= SEARCH["psnr"])
    assert_same_model(search.best_params, search.params)
    assert len(search.adam.born) == search.params.num_kernels
    enough = (found.psnr <= SEARCH["psnr"] + WITHIN or found.kernels == 1 or any(
        found.kernels <= max(one.kernels * STEP, one.kernels + 1)
        for one in full if one.kernels < found.kernels))
    assert enough


def test_a_fit_found_by_a_search_is_one_that_could_have_been_asked_for(search, each_engine):
    alone = Smoe(GREY).fit(kernels=search.params.num_kernels, iterations=SEARCH["iterations"])
    assert_same_model(search.params, alone.params)
    same_history(search.history, alone.history)


def test_a_search_begins_with_two_short_fits(search):
    lengths = [one.iterations for one in search.tried]
    assert lengths[:2] == [SEARCH["iterations"] // SHORT] * 2
    assert set(lengths[2:]) == {SEARCH["iterations"]}
    assert search.tried[0].kernels == max(1, GREY.size // FIRST_TRY)


def test_a_search_repeats_itself_bit_for_bit(search, each_engine):
    assert_same_fit(Smoe(GREY).fit(**SEARCH), search)


@pytest.mark.parametrize(("after", "at"), [(0, 2), (1, 1), (2, 13), (3, 30), (3, 7)])
def test_a_search_goes_on_bit_for_bit_from_anywhere(search, each_engine, after, at, tmp_path):
    assert len(search.tried) > 3
    smoe, path = Smoe(GREY), tmp_path / "c.npz"
    with pytest.raises(KeyboardInterrupt):
        smoe.fit(**SEARCH, checkpoint=path, progress=interrupt_at(at, after=after))
    again = Smoe.from_checkpoint(path, GREY)
    assert_same_fit(again, smoe)
    for interrupted in (smoe, again):
        assert_same_fit(interrupted.resume(), search)


def test_the_last_checkpoint_of_a_search_leads_to_its_result(search, each_engine, tmp_path):
    Smoe(GREY).fit(**SEARCH, checkpoint=tmp_path / "c.npz")
    assert_same_fit(Smoe.from_checkpoint(tmp_path / "c.npz", GREY).resume(), search)


def test_to_resume_a_search_after_its_end_changes_nothing(search, each_engine, tmp_path):
    smoe = Smoe(GREY).fit(**SEARCH)
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", GREY)
    for one in (smoe, again):
        for _ in range(2):
            assert_same_fit(one.resume(), search)


def test_a_psnr_that_is_out_of_reach_is_warned_of_once_and_the_best_is_left(each_engine):
    smoe = Smoe(GREY[:9, :8])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smoe.fit(psnr=120, iterations=20, val_iter=1000)
    assert [w.category for w in caught] == [RuntimeWarning]
    best = max(one.psnr for one in smoe.tried if one.iterations == 20)
    assert str(caught[0].message).startswith(
        f"psnr 120 is out of reach: {smoe.params.num_kernels} kernels reach {best:.2f} dB in 20")
    assert caught[0].filename == __file__
    assert smoe.history[-1].psnr == best
    assert max(one.kernels for one in smoe.tried) == 72  # a kernel for each pixel
    assert psnr(smoe.reconstruction, GREY[:9, :8]) == pytest.approx(best, abs=1e-2)


@pytest.mark.parametrize("image", [np.full((12, 9), 0.3), np.full((1, 1), 0.7), np.zeros((5, 7))])
def test_what_is_perfect_at_once_takes_one_kernel(each_engine, image):
    smoe = Smoe(image).fit(psnr=60, iterations=20)
    assert smoe.params.num_kernels == 1
    assert smoe.history[-1].psnr > 60


@pytest.mark.parametrize("wanted", [1, 5])
def test_what_is_easily_reached_takes_one_kernel(each_engine, wanted):
    smoe = Smoe(GREY).fit(psnr=wanted, iterations=20)
    assert smoe.params.num_kernels == 1
    assert smoe.history[-1].psnr > wanted


@pytest.mark.parametrize("iterations", [1, 3, 9])
def test_a_search_by_hardly_any_iterations_comes_to_an_end(each_engine, iterations):
    smoe = Smoe(GREY).fit(psnr=20, iterations=iterations)
    assert smoe.history[-1].psnr >= 20
    assert len(smoe.tried) <= TRIES + 2


# ---- what to try next


def search_on(curve, wanted, most, iterations=1000):
    """All tries of a search in which a fit of K kernels reaches curve(K), a short one less."""
    tried = []
    while True:
        one = next_try(tried, wanted, most, iterations)
        if one is None:
            return tried
        assert 1 <= one.kernels <= most
        assert len(tried) < TRIES + 3
        tried.append(one._replace(psnr=curve(one.kernels, one.iterations)))


@settings(max_examples=400)
@given(start=st.floats(5, 25), octave=st.floats(0.5, 8), noise=st.sampled_from([0, 0.03]),
       lacks=st.floats(0, 3), bend=st.sampled_from([0, 0.05]), octaves=st.floats(0, 20),
       wanted=st.floats(6, 60), seed=st.integers(0, 10**6))
def test_a_search_ends_near_the_fewest_kernels_that_reach_what_is_wanted(
        start, octave, noise, lacks, bend, octaves, wanted, seed):
    rng, most = np.random.default_rng(seed), int(2**octaves)
    shaken = {}

    def curve(K, iterations):
        n = math.log2(K)
        shaken.setdefault(K, rng.normal() * noise)
        return start + octave * (n + bend * n * n) + shaken[K] - lacks * (iterations < 1000)

    tried = search_on(curve, wanted, most)
    full = [one for one in tried if one.iterations == 1000]
    kernels = [one.kernels for one in full]
    assert len(full) <= TRIES
    assert len(set(kernels)) == len(kernels)  # nothing is tried twice
    reached = [one for one in full if one.psnr >= wanted]
    if curve(most, 1000) > wanted + 0.2 and (octave > 1 or noise == 0):
        assert reached
    if not reached:
        assert most in kernels or len(full) == TRIES
        return
    found = min(reached)
    less = max((K for K in kernels if K < found.kernels), default=0)
    assert (found.psnr <= wanted + WITHIN or found.kernels == 1
            or found.kernels <= max(less * STEP, less + 1))


def test_a_search_takes_few_tries_where_things_are_as_usual():
    for wanted in (30.3, 38, 44.7, 61):
        tried = search_on(lambda K, n: 10 + DECIBELS * math.log2(K) - 1.2 * (n < 1000), wanted,
                          512 * 512)
        assert len(tried) <= 4
        assert wanted <= tried[-1].psnr <= wanted + WITHIN


def test_a_search_gives_up_after_some_tries():
    def curve(K, iterations):  # short fits promise what others do not keep
        return 10 + 4 * math.log2(K) if iterations < 1000 else 25 + 0.2 * math.log2(K)

    tried = search_on(curve, 27.5, 10**6)
    assert len([one for one in tried if one.iterations == 1000]) == TRIES


def test_a_kernel_more_or_less_is_near_enough():
    tried = [Try(1, 100, 20), Try(2, 100, 22), Try(5, 1000, 29.9), Try(6, 1000, 30.6)]
    assert next_try(tried, 30, 1000, 1000) is None
    tried = [Try(1, 100, 20), Try(2, 100, 22), Try(1000, 1000, 29.9), Try(1029, 1000, 30.6)]
    assert next_try(tried, 30, 10**6, 1000) is None
    between = next_try([*tried[:3], Try(1100, 1000, 30.6)], 30, 10**6, 1000)
    assert 1000 < between.kernels < 1100


def test_a_try_that_reaches_more_kernels_than_a_worse_one_is_found_out_between_them():
    # a larger fit may be worse by chance
    tried = [Try(9, 100, 28), Try(10, 100, 28.3), Try(40, 1000, 31), Try(20, 1000, 29.5),
             Try(30, 1000, 29.4)]
    following = next_try(tried, 30, 1000, 1000)
    assert 30 < following.kernels < 40


# ---- the plan


@settings(max_examples=100)
@given(K=st.integers(1, 3000), iterations=st.integers(1, 10000))
def test_events_come_at_even_distances_until_their_part_is_over(K, iterations):
    plan = Plan(fit_settings(kernels=K, iterations=iterations), (64, 64), K, iterations)
    every = plan.event_every(iterations)
    assert 1 <= every <= plan.recipe.event_every
    due = [i for i in range(iterations + 1) if plan.until_event(i, iterations) == 0]
    last = int(plan.recipe.events_until * iterations)
    assert due == list(range(every, last + 1, every))
    for i in range(0, iterations, 7):
        left = plan.until_event(i, iterations)
        following = [j for j in due if j >= max(i, 1)]
        assert left == (following[0] - i if following else math.inf)
    # doubling at each event, what is there at first can become all
    assert plan.begin <= K
    assert plan.begin * 2 ** len(due) >= K * 0.99 - 1 or plan.begin == max(1, int(K / 4))


def test_rates_are_those_of_the_recipe_by_parameter_and_fade_in_time():
    recipe = Recipe(rate=0.5, shape_rate=0.4, expert_rate=0.3, slope_rate=0.2, fade_from=0.5,
                    fade_to_part=0.1, least_diagonal=0.02, most_diagonal=3)
    for experts, names in (("affine", set(NAMES)), ("constant", set(NAMES) - {"gamma_e"})):
        plan = Plan(fit_settings(kernels=9, iterations=200, experts=experts, recipe=recipe),
                    (50, 80), 9, 200)
        found = plan.steps(200, 4)
        assert set(found.rates) == names
        wanted = {"pis": 0.5, "musX": 0.5, "A": 0.4, "nu_e": 0.3, "gamma_e": 0.2}
        assert found.rates == {name: wanted[name] for name in names}
        frame = found.own_frame
        assert (frame.least_diagonal, frame.most_diagonal) == (0.02 * 80, 3 * 80)
        assert [frame.fading(t) for t in (1, 100, 150, 200, 300)] == pytest.approx(
            [1, 1, 0.55, 0.1, 0.1])
        assert (found.l1reg, found.bandwidth_reg, found.radial, found.grad_clip) == (0, 0, False,
                                                                                    None)
