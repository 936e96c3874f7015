"""Colours of gating maps, in which neighbours differ, and of scales."""


import numpy as np
import pytest
from figures import as_oklab
from helpers import random_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import smoe_np
from smoe_np import colours

matplotlib = pytest.importorskip("matplotlib")


# ---- colours


def touching_pairs_of_the_same_colour(labels, painted):
    """Pairs of pixels side by side or corner to corner, of two labels and one colour."""
    count = 0
    H, W = labels.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for row in range(H - down):
            for column in range(max(0, -right), W - max(0, right)):
                a, b = (row, column), (row + down, column + right)
                count += bool(labels[a] != labels[b] and (painted[a] == painted[b]).all())
    return count


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
                  elements=st.integers(0, 60)))
def test_kernels_that_touch_have_colours_that_differ(labels):
    painted = colours.in_colours(labels)
    assert painted.shape == (*labels.shape, 3)
    assert touching_pairs_of_the_same_colour(labels, painted) == 0
    for label in np.unique(labels):  # and each kernel has one
        assert len(np.unique(painted[labels == label], axis=0)) == 1


def test_a_map_where_everything_touches_has_as_many_colours_as_kernels():
    n = 40
    assert n > colours.USUAL_COLOURS
    labels = np.random.default_rng(0).integers(0, n, (200, 200))
    painted = colours.in_colours(labels)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == n


def test_the_gating_map_of_a_model_needs_the_usual_colours_only():
    model = random_model(0, 400, sigma=0.02, anisotropy=3)
    labels = smoe_np.gating(model, (96, 96), backend="numpy")
    painted = colours.in_colours(labels)
    assert touching_pairs_of_the_same_colour(labels, painted) == 0
    used = {tuple(colour) for colour in painted.reshape(-1, 3)}
    assert used <= {tuple(colour) for colour in colours.palette(colours.USUAL_COLOURS)}


def test_the_same_map_has_the_same_colours_and_one_that_moved_nearly_the_same():
    model = random_model(1, 200, sigma=0.03)
    labels = smoe_np.gating(model, (80, 80), backend="numpy")
    painted = colours.in_colours(labels)
    np.testing.assert_array_equal(painted, colours.in_colours(labels.copy()))
    model.musX[...] += 1e-3 * np.random.default_rng(0).normal(size=model.musX.shape)
    moved = colours.in_colours(smoe_np.gating(model, (80, 80), backend="numpy"))
    assert (painted == moved).all(axis=-1).mean() > 0.7  # at random it would be 1 in 12


def test_a_map_of_a_volume_is_coloured_likewise():
    labels = np.random.default_rng(0).integers(0, 9, (4, 5, 6))
    painted = colours.in_colours(labels)
    for axis in range(3):
        a, b = np.delete(labels, 0, axis), np.delete(labels, -1, axis)
        same = (np.delete(painted, 0, axis) == np.delete(painted, -1, axis)).all(axis=-1)
        assert not (same & (a != b)).any()


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.array([[0, -1]])])
def test_what_is_no_map_of_kernels_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="kernel numbers"):
        colours.in_colours(wrong)


def test_the_usual_colours_are_far_apart_for_the_eye():
    lab = as_oklab(colours.palette(colours.USUAL_COLOURS) / 255)
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.eye(len(lab))
    assert distance.min() > 0.1


def test_a_palette_has_no_colour_twice():
    for count in (0, 1, 12, 13, 500, 3000):
        assert len(np.unique(colours.palette(count), axis=0)) == count


@pytest.mark.parametrize("scale", ["magma", "viridis"])
def test_scales_are_those_of_matplotlib(scale):
    values = np.linspace(-0.2, 1.2, 500)  # what lies outside counts as the end
    wanted = matplotlib.colormaps[scale](np.clip(values, 0, 1))[:, :3]
    found = colours.scaled(values, getattr(colours, scale.upper())) / 255
    assert np.abs(found - wanted).max() < 0.07  # nine colours stand for 256
