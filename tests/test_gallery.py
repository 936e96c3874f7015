"""What is drawn in a folder of results while a model is trained, at its end, and again later."""

import builtins
import errno
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from cli_runs import fit, settings_of, smoe, stop_at, the_one_line

import smoe_np
from smoe_np import bench, gallery, plots
from smoe_np.files import atomic_write
from smoe_np.results import ResultsFolder

DRAWN = {"loss.png", "sheet.png", "report.html"}
TRAIN = ("train", "-i", "grey.tif", "-r", "r", "-k", 3, "-n", 4, "-v", 2)


def drawn(folder="r"):
    return DRAWN & set(os.listdir(folder))


def is_png(path):
    return Path(path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", [TRAIN, ("fit", "grey.tif", "-o", "m.npz", "--kernels", 3, "-n",
                                             6, "-r", "r")])
def test_a_run_leaves_figures_and_a_page_of_it_without_being_asked(drawn_here, command, capsys):
    assert smoe(*command, "-q") == 0
    assert drawn() == DRAWN
    assert is_png("r/loss.png")
    assert is_png("r/sheet.png")
    page = Path("r/report.html").read_text()
    for name in ("params_best.npz", "sheet.png", "loss.png", "grey.tif"):
        assert name in page
    assert capsys.readouterr() == ("", "")


def test_nothing_is_drawn_where_it_is_not_wanted(drawn_here):
    assert smoe(*TRAIN, "-q", "--no-plots") == 0
    assert not drawn()
    assert smoe(*TRAIN, "-q", "--overwrite") == 0
    assert drawn() == DRAWN
    assert smoe(*TRAIN, "-q", "--no-plots", "--overwrite") == 0
    assert not drawn()  # those of the earlier run are not of this one


def test_plot_takes_another_axis_of_channels_than_the_run_where_it_is_told_one(here, fails):
    pixels = np.random.default_rng(0).random((14, 18, 3)).astype(np.float32)
    smoe_np.write_image("any.tif", pixels)
    assert smoe("train", "-i", "any.tif", "-r", "r", "-k", 2, "-n", 2, "-q", "--no-plots") == 0
    for axis in ([], ["--channel-axis", "auto"], ["--channel-axis", -1]):
        assert smoe("plot", "r", "-i", "any.tif", *axis) == 0
    assert "the image has 3 dimensions and 1 channel" in fails(
        "plot", "r", "-i", "any.tif", "--channel-axis", "none")
    for axis in ("none", 0, 7):  # nothing is the matter with the picture
        assert f"--channel-axis is {None if axis == 'none' else axis}, with which" in fails(
            "plot", "r", "--channel-axis", axis, "--overwrite")


@pytest.mark.parametrize(("shape", "axis"), [
    ((14, 18, 3), "auto"), ((5, 6, 7), "none"), ((1, 1), "auto")])
def test_any_picture_is_drawn(drawn_here, shape, axis):
    pixels = np.random.default_rng(0).random(shape).astype(np.float32)
    smoe_np.write_image("any.tif", pixels)
    assert smoe("train", "-i", "any.tif", "-r", "r", "-k", 2, "-n", 2, "-q", "--channel-axis",
                axis) == 0
    assert drawn() == DRAWN


def test_of_a_signal_there_is_a_loss_alone(drawn_here):
    results = ResultsFolder("r")
    results.create()
    drawing = gallery.Gallery(results, "line", 1, quiet=True)
    model = smoe_np.Smoe(np.linspace(0, 1, 30), 3).train(3, callbacks=[drawing.validation])
    drawing.finish(model)
    assert drawn() == {"loss.png"}


def test_an_interrupted_run_is_drawn_as_far_as_it_came_and_then_to_its_end(drawn_here, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGINT)
        assert smoe(*TRAIN, "-q") == 130
    assert drawn() == DRAWN
    before = Path("r/sheet.png").read_bytes()
    assert smoe(*TRAIN[:5], "-c", "r/checkpoints/last.npz", "-q") == 0
    assert Path("r/sheet.png").read_bytes() != before
    assert "4 iterations" in Path("r/report.html").read_text()


def test_the_command_that_goes_on_draws_nothing_either_where_nothing_is_wanted(
        drawn_here, capsys, monkeypatch):
    stop_at(monkeypatch, 3, signal.SIGINT)
    assert smoe(*TRAIN, "-q", "--no-plots") == 130
    assert the_one_line(capsys).endswith("checkpoints/last.npz --no-plots -q")


