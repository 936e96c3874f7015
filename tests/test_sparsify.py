"""A sparsification reaches its target by itself, in three phases, and can be interrupted."""

import signal
import warnings

import numpy as np
import pytest
from fits import COLOURS, GREY, VOLUME, assert_same_fit, interrupt_at, same_history
from helpers import assert_same_model, picture, random_model

from smoe_np import Smoe, dense, files, launch_native, sparsify
from smoe_np.initialize import kernel_grid
from smoe_np.sparsify import Sparsification, dense_start, sparsify_settings

RUN = {"target_kernels": 14, "iterations": (12, 80, 16), "val_iter": 26}
SEARCH = {"target_psnr": 22.0, "iterations": (20, 20, 30), "val_iter": 50}


@pytest.fixture(scope="module")
def whole(each_engine):
    """Without interruption: phases end at iterations 12, 92 and 108."""
    return {dtype: Smoe(GREY, 8, dtype=dtype).sparsify(**RUN) for dtype in ("float32", "float64")}


# ---- what it reaches


@pytest.mark.parametrize("kernels", [1, 2, 30, 54, 55])
def test_it_ends_with_as_many_kernels_as_are_wanted(each_engine, kernels):
    smoe = Smoe(GREY, 8)
    assert smoe.params.num_kernels == 56
    assert smoe.sparsify(target_kernels=kernels, iterations=(10, 30, 10)) is smoe
    assert smoe.params.num_kernels == smoe.history[-1].kernels == kernels


@pytest.mark.parametrize(("image", "options"), [
    (COLOURS, {}), (VOLUME, {"channel_axis": None}), (picture((90,))[..., 0], {}),
    (GREY, {"train_gammas": False})], ids=["colours", "volume", "line", "constant experts"])
def test_it_takes_whatever_picture_there_is(each_engine, image, options):
    smoe = Smoe(image, 6, **options)
    wanted = smoe.params.num_kernels // 3
    smoe.sparsify(target_kernels=wanted, iterations=(10, 40, 40))
    assert smoe.params.num_kernels == wanted
    fewer = min((record for record in smoe.history if record.kernels == wanted),
                key=lambda record: record.iteration)
    assert smoe.history[-1].psnr > fewer.psnr + 1  # fine-tuning helps
    if "train_gammas" in options:
        assert not smoe.params.gamma_e.any()


def test_what_is_reported_is_the_psnr_of_the_model_that_is_left(whole):
    for smoe in whole.values():
        error = dense.loss(smoe.params.astype(np.float64), GREY[..., None])
        assert smoe.history[-1].psnr == pytest.approx(-10 * np.log10(error), abs=1e-3)
        assert_same_model(smoe.params, smoe.best_params)


def test_it_does_better_than_leaving_the_lightest_out_and_training_on(each_engine):
    # the same steps without sparsity
    smoe = Smoe(GREY, 8).sparsify(target_kernels=14, iterations=(60, 200, 100))
    other = Smoe(GREY, 8).train(260)
    other.params = other.params.select(np.argsort(other.params.pis)[-14:])
    other.train(100)
    assert smoe.history[-1].psnr > other.history[-1].psnr + 1


def test_there_is_a_validation_at_the_end_of_each_phase(whole):
    for smoe in whole.values():
        kernels = {record.iteration: record.kernels for record in smoe.history}
        assert list(kernels) == [0, 12, 26, 52, 78, 92, 104, 108]
        assert kernels[0] == kernels[12] == 56
        assert 14 < kernels[78] < 56
        assert all(kernels[i] == 14 for i in (92, 104, 108))
        assert smoe.until == smoe.iteration == 108


