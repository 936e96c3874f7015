"""Kernels as ellipses: where they are, in which colours."""


import numpy as np
import pytest
from figures import axes_with
from helpers import picture, random_model

from smoe_np import Smoe, SmoeParams, drawing, loss_and_gradients, plots
from smoe_np import scene as scenes

matplotlib = pytest.importorskip("matplotlib")


# ---- kernels as ellipses


def distances(params, points, kernels):
    """‖Aᵀ(x − μ)‖ of points (n, p, D) to n kernels."""
    offsets = points - params.musX[kernels][:, None]
    return np.linalg.norm(np.einsum("kde,kpd->kpe", params.A[kernels], offsets), axis=-1)


@pytest.mark.parametrize("shape", [(30, 40), (9, 20, 14), (3, 4, 8, 10)])
def test_ellipses_are_where_the_distance_to_a_kernel_is_one(shape):
    D = len(shape)
    model = random_model(0, 60, D, sigma=0.2, anisotropy=6, negative=0.3)
    scene = scenes.scene_of_model(model, picture(shape, seed=1)[..., 0], None, "numpy")
    kernels, centres, frames, _ = scene.ellipses()
    turns = np.linspace(0, 2 * np.pi, 13)
    outline = centres[:, None] + (frames @ [np.cos(turns), np.sin(turns)]).transpose(0, 2, 1)
    points = np.empty((*outline.shape[:2], D))
    points[..., :-2] = [(n // 2 + 0.5) / max(shape) for n in shape[:-2]]
    points[..., -2:] = outline / max(shape)
    np.testing.assert_allclose(distances(model, points, kernels), 1, rtol=1e-9)
    # of the others none comes as near as that to any point of the slice
    others = np.setdiff1d(np.arange(60), kernels)
    if D == 2:
        assert len(others) == 0
        return
    assert 0 < len(others) < 60
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-1, 2, 61)], indexing="ij"), -1).reshape(-1, 2)
    flat = np.concatenate([np.broadcast_to(points[0, 0, :-2], (len(grid), D - 2)), grid], axis=1)
    assert distances(model, np.broadcast_to(flat, (len(others), *flat.shape)), others).min() > 1


def test_the_ellipses_that_are_drawn_are_these_larger_ones_first():
    model = random_model(2, 30, sigma=0.1, anisotropy=4)
    image = picture((20, 36))[..., 0]
    figure = plots.image_figure(model, image, panels=["kernels"], backend="numpy")
    collection = next(artist for artist in axes_with(figure, "PolyCollection").collections)
    outlines = np.array([path.vertices[:-1] for path in collection.get_paths()])
    assert outlines.shape[0] == 30
    points = outlines[..., ::-1] / 36  # x is the column
    near = np.array([np.linalg.norm(points.mean(axis=1) - centre, axis=1).argmin()
                     for centre in model.musX])
    assert sorted(near) == list(range(30))
    np.testing.assert_allclose(distances(model, points[near], np.arange(30)), 1, rtol=1e-6)
    areas = 1 / np.abs(np.linalg.det(model.A))[np.argsort(near)]
    assert (np.diff(areas) <= 1e-12).all()


def test_ellipses_have_the_colour_of_the_expert_at_their_centre():
    model = random_model(3, 12, C=3, slope=0.2)
    image = picture((16, 16), 3)
    values = model.nu_e + np.einsum("kcd,kd->kc", model.gamma_e, model.musX)
    figure = plots.image_figure(model, image, panels=["kernels"], backend="numpy")
    collection = axes_with(figure, "PolyCollection").collections[0]
    kernels = scenes.scene_of_model(model, image).ellipses()[0]
    wanted = np.clip(values, 0, 1)[kernels]
    np.testing.assert_allclose(collection.get_edgecolor()[:, :3], wanted, atol=1 / 255)
    assert (collection.get_facecolor()[:, 3] < 0.5).all()  # what is below shows through


def test_a_kernel_without_bounds_is_drawn_as_far_as_there_are_numbers_for_it(tmp_path):
    model = random_model(5, 4)
    model.A[0] *= 1e-12
    figure = plots.image_figure(model, picture((8, 8))[..., 0], tmp_path / "sheet.png",
                                ["kernels"], backend="numpy")
    outlines = [path.vertices for path in axes_with(figure, "PolyCollection").collections[0]
                .get_paths()]
    assert 1e4 < np.abs(outlines).max() <= drawing.MOST_COORDINATE


def test_kernels_without_weight_are_not_drawn_even_if_they_have_no_extent():
    model = random_model(4, 5)
    pis, A = model.pis.copy(), model.A.copy()
    pis[[1, 3]] = [0, -1]
    A[1] = 0
    model = SmoeParams(pis, model.musX, A, model.gamma_e, model.nu_e, (8, 8))
    assert sorted(scenes.scene_of_model(model).ellipses()[0]) == [0, 2, 4]


def test_beside_a_picture_of_other_proportions_a_model_stays_where_it_is():
    image = picture((24, 24), seed=1)[..., 0]
    params = Smoe(image[:12], 3).train(20).params
    scene = scenes.scene_of_model(params, image)
    loss, _ = loss_and_gradients(params, image)
    assert scene.psnr == pytest.approx(-10 * np.log10(loss), abs=1e-3)
    kernels, centres, *_ = scene.ellipses()
    np.testing.assert_allclose(centres, 24 * params.musX[kernels], rtol=1e-6)
    assert params.image_shape == (12, 24)
