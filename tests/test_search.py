"""The search for the fewest kernels of a PSNR."""

import math
import warnings

import numpy as np
import pytest
from fits import GREY, SEARCH, assert_same_fit, interrupt_at, same_history
from helpers import assert_same_model, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe, psnr
from smoe_np.search import DECIBELS, FIRST_TRY, NEAREST_RATIO, SHORT, TRIES, WITHIN, Try, next_try


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
        found.kernels <= max(one.kernels * NEAREST_RATIO, one.kernels + 1)
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
            or found.kernels <= max(less * NEAREST_RATIO, less + 1))


def test_a_search_takes_few_tries_where_things_are_as_usual():
    for wanted in (30.3, 38, 44.7, 61):
        tried = search_on(lambda K, n: 10 + DECIBELS * math.log2(K) - 1.9 * (n < 1000), wanted,
                          512 * 512)
        assert len(tried) <= 4
        assert wanted <= tried[-1].psnr <= wanted + WITHIN


def test_a_search_gives_up_after_some_tries():
    def curve(K, iterations):  # short fits promise what others do not keep
        return 10 + 4 * math.log2(K) if iterations < 1000 else 25 + 0.05 * math.log2(K)

    tried = search_on(curve, 25.6, 10**6)
    assert len([one for one in tried if one.iterations == 1000]) == TRIES


def test_a_kernel_more_or_less_is_near_enough():
    tried = [Try(1, 100, 20), Try(2, 100, 22), Try(5, 1000, 29.9), Try(6, 1000, 30.6)]
    assert next_try(tried, 30, 1000, 1000) is None
    tried = [Try(1, 100, 20), Try(2, 100, 22), Try(1000, 1000, 29.9), Try(1004, 1000, 30.6)]
    assert next_try(tried, 30, 10**6, 1000) is None
    between = next_try([*tried[:3], Try(1100, 1000, 30.6)], 30, 10**6, 1000)
    assert 1000 < between.kernels < 1100


def test_a_try_that_reaches_more_kernels_than_a_worse_one_is_found_out_between_them():
    # a larger fit may be worse by chance
    tried = [Try(9, 100, 28), Try(10, 100, 28.3), Try(40, 1000, 31), Try(20, 1000, 29.5),
             Try(30, 1000, 29.4)]
    following = next_try(tried, 30, 1000, 1000)
    assert 30 < following.kernels < 40


def test_a_search_does_not_give_up_a_kernel_short(each_engine):
    smoe = Smoe(picture((40, 35))[..., 0]).fit(psnr=26, iterations=40)
    assert smoe.history[-1].psnr >= 26


def test_strides_grow_as_long_as_all_fall_short_or_none_does():
    short = [Try(9, 100, 20.0), Try(19, 100, 24.0)]
    up = [*short, Try(20, 1000, 22.0), Try(24, 1000, 22.1)]
    assert next_try(up, 30, 10**6, 1000).kernels >= 32
    down = [*short, Try(500, 1000, 40.0), Try(400, 1000, 39.9)]
    assert next_try(down, 30, 10**6, 1000).kernels <= 200
    # but never from many kernels to one, where half of them still reach the target
    half = [Try(9, 100, 20.0), Try(9, 100, 20.0), Try(444, 1000, 35.6), Try(286, 1000, 33.4)]
    assert 100 < next_try(half, 33, 10**6, 1000).kernels < 200
