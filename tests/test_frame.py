"""Each kernel's own frame: its gradients are derivatives, its steps know no size of anything."""

import math

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    gate_terms,
    gradient_errors,
    make_engine,
    picture,
    random_model,
    relative_error,
)
from kernel_runs import frame_settings
from scipy.linalg import expm

from smoe_np import dense, launch_native
from smoe_np.adam import BETA1, Adam
from smoe_np.frame import LARGEST_WEIGHT, SMALLEST_WEIGHT, retract, whitened
from smoe_np.params import NAMES, unchecked

DIMENSIONS = pytest.mark.parametrize("D", [1, 2, 3])
CHANNELS = pytest.mark.parametrize("C", [1, 3])
SHAPES = {1: (61,), 2: (13, 10), 3: (6, 5, 7)}
FREE = 0.0, math.inf  # bounds of A that bound nothing
MOVES = ("pis", "musX", "A")


def model_and_target(D, C, seed=0, K=5, **options):
    params = random_model(seed, K, D, C, sigma=0.3, anisotropy=3, slope=0.8,
                          level=(-0.8, 1.8), **options)
    return params, picture(SHAPES[D], C, seed)


def half_sum(params, target):
    """Half the sum of squared errors."""
    return dense.loss(params, target) * target.size / 2


def changes_like(params, seed, size=1.0):
    """A step for every number, as it is taken off: A's is lower triangular."""
    rng = np.random.default_rng(seed)
    changes = {name: size * rng.normal(size=array.shape)
               for name, array in params.arrays().items()}
    return {**changes, "A": np.tril(changes["A"])}


def derivatives(params, target, step=1e-6):
    """By each number of a step at 0, by central differences; ``retract`` takes steps off."""
    found = {}
    for name, array in params.arrays().items():
        found[name] = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            if name == "A" and index[2] > index[1]:
                continue
            change = np.zeros(array.shape)
            change[index] = step
            there, back = (half_sum(retract(params, {name: sign * change}, *FREE), target)
                           for sign in (-1, 1))
            found[name][index] = (there - back) / (2 * step)
    return found


def whitened_of_dense(params, target):
    return whitened(unchecked(dense.gradients(params, target)), params, target.size / 2)


def surfaces(params, shape):
    """Every kernel's expert at every pixel."""
    return gate_terms(params, shape)[3]


def factor_and_slope(params):
    """An expert in its kernel's frame: its value at the centre, and η = A⁻¹γ."""
    value = params.nu_e + np.einsum("kcd,kd->kc", params.gamma_e, params.musX)
    return value, np.linalg.solve(params.A, params.gamma_e.transpose(0, 2, 1)).transpose(0, 2, 1)


# ---- gradients


@DIMENSIONS
@CHANNELS
def test_whitened_gradients_are_the_derivatives_by_every_number_of_a_step(D, C):
    params, target = model_and_target(D, C)
    y = dense.render(params, SHAPES[D])
    assert ((y < 0) | (y > 1)).any()  # where the clip stops gradients is among it
    assert_gradients_agree(whitened_of_dense(params, target), derivatives(params, target), 1e-7)


def test_a_wrong_derivative_would_be_noticed():
    params, target = model_and_target(2, 1)
    right = derivatives(params, target)
    for name in NAMES:
        wrong = whitened_of_dense(params, target)
        setattr(wrong, name, getattr(wrong, name) * 1.001)
        assert gradient_errors(wrong, right)[name] > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("D", "C"), [(1, 1), (2, 1), (2, 3), (3, 1), (3, 3)])
def test_the_gradients_that_each_engine_follows_are_these(each_engine, D, C, dtype):
    params, target = model_and_target(D, C)
    params = params.astype(dtype)
    adam = Adam(params)
    make_engine(SHAPES[D], target, dtype).advance(params, adam, frame_settings(), math.inf, 1)
    found = adam.m.map(lambda m: m.astype(float) / (1 - BETA1))
    assert_gradients_agree(found, whitened_of_dense(params.astype(float), target),
                           {"float32": 1e-4, "float64": 1e-9}[dtype])


