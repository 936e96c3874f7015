"""Figures show what the model is, whatever it is of, and are written whole or not at all."""

import math
import sys

import numpy as np
import pytest
from figures import HISTORY, as_oklab, axes_with, pixels, texts_of
from helpers import picture, random_model

import smoe_np
from smoe_np import Record, Smoe, colours, drawing, numerals, plots, screens
from smoe_np import scene as scenes

matplotlib = pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("headless")


# ---- what figures say


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
