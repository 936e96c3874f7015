"""The public functions that draw and evaluate, and what every engine offers them."""

import inspect
import re

import numpy as np
import pytest
from helpers import (
    assert_same_model,
    picture,
    random_model,
    relative_error,
)

import smoe_np
from smoe_np import engine
from smoe_np.engine_numpy import NumpyEngine

pytestmark = pytest.mark.usefixtures("each_engine")


def test_render_gives_the_axes_of_the_model():
    grey, colour = random_model(10, K=5), random_model(10, K=5, C=3)
    assert smoe_np.render(grey, (7, 9)).shape == (7, 9)
    assert smoe_np.render(colour, (7, 9)).shape == (7, 9, 3)
    assert smoe_np.render(random_model(10, K=5, D=3), (3, 4, 5)).shape == (3, 4, 5)
    assert smoe_np.render(grey, np.array([7, 9])).shape == (7, 9)
    assert smoe_np.render(grey, (7, 9)).dtype == np.float32
    assert smoe_np.render(grey, (7, 9), dtype=np.float64).dtype == np.float64


def test_a_model_renders_alike_at_any_resolution():
    params = random_model(11, K=20)
    small, large = smoe_np.render(params, (20, 30)), smoe_np.render(params, (60, 90))
    np.testing.assert_allclose(large[1::3, 1::3], small, atol=1e-5)


def test_arguments_are_left_as_they_were():
    params, image = random_model(12, K=8), picture((20, 20))[..., 0]
    before, picture_before = params.copy(), image.copy()
    smoe_np.render(params, (9, 9)), smoe_np.gating(params, (9, 9))
    smoe_np.loss_and_gradients(params, image, 0.1, 0.1)
    assert_same_model(params, before)
    np.testing.assert_array_equal(image, picture_before)


@pytest.mark.parametrize(("dtype", "step"), [(np.uint8, 5), (np.uint16, 1300)])
def test_integers_are_scaled_by_the_maximum_of_their_type(dtype, step):
    params, image = random_model(13, K=4), step * np.arange(48, dtype=dtype).reshape(6, 8)
    found = smoe_np.loss_and_gradients(params, image, dtype="float64")
    wanted = smoe_np.loss_and_gradients(params, image / np.iinfo(image.dtype).max, dtype="float64")
    assert found[0] == pytest.approx(wanted[0], rel=1e-12)
    assert relative_error(found[1].A, wanted[1].A) < 1e-12


def test_channel_axis_says_what_the_axes_are():
    volume = picture((5, 6, 3))[..., 0]
    as_volume = smoe_np.loss_and_gradients(random_model(14, K=4, D=3), volume, channel_axis=None)
    as_colour = smoe_np.loss_and_gradients(random_model(14, K=4, C=3), volume)
    assert as_volume[1].num_dims == 3
    assert as_colour[1].num_channels == 3