# ---- steps


@DIMENSIONS
@CHANNELS
def test_experts_stay_where_they_are_while_centre_and_shape_move(D, C):
    params, _ = model_and_target(D, C)
    changes = changes_like(params, 1, 0.3)
    moved = retract(params, {name: changes[name] for name in MOVES}, *FREE)
    assert relative_error(moved.musX, params.musX) > 0.02
    assert relative_error(moved.A, params.A) > 0.02
    np.testing.assert_array_equal(surfaces(moved, SHAPES[D]), surfaces(params, SHAPES[D]))


@DIMENSIONS
@CHANNELS
def test_experts_change_by_what_is_asked_in_the_frame_that_comes_of_the_step(D, C):
    params, _ = model_and_target(D, C)
    changes = changes_like(params, 2, 0.3)
    moved = retract(params, {name: changes[name] for name in MOVES}, *FREE)
    stepped = retract(params, changes, *FREE)
    for name in MOVES:
        np.testing.assert_array_equal(getattr(stepped, name), getattr(moved, name))
    (value, slope), (before, slope_before) = map(factor_and_slope, (stepped, moved))
    np.testing.assert_allclose(value, before - changes["nu_e"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(slope, slope_before - changes["gamma_e"], rtol=1e-10, atol=1e-10)


@DIMENSIONS
def test_a_step_is_the_exponential_exactly_on_the_diagonal_and_to_first_order_below(D):
    params, _ = model_and_target(D, 1)
    for size, order in ((1e-2, 1), (1e-3, 1), (1.0, 0)):
        changes = changes_like(params, 3, size)
        stepped = retract(params, {"A": changes["A"]}, *FREE).A
        omega = -changes["A"]
        exact = params.A @ np.stack([expm(one) for one in omega])
        np.testing.assert_allclose(np.diagonal(stepped, axis1=1, axis2=2),
                                   np.diagonal(exact, axis1=1, axis2=2), rtol=1e-12)
        assert not np.triu(stepped, 1).any()
        if order:
            assert relative_error(stepped, exact) < 5 * size**2
    # in two dimensions: b ← b e^Ω00 + c Ω10
    if D == 2:
        a, b, c = params.A[:, 0, 0], params.A[:, 1, 0], params.A[:, 1, 1]
        np.testing.assert_allclose(stepped[:, 1, 0],
                                   b * np.exp(omega[:, 0, 0]) + c * omega[:, 1, 0], rtol=1e-12)
        np.testing.assert_allclose(stepped[:, 0, 0], a * np.exp(omega[:, 0, 0]), rtol=1e-12)


@DIMENSIONS
def test_a_centre_moves_by_the_step_in_its_own_frame(D):
    params, _ = model_and_target(D, 1)
    changes = changes_like(params, 4)
    moved = retract(params, {name: changes[name] for name in ("musX", "A")}, *FREE).musX
    z = np.einsum("kij,ki->kj", params.A, moved - params.musX)  # of the frame before the step
    np.testing.assert_allclose(z, -changes["musX"], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_are_multiplied_and_stay_within_their_bounds(dtype):
    params, _ = model_and_target(2, 1, K=4, dtype=dtype)
    changes = {"pis": np.array([0.5, -0.5, 90, -90])}
    stepped = retract(params, changes, *FREE).pis
    assert stepped.dtype == dtype
    np.testing.assert_allclose(stepped[:2], params.pis[:2] * np.exp([-0.5, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(stepped[2:], [SMALLEST_WEIGHT, LARGEST_WEIGHT], rtol=1e-6)
    assert (stepped > 0).all()
    assert np.isfinite(stepped).all()


@DIMENSIONS
@CHANNELS
def test_an_expert_is_neither_steeper_nor_further_from_a_picture_than_is_allowed(D, C):
    params, _ = model_and_target(D, C, K=30)
    changes = {name: changes_like(params, 7, 0.5)[name] for name in ("nu_e", "gamma_e")}

    def in_frame(model):  # values at the centres, and slopes along z
        eta = np.linalg.solve(model.A, np.swapaxes(model.gamma_e, 1, 2))
        return model.nu_e + (model.gamma_e * model.musX[:, None]).sum(2), np.swapaxes(eta, 1, 2)

    value, slope = in_frame(retract(params, changes, *FREE))
    assert value.min() < -0.2
    assert value.max() > 1.2
    assert np.abs(slope).max() > 0.3
    bounded = in_frame(retract(params, changes, *FREE, 0.2, 0.3))
    np.testing.assert_allclose(bounded[0], np.clip(value, -0.2, 1.2), atol=1e-12)
    np.testing.assert_allclose(bounded[1], np.clip(slope, -0.3, 0.3), atol=1e-12)
    still = in_frame(retract(params, {}, *FREE, 0.2, 0.3))  # what is not trained stays
    for found, wanted in zip(still, in_frame(params), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


@DIMENSIONS
def test_a_shape_is_never_too_flat_nor_too_sharp_along_any_axis(D):
    params, _ = model_and_target(D, 1, K=30)
    changes = {"A": changes_like(params, 5, 3.0)["A"]}
    free = retract(params, changes, *FREE).A
    bounded = retract(params, changes, 1.5, 20.0).A
    sharpness, diagonal = np.linalg.norm(free, axis=2), np.diagonal(free, axis1=1, axis2=2)
    too_sharp, too_flat = sharpness > 20, diagonal < 1.5
    assert too_sharp.any()
    assert too_flat.any()
    shortened = free * np.where(too_sharp, 20 / sharpness, 1)[:, :, None]
    np.testing.assert_allclose(np.tril(bounded, -1), np.tril(shortened, -1), rtol=1e-12)
    np.testing.assert_allclose(
        np.diagonal(bounded, axis1=1, axis2=2),
        np.maximum(np.diagonal(shortened, axis1=1, axis2=2), 1.5), rtol=1e-12)


def test_nothing_is_changed_in_what_is_given_and_nothing_by_a_step_of_none():
    params, target = model_and_target(2, 3, dtype=np.float32)
    params.image_shape = (13, 10)
    before = params.copy()
    stepped = retract(params, changes_like(params, 6), *FREE)
    gradients = unchecked(dense.gradients(params, target))
    assert whitened(gradients, params, 1.0).dtype == np.float64
    still = retract(params, {}, *FREE)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(params, name), getattr(before, name))
        np.testing.assert_array_equal(getattr(still, name), getattr(before, name))
        assert not np.array_equal(getattr(stepped, name), getattr(before, name))
    assert stepped.dtype == np.float32
    assert stepped.image_shape == (13, 10)


# ---- sizes


def scaled(params, factor):
    """The same model in another unit of length."""
    return unchecked({"pis": params.pis, "musX": params.musX * factor, "A": params.A / factor,
                      "gamma_e": params.gamma_e / factor, "nu_e": params.nu_e})


@DIMENSIONS
@CHANNELS
@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_gradients_and_steps_do_not_know_the_unit_of_length(monkeypatch, D, C, factor):
    params, target = model_and_target(D, C)
    gradients = whitened_of_dense(params, target)
    changes = changes_like(params, 7, 0.3)
    stepped = scaled(retract(params, changes, *FREE), factor)
    plain = dense.gradients(params, target)
    centres = dense.pixel_centres
    monkeypatch.setattr(dense, "pixel_centres", lambda shape: factor * centres(shape))
    assert_gradients_agree(whitened_of_dense(scaled(params, factor), target), gradients, 1e-10)
    assert_gradients_agree(retract(scaled(params, factor), changes, *FREE), stepped, 1e-10)
    others = gradient_errors(dense.gradients(scaled(params, factor), target), plain)
    assert min(others[name] for name in ("musX", "A", "gamma_e")) > 0.5


@pytest.mark.parametrize("D", [1, 2, 3])
def test_a_step_is_the_same_in_a_larger_picture_that_is_perfect_elsewhere(each_engine, D):
    params, target = model_and_target(D, 1)
    corner = tuple(slice(n) for n in SHAPES[D])
    small = scaled(params, max(SHAPES[D]))  # in pixels
    gradients, models = [], []
    for shape in (SHAPES[D], tuple(2 * n + 3 for n in SHAPES[D])):
        model = scaled(small, 1 / max(shape))
        there = np.clip(dense.render(model, shape), 0, 1)
        there[corner] = target
        adam = Adam(model)
        settings = frame_settings(least_diagonal=0, most_sharpness=math.inf)
        done = make_engine(shape, there, "float64").advance(model, adam, settings, math.inf, 1)
        gradients.append(adam.m)
        models.append(scaled(done.params, max(shape)))
    assert_gradients_agree(gradients[1], gradients[0], 1e-9)
    assert_gradients_agree(models[1], models[0], 1e-8)


# ---- steps of engines


def steps_by_hand(params, target, settings, steps, already, born, beta2):
    """The model after some steps, by the definition's gradients and the formulas alone."""
    frame = settings.own_frame
    m, v = (dict.fromkeys(settings.rates, 0.0) for _ in range(2))
    for t in range(already + 1, already + steps + 1):
        way = np.clip((t - frame.fade_from) / (frame.fade_to - frame.fade_from), 0, 1)
        part = frame.fade_to_part
        fading = part + (1 - part) * (1 + math.cos(math.pi * way)) / 2
        correction = np.sqrt(1 - beta2 ** (t - born)) / (1 - 0.9 ** (t - born))
        gradients = whitened_of_dense(params, target).arrays()
        for d in range(params.num_dims):  # half N C times λ_U Σ A_dd, by the logarithm of A_dd
            gradients["A"][:, d, d] += (target.size / 2 * settings.bandwidth_reg
                                        * params.A[:, d, d])
        if settings.l1reg:  # half N C times λ_S/K₀, by π itself
            gradients["pis"] = (gradients["pis"] / params.pis
                                + target.size / 2 * settings.l1reg / settings.initial_kernels)
        changes = {}
        for name, rate in settings.rates.items():
            m[name] = 0.9 * m[name] + 0.1 * gradients[name]
            v[name] = beta2 * v[name] + (1 - beta2) * gradients[name] ** 2
            with_axes = correction.reshape(-1, *[1] * (gradients[name].ndim - 1))
            changes[name] = (rate * fading * with_axes * m[name]
                             / (np.sqrt(v[name]) + settings.adam_eps))
        plain = changes.pop("pis", 0) if settings.l1reg else 0
        params = retract(params, changes, frame.least_diagonal, frame.most_sharpness,
                         frame.most_beyond, frame.most_slope)
        params.pis = params.pis - plain
    return params


@pytest.mark.parametrize(("D", "C", "dtype"), [
    (1, 1, "float64"), (2, 1, "float32"), (2, 1, "float64"), (2, 3, "float64"), (3, 3, "float64")])
@pytest.mark.parametrize("trained", ["all", "no slopes", "no weights"])
@pytest.mark.parametrize("already", [5, 5000])
@pytest.mark.parametrize("regularisers", [
    {}, {"bandwidth_reg": 1e-4}, {"l1reg": 3.0, "initial_kernels": 9}],
    ids=["no regulariser", "bandwidth", "sparsity"])
def test_steps_of_each_engine_are_those_by_hand(each_engine, D, C, dtype, trained, already,
                                                regularisers):
    # kernels are born at different times, rates fade, and shapes reach their bounds
    params, target = model_and_target(D, C, seed=3, K=8, dtype=np.dtype(dtype))
    untrained = {"all": None, "no slopes": "gamma_e", "no weights": "pis"}[trained]
    fading = {"fade_from": already + 2, "fade_to": already + 7, "fade_to_part": 0.1}
    adam = Adam(params, beta2=0.98)
    adam.steps, adam.born = already, np.array([0, 5, 3, 0, 4, 5, 1, 5], np.int32)
    exact = params.astype(float)

    def by_hand(**bounds):
        settings = frame_settings(**fading, **bounds)._replace(**regularisers)
        if "l1reg" in regularisers:
            settings.rates["pis"] = 0.05 * float(exact.pis.min())  # none is to leave
        settings.rates.pop(untrained, None)
        return settings, steps_by_hand(exact, target, settings, 9, already, adam.born, 0.98)

    free = by_hand()[1]
    least = np.quantile(np.diagonal(free.A, axis1=1, axis2=2), 0.3)
    most = np.quantile(np.linalg.norm(free.A, axis=2), 0.7)
    settings, wanted = by_hand(least_diagonal=least, most_sharpness=most)
    assert relative_error(wanted.A, free.A) > 0.01  # the bounds have been reached
    engine, found, taken = make_engine(SHAPES[D], target, dtype), params, 0
    while taken < 9:
        done = engine.advance(found, adam, settings, math.inf, 9 - taken)
        found, taken = done.params, taken + done.steps
    assert adam.steps == already + 9
    moves = {name: getattr(wanted, name) - getattr(exact, name) for name in NAMES}
    for name in NAMES:
        moved = getattr(found, name).astype(float) - getattr(exact, name)
        error = relative_error(moved, moves[name])
        assert error < {"float32": 2e-3, "float64": 1e-8}[dtype], (name, error)
    if untrained is not None:
        np.testing.assert_array_equal(getattr(found, untrained), getattr(params, untrained))
        assert not getattr(adam.m, untrained).any()


def test_what_is_not_trained_stays_as_it_is_within_its_bounds_or_not(each_engine):
    params, target = random_model(4, 12, sigma=0.1, dtype=np.float32), picture(SHAPES[2])
    settings = frame_settings(least_diagonal=20.0, most_sharpness=21.0)  # which none has
    settings = settings._replace(rates={"nu_e": 0.01})
    moved = make_engine(SHAPES[2], target, "float32").advance(
        params, Adam(params), settings, math.inf, 1).params
    for name in ("pis", "musX", "A", "gamma_e"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(params, name), err_msg=name)
    assert (moved.nu_e != params.nu_e).all()


def test_with_sparsity_kernels_leave_and_the_others_go_on(each_engine):
    params, target = model_and_target(2, 1, K=8)
    settings, adam = frame_settings()._replace(l1reg=1e4), Adam(params, beta2=0.98)
    settings.rates["pis"] = 0.3 * float(np.sort(params.pis)[1])
    engine, heaviest = make_engine(SHAPES[2], target, "float64"), np.sort(params.pis)[-6:]
    while adam.steps < 4:
        done = engine.advance(params, adam, settings, math.inf, 4 - adam.steps)
        params = done.params
    assert params.num_kernels == 6
    assert adam.m.num_kernels == len(adam.born) == 6
    np.testing.assert_allclose(np.sort(params.pis), heaviest - 4 * settings.rates["pis"],
                               rtol=0.02)


def test_weights_stay_within_their_bounds_whatever_the_rate(each_engine):
    params, target = model_and_target(2, 1, dtype=np.float32)
    settings, adam = frame_settings(), Adam(params)
    settings.rates.update(pis=1e3)
    engine = make_engine(SHAPES[2], target)
    for _ in range(3):
        done = engine.advance(params, adam, settings, math.inf, 1)
        assert done.failure is None
        params = done.params
        assert params.num_kernels == 5
        assert (params.pis >= 0.99e-30).all()
        assert (params.pis <= 1.01e8).all()
    assert params.pis.min() < 1e-20
    assert params.pis.max() > 0.99e8


def test_many_steps_at_once_are_steps_one_by_one(each_engine, monkeypatch):
    monkeypatch.setattr(launch_native, "STEADY", 10.0)  # seconds until it looks up
    params, target = model_and_target(2, 1, dtype=np.float32)
    settings, models, calls = frame_settings(fade_from=3, fade_to=9), [], []
    for at_once in (1, 10):
        engine, adam, model = make_engine(SHAPES[2], target), Adam(params, 0.98), params
        calls.append(0)
        while adam.steps < 10:
            model = engine.advance(model, adam, settings, math.inf,
                                   min(at_once, 10 - adam.steps)).params
            calls[-1] += 1
        models.append(model)
    assert calls == [10, 1 if each_engine == "native" else 10]
    assert_same_model(*models)
