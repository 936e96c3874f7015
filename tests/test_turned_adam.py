"""Adam along axes of each kernel's own: the formula, its axes, and what it is good for."""

import math

import numpy as np
import pytest
from helpers import assert_same_model, make_engine, picture, random_model, relative_error
from kernel_runs import frame_settings

from smoe_np import launch_native
from smoe_np.adam import Adam
from smoe_np.param_rows import names_of_row, rows_of
from smoe_np.params import NAMES
from smoe_np.steps import take_step
from smoe_np.turned_adam import TurnedAdam, turn

RATES = {"pis": 0.1, "musX": 0.1, "A": 0.05, "gamma_e": 0.02, "nu_e": 0.03}
SHAPES = {1: (61,), 2: (13, 10), 3: (6, 5, 7)}


def gradients_like(params, seed, scale=1.0):
    """Gradients whose numbers are not independent."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=params.num_kernels)
    gradients = params.map(lambda a: scale * (rng.normal(size=a.shape)
                                              + 3 * common.reshape(-1, *[1] * (a.ndim - 1))))
    gradients.A = np.tril(gradients.A)
    return gradients


def gram_schmidt(rows):
    """Orthonormal rows that span what the first rows given do, one by one."""
    found = []
    for row in rows:
        for axis in found:
            row = row - (row @ axis) * axis
        found.append(row / np.linalg.norm(row))
    return np.array(found)


def by_hand(gradients, rates, eps, beta2, turn_every, fading):
    """What each step takes off the numbers of one kernel, (steps, n)."""
    n = len(rates)
    m, S, axes, steps = np.zeros(n), np.zeros((n, n)), np.eye(n), []
    for t, gradient in enumerate(gradients, start=1):
        g = rates * gradient
        m = 0.9 * m + 0.1 * g
        S = beta2 * S + (1 - beta2) * np.outer(g, g)
        # v, which went along with the axes, is this
        v = np.array([axis @ S @ axis for axis in axes])
        along = (axes @ m) / (np.sqrt(v) + eps + 1e-3 * np.sqrt(v.mean()))
        correction = math.sqrt(1 - beta2**t) / (1 - 0.9**t)
        steps.append(rates * correction * fading * (axes.T @ along))
        if t % turn_every == 0:
            axes = gram_schmidt(axes @ S + 1e-6 * np.trace(S) / n * axes)
    return np.array(steps)


@pytest.mark.parametrize(("D", "C"), [(1, 1), (2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("trained", [NAMES, ("pis", "musX", "A", "nu_e"), ("nu_e",)])
def test_steps_follow_the_formula(D, C, trained):
    params = random_model(0, 4, D, C)
    rates = {name: RATES[name] for name in trained}
    adam = TurnedAdam(params, 0.95, 3, trained)
    gradients = [gradients_like(params, seed) for seed in range(14)]
    found = [adam.changes(g, rates, 1e-3, fading=0.5) for g in gradients]
    assert set(found[0]) == set(trained)
    names = names_of_row(D, C)
    columns = [i for i, name in enumerate(names) if name in trained]
    rate = np.array([RATES[names[i]] for i in columns])
    rows = np.array([rows_of(g) for g in gradients])[:, :, columns]
    for k in range(4):
        wanted = by_hand(rows[:, k], rate, 1e-3, 0.95, 3, 0.5)
        for name in trained:
            at = [i for i, column in enumerate(columns) if names[column] == name]
            of_kernel = np.array([change[name][k] for change in found])
            if name == "A":
                of_kernel = of_kernel[(slice(None), *np.tril_indices(D))]
            np.testing.assert_allclose(of_kernel.reshape(len(found), -1), wanted[:, at],
                                       rtol=1e-5, atol=1e-8)


def test_one_number_alone_is_stepped_as_by_adam():
    params = random_model(1, 5, C=1)
    rates, eps = {"nu_e": 0.03}, 1e-12
    turned, plain = TurnedAdam(params, 0.98, 2, ("nu_e",)), Adam(params, 0.98)
    for seed in range(9):
        gradients = gradients_like(params, seed)
        found, wanted = (adam.changes(gradients, rates, eps)["nu_e"] for adam in (turned, plain))
        # it only adds a thousandth of √v to √v
        np.testing.assert_allclose(found * 1.001, wanted, rtol=1e-5)


# ---- axes


def random_products(seed, K, n, decay):
    """Symmetric matrices of eigenvalues 1, decay, decay², … , and their eigenvectors as rows."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(K, n, n)))[0]
    return np.swapaxes(axes, 1, 2) @ (decay ** np.arange(n)[:, None] * axes), axes


