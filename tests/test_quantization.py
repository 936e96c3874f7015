"""Smoe.quantize: few bits that cost little, and a model that is what its file holds."""

import math
import signal

import numpy as np
import pytest
from fits import COLOURS, GREY, PICTURES, VOLUME
from helpers import assert_same_model, picture, random_model

from smoe_np import (
    Smoe,
    SmoeParams,
    allocate_bits,
    load_params,
    packed,
    psnr,
    quantization,
    render,
)
from smoe_np.allocation import BitsByBytes

EACH_ENGINE = pytest.mark.usefixtures("each_engine")  # others are of what engines share


def fitted(image=GREY, kernels=15, experts="affine", **options):
    return Smoe(image, **options).fit(kernels=kernels, experts=experts, iterations=40)


def rounded_at_once(params, bits):
    found = packed.rounded(packed.kinds_of(params.arrays()), bits)
    return quantization._of_kinds(params, found)


@EACH_ENGINE
@PICTURES
def test_a_quantized_model_is_what_its_file_holds(image, options, tmp_path):
    smoe = fitted(image, **options)
    before = smoe.history[:-1]
    bits = smoe.quantize(9).bits
    smoe.params.save(tmp_path / "model.smoe", bits=bits)
    found = load_params(tmp_path / "model.smoe")
    drawn = render(found, smoe.shape)
    assert np.abs(drawn.reshape(smoe.reconstruction.shape) - smoe.reconstruction).max() < 2e-3
    told = smoe.history[-1]
    target = smoe.engine.picture().reshape(drawn.shape)
    assert told.psnr == pytest.approx(psnr(target, drawn), abs=0.02)
    assert told.mse == pytest.approx(255**2 * told.loss)
    assert (smoe.history[:-1], told.iteration) == (before, 40)
    assert told.kernels == smoe.params.num_kernels
    assert_same_model(smoe.best_params, smoe.params)


@pytest.mark.parametrize("experts", ["affine", "constant"])
def test_what_is_not_rounded_yet_makes_up_for_what_is(experts):
    image, lost, lost_at_once = picture((40, 50))[..., 0], 0, 0
    for kernels in (100, 110):  # by each alone it is a matter of luck
        smoe = Smoe(image).fit(kernels=kernels, experts=experts, iterations=400)
        whole = smoe.history[-1].psnr
        how = quantization._how_to_allocate(smoe.engine, packed.kinds_of(smoe.params.arrays()))
        bits = allocate_bits(smoe.params, 8, *how)
        assert how[-1]["slopes" if experts == "affine" else "values"] == 1
        lost_at_once += whole - psnr(image, render(rounded_at_once(smoe.params, bits), smoe.shape))
        assert smoe.quantize(8).bits == bits
        lost += whole - smoe.history[-1].psnr
        assert bool(smoe.params.gamma_e.any()) == (experts == "affine")
    assert lost < lost_at_once / 2
    assert lost_at_once > 0.6


@EACH_ENGINE
def test_kinds_may_have_bits_of_their_own():
    smoe = fitted()
    kinds = packed.kinds_of(smoe.params.arrays())
    wanted = dict(zip(kinds, (7, 12, 9, 8, 6, 10)))
    assert smoe.quantize(wanted).bits == wanted
    for kind, numbers in packed.kinds_of(smoe.params.arrays()).items():
        step = (numbers.max() - numbers.min()) / (2 ** wanted[kind] - 1)
        on_grid = (numbers - numbers.min()) / step
        assert np.abs(on_grid - np.rint(on_grid)).max() < 0.1, kind


@pytest.mark.parametrize("image", [GREY, COLOURS])
def test_a_file_has_room_for_so_many_bytes_and_they_are_used(image, tmp_path):
    smoe = Smoe(image).fit(kernels=60, iterations=40)
    sizes = []
    for most in (500, 900):
        again = Smoe(image, params=smoe.params).quantize(bytes=most)
        again.params.save(tmp_path / "model.smoe", bits=again.bits)
        sizes.append((tmp_path / "model.smoe").stat().st_size)
        assert most - 2 * 60 * 6 / 8 < sizes[-1] <= most  # a bit of each of up to six numbers
    with pytest.raises(ValueError, match="bytes must be at least .* for these 60 kernels, with 4"):
        smoe.quantize(bytes=100)


