"""Smoe.fit: targets that are kept, sameness, what comes of it."""

import math
import warnings

import numpy as np
import pytest
from fits import COLOURS, GREY, PICTURES, VOLUME, assert_same_fit
from helpers import assert_same_model, picture, random_model, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe, dense, engine, launch_native, psnr, render
from smoe_np.fit import LEAST_ITERATIONS, Plan, fit_settings, scalars_of
from smoe_np.params import NAMES
from smoe_np.recipe import Recipe

# ---- targets


@pytest.mark.parametrize(("K", "iterations"), [
    (1, 24), (2, 24), (3, 30), (7, 24), (16, 24), (37, 30), (40, 60), (200, 40),
    (7, 20), (40, 20), (37, 8)])
def test_as_many_kernels_are_there_in_the_end_as_are_wanted(each_engine, K, iterations):
    smoe = Smoe(GREY).fit(kernels=K, iterations=iterations, val_iter=1000)
    assert smoe.params.num_kernels == smoe.history[-1].kernels == K
    assert smoe.stopped is None


@PICTURES
@pytest.mark.parametrize("experts", ["affine", "constant"])
def test_a_model_has_no_more_numbers_than_are_wanted(each_engine, image, options, experts):
    def numbers(params):
        D = params.num_dims
        slopes = params.gamma_e.size if experts == "affine" else 0
        return params.num_kernels * (1 + D + D * (D + 1) // 2) + params.nu_e.size + slopes

    smoe = Smoe(image, **options)
    smoe.fit(scalars=300, experts=experts, iterations=26, val_iter=3,
             callbacks=[lambda smoe: numbers(smoe.params) <= 300 or pytest.fail("too many")])
    params = smoe.params
    assert 300 - numbers(params) < numbers(params.select([0]))


@pytest.mark.filterwarnings("ignore:with all .* kernels the error")
@settings(max_examples=12)
@given(K=st.integers(1, 60), iterations=st.integers(1, 40), experts=st.sampled_from(["affine",
       "constant"]), name=st.sampled_from(["scalars", "kernels"]), extra=st.integers(0, 6))
def test_a_fit_of_any_length_never_has_more_than_it_may(each_engine, K, iterations, experts, name,
                                                        extra):
    each = {"scalars": 1, "kernels": 0}[name] * scalars_of(2, 1, experts == "affine")
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


@pytest.mark.parametrize("arguments", [
    {"kernels": 10**400}, {"kernels": 5, "callbacks": None}, {"kernels": 5, "callbacks": 3}])
def test_a_fit_that_cannot_begin_leaves_all_as_it_was(each_engine, arguments, tmp_path):
    smoe = Smoe(GREY, 4).train(5)
    before, history = smoe.params.copy(), list(smoe.history)
    with pytest.raises((TypeError, ValueError)):
        smoe.fit(**arguments)
    assert_same_model(smoe.params, before)
    assert (smoe.history, smoe.iteration) == (history, 5)
    smoe.save_checkpoint(tmp_path / "c.npz")
    Smoe.from_checkpoint(tmp_path / "c.npz", GREY).resume()


@pytest.mark.parametrize("shape", [(2000,), (1, 2000)])
def test_a_smooth_signal_is_fitted_by_few_wide_kernels(each_engine, shape):
    signal = 0.5 + 0.3 * np.sin(20 * np.linspace(0, 1, 2000)).reshape(shape)
    smoe = Smoe(signal, backend=each_engine).fit(kernels=20, iterations=300)
    assert smoe.history[-1].kernels == 20
    assert smoe.history[-1].psnr > 40


def test_a_signal_of_steps_is_fitted_by_as_many_kernels_as_are_wanted(each_engine):
    along = np.linspace(0, 1, 500)
    signal = np.floor(along * 9) % 4 / 4 + 0.1 + 0.05 * along
    smoe = Smoe(signal, backend=each_engine).fit(kernels=40, iterations=600)
    assert smoe.history[-1].kernels == 40
    assert smoe.history[-1].psnr > 40


def test_a_fit_that_ends_with_fewer_kernels_than_wanted_says_so(each_engine):
    smoe = Smoe(picture((24, 24)), backend=each_engine)
    far = Recipe(rate=20.0, shape_rate=5.0, expert_rate=5.0)  # too fast to learn anything
    with pytest.warns(RuntimeWarning, match="all 40 kernels .* model found, with [0-9]+; take"):
        smoe.fit(kernels=40, iterations=100, recipe=far)
    assert smoe.params.num_kernels < 40


def test_any_number_of_iterations_can_be_planned():
    settings = fit_settings(kernels=5, iterations=10**12)
    assert Plan(settings, (40, 40), 5, 10**12).begin >= 1


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


@pytest.mark.parametrize("image", [COLOURS, GREY])
def test_numpy_and_native_fit_about_alike(image):
    if engine.ENGINES["native"].why_not() is not None:
        pytest.skip(engine.ENGINES["native"].why_not())
    differences = []  # of a single seed 0.15 dB: the last digits grow
    for seed in range(4):
        found = [Smoe(image, backend=name).fit(kernels=20, iterations=80, seed=seed).history[-1]
                 for name in ("numpy", "native")]
        assert found[0].kernels == found[1].kernels == 20
        differences.append(found[0].psnr - found[1].psnr)
    assert abs(np.mean(differences)) < 0.15


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


@pytest.mark.filterwarnings("ignore:with all .* kernels the error")
def test_the_model_of_an_earlier_validation_is_left_if_that_was_better(each_engine):
    # rates far too high that never fade: the path is restless
    recipe = Recipe(rate=1.0, weight_rate=1.0, shape_rate=0.6, expert_rate=0.3, slope_rate=0.2,
                    fade_from=1)
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


def test_between_its_pixels_a_picture_is_what_it_is_at_them(each_engine):
    # kernels may not be so sharp that they fit between pixels, where nothing holds them
    def stripes(n):
        row, column = (np.indices((n, n)) + 0.5) * (40 / n)
        return 0.5 + 0.4 * np.sin(0.9 * row + 0.5 * column) * np.sin(0.1 * row - 0.3 * column)

    smoe = Smoe(stripes(40)).fit(kernels=250, iterations=200)
    A = smoe.params.A.astype(float) / 40
    assert np.linalg.norm(A, axis=2).max() <= 3.001
    at_pixels, anywhere = (np.sqrt(np.mean((render(smoe.params, (n, n)) - stripes(n)) ** 2))
                           for n in (40, 160))
    assert at_pixels < 0.012
    assert anywhere < 0.03


def test_by_far_more_kernels_than_pixels_are_refused():
    with pytest.raises(ValueError, match="kernels must stand for at most 6440 kernels for 644 "
                                         "pixels, got 10000$"):
        Smoe(GREY).fit(kernels=10000)
    with pytest.raises(ValueError, match="bytes must stand for at most 6440 .* got 1000000, which"):
        Smoe(GREY).fit(bytes=10**6)


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


@pytest.mark.filterwarnings("ignore:with all .* kernels the error")
@settings(max_examples=40)
@given(kind=st.sampled_from(sorted(ODD)), seed=st.integers(0, 1000),
       shape=st.lists(st.sampled_from([1, 1, 2, 3, 7, 8, 9, 16, 17]), min_size=1, max_size=3),
       K=st.sampled_from([1, 2, 5, 17, 60]), iterations=st.integers(1, 40),
       experts=st.sampled_from(["affine", "constant"]), C=st.sampled_from([None, None, 3]))
def test_any_picture_is_fitted_no_worse_than_by_a_constant(each_engine, kind, seed, shape, K,
                                                           iterations, experts, C):
    shape = tuple(shape) if math.prod(shape) < 600 else tuple(shape[:2])
    image = ODD[kind](shape, np.random.default_rng(seed))
    C = C if len(shape) > 1 else None
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


@pytest.mark.filterwarnings("ignore:with all .* kernels the error")
def test_a_fit_that_learns_nothing_from_a_start_worse_than_a_constant_is_that_constant(each_engine):
    recipe = Recipe(rate=0, weight_rate=0, shape_rate=0, expert_rate=0, slope_rate=0,
                    events_until=0, jitter=3)
    smoe = Smoe(GREY).fit(kernels=9, iterations=5, val_iter=1, recipe=recipe)
    assert smoe.history[0].mse > smoe.history[-1].mse
    assert smoe.history[-1].mse == pytest.approx(GREY.var() * 255**2, rel=1e-4)
    np.testing.assert_allclose(smoe.reconstruction, GREY.mean(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:with all .* kernels the error")
def test_a_fit_that_ends_in_the_constant_model_tells_its_own_error(each_engine):
    bandwidth_reg = 1e-3  # more than kernels gain on noise
    noise = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    smoe = Smoe(noise)
    smoe.fit(kernels=20, iterations=2, val_iter=2, recipe=Recipe(bandwidth_reg=bandwidth_reg))
    assert smoe.params.num_kernels == 1
    record, mse = smoe.history[-1], np.mean((smoe.reconstruction - noise) ** 2)
    assert record.mse == pytest.approx(255**2 * mse, rel=1e-5)
    assert record.loss == pytest.approx(mse + 2 * bandwidth_reg, rel=1e-5)


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
    assert seconds[-1] > seconds[0]


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


@pytest.mark.filterwarnings("ignore:with all .* kernels the error")  # in so few iterations
@pytest.mark.parametrize("seconds", [0.05, 1e-9])
def test_a_fit_of_some_seconds_comes_to_an_end(each_engine, seconds):
    smoe = Smoe(GREY).fit(kernels=5, seconds=seconds, val_iter=10)
    assert smoe.stopped is None
    assert smoe.until >= LEAST_ITERATIONS
    assert smoe.history[-1].iteration == smoe.iteration == smoe.until
    assert smoe.history[-1].psnr == pytest.approx(psnr(smoe.reconstruction, GREY), abs=1e-3)


@pytest.mark.parametrize("faint", [1 / 16, 1 / 256])
def test_a_faint_picture_is_fitted_as_well_as_any(each_engine, faint):
    # such as 12 bits in a file of 16; its PSNR is that of its own range
    image, run = picture((40, 50))[..., 0], {"kernels": 40, "iterations": 100}
    wanted = Smoe(image).fit(**run).history[-1].psnr
    for pedestal in (0, 0.5):
        smoe = Smoe(faint * image + pedestal).fit(**run)
        assert smoe.history[-1].psnr + 20 * math.log10(faint) > wanted - 1.5
        lost = smoe.history[-1].psnr - smoe.quantize(9).history[-1].psnr
        assert lost < 1.5


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
