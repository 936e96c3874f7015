"""Fits that are interrupted go on bit for bit; their checkpoints are checked."""

import math
import signal

import numpy as np
import pytest
from fits import GREY, PICTURES, SEARCH, assert_same_fit, interrupt_at
from helpers import assert_same_model

from smoe_np import Smoe, dense, engine, files
from smoe_np.fit import LEAST_ITERATIONS
from smoe_np.params import NAMES
from smoe_np.recipe import Recipe

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


@pytest.mark.filterwarnings("ignore:with all .* kernels the error")
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


def test_a_fit_whose_model_was_changed_by_hand_leaves_a_checkpoint_that_can_be_read(
        each_engine, tmp_path):
    smoe = Smoe(GREY).fit(kernels=8, iterations=24)
    smoe.params = smoe.params.select(np.arange(8) > 2)
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", GREY)
    assert_same_model(again.params, smoe.params)


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


@pytest.mark.parametrize("name", ["adam_outer", "adam_axes"])
def test_axes_that_do_not_go_with_the_kernels_are_refused(checkpoint, tmp_path, name):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: arrays.pop(name)),
            f"damaged.*{name}.*missing")
    for change in (lambda a: a[:-1], lambda a: a[:, 1:], lambda a: a * np.nan, lambda a: a[..., 0],
                   lambda a: a > 0):
        def replace(arrays, facts, change=change):
            arrays[name] = change(arrays[name])

        refused(tampered(checkpoint, tmp_path, replace), name)


@pytest.mark.parametrize("change", [
    lambda a: a - 2, lambda a: a + 10**6, lambda a: a.astype(float), lambda a: a[:, None]],
    ids=["before -1", "beyond", "floats", "one axis more"])
def test_numbers_of_kernels_that_cannot_be_remembered_are_refused(checkpoint, tmp_path, change):
    def replace(arrays, facts):
        if "lists_remembered" not in arrays:
            pytest.skip("the engine remembers none")
        arrays["lists_remembered"] = change(arrays["lists_remembered"])

    refused(tampered(checkpoint, tmp_path, replace), "lists_remembered")


@pytest.mark.parametrize("tau", [0, -1, 101, math.nan, math.inf, [6, 6]])
def test_a_tau_of_lists_that_cannot_be_is_refused(checkpoint, tmp_path, tau):
    refused(tampered(checkpoint, tmp_path, lambda arrays, facts: arrays.update(
        lists_tau=np.array(tau, float))), "lists_tau")


@pytest.mark.parametrize("tau", [1e-6, 1.0, 50.0])
def test_no_tau_of_lists_changes_the_picture(checkpoint, tmp_path, tau):
    def replace(arrays, facts):
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


@pytest.mark.parametrize(("name", "value"), [("psnr", "x"), ("kernels", 0), ("iteration", 2.5),
                                             ("loss", None), ("seconds", math.nan)])
def test_records_of_a_model_that_was_found_are_checked(checkpoint, tmp_path, name, value):
    refused(tampered(checkpoint, tmp_path,
                     lambda arrays, facts: facts["fit"]["found"][-1].update({name: value})))


def test_a_model_that_was_found_has_the_channels_of_the_picture(checkpoint, tmp_path):
    def change(arrays, facts):
        for name in ("nu_e", "gamma_e"):
            arrays[f"found_{name}"] = np.repeat(arrays[f"found_{name}"], 2, axis=1)

    refused(tampered(checkpoint, tmp_path, change), "not of its channels")
