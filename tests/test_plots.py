"""Figures show what the model is, follow training without slowing it, and need no display."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import picture, random_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import smoe_np
from smoe_np import Record, Smoe, SmoeParams, colours, drawing, numerals, plots, screens
from smoe_np import scene as scenes

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _headless(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture(scope="module")
def trained():
    """A small picture and a model of it, with kernels that have left."""
    smoe = Smoe(picture((24, 32))[..., 0], 5)
    smoe.train(40, val_iter=10, l1reg=100, lr_div=0.5)
    return smoe


def texts_of(figure):
    """All that is written on a figure."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [axes.get_xlabel(), axes.get_ylabel()]
    return [text for text in found if text]


def axes_with(figure, kind):
    """The one axes that holds a collection or patch of a kind."""
    found = [axes for axes in figure.axes
             if any(type(artist).__name__ == kind for artist in axes.get_children())]
    assert len(found) == 1
    return found[0]


def pixels(path):
    image = smoe_np.images.as_float(smoe_np.read_image(path))
    assert image.ndim == 3
    return image


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


def as_oklab(rgb):
    """sRGB in [0, 1] as OKLab, by Ottosson's forward matrices."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lms = linear @ np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                             [0.2119034982, 0.6806995451, 0.1073969566],
                             [0.0883024619, 0.2817188376, 0.6299787005]]).T
    return np.cbrt(lms) @ np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                                    [1.9779984951, -2.4285922050, 0.4505937099],
                                    [0.0259040371, 0.7827717662, -0.8086757660]]).T


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
    assert 1e4 < np.abs(outlines).max() <= drawing.FAR


def test_kernels_without_weight_are_not_drawn_even_if_they_have_no_extent():
    model = random_model(4, 5)
    pis, A = model.pis.copy(), model.A.copy()
    pis[[1, 3]] = [0, -1]
    A[1] = 0
    model = SmoeParams(pis, model.musX, A, model.gamma_e, model.nu_e, (8, 8))
    assert sorted(scenes.scene_of_model(model).ellipses()[0]) == [0, 2, 4]


# ---- what figures say


HISTORY = [Record(i, 0.01 / (1 + i), 650.0 / (1 + i), 20 + math.log10(1 + i), 90 - i // 10, i / 50)
           for i in range(0, 310, 10)]


@pytest.mark.parametrize("quality", ["psnr", "mse"])
def test_the_loss_figure_draws_the_numbers_of_the_history_with_one_legend(quality):
    figure = plots.loss_figure(HISTORY, quality=quality)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    names = {"Loss": "loss", drawing.QUALITIES[quality]: quality, "Kernels": "kernels"}
    assert lines.keys() == names.keys()
    for label, name in names.items():
        x, y = lines[label].get_data()
        np.testing.assert_array_equal(x, [record.iteration for record in HISTORY])
        np.testing.assert_allclose(y, [getattr(record, name) for record in HISTORY])
        low, high = lines[label].axes.get_ylim()
        assert low < min(y)
        assert high > max(y)
    legend, = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(names)
    assert not any(axes.get_legend() for axes in figure.axes)
    assert lines["Loss"].axes.get_yscale() == "log"
    assert any("iteration 300" in text and "60 kernels" in text for text in texts_of(figure))


@pytest.mark.parametrize("history", [
    HISTORY[:1], [Record(0, 0.0, 0.0, math.inf, 1, 0.0)],
    [Record(i, 0.0, 0.0, math.inf, 1, 0.0) for i in range(3)],
    [Record(0, 1e-30, 6e-26, 300.0, 1, 0.0), Record(1, 1e3, 6e7, -30.0, 10**6, 1.0)],
    [Record(7, 0.1, 6502.5, 10.0, 5, 0.0), Record(8, 0.1, 6502.5, 10.0, 5, 0.0)],
])
@pytest.mark.parametrize("quality", ["psnr", "mse"])
def test_the_loss_figure_stands_perfect_fits_and_short_histories(history, quality, tmp_path):
    plots.loss_figure(history, tmp_path / "loss.png", quality)
    assert pixels(tmp_path / "loss.png").std() > 0.01


@pytest.mark.parametrize(("low", "high"), [(0, 1), (19.3, 24.8), (28.1, 28.3), (-30, 300), (0, 4e8),
                                           (1e-9, 3e-9)])
def test_ticks_are_few_round_and_told_apart(low, high):
    ticks = numerals.round_numbers(low, high, 7)
    assert 2 <= len(ticks) <= 8
    assert low - 1e-9 <= ticks[0]
    assert ticks[-1] <= high * (1 + 1e-9)
    assert len(set(numerals.labels(ticks))) == len(ticks)
    assert max(map(len, numerals.labels(ticks))) <= 11


@pytest.mark.parametrize(("low", "high"), [(1e-3, 0.05), (200, 800), (1e-12, 1), (1e-5, 2e-5)])
def test_ticks_of_a_logarithmic_scale_are_few_and_told_apart(low, high):
    ticks = numerals.round_factors(low, high, 7)
    assert 2 <= len(ticks) <= 8
    assert len(set(numerals.labels(ticks))) == len(ticks)


@pytest.mark.parametrize(("value", "wanted"), [
    (0, "0"), (0.002, "0.002"), (1500, "1,500"), (2e-6, "2·10⁻⁶"), (1e-5, "10⁻⁵"), (12.5, "12.5"),
    (-3, "-3"), (100, "100")])
def test_numbers_are_written_short(value, wanted):
    assert numerals.number(value) == wanted


def test_the_sheet_has_the_panels_that_are_asked_for(trained):
    image = trained.engine.picture()[..., 0]
    for panels in (["gating"], ["weights", "original"], plots.PANELS):
        figure = plots.image_figure(trained.params, image, panels=panels)
        names = {"original": "Original", "reconstruction": "Reconstruction", "error": "Error",
                 "gating": "Gating map", "kernels": "Kernels", "weights": "Weights π"}
        shown = [text for text in texts_of(figure) if text in names.values()]
        assert shown == [names[panel] for panel in panels]
        assert len(figure.axes) == len(panels)
    quality = f"{smoe_np.psnr(image, trained.reconstruction):.2f} dB"
    assert any(text == quality for text in texts_of(figure))


def test_pictures_on_the_sheet_are_those_of_the_model(trained):
    image = trained.engine.picture()[..., 0]
    figure = plots.image_figure(trained.params, image, panels=["original", "reconstruction",
                                                               "error", "gating"])
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(shown[0], image)
    np.testing.assert_allclose(shown[1], trained.reconstruction, atol=1e-6)
    error = 255 * np.abs(image - trained.reconstruction)
    brightness = as_oklab(np.asarray(shown[2]) / 255)[..., 0]
    assert np.corrcoef(brightness.ravel(), error.ravel())[0, 1] > 0.95
    np.testing.assert_array_equal(shown[3], colours.in_colours(trained.gating))


def test_without_the_picture_the_sheet_shows_the_model_alone(trained):
    params = trained.params.copy()
    params.image_shape = (48, 64)
    figure = plots.image_figure(params)
    assert "Original" not in texts_of(figure)
    assert "Reconstruction" in texts_of(figure)
    with pytest.raises(ValueError, match="give image"):
        plots.image_figure(params, panels=["error"])
    params.image_shape = None
    with pytest.raises(ValueError, match="give image"):
        plots.image_figure(params)


def test_the_histogram_counts_each_kernel_once_and_tells_how_many_are_used(trained):
    assert trained.params.num_kernels < trained.initial_kernels
    figure = plots.image_figure(trained.params, trained.engine.picture(), panels=["weights"],
                                total=trained.initial_kernels)
    stairs = axes_with(figure, "StepPatch").patches[0]
    counts, edges, _ = stairs.get_data()
    assert counts.sum() == trained.params.num_kernels
    assert edges[0] < trained.params.pis.min() <= trained.params.pis.max() < edges[-1]
    used, total = trained.params.num_kernels, trained.initial_kernels
    assert f"{used} of {total} kernels used" in texts_of(figure)


def test_large_pictures_are_shrunk_by_means_to_what_a_screen_shows():
    image = picture((2100, 90), seed=3)  # 2100 = 3 · 700: three pixels are one
    shrunk = scenes.flat(image)
    assert shrunk.shape == (700, 30)
    np.testing.assert_allclose(shrunk, image.reshape(700, 3, 30, 3).mean(axis=(1, 3)))
    odd = scenes.flat(picture((1025, 4, 3), 3))  # a volume is cut, not shrunk
    assert odd.shape == (4, 3, 3)
    assert scenes.flat(np.full((1025, 3, 1), 0.25)).shape == (513, 2)
    assert (scenes.flat(np.full((1025, 3, 1), 0.25)) == 0.25).all()


def test_a_large_picture_makes_a_sheet(tmp_path):
    image = picture((40, 1100))[..., 0]
    model = Smoe(image, 8, backend="numpy").params
    plots.image_figure(model, image, tmp_path / "sheet.png", backend="numpy")
    assert pixels(tmp_path / "sheet.png").std() > 0.05


def test_text_of_users_is_shown_as_it_is_and_cut_where_it_is_long(trained, tmp_path):
    for title in (r"$\frac{1}{$", "漢字", "a\nb"):
        figure = plots.image_figure(trained.params, trained.engine.picture(), tmp_path / "a.png",
                                    ["weights"], title=title)
        assert title.replace("\n", " ") in texts_of(figure)
    figure = plots.loss_figure(HISTORY, title="x" * 500)
    assert len(texts_of(figure)[0]) < 100


@pytest.mark.parametrize("style", ["dark_background", "ggplot", "seaborn-v0_8-talk"])
def test_the_users_style_does_not_spoil_a_figure(style, tmp_path):
    import matplotlib.style

    plots.loss_figure(HISTORY, tmp_path / "plain.png")
    with matplotlib.style.context(style):
        plots.loss_figure(HISTORY, tmp_path / "styled.png")
    plain, styled = pixels(tmp_path / "plain.png"), pixels(tmp_path / "styled.png")
    assert plain.shape == styled.shape
    assert np.abs(plain - styled).mean() < 0.002


# ---- denoising


def noisy_scene():
    clean = picture((24, 24), noise=0)[..., 0]
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 0.08, clean.shape), 0, 1)
    return clean, noisy


def test_the_denoising_figure_tells_psnr_and_ssim_of_each(tmp_path):
    clean, noisy = noisy_scene()
    figure = plots.denoise_figure(noisy, clean**1.1, clean, clean**1.2, "BM3D $x$",
                                  ([0, 10], [20.0, 25.0]), tmp_path / "denoise.png")
    said = texts_of(figure)
    for image in (noisy, clean**1.1, clean**1.2):
        assert (f"{smoe_np.psnr(clean, image):.2f} dB, SSIM {smoe_np.ssim(clean, image):.3f}"
                in said)
    assert [text for text in said if text in ("Clean", "Noisy", "Denoised", "BM3D $x$")] == [
        "Clean", "Noisy", "Denoised", "BM3D $x$"]
    curve, at_noisy, at_reference = figure.axes[-1].lines
    np.testing.assert_array_equal(curve.get_ydata(), [20, 25])
    assert at_noisy.get_ydata()[0] == pytest.approx(smoe_np.psnr(clean, noisy))
    assert at_reference.get_ydata()[0] == pytest.approx(smoe_np.psnr(clean, clean**1.2))
    assert pixels(tmp_path / "denoise.png").std() > 0.05


def test_without_the_clean_picture_it_tells_how_much_was_taken_away():
    clean, noisy = noisy_scene()
    figure = plots.denoise_figure(noisy, clean)
    taken = 255 * (clean - noisy).std()
    assert f"σ {taken:.1f} taken away" in texts_of(figure)
    assert len(figure.axes) == 2
    assert not any("SSIM" in text for text in texts_of(figure))


def test_a_reference_may_have_any_name_even_that_of_another_picture():
    clean, noisy = noisy_scene()
    figure = plots.denoise_figure(noisy, clean**1.1, clean, clean**1.2, "Noisy")
    assert len(figure.axes) == 4


def test_the_denoise_plotter_follows_the_psnr_to_the_clean_picture(tmp_path):
    clean, noisy = noisy_scene()
    plotter = plots.DenoisePlotter(clean, path=tmp_path / "denoise.png")
    seen = []
    smoe = Smoe(noisy, 6)
    smoe.train(20, val_iter=10, callbacks=[
        plotter, lambda s: seen.append(smoe_np.psnr(clean, s.reconstruction))])
    assert plotter.curve[0] == [0, 10, 20]
    assert plotter.curve[1] == pytest.approx(seen, abs=1e-6)
    assert (tmp_path / "denoise.png").exists()
    plain = plots.DenoisePlotter()
    smoe.train(10, val_iter=10, callbacks=[plain])
    assert plain.curve[1] == pytest.approx([r.psnr for r in smoe.history[-2:]][-1:], abs=1e-3)


def test_pictures_of_other_shapes_are_refused():
    clean, noisy = noisy_scene()
    with pytest.raises(ValueError, match="one shape"):
        plots.denoise_figure(noisy, clean[:-1])
    with pytest.raises(ValueError, match="one shape"):
        Smoe(noisy, 3).train(1, callbacks=[plots.DenoisePlotter(clean[:-1])])


# ---- callbacks


CASES = {
    "1x1": ((1, 1), 1, 1), "one kernel": ((8, 9), 1, 1), "RGB": ((12, 16), 3, 4),
    "2 channels": ((10, 12), 2, 4), "volume": ((5, 8, 10), 1, 4), "RGB volume": ((3, 6, 8), 3, 3),
    "a row": ((1, 30), 1, 5), "a column": ((30, 1), 3, 5),
}


@pytest.mark.parametrize("case", CASES)
def test_plotters_draw_any_picture_while_it_is_trained(case, tmp_path):
    shape, C, k = CASES[case]
    image = picture(shape, C)
    smoe = Smoe(image, k, channel_axis=-1)
    paths = [tmp_path / f"{name}.png" for name in ("loss", "sheet", "denoise")]
    smoe.train(6, val_iter=3, callbacks=[
        plots.LossPlotter(paths[0]), plots.ImagePlotter(paths[1]),
        plots.DenoisePlotter(image, path=paths[2], channel_axis=-1)])
    for path in paths:
        assert pixels(path).std() > 0.01
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}


def test_a_constant_picture_is_drawn_though_its_error_is_zero(tmp_path):
    smoe = Smoe(np.full((12, 12), 0.5), 3)
    smoe.train(4, val_iter=2, callbacks=[plots.LossPlotter(tmp_path / "loss.png"),
                                         plots.ImagePlotter(tmp_path / "sheet.png")])
    assert smoe.history[-1].psnr > 60
    assert len(list(tmp_path.iterdir())) == 2


def test_a_signal_of_one_dimension_has_curves_but_no_picture(tmp_path):
    smoe = Smoe(picture((30,))[..., 0], 4)
    smoe.train(2, callbacks=[plots.LossPlotter(tmp_path / "loss.png")])
    assert (tmp_path / "loss.png").exists()
    with pytest.raises(ValueError, match="2 dimensions or more"):
        smoe.train(2, callbacks=[plots.ImagePlotter(tmp_path / "sheet.png")])
    with pytest.raises(ValueError, match="2 dimensions or more"):
        smoe.train(2, callbacks=[plots.DenoisePlotter(path=tmp_path / "sheet.png")])


def content_of(plotter, smoe):
    """What a plotter would draw now, as text."""
    figure = matplotlib.figure.Figure()
    plotter._content(drawing.Page(figure), smoe)
    return texts_of(figure)


def test_plotters_follow_a_fit_whose_number_of_kernels_grows(tmp_path):
    smoe = Smoe(picture((24, 24))[..., 0])
    sheet = plots.ImagePlotter(tmp_path / "sheet.png")
    loss = plots.LossPlotter(tmp_path / "loss.png")
    smoe.fit(kernels=20, iterations=40, val_iter=10, callbacks=[sheet, loss])
    assert smoe.initial_kernels < 20
    assert "20 of 20 kernels used" in content_of(sheet, smoe)
    assert any("iteration 40" in text for text in content_of(loss, smoe))
    assert len(list(tmp_path.iterdir())) == 2


def test_trained_on_after_a_fit_it_says_how_many_kernels_there_are():
    smoe = Smoe(picture((24, 24))[..., 0])
    smoe.fit(kernels=20, iterations=40)
    smoe.train(1)
    assert smoe.initial_kernels < 20  # so this is no total
    assert "20 kernels" in content_of(plots.ImagePlotter(), smoe)


def test_finish_draws_what_an_interruption_left(tmp_path):
    def stop(smoe):
        if smoe.iteration >= 5:
            raise RuntimeError("stop")

    smoe = Smoe(picture((16, 16))[..., 0], 3)
    plotter = plots.LossPlotter(tmp_path / "loss.png")
    with pytest.raises(RuntimeError, match="stop"):
        smoe.train(100, val_iter=1, callbacks=[plotter, stop])
    assert not (tmp_path / "loss.png").exists()  # there was no time for it yet
    plotter.finish(smoe)
    first = (tmp_path / "loss.png").stat().st_mtime_ns
    plotter.finish(smoe)  # nothing new
    assert (tmp_path / "loss.png").stat().st_mtime_ns == first
    smoe.train(1)
    plotter.finish(smoe)
    assert (tmp_path / "loss.png").stat().st_mtime_ns > first


def test_finish_before_any_validation_draws_nothing(tmp_path):
    plots.LossPlotter(tmp_path / "loss.png").finish(Smoe(picture((8, 8))[..., 0], 2))
    assert not list(tmp_path.iterdir())


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Slow(plots.Plotter):
    """A plotter that takes so long, and notes at which iterations it draws."""

    def __init__(self, clock, cost, **kwargs):
        super().__init__(**kwargs)
        self.clock, self.cost, self.drawn = clock, cost, []

    def _content(self, page, smoe):
        self.clock.now += self.cost
        self.drawn.append(smoe.iteration)


class Screen:
    """A window that notes what is done to it."""

    def __init__(self):
        self.figure, self.shown, self.breaths, self.is_open = screens.new_figure(), 0, 0, True

    def show(self):
        self.shown += 1
        return self.is_open

    def breathe(self):
        self.breaths += 1


def follow(plotter, clock, seconds, count, until=None):
    """Call a plotter at validations so many seconds apart; seconds of drawing, and of all."""
    begun = clock.now
    for i in range(count):
        clock.now += seconds
        plotter(SimpleNamespace(iteration=i, settings=None, until=count if until is None else until,
                                params=SimpleNamespace(num_kernels=1), history=[i]))
    return len(plotter.drawn) * plotter.cost, clock.now - begun


@pytest.mark.parametrize("seconds", [0.003, 0.35, 20.0])
def test_drawing_takes_a_small_share_of_the_time(seconds, monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(plots, "time", clock)
    monkeypatch.setattr(plots, "_write", lambda figure, path: None)
    plotter = Slow(clock, 0.5, path=tmp_path / "a.png")
    drawing, whole = follow(plotter, clock, seconds, 500)
    assert drawing <= plots.SHARE * whole
    if seconds * 500 > 100:
        assert len(plotter.drawn) >= 0.5 * min(500, plots.SHARE * whole / 0.5)  # and it does draw


def test_the_last_validation_is_always_drawn(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(plots, "time", clock)
    written = []
    monkeypatch.setattr(plots, "_write", lambda figure, path: written.append(path))
    plotter = Slow(clock, 0.5, path=tmp_path / "a.png")
    follow(plotter, clock, 0.01, 11, until=10)
    assert plotter.drawn == [10]
    assert written == [tmp_path / "a.png"]


def test_a_window_opens_at_once_answers_between_drawings_and_may_be_closed(monkeypatch):
    clock, screen = Clock(), Screen()
    monkeypatch.setattr(plots, "time", clock)
    monkeypatch.setattr(plots, "screen", lambda: screen)
    plotter = Slow(clock, 0.5)
    follow(plotter, clock, 0.01, 10, until=100)
    assert plotter.drawn == [0]
    assert screen.shown == 1
    assert screen.breaths == 9
    screen.is_open = False
    plotter.draw(SimpleNamespace(iteration=5, params=SimpleNamespace(num_kernels=1), history=[1]))
    follow(plotter, clock, 1000, 5)
    assert screen.shown == 2  # closed: from then on there is nothing to show it on
    assert screen.breaths == 9


def test_where_there_is_a_window_the_file_is_written_at_the_end_only(monkeypatch, tmp_path):
    clock, written = Clock(), []
    monkeypatch.setattr(plots, "time", clock)
    monkeypatch.setattr(plots, "_write", lambda figure, path: written.append(path))
    monkeypatch.setattr(plots, "screen", Screen)
    plotter = Slow(clock, 0.5, path=tmp_path / "a.png")
    follow(plotter, clock, 0.01, 11, until=10)
    assert plotter.drawn == [0, 10]
    assert len(written) == 1


def test_a_window_stays_as_large_as_it_was_made(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(plots, "screen", lambda: screen)
    plotter = plots.LossPlotter()
    smoe = Smoe(picture((8, 8))[..., 0], 2).train(1, callbacks=[plotter])
    assert tuple(screen.figure.get_size_inches()) == (9, 5.6)
    screen.figure.set_size_inches(5, 4)
    plotter.draw(smoe)
    assert tuple(screen.figure.get_size_inches()) == (5, 4)


def test_what_is_quiet_and_has_no_path_draws_nothing(monkeypatch):
    monkeypatch.setattr(plots, "screen", Screen)
    plotter = Slow(Clock(), 0.5, quiet=True)
    follow(plotter, plotter.clock, 1, 5, until=4)
    assert plotter.drawn == []


def test_without_a_display_files_are_written_and_no_window_is_tried(monkeypatch, tmp_path):
    monkeypatch.setattr(screens._Window, "opened", lambda: pytest.fail("a window was tried"))
    plotter = plots.LossPlotter(tmp_path / "loss.png")  # not quiet
    Smoe(picture((8, 8))[..., 0], 2).train(2, callbacks=[plotter])
    assert (tmp_path / "loss.png").exists()


def test_a_display_that_is_none_counts_as_none(monkeypatch, tmp_path):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("DISPLAY", ":nothing")
    before = plt.get_fignums()
    plt.switch_backend("agg")
    assert screens.screen() is None  # it draws to files alone

    def fail(*args, **kwargs):
        raise RuntimeError("no display")

    monkeypatch.setattr(plt, "figure", fail)
    assert screens.screen() is None
    assert plt.get_fignums() == before


def test_in_a_notebook_the_figure_is_shown_once_and_then_replaced(monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(("update", figure))

    def display(figure, display_id):
        assert display_id is True
        shown.append(("display", figure))
        return Handle()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    Smoe(picture((8, 8))[..., 0], 2).train(4, val_iter=2, callbacks=[plots.LossPlotter()])
    assert [what for what, _ in shown] == ["display", "update"]  # at the start and at the end
    assert shown[0][1] is shown[1][1]
    data, metadata = shown[0][1]._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert 300 < metadata["width"] < 1500


# ---- files and errors


def test_files_are_written_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    path.write_bytes(b"older")
    with pytest.raises(OSError, match="folder does not exist"):
        plots.loss_figure(HISTORY, tmp_path / "none" / "loss.png")
    monkeypatch.setattr(plots, "as_png", lambda figure: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plots.loss_figure(HISTORY, path)
    assert path.read_bytes() == b"older"
    monkeypatch.undo()
    plots.loss_figure(HISTORY, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_writing_a_figure_leaves_it_as_it_was_in_its_window(tmp_path):
    figure = plots.loss_figure(HISTORY)
    figure.dpi, canvas, size = 77, figure.canvas, tuple(figure.get_size_inches())
    plots._write(figure, tmp_path / "loss.png")
    assert (figure.dpi, figure.canvas, tuple(figure.get_size_inches())) == (77, canvas, size)
    height, width = pixels(tmp_path / "loss.png").shape[:2]
    assert (width, height) == (size[0] * screens.DPI, pytest.approx(size[1] * screens.DPI, abs=1))


def test_what_is_missing_without_matplotlib_is_said_in_one_sentence(monkeypatch, trained):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for make in (plots.LossPlotter, plots.ImagePlotter, plots.DenoisePlotter,
                 lambda: plots.loss_figure(HISTORY),
                 lambda: plots.image_figure(trained.params, trained.engine.picture())):
        with pytest.raises(ImportError) as caught:
            make()
        assert str(caught.value) == 'figures need Matplotlib: pip install "smoe_np[plots]"'


@pytest.mark.parametrize(("make", "match"), [
    (lambda: plots.LossPlotter("loss.jpg"), "must end in .png"),
    (lambda: plots.loss_figure(HISTORY, "loss"), "must end in .png"),
    (lambda: plots.LossPlotter(quality="ssim"), "quality must be one of"),
    (lambda: plots.loss_figure([]), "history is empty"),
    (lambda: plots.ImagePlotter(panels=["gate"]), "panels must be some of"),
    (lambda: plots.ImagePlotter(panels=[]), "panels must be some of"),
    (lambda: plots.image_figure(random_model(0, 3), picture((8, 8), 3)), "3 channels"),
])
def test_wrong_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_one_panel_may_be_named_alone():
    assert plots.ImagePlotter(panels="gating").panels == ["gating"]
