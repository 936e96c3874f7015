"""What a fit is asked for: its settings, what they stand for, and its plan."""

import json
import math

import numpy as np
import pytest
from fits import COLOURS, GREY
from helpers import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe
from smoe_np.allocation import BitsByBytes
from smoe_np.fit import Plan, fit_settings, kernels_for, scalars_of, settings_of
from smoe_np.initialize import spread_kernels
from smoe_np.packed import numbers_of
from smoe_np.params import NAMES
from smoe_np.recipe import Recipe, usual_recipe

# ---- settings

WRONG = [
    ({}, ValueError, "exactly one of kernels, psnr, scalars, bytes as its target, got none"),
    ({"kernels": 9, "psnr": 30}, ValueError, "exactly one of .*, got kernels and psnr"),
    ({"scalars": 90, "bytes": 90, "psnr": 3}, ValueError, "got psnr and scalars and bytes"),
    *[({name: 0}, ValueError, f"{name} must be at least 1, got 0")
      for name in ("kernels", "scalars", "bytes")],
    *[({name: 10**400}, ValueError, f"{name} must be at most 2147483647")
      for name in ("kernels", "scalars", "bytes")],
    ({"kernels": 9, "seconds": 1e308}, ValueError, "seconds must be at most 1e.09, got 1e.308"),
    *[({name: wrong}, TypeError, f"{name} must be a whole number, got")
      for name in ("kernels", "scalars", "bytes") for wrong in (2.5, "9", [9])],
    *[({"psnr": wrong}, ValueError, f"psnr must be above 0 and finite, got {wrong}")
      for wrong in (0, -3.0, math.nan, math.inf)],
    ({"psnr": "30"}, TypeError, "psnr must be a number, got '30'"),
    ({"scalars": 8}, ValueError,
     "scalars must be at least 9, which a single kernel of 2 dimensions and 1 channels takes, got"),
    ({"bytes": 95}, ValueError, "bytes must be at least 96, which a single kernel"),
    ({"bytes": 999, "bits": 3.9}, ValueError, "bits must be 4 to 24, got 3.9"),
    ({"bytes": 999, "bits": 25}, ValueError, "bits must be 4 to 24, got 25"),
    ({"bytes": 999, "bits": "9"}, TypeError, "bits must be a number, got '9'"),
    ({"scalars": 999, "bits": 9}, ValueError, "bits goes with bytes"),
    ({"scalars": 6, "experts": "constant"}, ValueError, "scalars must be at least 7"),
    ({"kernels": 9, "iterations": 9, "seconds": 9}, ValueError, "iterations or seconds, not both"),
    ({"psnr": 30, "seconds": 9}, ValueError, "seconds goes with kernels, scalars or bytes"),
    ({"kernels": 9, "iterations": 0}, ValueError, "iterations must be at least 1, got 0"),
    *[({"kernels": 9, "iterations": wrong}, TypeError, "iterations must be a whole number, got")
      for wrong in (1.5, "100", [9])],
    *[({"kernels": 9, "seconds": wrong}, ValueError, "seconds must be above 0 and finite, got")
      for wrong in (0, -1, math.nan, math.inf)],
    ({"kernels": 9, "seconds": "1"}, TypeError, "seconds must be a number, got '1'"),
    *[({"kernels": 9, "experts": wrong}, ValueError, "experts must be one of .*affine.*constant")
      for wrong in ("linear", None, 1)],
    ({"kernels": 9, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ({"kernels": 9, "seed": None}, TypeError, "seed must be a whole number, got None"),
    ({"kernels": 9, "val_iter": 0}, ValueError, "val_iter must be at least 1, got 0"),
    ({"kernels": 9, "val_iter": 2.5}, TypeError, "val_iter must be a whole number, got 2.5"),
    ({"kernels": 9, "recipe": "slow"}, TypeError, "recipe must be a smoe_np.recipe.Recipe, got 's"),
    ({"kernels": 9, "recipe": Recipe(rate=-1)}, ValueError,
     "recipe.rate must be a finite number of 0 or more, got -1"),
    ({"kernels": 9, "recipe": Recipe(rate=True)}, ValueError, "recipe.rate must be a finite numb"),
    ({"kernels": 9, "recipe": Recipe(turn_every=1.5)}, ValueError,
     "recipe.turn_every must be a whole number of 0 or more, got 1.5"),
    ({"kernels": 9, "recipe": Recipe(), "sharpness": 1}, ValueError,
     "give recipe or sharpness, not both"),
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
                  {"bytes": 999, "experts": "constant", "val_iter": 5, "bits": 11.5,
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


def test_numbers_of_a_recipe_may_be_those_of_numpy():
    given = Recipe(turn_every=np.int64(7), rate=np.float32(0.25), tau=5)
    found = fit_settings(kernels=9, recipe=given)
    assert (found["recipe"]["turn_every"], found["recipe"]["rate"]) == (7, 0.25)
    assert json.loads(json.dumps(found)) == found


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
       experts=st.sampled_from(["affine", "constant"]))
def test_a_budget_is_never_exceeded_and_a_kernel_more_would_exceed_it(value, D, C, experts):
    found = fit_settings(scalars=value, experts=experts)
    each = scalars_of(D, C, experts == "affine")
    if value < each:
        with pytest.raises(ValueError, match=f"scalars must be at least {each}, .*, got {value}"):
            kernels_for(found, (10**6,) * D, C)
    else:
        K = kernels_for(found, (10**6,) * D, C)
        assert K * each <= value < (K + 1) * each


@settings(max_examples=30, deadline=None)
@given(value=st.integers(90, 3000), D=st.integers(1, 3), C=st.integers(1, 4),
       affine=st.booleans(), bits=st.none() | st.floats(4, 24))
def test_the_file_of_a_model_has_no_more_bytes_than_are_wanted(tmp_path_factory, value, D, C,
                                                               affine, bits):
    found = fit_settings(bytes=value, experts="affine" if affine else "constant", bits=bits)
    try:
        K = kernels_for(found, (10**6,) * D, C)
    except ValueError:  # not even one kernel
        assert value < 200
        return
    path = tmp_path_factory.mktemp("bytes") / "model.smoe"
    model = random_model(0, K, D, C, slope=0.3 if affine else 0.0)
    model.image_shape = (12,) * D
    shared = BitsByBytes(model, backend="numpy").within(value)
    model.save(path, bits=shared)
    assert path.stat().st_size <= value
    numbers = numbers_of(D, C, affine)
    mean = sum(numbers[kind] * number for kind, number in shared.items()) / sum(numbers.values())
    assert mean > (bits or 10) - 4.5  # channels of this model have nothing to do with each other


@pytest.mark.parametrize(("target", "image", "experts", "slopes"), [
    ({"kernels": 5}, GREY, None, True), ({"bytes": 300}, GREY, None, True),
    ({"kernels": 5}, COLOURS, None, True), ({"psnr": 15}, COLOURS, None, True),
    ({"bytes": 300}, COLOURS, None, False), ({"scalars": 100}, COLOURS, None, False),
    ({"bytes": 300}, COLOURS, "affine", True), ({"kernels": 5}, GREY, "constant", False)])
def test_experts_of_colours_have_no_slopes_where_numbers_count(target, image, experts, slopes):
    asked = {} if experts is None else {"experts": experts}
    smoe = Smoe(image, backend="numpy").fit(**target, iterations=5, **asked)
    assert bool(smoe.params.gamma_e.any()) == slopes
    assert smoe.settings["experts"] == ("affine" if slopes else "constant")


def test_sharpness_is_that_of_the_recipe():
    assert fit_settings(kernels=3, sharpness=1.5)["recipe"]["most_sharpness"] == 1.5
    assert fit_settings(kernels=3)["recipe"]["most_sharpness"] == 3
    image = GREY[:12, :12]
    sharpest = [Smoe(image, backend="numpy").fit(kernels=20, iterations=60, sharpness=most).params.A
                for most in (None, 0.3)]
    found = [np.sqrt((A * A).sum(2)).max() / 12 for A in sharpest]
    assert found[1] < 0.3001 < found[0]
    with pytest.raises(ValueError, match="sharpness must be at least 0.01, got 0.001"):
        fit_settings(kernels=3, sharpness=1e-3)


def test_radial_kernels_are_not_fitted():
    smoe = Smoe(GREY, 3, radial=True, backend="numpy")
    with pytest.raises(ValueError, match="radial is True, but fit steers kernels"):
        smoe.fit(kernels=9)
    assert smoe.train(1).iteration == 1


def test_what_a_smoe_does_not_train_is_not_fitted_silently():
    with pytest.raises(ValueError, match="train_pis is False, but fit trains weights"):
        Smoe(GREY, train_pis=False, backend="numpy").fit(kernels=4)
    smoe = Smoe(GREY, train_gammas=False, backend="numpy")
    with pytest.raises(ValueError, match="train_gammas is False, but affine experts have slopes"):
        smoe.fit(kernels=4, experts="affine")
    for experts in ("constant", "auto"):
        assert not smoe.fit(kernels=4, iterations=3, experts=experts).params.gamma_e.any()


@pytest.mark.parametrize("wrong", [
    {"most_sharpness": 0.0}, {"least_diagonal": 0.0}, {"least_diagonal": 4.0}, {"jitter": 1e6},
    {"start": 1.5}, {"removal": 2.0}, {"turn_every": 10**12}, {"events_until": 1.1}])
def test_numbers_of_a_recipe_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"recipe\.(.*\.)?{next(iter(wrong))}"):
        fit_settings(kernels=9, recipe=Recipe(**wrong))


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
    # doubling at each event, what is there at first can become all; without any, no grid is larger
    assert plan.begin <= K
    assert plan.begin * 2 ** len(due) >= K or plan.counts == spread_kernels((64, 64), K)


def test_where_kernels_are_few_they_may_be_wide():
    for kernels, wanted in ((9, 0.3 / 40), (36, 0.3 / 20)):
        plan = Plan(fit_settings(kernels=kernels, recipe=Recipe(least_diagonal=0.015)),
                    (120, 120), kernels, 200)
        assert plan.steps(200, kernels, 1.0).own_frame.least_diagonal == pytest.approx(wanted * 120)


def test_rates_are_those_of_the_recipe_by_parameter_and_fade_in_time():
    recipe = Recipe(rate=0.5, weight_rate=0.6, shape_rate=0.4, expert_rate=0.3, slope_rate=0.2,
                    fade_from=0.5, fade_to_part=0.1, least_diagonal=0.01, most_sharpness=3)
    for experts, names in (("affine", set(NAMES)), ("constant", set(NAMES) - {"gamma_e"})):
        plan = Plan(fit_settings(kernels=9, iterations=200, experts=experts, recipe=recipe),
                    (50, 80), 9, 200)
        found = plan.steps(200, 4, 1.0)
        assert set(found.rates) == names
        wanted = {"pis": 0.6, "musX": 0.5, "A": 0.4, "nu_e": 0.3, "gamma_e": 0.2}
        assert found.rates == {name: wanted[name] for name in names}
        of_faint = plan.steps(200, 4, 0.01).rates
        assert {name: of_faint[name] / wanted[name] for name in names} == pytest.approx(
            {name: 0.01 if name in ("nu_e", "gamma_e") else 1 for name in names})
        frame = found.own_frame
        assert (frame.least_diagonal, frame.most_sharpness) == (0.01 * 80, 3 * 80)
        assert [frame.fading(t) for t in (1, 100, 150, 200, 300)] == pytest.approx(
            [1, 1, 0.55, 0.1, 0.1])
        assert (found.l1reg, found.bandwidth_reg, found.radial, found.grad_clip) == (0, 0, False,
                                                                                    None)