def test_no_kind_of_numbers_could_have_a_bit_more_in_so_many_bytes():
    smoe = fitted(COLOURS)
    shared = BitsByBytes(smoe.params, *quantization._how_to_allocate(
        smoe.engine, packed.kinds_of(smoe.params.arrays())))
    filled = 0
    for most in range(shared.least, 3 * shared.least, 19):
        bits = shared.within(most)
        assert packed.packed_bytes(shared.arrays, bits) <= most
        for kind in bits:
            more = {**bits, kind: bits[kind] + 1}
            assert packed.packed_bytes(shared.arrays, more) > most, (most, bits, kind)
        filled += bits not in shared.choices
    assert filled > 3


def test_the_fewest_bytes_that_hold_a_model_are_enough(tmp_path, monkeypatch):
    smoe = fitted()
    least = packed.packed_bytes(smoe.params.arrays(), packed.FEWEST_BITS)
    monkeypatch.setattr(quantization, "packed_bytes", lambda *_: least + 1)  # as if training added
    smoe.quantize(bytes=least)
    smoe.params.save(tmp_path / "model.smoe", bits=smoe.bits)
    assert (tmp_path / "model.smoe").stat().st_size <= least


def test_what_training_adds_to_a_file_is_taken_off_again(monkeypatch):
    smoe = fitted()
    # of the model, and as it was foreseen; the third is so small as the bytes are
    sizes = iter([430, 360, 435, 350, 400])
    within, asked = BitsByBytes.within, []

    def noted(self, most):
        asked.append(most)
        return within(self, most)

    monkeypatch.setattr(BitsByBytes, "within", noted)
    monkeypatch.setattr(quantization, "packed_bytes", lambda *_: next(sizes))
    smoe.quantize(bytes=400)
    spare = quantization.SPARE_BYTES
    # fewer than were foreseen, or the same bits would be tried again
    assert asked == [400, 400 - 70 - spare, 400 - 85 - spare]


def test_a_few_bytes_too_many_cost_a_kernel_and_no_bits(monkeypatch):
    smoe = Smoe(picture((40, 50))[..., 0]).fit(kernels=60, iterations=100)
    bits = BitsByBytes(smoe.params, *quantization._how_to_allocate(
        smoe.engine, packed.kinds_of(smoe.params.arrays()))).within(600)
    whole = quantization._compensated(smoe.engine, smoe.params, bits, 30, ())
    most = packed.packed_bytes(whole.arrays(), bits) - 1
    allocation = type("", (), {"within": lambda self, most: bits, "least": 100})()
    lighter, same = quantization._fitting(smoe.engine, smoe.params, allocation, most, 30, ())
    assert same == bits
    assert lighter.num_kernels == whole.num_kernels - 1
    assert packed.packed_bytes(lighter.arrays(), bits) <= most
    again = rounded_at_once(lighter, bits)  # the ranges are as they were
    np.testing.assert_allclose(render(again, smoe.shape), render(lighter, smoe.shape), atol=1e-4)
    cost = smoe.engine.loss(lighter) - smoe.engine.loss(whole)
    by_itself = [smoe.engine.loss(whole.select(np.arange(whole.num_kernels) != k))
                 - smoe.engine.loss(whole) for k in range(whole.num_kernels)]
    assert cost <= np.quantile(by_itself, 0.3)


def test_many_bits_are_given_at_once_and_steps_need_not_be_taken(monkeypatch):
    monkeypatch.setattr(quantization, "_trained", None)  # to call it would fail
    smoe = fitted()
    before = smoe.params.copy()
    bits = smoe.quantize(20).bits
    assert_same_model(smoe.params, rounded_at_once(before, bits))
    smoe = fitted()
    bits = smoe.quantize(5, iterations=0).bits
    assert_same_model(smoe.params, rounded_at_once(before, bits))


def test_a_model_is_saved_with_its_bits_unless_others_are_given(tmp_path):
    smoe = fitted()
    for name, bits, wanted in (("plain", None, 16), ("nine", 9, None), ("few", None, None)):
        if wanted is None and smoe.bits is None:
            smoe.quantize(7)
        smoe.save(tmp_path / f"{name}.smoe", bits)
        load_params(tmp_path / f"{name}.smoe")
        size = (tmp_path / f"{name}.smoe").stat().st_size
        wanted = wanted or bits or smoe.bits
        assert size == packed.packed_bytes(smoe.params.arrays(), wanted)
    assert repr(smoe).startswith("<Smoe of 28×23 pixels, 1 channel, 15 kernels, at iteration 40")
    smoe.save(tmp_path / "model.npz")
    assert_same_model(load_params(tmp_path / "model.npz"), smoe.params)