def test_without_matplotlib_training_goes_on_and_says_so_once(drawn_here, capsys, monkeypatch):
    load = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert smoe(*TRAIN) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "Matplotlib" in line]
    assert lines == ["smoe: no plots during training: figures need Matplotlib: pip install "
                     '"smoe_np[plots]"']
    assert drawn() == {"report.html"}
    assert smoe(*TRAIN, "-q", "--overwrite") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [RuntimeError("no such toolkit"), ValueError("odd\nfigure"),
                                   OSError(errno.ENOSPC, "No space left on device")])
def test_trouble_with_drawing_is_a_line_and_training_goes_on(drawn_here, capsys, monkeypatch,
                                                               error):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(plots.Plotter, "_draw", fails)
    assert smoe(*TRAIN, "-q") == 0
    line = the_one_line(capsys)
    assert line.startswith("smoe: warning: not everything could be drawn: ")
    assert line.endswith(("no such toolkit", "odd figure", "No space left on device"))
    assert Path("r/params_last.npz").exists()
    assert drawn() == {"report.html"}


def test_the_page_tells_what_the_settings_say(drawn_here):
    assert smoe(*TRAIN, "-q", "--channel-axis", "none", "-reg", 0.25) == 0
    assert settings_of("r")["channel_axis"] is None
    page = Path("r/report.html").read_text()
    assert "<th>l1reg</th><td>0.25</td>" in page


# ---- smoe plot


def test_plot_draws_a_folder_again(drawn_here, capsys):
    assert smoe(*TRAIN, "-q") == 0
    for name in DRAWN:
        os.unlink(f"r/{name}")
    assert smoe("plot", "r") == 0
    assert capsys.readouterr().out.split() == [
        os.path.join("r", name) for name in ("loss.png", "sheet.png", "report.html")]
    assert drawn() == DRAWN
    assert "Original" in Path("r/report.html").read_text()


def test_plot_knows_how_the_picture_was_read(here):
    smoe_np.write_image("stack.tif", bench.picture((6, 8))[None, ..., 0].repeat(3, axis=0))
    for axis, channels in ((0, 3), ("none", 1)):
        assert smoe("train", "-i", "stack.tif", "-r", f"r{axis}", "-k", 2, "-n", 1, "-q",
                    "--channel-axis", axis) == 0
        assert smoe("plot", f"r{axis}") == 0
        assert "Original" in Path(f"r{axis}/report.html").read_text()
        assert settings_of(f"r{axis}")["channels"] == channels


def test_results_that_say_that_their_picture_is_vast_are_not_drawn(here, fails):
    assert smoe(*TRAIN, "-q", "--no-plots") == 0
    params = smoe_np.load_params("r/params_best.npz")
    params.image_shape = (200_000, 200_000)
    params.save("r/params_best.npz")
    os.rename("grey.tif", "moved.tif")
    assert "says that its picture has 200000×200000 pixels" in fails("plot", "r")


def test_plot_finds_the_picture_from_any_folder_and_takes_no_other_for_it(here, fails, capsys):
    assert smoe(*TRAIN, "-q") == 0
    other = Path("other")
    other.mkdir()
    smoe_np.write_image(other / "grey.tif", 255 - smoe_np.read_image("grey.tif"))
    os.chdir(other)
    assert smoe("plot", "../r") == 0
    assert "Original" in Path("../r/report.html").read_text()
    assert "warning" not in capsys.readouterr().err
    assert smoe("plot", "../r", "-i", "grey.tif") == 0
    assert "'grey.tif' is not the picture that the model in '../r'" in capsys.readouterr().err
    assert smoe("plot", "../r", "-i", "../grey.tif") == 0
    settings = Path("../r/settings.json").read_text()
    Path("../r/settings.json").write_text('{"model": {}, "image_sha256": "0"}')
    assert smoe("plot", "../r", "-i", "../grey.tif") == 0
    Path("../r/settings.json").write_text(settings)
    os.rename("../grey.tif", "../moved.tif")
    page, sheet = (Path("../r", name).read_bytes() for name in ("report.html", "sheet.png"))
    assert "'../r' was not found or has changed; give it with -i, or --overwrite to" in fails(
        "plot", "../r")
    assert page == Path("../r/report.html").read_bytes()
    assert sheet == Path("../r/sheet.png").read_bytes()
    assert smoe("plot", "../r", "--overwrite") == 0
    assert "Original" not in Path("../r/report.html").read_text()
    assert "the picture of '../r' was not found or has changed; give" in capsys.readouterr().err


