"""Fits of large pictures begin on smaller ones: these, their sizes, and that nothing is lost."""

import math
import weakref

import numpy as np
import pytest
from fits import assert_same_fit, interrupt_at
from helpers import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe, coarse, files, fit, psnr
from smoe_np.coarse import Sizes, smaller, stages
from smoe_np.fit import COARSE, LEAST_ITERATIONS, Plan
from smoe_np.pixels import as_float
from smoe_np.recipe import Recipe

GREY = picture((28, 33))[..., 0]
RUN = {"kernels": 8, "iterations": 60, "val_iter": 17}
SIZES = [(0, 12), (18, 17), (36, 23), (51, 33)]  # of GREY: from which iteration on which


def begin_smaller(patch):
    """Have fits of pictures of some hundred pixels begin on smaller ones."""
    patch.setattr(coarse, "LEAST_PIXELS", 10)
    patch.setattr(coarse, "LEAST_SIDE", 8)
    patch.setattr(fit, "COARSE", ((0.3, 15), (0.6, 30), (0.85, 58)))


@pytest.fixture
def small_ones(monkeypatch):
    begin_smaller(monkeypatch)


@pytest.fixture(scope="module")
def whole_fits(each_engine):
    """Fits without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        begin_smaller(patch)
        return {dtype: Smoe(GREY, dtype=dtype).fit(**RUN) for dtype in ("float32", "float64")}


# ---- smaller pictures


@given(shape=st.lists(st.integers(1, 15), min_size=1, max_size=3), channels=st.integers(1, 2),
       part=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_each_pixel_is_the_mean_over_its_area(shape, channels, part, seed):
    picture = np.random.default_rng(seed).random((*shape, channels))
    longest = max(1, math.floor(part * max(shape)))
    side = max(shape) / longest
    found = smaller(picture, longest)
    assert found.shape == (*(max(1, math.floor(n / side + 1e-9)) for n in shape), channels)
    fine = 6  # samples of an old pixel along each axis are as good as means, for whole sides
    if abs(side * fine - round(side * fine)) > 1e-9:
        return
    for d in range(len(shape)):
        picture = np.repeat(picture, fine, axis=d)
    step = round(side * fine)
    for place in np.ndindex(found.shape[:-1]):
        area = tuple(slice(step * i, step * (i + 1)) for i in place)
        np.testing.assert_allclose(found[place], picture[area].reshape(-1, channels).mean(0))


@settings(max_examples=40)
@given(shape=st.lists(st.integers(9, 40), min_size=1, max_size=3), part=st.floats(0.3, 1.0))
def test_a_model_of_the_one_is_a_model_of_the_other(shape, part):
    # what is linear in the domain is what it was at the centres of pixels
    def of(shape, longest):
        centres = np.meshgrid(*[(np.arange(n) + 0.5) / longest for n in shape], indexing="ij")
        return sum((d + 1) * u for d, u in enumerate(centres))[..., None]

    longest = math.floor(part * max(shape))
    found = smaller(of(shape, max(shape)), longest)
    inside = tuple(slice(0, n - 1) for n in found.shape[:-1])
    exact = of(found.shape[:-1], longest)
    # a mean of some pixels, of which those at the ends count in part, is off by less than one
    np.testing.assert_allclose(found[inside], exact[inside], atol=0.26 * len(shape) ** 2 / longest)


def test_precision_and_range_stay():
    found = smaller(np.ones((31, 20, 3), np.float32), 11)
    assert found.dtype == np.float32
    assert abs(found - 1).max() < 1e-6
    assert found.flags.c_contiguous


# ---- their sizes


@given(shape=st.lists(st.integers(1, 9000), min_size=1, max_size=3),
       kernels=st.integers(1, 100000))
def test_pictures_grow_to_their_full_size(shape, kernels):
    found = stages(shape, kernels, COARSE)
    assert found[-1].longest == max(shape)
    assert found[-1].until == math.inf
    sizes = [stage.longest for stage in found]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)
    if math.prod(shape) < 1.9 * COARSE[0][1] * kernels:
        assert len(found) == 1
    pixels_at = dict(COARSE)
    for stage in found[:-1]:
        pixels = pixels_at[stage.until]
        n = np.array(shape) * stage.longest / max(shape)
        assert n.min() > 31
        assert n.prod() > 0.9 * max(pixels * kernels if n.min() > 33 else 0, 10000)
        assert max(shape) > 1.3 * stage.longest


def test_a_picture_of_few_pixels_for_each_kernel_is_regressed_as_it_is():
    assert len(stages((512, 512), 900, COARSE)) == len(stages((99, 99), 1, COARSE)) == 1
    assert len(stages((20, 20000), 1, COARSE)) == 1
    assert len(stages((4000, 6000), 1000, COARSE)) == 1 + len(COARSE)


# ---- fits


def sizes_of(monkeypatch):
    """The iterations from which on steps are taken on pictures of which size."""
    seen, advance = [], Plan.advance

    def spied(self, engine, params, adam, steps, lowest, at_most, iteration, until):
        done = advance(self, engine, params, adam, steps, lowest, at_most, iteration, until)
        if not seen or seen[-1][1] != max(engine.shape):
            seen.append((iteration, max(engine.shape)))
        return done

    monkeypatch.setattr(Plan, "advance", spied)
    return seen


def test_a_fit_begins_on_smaller_pictures(each_engine, small_ones, monkeypatch):
    seen = sizes_of(monkeypatch)
    smoe = Smoe(GREY).fit(**RUN)
    assert seen == SIZES
    assert smoe.params.num_kernels == 8
    assert [r.iteration for r in smoe.history] == [0, 17, 34, 51, 60]


def test_a_recipe_may_say_no(each_engine, small_ones, monkeypatch):
    seen = sizes_of(monkeypatch)
    Smoe(GREY).fit(**RUN, recipe=Recipe(coarse=False))
    assert seen == [(0, 33)]


def test_what_is_told_is_of_the_picture_itself(each_engine, small_ones):
    def look(smoe):
        told = smoe.history[-1].psnr
        assert abs(told - psnr(smoe.reconstruction, as_float(GREY))) < 1e-3

    Smoe(GREY).fit(**{**RUN, "val_iter": 5}, callbacks=[look])


@pytest.mark.parametrize("sharpness", [0.3, 1000])
def test_kernels_are_as_sharp_as_wanted_and_do_not_hide(each_engine, small_ones, sharpness,
                                                        monkeypatch):
    monkeypatch.setattr(fit, "SHARPEST", 0.7)

    def look(smoe):
        if smoe.iteration in (17, 34, 51):
            longest = {17: 12, 34: 17, 51: 23}[smoe.iteration]
            most = min(sharpness * 33, 0.7 * longest)
            sharpest.append(np.linalg.norm(smoe.params.A, axis=2).max() / most)

    sharpest = []
    Smoe(GREY).fit(**RUN, sharpness=sharpness, callbacks=[look])
    assert 0.9 < max(sharpest) < 1.001


@pytest.mark.parametrize(("dtype", "at"), [
    *[("float32", at) for at in (1, 17, 18, 35, 36, 40, 51, 52)], ("float64", 18), ("float64", 40)])
def test_an_interrupted_fit_goes_on_bit_for_bit(whole_fits, small_ones, dtype, at, tmp_path):
    smoe, path, whole = Smoe(GREY, dtype=dtype), tmp_path / "c.npz", whole_fits[dtype]
    with pytest.raises(KeyboardInterrupt):
        smoe.fit(**RUN, checkpoint=path, progress=interrupt_at(at))
    assert smoe.iteration == at
    again = Smoe.from_checkpoint(path, GREY)
    assert_same_fit(again, smoe)
    for interrupted in (smoe, again):
        assert_same_fit(interrupted.resume(), whole)


@pytest.mark.parametrize("at", [0, 34, 51, 60])
def test_a_checkpoint_of_a_validation_goes_on_bit_for_bit(whole_fits, small_ones, at, tmp_path):
    path, whole = tmp_path / "c.npz", whole_fits["float32"]
    Smoe(GREY).fit(**RUN, callbacks=[
        lambda smoe: smoe.save_checkpoint(path) if smoe.iteration == at else None])
    assert_same_fit(Smoe.from_checkpoint(path, GREY).resume(), whole)


def test_a_fit_to_a_psnr_begins_each_try_on_smaller_pictures(each_engine, small_ones, monkeypatch):
    seen = sizes_of(monkeypatch)
    smoe = Smoe(GREY).fit(psnr=22, iterations=30)
    assert sum(longest < 33 for _, longest in seen) >= 1
    assert smoe.history[-1].psnr >= 22
    assert abs(smoe.history[-1].psnr - psnr(smoe.reconstruction, as_float(GREY))) < 1e-3


def test_a_large_picture_loses_nothing(each_engine):
    large = picture((240, 230))[..., 0]
    assert len(stages(large.shape, 20, COARSE)) > 1
    found, wanted = (Smoe(large).fit(kernels=20, iterations=150, val_iter=150,
                                     recipe=Recipe(coarse=coarse)).history[-1].psnr
                     for coarse in (True, False))
    assert found > wanted - 0.3


# ---- engines of smaller pictures


def interrupted_at(at, **options):
    smoe = Smoe(GREY, **options)
    with pytest.raises(KeyboardInterrupt):
        smoe.fit(**RUN, progress=interrupt_at(at))
    return smoe


def test_another_model_that_is_set_is_in_the_checkpoint(each_engine, small_ones, tmp_path):
    smoe = interrupted_at(24)
    smoe.params = smoe.params.select(np.arange(smoe.params.num_kernels) < 5)
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", GREY)
    assert_same_fit(again.resume(), smoe.resume())


def test_what_diverges_on_a_smaller_picture_leaves_a_checkpoint(each_engine, small_ones, tmp_path,
                                                                monkeypatch):
    advance = Plan.advance

    def fails(self, engine, params, adam, steps, lowest, at_most, iteration, until):
        done = advance(self, engine, params, adam, steps, lowest, at_most, iteration, until)
        return done._replace(failure="it fails" if params.num_kernels == 8 else None)

    monkeypatch.setattr(Plan, "advance", fails)
    smoe, path = Smoe(GREY), tmp_path / "c.npz"
    with pytest.warns(RuntimeWarning, match="it fails"):
        smoe.fit(**{**RUN, "val_iter": 3}, checkpoint=path)
    assert smoe.params.num_kernels < 8  # the best is one of before all were there
    again = Smoe.from_checkpoint(path, GREY)
    assert again.params.num_kernels == smoe.params.num_kernels


def test_no_engine_of_a_smaller_picture_is_kept(each_engine, small_ones):
    engines, sizes = [], Sizes.engine

    def seen(self, engine, iteration, until):
        found = sizes(self, engine, iteration, until)
        if found is not engine and all(found is not one() for one in engines):
            alive.append(sum(one() is not None for one in engines))
            engines.append(weakref.ref(found))
        return found

    alive = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sizes, "engine", seen)
        smoe = Smoe(GREY).fit(**RUN)
        assert len(engines) == 3
        assert alive == [0, 0, 0]
        assert all(one() is None for one in engines)
        smoe.fit(kernels=8, iterations=2)
        assert len(engines) > 3
        assert all(one() is None for one in engines)


def test_threads_that_are_set_on_the_way_are_used(each_engine, small_ones):
    def look(smoe):
        smoe.engine.threads = 3
        if smoe.iteration in (10, 20, 40):
            used.append(smoe._engine_of_steps().threads)

    used = []
    Smoe(GREY).fit(**RUN, progress=look)
    assert set(used) == {3}


def test_an_end_at_0_is_an_end(small_ones, tmp_path):
    path = tmp_path / "c.npz"
    interrupted_at(25).save_checkpoint(path)
    arrays, facts = files.load_arrays(path)
    files.save_arrays(path, arrays, {**facts, "until": 0})
    assert Smoe.from_checkpoint(path, GREY).resume().iteration == 25


def test_an_event_that_is_broken_off_is_made_good(each_engine, small_ones, monkeypatch):
    def no_memory(*arguments):
        monkeypatch.undo()
        raise MemoryError

    whole = Smoe(GREY).fit(**RUN, recipe=Recipe(coarse=False))
    smoe = Smoe(GREY)
    monkeypatch.setattr(fit, "relocate", no_memory)
    with pytest.raises(MemoryError):
        smoe.fit(**RUN, recipe=Recipe(coarse=False))
    assert_same_fit(smoe.resume(), whole)


# ---- budgets of seconds


@given(seconds=st.floats(0, 1e6), iteration=st.integers(0, 10000), paces=st.lists(
       st.tuples(st.integers(0, 5), st.floats(1e-6, 1e3)), min_size=1, max_size=6),
       shape=st.tuples(st.integers(1, 9000), st.integers(1, 9000)), aside=st.floats(0, 1))
def test_the_end_is_when_the_seconds_are_used_up(seconds, iteration, paces, shape, aside):
    sizes = Sizes(shape, 50, COARSE)
    for number, pace in paces:
        for _ in range(2):
            sizes.note(sizes.stages[number % len(sizes.stages)].longest, 10, 10 * pace)
    assert sizes.knows
    until = sizes.end(iteration, seconds, aside)
    assert until >= iteration

    def needed(until):
        total, begin = 0.0, iteration
        for stage in sizes.stages:
            end = max(begin, min(stage.until, 1.0) * until)
            total += (end - begin) * (sizes._pace(stage.longest) + aside)
            begin = end
        return total

    assert needed(until) <= seconds * (1 + 1e-9)
    assert needed(until + 1) >= seconds * (1 - 1e-9)


def test_steps_of_larger_pictures_are_foretold_to_be_dearer():
    sizes = Sizes((4000, 6000), 1000, COARSE)
    first, last = sizes.stages[0].longest, sizes.stages[-1].longest
    sizes.note(first, 0, 1.0)  # a step that failed tells nothing
    sizes.note(first, 3, 9.0)  # nor do the first ones, for which memory is claimed
    assert not sizes.knows
    sizes.note(first, 100, 1.0)
    assert sizes.knows
    assert sizes._pace(first) == 0.01
    paces = [sizes._pace(stage.longest) for stage in sizes.stages]
    assert paces == sorted(paces)
    assert paces[-1] > 50 * paces[0]
    sizes.note(last, 3, 9.0)
    assert sizes._pace(last) == paces[-1]
    sizes.note(last, 100, 2.0)
    assert sizes._pace(last) == 0.02
    sizes.note(last, 50, 2.0)  # what was before counts half
    assert sizes._pace(last) == 0.03
    assert sizes._pace(first) == 0.01


def test_in_a_budget_of_seconds_pictures_never_become_smaller_again(monkeypatch):
    seen = sizes_of(monkeypatch)
    smoe = Smoe(picture((600, 500))[..., 0]).fit(kernels=40, seconds=1.0)
    assert smoe.iteration == smoe.until > 20
    assert seen[0] == (0, 110)
    assert [longest for _, longest in seen] == sorted({longest for _, longest in seen})


def test_a_budget_is_too_small_for_any_step_but_some_are_taken():
    smoe = Smoe(picture((300, 200))[..., 0]).fit(kernels=40, seconds=1e-6)
    assert smoe.iteration == smoe.until == LEAST_ITERATIONS
    assert smoe.params.num_kernels == 40