def test_kernels_leave_by_the_weight_of_sparsity_and_never_too_many(each_engine):
    smoe = Smoe(GREY, 8).sparsify(target_kernels=14, iterations=(60, 300, 10), val_iter=1000)
    assert [one.iteration for one in smoe.rounds] == list(range(70, 370, 10))
    kernels = [56, *(one.kernels for one in smoe.rounds)]
    assert all(b <= a for a, b in zip(kernels, kernels[1:]))
    assert 14 <= kernels[-1] <= 18  # few are left to be taken away at the end
    weights = np.array([one.l1reg for one in smoe.rounds])
    assert (weights > 0).all()
    planned = 56 * (14 / 56) ** ((np.array([one.iteration for one in smoe.rounds]) - 60) / 300)
    changes = weights[1:] / weights[:-1]
    raised, many = changes > 1.0001, np.array(kernels[1:-1]) > planned[:-1] * 1.0001
    assert (raised == many).all()


def test_a_round_that_loses_far_too_many_kernels_is_taken_back(each_engine, monkeypatch):
    monkeypatch.setattr(sparsify, "FIRST_WEIGHT", 1e6)
    monkeypatch.setattr(sparsify, "MOST_RATE", 0.5)
    smoe = Smoe(GREY, 8).sparsify(target_kernels=14, iterations=(5, 100, 20))
    first, second, *_ = smoe.rounds
    assert first.kernels == int(56 * (14 / 56) ** 0.1)
    assert second.l1reg == first.l1reg / 2
    assert smoe.params.num_kernels == 14


def test_it_goes_on_from_the_model_as_it_stands(each_engine, tmp_path):
    smoe = Smoe(GREY, 8).train(30)
    smoe.sparsify(target_kernels=30, iterations=(0, 30, 10))
    assert smoe.iteration == 70
    smoe.sparsify(target_kernels=10, iterations=(5, 30, 10))
    assert smoe.iteration == smoe.history[-1].iteration == 115
    assert smoe.params.num_kernels == 10
    given = random_model(3, 25, sigma=0.1)
    assert Smoe(GREY, params=given).sparsify(
        target_kernels=7, iterations=(5, 20, 5)).params.num_kernels == 7
    rounds = smoe.rounds
    smoe.train(5)
    assert smoe.rounds == rounds != []
    smoe.save_checkpoint(tmp_path / "c.npz")
    assert Smoe.from_checkpoint(tmp_path / "c.npz", GREY).rounds == rounds
    smoe.fit(kernels=4, iterations=20)
    assert smoe.rounds == []


@pytest.mark.parametrize("iterations", [(0, 0, 0), (4, 0, 0), (0, 4, 0), (0, 0, 4), (0, 25, 3)])
def test_phases_may_be_left_out(each_engine, iterations):
    smoe = Smoe(GREY, 8).sparsify(target_kernels=20, iterations=iterations)
    assert smoe.iteration == sum(iterations)
    assert smoe.history[-1].kernels == smoe.params.num_kernels == 20
    iterations = [record.iteration for record in smoe.history]
    assert iterations == sorted(set(iterations))


def test_the_same_call_makes_the_same_model(whole):
    assert_same_fit(Smoe(GREY, 8).sparsify(**RUN), whole["float32"])


def test_engines_agree_on_the_way():
    for name in ("numpy", "native"):
        if launch_native.why_no_native() is not None and name == "native":
            pytest.skip("there is no compiler")
    smoes = [Smoe(GREY, 8, backend=name, dtype="float64").sparsify(
        target_kernels=20, iterations=(4, 10, 4), val_iter=4) for name in ("numpy", "native")]
    for a, b in zip(*(smoe.history for smoe in smoes)):
        assert (a.iteration, a.kernels) == (b.iteration, b.kernels)
        assert a.psnr == pytest.approx(b.psnr, abs=1e-3)


# ---- to a PSNR


@pytest.fixture(scope="module")
def search(each_engine):
    return Smoe(GREY, 8).sparsify(**SEARCH)