@pytest.mark.parametrize("n", [1, 2, 9, 15])
def test_axes_turn_to_the_eigenvectors_and_stay_there(n):
    outer, wanted = random_products(2, 6, n, 0.2)
    axes = np.broadcast_to(np.eye(n), (6, n, n))
    for _ in range(30):
        axes = turn(axes, outer)
        np.testing.assert_allclose(axes @ np.swapaxes(axes, 1, 2), np.eye(n)[None].repeat(6, 0),
                                   atol=1e-9)
    found = np.abs((axes * wanted).sum(axis=2))[:, :5]  # those of less are hid by the damping
    np.testing.assert_allclose(found, 1, atol=1e-6)


def test_axes_stay_where_there_is_no_gradient_and_where_there_is_only_one():
    axes = random_products(3, 2, 4, 0.5)[1]
    np.testing.assert_array_equal(turn(axes, np.zeros((2, 4, 4))), axes)
    g = np.array([3.0, -1, 2, 0.5])
    turned = turn(axes, np.broadcast_to(np.outer(g, g), (2, 4, 4)))
    np.testing.assert_allclose(turned @ np.swapaxes(turned, 1, 2), np.eye(4)[None].repeat(2, 0),
                               atol=1e-9)
    np.testing.assert_allclose(np.abs(turned[:, 0] @ g), np.linalg.norm(g), rtol=1e-5)


def test_two_numbers_that_do_nearly_the_same_are_no_hindrance():
    # (100 (x + y))² + (x − y)²: Adam crosses the valley, along axes it goes down
    def final(adam, params):
        for step in range(400):
            x, y = params.nu_e[:, 0], params.nu_e[:, 1]
            gradients = params.map(np.zeros_like)
            gradients.nu_e = np.stack([2e4 * (x + y) + 2 * (x - y), 2e4 * (x + y) - 2 * (x - y)], 1)
            rates = {"nu_e": 0.1 * (1 - step / 400)}
            params.nu_e = params.nu_e - adam.changes(gradients, rates, 1e-12)["nu_e"]
        x, y = params.nu_e[:, 0], params.nu_e[:, 1]
        return ((100 * (x + y)) ** 2 + (x - y) ** 2).max()

    params = random_model(4, 20, C=2)
    params.nu_e = np.random.default_rng(5).normal(size=(20, 2))
    along_axes = final(TurnedAdam(params, 0.98, 5, ("nu_e",)), params.copy())
    assert along_axes < 1e-3 * final(Adam(params, 0.98), params.copy())


# ---- kernels that leave and are born, and copies


def some_steps(adam, params, first, last):
    return [adam.changes(gradients_like(params, seed), RATES, 1e-12) for seed in range(first, last)]


def test_axes_leave_with_their_kernels_and_the_others_go_on_alike():
    whole = random_model(6, 8, C=3)
    adam = TurnedAdam(whole, 0.98, 3, NAMES)
    some_steps(adam, whole, 0, 5)
    staying = np.array([True, False, True, True, False, True, True, False])
    part = adam.copy()
    part.keep(staying)
    for seed in range(5, 10):
        gradients = gradients_like(whole, seed)
        all_of_them = adam.changes(gradients, RATES, 1e-12)
        for name, change in part.changes(gradients.select(staying), RATES, 1e-12).items():
            np.testing.assert_array_equal(change, all_of_them[name][staying])