def test_the_same_call_gives_the_same_bits(each_engine):
    models = []
    for _ in range(2):
        smoe = fitted(COLOURS)
        smoe.quantize(8, 10)
        models.append(smoe.params)
    assert_same_model(*models)


def test_a_model_that_is_quantized_again_with_its_bits_stays_as_it_is():
    smoe = fitted(VOLUME, channel_axis=None)
    bits = smoe.quantize(10).bits
    once = smoe.reconstruction
    smoe.quantize(bits)
    assert np.abs(smoe.reconstruction - once).max() < 1e-3


@EACH_ENGINE
def test_what_is_not_trained_is_rounded_alone():
    params = random_model(5, 12, sigma=0.15, slope=0.2, dtype=np.float32)
    image = render(params, (24, 31))  # to which no kernel does harm
    smoe = Smoe(image, params=params, train_pis=False, train_gammas=False)
    before = smoe.params.copy()
    bits = smoe.quantize(6).bits
    wanted = rounded_at_once(before, bits)
    assert packed.kinds_of(smoe.params.arrays())["weights"] == pytest.approx(
        packed.kinds_of(wanted.arrays())["weights"], abs=1e-4)
    told, = smoe.history  # of which there was none
    assert told is smoe.record
    assert told.psnr == pytest.approx(psnr(image, smoe.reconstruction), abs=0.01)


def with_harmful(params, count):
    """A model and its first kernels once more, but far too light."""
    arrays = {name: np.concatenate([array, array[:count]])
              for name, array in params.arrays().items()}
    arrays["nu_e"][-count:] += 9
    return SmoeParams(**arrays, image_shape=params.image_shape)


def test_the_room_of_kernels_that_leave_is_used():
    image = picture((40, 50))[..., 0]
    params = with_harmful(Smoe(image).fit(kernels=40, iterations=200).params, 10)
    smoe = Smoe(image, params=params).quantize(bytes=400)
    assert smoe.params.num_kernels <= 42
    assert 380 < packed.packed_bytes(smoe.params.arrays(), smoe.bits) <= 400


@EACH_ENGINE
def test_kernels_that_do_more_harm_than_good_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "FREE_LOSS", -100)  # however little rounding costs
    image = picture((40, 50))[..., 0]
    smoe = Smoe(image).fit(kernels=40, iterations=200)
    harmed = Smoe(image, params=with_harmful(smoe.params, 1))
    assert harmed.engine.weigh(harmed.params)[-1, 2] < 0
    bits = harmed.quantize(8, 1).bits
    assert harmed.params.num_kernels <= 40
    assert psnr(image, harmed.reconstruction) > smoe.history[-1].psnr - 3
    harmed.params.save(tmp_path / "model.smoe", bits=bits)
    found = Smoe(image, params=load_params(tmp_path / "model.smoe"))
    assert np.abs(found.reconstruction - harmed.reconstruction).max() < 2e-3


def test_kernels_at_the_ends_of_what_is_rounded_stay(monkeypatch):
    smoe = fitted()
    smoe.quantize(9)
    monkeypatch.setattr(smoe.engine, "weigh", lambda params: np.tile(
        -1.0 - np.arange(params.num_kernels)[:, None], 3))
    kinds = packed.kinds_of(smoe.params.arrays())
    every = quantization._harmful(smoe.engine, smoe.params, [])
    assert every[1:].all()
    assert not every[0]  # the least of the evils
    left = smoe.params.select(~quantization._harmful(smoe.engine, smoe.params, ["extents"]))
    assert left.num_kernels <= 3
    for end in (np.min, np.max):
        kept = packed.kinds_of(left.arrays())["extents"]
        assert end(kept) == pytest.approx(end(kinds["extents"]), abs=1e-6)


@EACH_ENGINE
def test_radial_kernels_stay_radial():
    smoe = Smoe(GREY, 4, radial=True).train(20)
    smoe.quantize(7)
    assert smoe.params.radial