def test_a_psnr_is_reached_with_few_kernels(search):
    assert search.history[-1].psnr >= 22
    missed = [one.kernels for one in search.tried if one.psnr < 22]
    assert missed
    assert search.params.num_kernels <= 1.03 * max(missed) + 1 or search.history[-1].psnr <= 22.1
    assert search.params.num_kernels == min(
        one.kernels for one in search.tried if one.psnr >= 22)


def test_a_model_found_for_a_psnr_is_one_that_could_have_been_asked_for(search):
    K = search.params.num_kernels
    other = Smoe(GREY, 8).sparsify(target_kernels=K, **{
        name: SEARCH[name] for name in ("iterations", "val_iter")})
    assert_same_model(search.params, other.params)
    same_history(search.history, other.history)
    assert search.rounds == other.rounds


def test_a_psnr_out_of_reach_is_told(each_engine):
    smoe = Smoe(GREY, 4)
    with pytest.warns(RuntimeWarning, match="psnr 80 is out of reach: 12 kernels reach"):
        smoe.sparsify(target_psnr=80, iterations=(5, 10, 10))
    assert smoe.params.num_kernels == 12


def test_a_constant_picture_takes_one_kernel(each_engine):
    smoe = Smoe(np.full((9, 8), 0.5), 4).sparsify(target_psnr=40, iterations=(2, 10, 10))
    assert smoe.params.num_kernels == 1


# ---- interruptions


@pytest.mark.parametrize(("dtype", "at"), [
    *[("float32", at) for at in (1, 11, 12, 22, 26, 36, 78, 88, 92, 93, 107)],
    ("float64", 5), ("float64", 36), ("float64", 100)])
def test_it_goes_on_bit_for_bit_in_each_phase(whole, dtype, at, tmp_path):
    smoe, path = Smoe(GREY, 8, dtype=dtype), tmp_path / "c.npz"
    with pytest.raises(KeyboardInterrupt):
        smoe.sparsify(**RUN, checkpoint=path, progress=interrupt_at(at))
    assert (smoe.stopped, smoe.iteration) == ("interrupted", at)
    again = Smoe.from_checkpoint(path, GREY)
    assert again.settings == smoe.settings
    assert again.rounds == smoe.rounds
    assert_same_fit(again, smoe)
    for interrupted in (smoe, again):
        assert_same_fit(interrupted.resume(), whole[dtype])
        assert interrupted.rounds == whole[dtype].rounds


@pytest.mark.parametrize("at", [0, 12, 26, 92, 104, 108])
def test_a_checkpoint_of_a_validation_goes_on_bit_for_bit(whole, at, tmp_path):
    path = tmp_path / "c.npz"
    Smoe(GREY, 8).sparsify(**RUN, callbacks=[
        lambda s: s.save_checkpoint(path) if s.iteration == at else None])
    again = Smoe.from_checkpoint(path, GREY)
    assert again.iteration == at
    assert_same_fit(again.resume(), whole["float32"])


def stop_after(path, tries, iteration):
    """A search that is interrupted, and its checkpoint."""
    smoe = Smoe(GREY, 8)
    with pytest.raises(KeyboardInterrupt):
        smoe.sparsify(**SEARCH, checkpoint=path, progress=interrupt_at(iteration, after=tries))
    return smoe


@pytest.mark.parametrize(("tries", "iteration"), [(0, 7), (0, 30), (1, 30), (2, 50)])
def test_a_search_goes_on_bit_for_bit(search, tries, iteration, tmp_path):
    smoe = stop_after(tmp_path / "c.npz", tries, iteration)
    for interrupted in (smoe, Smoe.from_checkpoint(tmp_path / "c.npz", GREY)):
        interrupted.resume()
        assert interrupted.tried == search.tried
        assert_same_model(interrupted.params, search.params)
        same_history(interrupted.history, search.history)
        assert interrupted.rounds == search.rounds