def test_a_kernel_that_is_born_begins_as_one_that_was_there_at_the_start():
    params = random_model(7, 4)
    adam = TurnedAdam(params, 0.98, 3, NAMES)
    some_steps(adam, params, 0, 5)
    adam.add_born(np.array([2, -1, 0, -1, 3]))
    larger = random_model(8, 5)
    fresh = TurnedAdam(larger, 0.98, 3, NAMES)
    for seed in range(7):
        gradients = gradients_like(larger, seed)
        found, wanted = (one.changes(gradients, RATES, 1e-12) for one in (adam, fresh))
        for name in NAMES:
            np.testing.assert_array_equal(found[name][[1, 3]], wanted[name][[1, 3]])
            assert (found[name][0] != wanted[name][0]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_copy_and_a_restored_state_go_on_bit_for_bit(dtype):
    params = random_model(9, 6, dtype=dtype)
    adam = TurnedAdam(params, 0.98, 3, NAMES)
    some_steps(adam, params, 0, 4)
    saved = {name: array.copy() for name, array in adam.arrays().items()}
    copied, restored = adam.copy(), adam.anew(params)
    restored.restore(saved, 4)
    assert restored.axes.dtype == copied.outer.dtype == dtype
    wanted = some_steps(adam, params, 4, 9)
    for one in (copied, restored):
        for found, right in zip(some_steps(one, params, 4, 9), wanted):
            for name in NAMES:
                np.testing.assert_array_equal(found[name], right[name])


# ---- in engines


@pytest.mark.parametrize(("D", "C", "dtype"), [
    (1, 1, "float64"), (2, 1, "float32"), (2, 1, "float64"), (2, 3, "float64"), (3, 3, "float64")])
@pytest.mark.parametrize("untrained", [None, "gamma_e", "pis"])
def test_steps_of_each_engine_are_those_of_its_gradients(each_engine, D, C, dtype, untrained):
    # kernels are born at different times, and rates fade
    target = picture(SHAPES[D], C, 3)
    params = random_model(3, 8, D, C, sigma=0.3, anisotropy=3, slope=0.8, dtype=np.dtype(dtype))
    settings = frame_settings(fade_from=6, fade_to=14)
    settings.rates.update(A=0.06, gamma_e=0.02)
    settings.rates.pop(untrained, None)
    adam = TurnedAdam(params, 0.95, 3, tuple(settings.rates))
    adam.steps, adam.born = 5, np.array([0, 5, 3, 0, 4, 5, 1, 5], np.int32)
    # as after many steps: where S is all but 0, rounding would choose the axes
    n = len(adam.columns)
    adam.outer[...] = 1e-6 * random_products(4, 8, n, 0.7)[0]
    adam.v = adam.v.map(lambda array: array + 1e-6)
    by_steps, wanted = adam.copy(), params.astype(float)
    by_steps.m, by_steps.v = by_steps.m.astype(float), by_steps.v.astype(float)
    by_steps.outer, by_steps.axes = by_steps.outer.astype(float), by_steps.axes.astype(float)
    reference = make_engine(SHAPES[D], target, "float64")
    for _ in range(9):
        wanted = take_step(reference, wanted, by_steps, settings, math.inf).params
    engine, found = make_engine(SHAPES[D], target, dtype), params
    while adam.steps < 14:
        done = engine.advance(found, adam, settings, math.inf, 14 - adam.steps)
        assert done.failure is None
        found = done.params
    tolerance = {"float32": 1e-2, "float64": 1e-7}[dtype]
    for name in NAMES:
        start = getattr(params, name).astype(float)
        moved = relative_error(getattr(found, name) - start, getattr(wanted, name) - start)
        assert moved < tolerance, (name, moved)
    assert relative_error(adam.outer, by_steps.outer) < tolerance
    turned = adam.axes.astype(float)
    np.testing.assert_allclose(turned @ np.swapaxes(turned, 1, 2), np.eye(n)[None].repeat(8, 0),
                               atol={"float32": 1e-5, "float64": 1e-9}[dtype])
    assert (np.abs(turned - np.eye(n)).max(axis=(1, 2)) > 0.1).all()
    if untrained is not None:
        np.testing.assert_array_equal(getattr(found, untrained), getattr(params, untrained))


def test_many_steps_at_once_are_steps_one_by_one(each_engine, monkeypatch):
    monkeypatch.setattr(launch_native, "STEADY", 10.0)  # seconds until it looks up
    target = picture(SHAPES[2], 1, 0)
    params = random_model(0, 5, sigma=0.3, dtype=np.float32)
    models = []
    for at_once in (1, 10):
        engine, model = make_engine(SHAPES[2], target), params
        adam = TurnedAdam(params, 0.98, 3, NAMES)
        while adam.steps < 10:
            model = engine.advance(model, adam, frame_settings(), math.inf,
                                   min(at_once, 10 - adam.steps)).params
        models.append(model)
    assert_same_model(*models)


def test_where_kernels_leave_the_axes_of_the_others_stay_theirs(each_engine):
    target = picture(SHAPES[2], 1, 0)
    params = random_model(0, 8, sigma=0.3)
    settings = frame_settings()._replace(l1reg=1e4)
    settings.rates["pis"] = 0.3 * float(np.sort(params.pis)[1])
    adam = TurnedAdam(params, 0.98, 2, NAMES)
    by_steps, wanted = adam.copy(), params
    reference, engine = (make_engine(SHAPES[2], target, "float64") for _ in range(2))
    for _ in range(7):
        wanted = take_step(reference, wanted, by_steps, settings, math.inf).params
    while adam.steps < 7:
        params = engine.advance(params, adam, settings, math.inf, 7 - adam.steps).params
    assert params.num_kernels == wanted.num_kernels < 8
    assert relative_error(adam.outer, by_steps.outer) < 1e-6
    first = np.abs((adam.axes * by_steps.axes).sum(axis=2))[:, :3]  # those of the largest S
    np.testing.assert_allclose(first, 1, atol=1e-6)


def test_rates_of_other_parameters_than_have_axes_are_refused(each_engine):
    target, params = picture(SHAPES[2], 1, 0), random_model(0, 4, sigma=0.3)
    for trained in (("pis",), (*NAMES[:-1],)):
        with pytest.raises(ValueError, match="axes are of pis"):
            make_engine(SHAPES[2], target, "float64").advance(
                params, TurnedAdam(params, 0.98, 2, trained), frame_settings(), math.inf, 1)