def test_plot_does_without_the_picture_where_that_is_gone(here, capsys):
    assert smoe(*TRAIN, "-q") == 0
    os.rename("grey.tif", "moved.tif")
    capsys.readouterr()
    assert smoe("plot", "r") == 0
    assert "give it with -i to show it" in capsys.readouterr().err
    assert "Original" not in Path("r/report.html").read_text()
    assert smoe("plot", "r", "-i", "moved.tif") == 0
    assert "Original" in Path("r/report.html").read_text()


@pytest.mark.parametrize("picture", [(), ("-i", "grey.tif")])
def test_plot_draws_a_model_where_it_is_told_to(here, capsys, picture):
    assert fit("--kernels", 3, "-n", 4, "-q") == 0
    assert smoe("plot", "m.npz", "-o", "s.png", *picture) == 0
    assert capsys.readouterr().out == "s.png: 3 kernels\n"
    assert is_png("s.png")


@pytest.mark.parametrize("output", ["m.png", "./sheet/../m.png", "model.png"])
def test_plot_does_not_replace_what_it_draws(here, fails, output):
    assert fit("--kernels", 3, "-n", 4, "-q") == 0
    os.rename("m.npz", "model.png")
    os.mkdir("sheet")
    smoe_np.write_image("m.tif", smoe_np.read_image("grey.tif"))
    os.rename("m.tif", "m.png")
    before = Path(output).read_bytes()
    assert "is a file to be drawn; give the sheet another name" in fails(
        "plot", "model.png", "-i", "m.png", "-o", output, "--overwrite")
    assert Path(output).read_bytes() == before


@pytest.mark.parametrize(("command", "why"), [
    (("plot", "gone"), "'gone': there is no such file"),
    (("plot", "m.npz"), "give -o SHEET.png, the file to draw the model into"),
    (("plot", "m.npz", "-o", "grey.tif"), "'grey.tif' exists; give another name, or --overwrite"),
    (("plot", "m.npz", "-o", "s.jpg"), "path 's.jpg' must end in .png"),
    (("plot", "m.npz", "-o", "s.png", "-i", "colour.tif"), "3 channels"),
    (("plot", "r", "-o", "s.png"), "-o is for a MODEL; the figures of a results folder"),
    (("plot", "empty"), "params_best.npz': there is no such file"),
    (("plot", "r", "-i", "colour.tif"), "3 channels"),
    (("plot", "forged"), "is not JSON"),
])
def test_what_cannot_be_drawn_is_said_in_one_line(here, fails, command, why):
    os.mkdir("empty")
    assert smoe(*TRAIN, "-q") == 0
    assert fit("--kernels", 2, "-n", 2, "-q") == 0
    os.mkdir("forged")
    smoe_np.load_params("m.npz").save("forged/params_best.npz")
    Path("forged/settings.json").write_text("[")
    assert why in fails(*command)


def test_a_forged_axis_is_refused(here, fails):
    assert smoe(*TRAIN, "-q") == 0
    settings = settings_of("r")
    with atomic_write("r/settings.json") as stream:
        stream.write(json.dumps({**settings, "channel_axis": [1]}).encode())
    assert "has [1] as 'channel_axis'" in fails("plot", "r")


def test_what_a_link_among_the_results_leads_to_is_not_drawn_over(drawn_here):
    assert smoe(*TRAIN, "-q") == 0
    Path("mine.txt").write_text("precious")
    for name in DRAWN:
        Path("r", name).unlink()
        Path("r", name).symlink_to(Path("mine.txt").resolve())
    assert smoe("plot", "r") == 0
    assert Path("mine.txt").read_text() == "precious"
    assert is_png("r/sheet.png")
    assert not Path("r/report.html").is_symlink()


def test_a_name_that_is_no_text_is_drawn_all_the_same(drawn_here):
    name = os.fsdecode(b"bad\xff.tif")
    os.rename("grey.tif", name)
    assert smoe("train", "-i", name, "-r", "r", "-k", 3, "-n", 4, "-q") == 0
    assert drawn() == DRAWN


def test_settings_that_are_too_deep_are_told_in_a_line(drawn_here, capsys):
    assert smoe(*TRAIN, "-q", "--no-plots") == 0
    Path("r/settings.json").write_text('{"deep":' + "[" * 600 + "]" * 600 + "}")
    assert smoe("plot", "r") == 2
    assert "nested too deeply" in the_one_line(capsys)