def test_after_an_error_in_a_round_the_model_is_as_it_was_before_it(whole, each_engine):
    smoe, seen, run = Smoe(GREY, 8), [], {**RUN, "iterations": (12, 200, 16)}
    advance = smoe.engine.advance

    def fail(params, *arguments):
        if params.num_kernels < smoe.params.num_kernels:  # some have left in this round
            raise MemoryError
        return advance(params, *arguments[:-1], min(2, arguments[-1]))

    def note(smoe):
        seen[:] = smoe.iteration, smoe.params, smoe.adam.copy()

    smoe.engine.advance = fail
    with pytest.raises(MemoryError):
        smoe.sparsify(**run, progress=note)
    assert 12 < smoe.iteration == seen[0] < 212
    assert_same_model(smoe.params, seen[1])
    for name, array in seen[2].arrays().items():
        np.testing.assert_array_equal(smoe.adam.arrays()[name], array, err_msg=name)
    assert smoe.adam.steps == seen[2].steps
    smoe.engine.advance = advance
    assert smoe.resume().params.num_kernels == 14
    wanted = np.clip(dense.render(smoe.params, GREY.shape)[..., 0], 0, 1)
    np.testing.assert_allclose(smoe.reconstruction, wanted, atol=2e-5)


def test_fine_tuning_begins_with_new_moments_as_weights_step_by_their_logarithms(each_engine):
    moments = {}
    Smoe(GREY, 8).sparsify(**RUN, callbacks=[
        lambda smoe: moments.update({smoe.iteration: smoe.adam.copy()})])
    assert moments[78].m.pis.any()
    assert moments[78].v.pis.any()
    assert moments[92].steps == 0
    assert not moments[92].m.pis.any()


def test_weights_of_all_sizes_are_no_obstacle(each_engine):
    # as long trainings in each kernel's own frame leave them
    smoe = Smoe(GREY, 8)
    params = smoe.params.copy()
    params.pis = np.logspace(-30, 8, 56).astype(np.float32)
    smoe.params = params
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoe.sparsify(target_kernels=14, iterations=(0, 80, 40), val_iter=40)
    assert smoe.params.num_kernels == 14
    assert np.isfinite(smoe.reconstruction).all()


@pytest.mark.parametrize("at", [5, 60, 100])
def test_numbers_that_are_lost_end_it_with_the_best_model(each_engine, at):
    smoe = Smoe(GREY, 8)
    advance = smoe.engine.advance

    def spoilt(*arguments):
        done = advance(*arguments)
        return done._replace(failure="a parameter is no longer finite") if smoe.iteration >= at \
            else done

    smoe.engine.advance = spoilt
    with pytest.warns(RuntimeWarning, match="no longer finite"):
        smoe.sparsify(**RUN)
    assert smoe.stopped == "diverged"
    assert_same_model(smoe.params, smoe.best_params)
    for array in smoe.params.arrays().values():
        assert np.isfinite(array).all()


# ---- what it refuses


@pytest.mark.parametrize(("given", "error", "message"), [
    ({}, ValueError, "exactly one of target_kernels and target_psnr, got neither"),
    ({"target_kernels": 5, "target_psnr": 30}, ValueError, "got both"),
    ({"target_kernels": 0}, ValueError, "target_kernels must be at least 1, got 0"),
    ({"target_kernels": -3}, ValueError, "target_kernels must be at least 1"),
    ({"target_kernels": 2.5}, TypeError, "target_kernels must be a whole number"),
    ({"target_kernels": 56}, ValueError, "below 56.*kernels_per_dim=14"),
    ({"target_kernels": 10**6}, ValueError, "below 56.*got 1000000"),
    ({"target_psnr": 0}, ValueError, "target_psnr must be above 0"),
    ({"target_psnr": np.nan}, ValueError, "target_psnr must be"),
    ({"target_psnr": "high"}, TypeError, "target_psnr must be a number"),
    ({"target_kernels": 5, "iterations": 100}, ValueError, "three numbers.*got 100"),
    ({"target_kernels": 5, "iterations": "abc"}, ValueError, "three numbers.*got 'abc'"),
    ({"target_kernels": 5, "iterations": (1, 2)}, ValueError, "three numbers"),
    ({"target_kernels": 5, "iterations": (1, 2, -1)}, ValueError, "iterations must be at least 0"),
    ({"target_kernels": 5, "iterations": (1, 2.5, 1)}, TypeError, "iterations must be a whole"),
    ({"target_kernels": 5, "val_iter": 0}, ValueError, "val_iter must be at least 1"),
])
def test_what_cannot_be_is_refused_by_its_name_and_changes_nothing(given, error, message):
    smoe = Smoe(GREY, 8)
    before = smoe.params
    with pytest.raises(error, match=f"(?s){message}"):
        smoe.sparsify(**given)
    assert smoe.params is before
    assert (smoe.settings, smoe.history, smoe.rounds) == (None, [], [])