def test_training_goes_on_from_the_quantized_model(each_engine):
    smoe = fitted()
    smoe.quantize(6)
    before = smoe.history[-1].psnr
    with np.errstate(all="ignore"):
        smoe.train(20, base_lr=1e-6, lr_div=1e6)
    assert smoe.history[-1].psnr > before - 0.5


@EACH_ENGINE
def test_interrupted_it_leaves_the_model_as_it_was(monkeypatch):
    smoe = fitted()
    before, history, moments = smoe.params.copy(), list(smoe.history), smoe.adam

    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(quantization, "_trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smoe.quantize(5)
    assert_same_model(smoe.params, before)
    assert (smoe.history, smoe.adam) == (history, moments)
    monkeypatch.undo()
    smoe.quantize(5)  # and it can be done yet
    assert smoe.history[-1] != history[-1]


@pytest.mark.parametrize(("arguments", "error", "match"), [
    ({"bits": 3}, ValueError, "bits must be 4 to 24, got 3"),
    ({"bits": 9, "bytes": 900}, ValueError, "quantize takes bits or bytes, not both"),
    ({"bytes": 0}, ValueError, "bytes must be at least 1, got 0"),
    ({"bytes": 9.5}, TypeError, "bytes must be a whole number, got 9.5"),
    ({"bits": math.nan}, ValueError, "bits must be 0 or more and finite, got nan"),
    ({"bits": "9"}, TypeError, "bits must be a number, got '9'"),
    ({"bits": {"weights": 9}}, ValueError, "bits must be one number, or a dict of .* without"),
    ({"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
    ({"iterations": 1.5}, TypeError, "iterations must be a whole number, got 1.5"),
])
def test_wrong_arguments_are_refused_in_words(arguments, error, match):
    with pytest.raises(error, match=match):
        fitted().quantize(**arguments)


@EACH_ENGINE
@pytest.mark.parametrize("how", ["by a signal", "by a callback"])
def test_a_fit_that_was_interrupted_is_finished_first(how):
    def interrupted(smoe):
        if smoe.iteration == 20 and how == "by a signal":
            signal.raise_signal(signal.SIGINT)
        elif smoe.iteration == 20:
            raise KeyboardInterrupt

    smoe = Smoe(GREY)
    with pytest.raises(KeyboardInterrupt):
        smoe.fit(kernels=15, iterations=40, val_iter=20, callbacks=[interrupted])
    with pytest.raises(ValueError, match=r"fit or sparsify was interrupted; .* resume\(\)"):
        smoe.quantize(8)
    smoe.resume()
    assert smoe.quantize(8).bits is not None


@EACH_ENGINE
def test_training_that_was_interrupted_goes_on_from_the_quantized_model():
    def interrupted(smoe):
        if smoe.iteration == 20:
            signal.raise_signal(signal.SIGINT)

    smoe = Smoe(GREY, 4)
    with pytest.raises(KeyboardInterrupt):
        smoe.train(60, val_iter=15, callbacks=[lambda smoe: None],
                   progress=interrupted)
    smoe.quantize(4, 0)  # so coarse that it seems to explode
    assert [one.iteration for one in smoe.history] == [0, 15, smoe.iteration]
    smoe.resume()
    assert (smoe.stopped, smoe.iteration) == (None, 60)


def test_bits_are_those_of_the_model_as_it_is(tmp_path):
    smoe = fitted()
    assert smoe.bits is None
    bits = smoe.quantize(9).bits
    smoe.save_checkpoint(tmp_path / "run.npz")
    assert Smoe.from_checkpoint(tmp_path / "run.npz", GREY).bits == bits == smoe.bits
    smoe.train(1, base_lr=1e-9)
    assert smoe.bits is None
    smoe.quantize(9)
    smoe.fit(kernels=5, iterations=20)
    assert smoe.bits is None


def test_what_no_file_can_hold_is_refused_before_anything_is_done():
    params = random_model(5, 12, sigma=0.15, dtype=np.float64)
    params.pis[0] = 1e-60
    smoe = Smoe(GREY, params=params, dtype="float64")
    with pytest.raises(ValueError, match="params has weights beyond what a packed file can hold"):
        smoe.quantize(10)


@EACH_ENGINE
def test_it_cannot_be_quantized_while_it_trains():
    with pytest.raises(RuntimeError, match="is training already"):
        Smoe(GREY, 3).train(2, callbacks=[lambda smoe: smoe.quantize()])
