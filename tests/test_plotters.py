"""Plotters follow training without slowing it, and need no display."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from figures import pixels, texts_of
from helpers import picture

from smoe_np import Smoe, drawing, plots, screens

matplotlib = pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("headless")


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
    smoe = Smoe(image, k, channel_axis=-1, backend="numpy")
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


def test_trained_on_after_a_fit_it_says_how_many_of_its_kernels_there_are():
    smoe = Smoe(picture((24, 24))[..., 0])
    smoe.fit(kernels=20, iterations=40)
    smoe.params = smoe.params.select(np.arange(18))
    smoe.train(1)
    assert "18 of 18 kernels used" in content_of(plots.ImagePlotter(), smoe)
    smoe.params = smoe.params.select(np.arange(15))
    smoe.train(1)
    assert "15 of 18 kernels used" in content_of(plots.ImagePlotter(), smoe)


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
        plotter(SimpleNamespace(iteration=i, searches_psnr=False, history=[i],
                                until=count if until is None else until,
                                params=SimpleNamespace(num_kernels=1)))
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