@pytest.mark.parametrize("option", [{"radial": True}, {"train_pis": False}])
def test_models_that_may_not_be_steered_or_weighed_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is .*but sparsify"):
        Smoe(GREY, 8, **option).sparsify(target_kernels=5)


def test_a_smoe_in_training_is_not_sparsified_meanwhile():
    def again(smoe):
        with pytest.raises(RuntimeError, match="training already"):
            smoe.sparsify(target_kernels=5)

    Smoe(GREY, 8).sparsify(target_kernels=20, iterations=(1, 1, 1), callbacks=[again])


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((512, 900), TypeError, "shape must be a tuple .*, got 512"),
    (((8, 0), 9), ValueError, "shape must be at least 1, got 0"),
    (((8, 8), 0), ValueError, "kernels must be at least 1, got 0"),
    (((8, 8), "9"), TypeError, "kernels must be a whole number, got '9'")])
def test_a_dense_start_refuses_what_is_no_shape_or_number(arguments, error, message):
    with pytest.raises(error, match=message):
        dense_start(*arguments)


def test_a_dense_start_has_a_few_times_as_many_kernels_as_are_wanted():
    for shape in ((512, 512), (28, 23), (9, 8, 10), (90,)):
        for kernels in (1, 3, 20):
            across = dense_start(shape, kernels)
            grid = np.prod(kernel_grid(shape, across))
            assert kernels < grid
            assert grid >= 3 * kernels
            assert np.prod(kernel_grid(shape, across - 1)) < 3 * kernels or across == 1
    assert dense_start((28, 23), 10**6) == 28


# ---- in pictures


def test_models_are_drawn_side_by_side_each_with_its_kernels_and_its_psnr(whole, tmp_path):
    plots, _ = pytest.importorskip("smoe_np.plots"), pytest.importorskip("matplotlib")
    models = [Smoe(GREY, 8).params, whole["float32"].params]
    figure = plots.sparsity_figure(models, GREY, tmp_path / "strip.png")
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("gating map") == texts.count("reconstruction") == 2
    assert "56 kernels" in texts
    assert "14 kernels" in texts
    assert f"{whole['float32'].history[-1].psnr:.2f} dB" in texts
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 4
    np.testing.assert_allclose(shown[3], whole["float32"].reconstruction, atol=1e-6)
    assert len(np.unique(shown[1].reshape(-1, shown[1].shape[-1]), axis=0)) <= 14
    assert (tmp_path / "strip.png").stat().st_size > 1000
    assert not any("dB" in text.get_text() for text in plots.sparsity_figure(models).texts)