WRONG = [
    (lambda p: smoe_np.render(p, (8, 8), backend="gpu"), ValueError, "backend must be one of"),
    (lambda p: smoe_np.render(p, (8, 8), dtype="int32"), ValueError, "dtype must be"),
    (lambda p: smoe_np.render(p, (8, 8), dtype="float16"), ValueError, "dtype must be"),
    (lambda p: smoe_np.render(p, (8, 8), dtype="no such type"), ValueError, "dtype must be"),
    (lambda p: smoe_np.render(p, 8), ValueError, "shape must be"),
    (lambda p: smoe_np.render(p, (8,)), ValueError, "2 sizes of at least 1"),
    (lambda p: smoe_np.render(p, (8, 8, 8)), ValueError, "2 sizes of at least 1"),
    (lambda p: smoe_np.render(p, (8, 0)), ValueError, "2 sizes of at least 1"),
    (lambda p: smoe_np.render(p, (8, -8)), ValueError, "2 sizes of at least 1"),
    (lambda p: smoe_np.render(p, (8.5, 8)), (ValueError, TypeError), "shape"),
    (lambda p: smoe_np.render(p, "88"), (ValueError, TypeError), "shape"),
    (lambda p: smoe_np.render(p, (8, "x")), (ValueError, TypeError), "shape"),
    (lambda p: smoe_np.gating(p, (8,)), ValueError, "2 sizes of at least 1"),
    (lambda p: smoe_np.render(p.select([]), (8, 8)), ValueError, "no kernels"),
    (lambda p: smoe_np.render(p.map(np.negative), (8, 8)), ValueError,
     "no kernels|no weight above 0"),
    (lambda p: smoe_np.render(p.map(lambda a: a * (a.ndim != 3)), (8, 8)), ValueError, "no extent"),
    (lambda p: smoe_np.render({}, (8, 8)), TypeError, "params must be a SmoeParams"),
    (lambda p: smoe_np.loss_and_gradients({}, np.zeros((8, 8))), TypeError,
     "params must be a SmoeParams"),
    (lambda p: smoe_np.loss_and_gradients(p.map(np.negative), np.zeros((8, 8))), ValueError,
     "pis must be above 0"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8, 3))), ValueError, "3 channels"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros(8)), ValueError, "has 1 dimension and"),
    (lambda p: smoe_np.loss_and_gradients(p, np.full((8, 8), 2.0)), ValueError, "image"),
    (lambda p: smoe_np.loss_and_gradients(p, np.full((8, 8), np.nan)), ValueError, "image"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8), complex)), TypeError, "image"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8)), backend=""), ValueError, "backend"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8)), dtype=int), ValueError, "dtype"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8)), l1reg=-1), ValueError, "l1reg"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8)), l1reg=np.nan), ValueError, "l1reg"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8)), l1reg="much"), TypeError, "l1reg"),
    (lambda p: smoe_np.loss_and_gradients(p, np.zeros((8, 8)), bandwidth_reg=np.inf), ValueError,
     "bandwidth_reg"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_arguments_are_refused_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call(random_model(15, K=3))


def test_auto_is_an_engine_that_gives_the_same_picture():
    params = random_model(16, K=9)
    np.testing.assert_allclose(smoe_np.render(params, (30, 20), backend="auto"),
                               smoe_np.render(params, (30, 20), backend="numpy"), atol=1e-5)


def public(kind, what):
    """Of a class, the public attributes that ``what`` is true of, by name."""
    found = {name: inspect.getattr_static(kind, name) for name in dir(kind) if name[0] != "_"}
    return {name: member for name, member in found.items() if what(member)}


def is_method(member):
    return inspect.isfunction(member) or isinstance(member, staticmethod)


@pytest.mark.parametrize("kind", engine.ENGINES.values())
def test_all_engines_have_the_same_methods_with_the_same_signatures(kind):
    wanted, found = (public(k, is_method) for k in (NumpyEngine, kind))
    assert found.keys() == wanted.keys()
    assert len(found) >= 10
    for name in wanted:
        assert inspect.signature(getattr(kind, name)) == inspect.signature(
            getattr(NumpyEngine, name)), name
        assert type(found[name]) is type(wanted[name]), name
        assert found[name].__doc__, name
    assert inspect.signature(kind) == inspect.signature(NumpyEngine)


@pytest.mark.parametrize("kind", engine.ENGINES.values())
def test_what_is_a_property_of_one_engine_every_engine_has(kind):
    if kind.why_not() is not None:
        pytest.skip(kind.why_not())
    made = kind((12, 9), picture((12, 9)))
    for other in engine.ENGINES.values():
        for name in public(other, lambda member: isinstance(member, property)):
            getattr(made, name)
    made.threads = 1  # which may be set
    assert made.threads == 1
    assert engine.ENGINES[made.name] is kind


@pytest.mark.parametrize("name", list(engine.ENGINES))
def test_every_engine_offers_what_the_door_promises_and_no_method_more(name):
    promised = set(re.findall(r"``([a-z_]+)``", engine.__doc__)) - {"smoe_np"}
    kind = engine.ENGINES[name]
    assert promised >= public(kind, is_method).keys()
    if kind.why_not() is not None:
        pytest.skip(kind.why_not())
    made = kind((12, 9), picture((12, 9)))
    assert [one for one in promised if not hasattr(made, one)] == []
    params = random_model(17, K=5)
    for method in ("loss_and_gradients", "loss", "render", "gating", "memory_needed"):
        getattr(made, method)(params)
    made.restore(made.state())
    made.keep(np.ones(5, bool))