def test_what_cannot_be_drawn_side_by_side_is_refused():
    plots, _ = pytest.importorskip("smoe_np.plots"), pytest.importorskip("matplotlib")
    model = Smoe(GREY, 3).params
    for models, error, message in (([], ValueError, "models is empty"),
                                   (model, TypeError, "sequence of SmoeParams, got one"),
                                   ([model, Smoe(GREY[:9], 3).params], ValueError, "one shape"),
                                   ([model, 5], TypeError, "SmoeParams, got int")):
        with pytest.raises(error, match=message):
            plots.sparsity_figure(models)
    with pytest.raises(ValueError, match=r"end in \.png"):
        plots.sparsity_figure([model], GREY, "strip.jpg")


# ---- checkpoints that are refused


@pytest.fixture(scope="module")
def checkpoint(each_engine, tmp_path_factory):
    path = tmp_path_factory.mktemp("sparsify") / "good.npz"
    stop_after(path, 2, 30)
    return path


def refused(checkpoint, tmp_path, change, message=""):
    arrays, facts = files.load_arrays(checkpoint)
    change(arrays, facts)
    files.save_arrays(tmp_path / "tampered.npz", arrays, facts)
    with pytest.raises(ValueError, match=f"(?s)tampered.npz.*{message}"):
        Smoe.from_checkpoint(tmp_path / "tampered.npz", GREY)


@pytest.mark.parametrize(("name", "value"), [
    ("begin", -1), ("begin", None), ("begin", 10**12), ("kernels", 0), ("kernels", None),
    ("iterations", 2.5),
    ("phase", "late"), ("phase", []), ("dense_kernels", 0), ("dense_kernels", "x"),
    ("l1reg", -1.0), ("l1reg", float("inf")), ("weight_rate", None), ("rounds", [[1, 2]]),
    ("rounds", 5), ("rounds", [[1, 0, 1.0]]), ("tried", [5]), ("found", []),
    ("found_rounds", 3)])
def test_a_fact_that_does_not_fit_is_refused(checkpoint, tmp_path, name, value):
    refused(checkpoint, tmp_path, lambda arrays, facts: facts["sparsify"].update({name: value}))
    refused(checkpoint, tmp_path, lambda arrays, facts: facts["sparsify"].pop(name),
            f"{name}.*missing")


@pytest.mark.parametrize("model", ["found", "dense"])
def test_models_on_the_way_are_checked(checkpoint, tmp_path, model):
    refused(checkpoint, tmp_path, lambda arrays, facts: arrays.pop(f"{model}_pis"), "missing")
    refused(checkpoint, tmp_path, lambda arrays, facts: arrays.update(
        {f"{model}_A": arrays[f"{model}_A"] * np.nan}))

    def of_two_channels(arrays, facts):
        for name in ("nu_e", "gamma_e"):
            arrays[f"{model}_{name}"] = np.repeat(arrays[f"{model}_{name}"], 2, axis=1)

    refused(checkpoint, tmp_path, of_two_channels, "not of its channels")


def test_settings_are_checked_as_they_are_when_given(checkpoint, tmp_path):
    for change in ({"target_psnr": -1}, {"target_kernels": 5}, {"iterations": [1]}, {"haste": 1}):
        refused(checkpoint, tmp_path, lambda arrays, facts, change=change:
                facts["settings"].update(change))


def test_a_plan_is_restored_from_what_it_tells():
    plan = Sparsification(sparsify_settings(target_kernels=4), (9, 9), True, 7)
    plan.aim(3, 60)
    other = Sparsification(sparsify_settings(target_kernels=4), (9, 9), True, 0)
    other.restore(plan.facts())
    assert vars(other) == {**vars(plan), "sizes": other.sizes}  # which has nothing to tell
    assert (plan.trained, plan.sparse, plan.until) == (207, 234, 267)


def test_sigterm_leaves_a_checkpoint_too(each_engine, tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    try:
        Smoe(GREY, 8).sparsify(**RUN, checkpoint=tmp_path / "c.npz", progress=lambda s: (
            s.iteration == 26 and signal.raise_signal(signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Smoe.from_checkpoint(tmp_path / "c.npz", GREY).resume().params.num_kernels == 14
