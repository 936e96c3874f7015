"""``smoe render`` and ``info``, and where output goes."""

import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cli_runs import (
    run_process,
    smoe,
)

import smoe_np
from smoe_np import commands, machine, packed

# ---- render


@pytest.mark.parametrize(("size", "shape"), [
    ([], (14, 18)), (["--scale", 2], (28, 36)), (["--scale", 0.01], (1, 1)),
    (["--shape", 5, 9], (5, 9)), (["--shape", 20, 9], (20, 9))])
def test_render_draws_all_of_the_picture_at_any_size(after_a_run, capsys, size, shape):
    assert smoe("render", "r/params_last.npz", "-o", "new.tif", *size) == 0
    picture = smoe_np.read_image("new.tif")
    expected = smoe_np.render(smoe_np.load_params("r/params_last.npz"), shape, samples="auto",
                              region=((0, 14), (0, 18)))
    np.testing.assert_allclose(picture / 255, expected, atol=0.5001 / 255)
    assert capsys.readouterr().out == f"new.tif: {shape[0]}×{shape[1]} pixels, 4 kernels\n"


@pytest.mark.parametrize(("options", "shape", "region", "samples"), [
    (["--crop", 3, 5, 6, 4], (6, 4), ((3, 9), (5, 9)), 1),
    (["--crop", 2.5, 4, 5, 10, "--scale", 3], (15, 30), ((2.5, 7.5), (4, 14)), 1),
    (["--crop", -2, 0, 18, 18, "--shape", 4, 4], (4, 4), ((-2, 16), (0, 18)), 5),
    (["--samples", 3], (14, 18), None, 3)])
def test_render_draws_a_part_and_means_of_samples(after_a_run, options, shape, region, samples):
    assert smoe("render", "r/params_last.npz", "-o", "new.tif", *options) == 0
    expected = smoe_np.render(smoe_np.load_params("r/params_last.npz"), shape, region=region,
                              samples=samples)
    np.testing.assert_allclose(smoe_np.read_image("new.tif") / 255, expected, atol=0.5001 / 255)


@pytest.mark.parametrize(("crop", "told"), [
    ((0, 0, 14, 18), False), ((-5, -5, 6, 6), False), ((13, 17, 5, 5), False),
    ((-5, 3, 5, 5), True), ((14, 0, 2, 2), True), ((0, 18, 2, 2), True)])
def test_a_part_that_has_nothing_of_the_picture_is_told(after_a_run, capsys, crop, told):
    assert smoe("render", "r/params_last.npz", "-o", "new.tif", "--crop", *crop) == 0
    assert ("--crop lies outside the picture, which has 14×18" in capsys.readouterr().err) == told


@pytest.mark.parametrize(("options", "why"), [
    (["--crop", 1, 2], "--crop takes 4 numbers for a model of 2 dimensions"),
    (["--crop", 1, 2, 3, 0], "--crop must be finite, and of a size above 0"),
    (["--crop", 1, "nan", 3, 4], "--crop must be finite"),
    (["--crop", 1, 2, 3, 1e9, "--shape", 3, 4], "region must be finite, and at most"),
    (["--samples", "many"], "argument --samples: invalid samples value: 'many'"),
    (["--samples", 0], "--samples must be at least 1, got 0")])
def test_parts_and_samples_that_are_none_are_refused(after_a_run, fails, options, why):
    assert why in fails("render", "r/params_last.npz", "-o", "new.tif", *options)
    assert not Path("new.tif").exists()


def test_render_replaces_a_picture_only_when_asked(after_a_run, fails):
    before = Path("grey.tif").read_bytes()
    fails("render", "r/params_last.npz", "-o", "grey.tif")
    assert Path("grey.tif").read_bytes() == before
    assert smoe("render", "r/params_last.npz", "-o", "grey.tif", "--overwrite", "--scale", 3) == 0
    assert smoe_np.read_image("grey.tif").shape == (42, 54)


def test_render_asks_for_the_size_that_a_file_of_tf_smoe_does_not_hold(after_a_run, fails):
    arrays = smoe_np.load_params("r/params_last.npz").to_tf_smoe()
    Path("theirs.pkl").write_bytes(pickle.dumps({"params": arrays}))
    for size in [], ["--scale", 2]:
        assert "does not hold the size of its picture; give --shape" in fails(
            "render", "theirs.pkl", "-o", "new.tif", *size)
    assert "size of its picture; give that with -i" in fails("plot", "theirs.pkl", "-o", "new.png")
    assert smoe("render", "theirs.pkl", "-o", "new.tif", "--shape", 7, 9) == 0


def test_a_picture_that_a_file_says_is_vast_is_not_drawn_unasked(here, fails):
    params = smoe_np.Smoe(smoe_np.read_image("grey.tif"), 2).params.copy()
    params.image_shape = (60000, 60000)
    params.save("vast.smoe")
    assert "says that its picture has 60000×60000 pixels" in fails(
        "render", "vast.smoe", "-o", "x.tif")
    assert "says that its picture has 60000×60000 pixels" in fails(
        "plot", "vast.smoe", "-o", "x.png")
    assert smoe("render", "vast.smoe", "-o", "x.tif", "--shape", 3, 4, "--samples", 1) == 0
    for wrong in ("1e308", "1e300"):
        assert "beyond what can be drawn" in fails(
            "render", "vast.smoe", "-o", "y.tif", "--scale", wrong)


def test_a_picture_that_memory_does_not_hold_is_not_drawn(after_a_run, fails, monkeypatch):
    told = fails("render", "r/params_last.npz", "-o", "y.tif", "--shape", 100000, 2000000)
    assert re.search(r"100000×2000000 pixels take 1676\.4 GiB of memory, but only "
                     r"\d+\.\d GiB are free; draw fewer pixels, or draw part by part with "
                     r"--crop", told)
    needed = (8 + 1) * 12 * 11  # two of float32, one of what is written
    for free, status in ((needed - 1, 2), (needed, 0), (None, 0)):
        monkeypatch.setattr(machine, "free_bytes", lambda free=free: free)
        assert smoe("render", "r/params_last.npz", "-o", "z.tif", "--overwrite", "--shape",
                    12, 11) == status


@pytest.mark.parametrize(("depth", "dtype"), [(8, np.uint8), (16, np.uint16), (32, np.float32)])
def test_pictures_are_drawn_with_as_many_bits_as_are_asked_for(after_a_run, depth, dtype):
    assert smoe("render", "r/params_last.npz", "-o", "n.tif", "--depth", depth) == 0
    picture = smoe_np.read_image("n.tif")
    assert picture.dtype == dtype
    drawn = smoe_np.render(smoe_np.load_params("r/params_last.npz"), (14, 18))
    np.testing.assert_allclose(smoe_np.pixels.as_float(picture), drawn,
                               atol=0.51 / 2**min(depth, 20))


def test_more_bits_than_a_file_holds_are_refused_before_anything_is_drawn(after_a_run, fails):
    assert "holds at most 8 bits here" in fails(
        "render", "r/params_last.npz", "-o", "n.jpg", "--depth", 16)
    assert "holds at most 8 bits here" in fails(
        "denoise", "grey.tif", "-o", "n.jpg", "--depth", 16, "--sigma", 5, "-q")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_denoise_writes_as_many_bits_as_it_has_read_where_a_file_holds_them(here, bits):
    smoe_np.write_image("noisy.tif", np.random.default_rng(0).random((12, 14)), bits)
    for name, wanted in (("clean.tif", bits), ("clean.png", 16 if bits == 16 else 8), ("c.jpg", 8)):
        assert smoe("denoise", "noisy.tif", "-o", name, "--sigma", 20, "--fits", 1, "-q") == 0
        assert 8 * smoe_np.read_image(name).dtype.itemsize == wanted


@pytest.mark.parametrize(("channels", "written"), [(3, (9, 13, 3)), (4, (4, 9, 13))])
def test_channels_that_come_first_are_written_so_that_a_file_holds_them(
        here, fails, capsys, channels, written):
    planes = np.random.default_rng(0).random((channels, 9, 13), np.float32)
    tifffile.imwrite("planes.tif", planes, photometric="minisblack", metadata=None)
    there = ["planes.tif", "--channel-axis", 0, "-o"]
    assert smoe("denoise", *there, "clean.tif", "--sigma", 9, "--fits", 1) == 0
    assert smoe("fit", *there, "model.npz", "--kernels", 3, "-n", 3, "-q") == 0
    assert smoe("render", "model.npz", "-o", "drawn.tif") == 0
    told = capsys.readouterr().out
    for name in ("clean.tif", "drawn.tif"):
        assert tifffile.imread(name).shape == written
        assert f"{name}: 9×13 pixels" in told
    if channels == 4:
        for command in (["denoise", *there], ["render", "model.npz", "-o"]):
            assert "such a file cannot hold 9×13 pixels of 4 channels; write .tif" in fails(
                *command, "new.png")
        assert not os.path.exists("new.png")


def test_a_slice_of_a_volume_is_drawn_as_a_picture(here, fails):
    volume = np.random.default_rng(0).random((5, 7, 9)).astype(np.float32)
    smoe_np.Smoe(volume, 3).train(5).save("volume.npz")
    draw = ["render", "volume.npz", "-o"]
    refused = fails(*draw, "new.png")
    assert "hold 5×7×9 pixels of 1 channel; write .tif, or one slice, which has a" in refused
    assert smoe(*draw, "new.png", "--crop", 0, 2, 0, 5, 1, 9) == 0
    drawn = smoe_np.render(smoe_np.load_params("volume.npz"))
    np.testing.assert_allclose(smoe_np.read_image("new.png") / 255, drawn[:, 2], atol=0.51 / 255)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_what_is_narrow_is_no_colour(here, width):
    volume = np.random.default_rng(0).random((5, 6, width)).astype(np.float32)
    smoe_np.write_image("volume.tif", volume, dimensions=3)
    common = "--channel-axis", "none"
    assert smoe("train", "-i", "volume.tif", "-r", "run", "-k", 2, "-n", 2, "-q", *common) == 0
    assert smoe("denoise", "volume.tif", "-o", "clean.tif", "--sigma", 9, "--fits", 1, *common) == 0
    assert smoe("render", "run/params_best.npz", "-o", "drawn.tif") == 0
    for name in ("clean.tif", "drawn.tif"):
        assert smoe_np.read_image(name).shape == (5, 6, width)
    assert smoe("render", "run/params_best.npz", "-o", "slice.png", "--shape", 1, 6, width) == 0
    assert smoe_np.read_image("slice.png").shape == (6, width)


def test_channels_that_come_first_in_a_file_are_told(here, capsys):
    picture = np.random.default_rng(0).random((8, 3, 5)).astype(np.float32)
    smoe_np.Smoe(picture, 2, channel_axis=-1, backend="numpy").train(2).save("five.npz")
    assert smoe("render", "five.npz", "-o", "five.tif", "--backend", "numpy") == 0
    assert "8×3 pixels of 5 channels (the first axis in the file), " in capsys.readouterr().out
    assert smoe_np.read_image("five.tif").shape == (5, 8, 3)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_of_a_signal_are_the_rows_of_a_file(here, channels):
    rows = np.random.default_rng(0).random((channels, 40)).astype(np.float32)
    smoe_np.write_image("rows.tif", rows)
    source = "rows.tif", "--channel-axis", 0, "--backend", "numpy"
    assert smoe("train", "-i", *source, "-r", "run", "-k", 3, "-n", 2, "-q", "--no-plots") == 0
    assert smoe("fit", *source, "-o", "model.npz", "--kernels", 4, "-n", 20, "-q") == 0
    assert smoe("render", "model.npz", "-o", "drawn.tif", "--backend", "numpy") == 0
    assert smoe("denoise", *source, "-o", "clean.tif", "--sigma", 9, "--fits", 1) == 0
    for name in ("drawn.tif", "clean.tif", "run/reconstruction_best.tif"):
        assert smoe_np.read_image(name).shape == (channels, 40)
    model = smoe_np.load_params("model.npz")
    np.testing.assert_allclose(smoe_np.read_image("drawn.tif") / 255, np.atleast_2d(
        smoe_np.render(model, backend="numpy").T), atol=0.51 / 255)


def test_denoise_tells_the_size_of_a_volume(here, capsys):
    volume = np.random.default_rng(0).random((6, 7, 11)).astype(np.float32)
    smoe_np.write_image("volume.tif", volume)
    assert smoe("denoise", "volume.tif", "-o", "clean.tif", "--sigma", 10, "--fits", 1) == 0
    assert "clean.tif: 6×7×11 pixels" in capsys.readouterr().out


def test_a_part_may_begin_before_the_picture_in_any_notation(after_a_run):
    assert smoe("render", "r/params_last.npz", "-o", "n.tif", "--crop", "-1e1", "0", "5", "5") == 0


def test_what_comes_while_a_picture_is_drawn_is_left_alone(after_a_run, fails, monkeypatch):
    def render(*arguments, **options):
        Path("n.tif").write_text("precious")
        return smoe_np.render(*arguments, **options)

    monkeypatch.setattr(commands, "render", render)
    assert "'n.tif' exists" in fails("render", "r/params_last.npz", "-o", "n.tif")
    assert Path("n.tif").read_text() == "precious"


# ---- info


def test_info_counts_what_is_in_a_model(here, capsys):
    params = smoe_np.SmoeParams(
        pis=[0.5, 0.25, -0.1], musX=[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
        A=[[[10, 0], [0, 5]], [[-10, 0], [0, 5]], [[20, 0], [0, 2]]],
        gamma_e=np.ones((3, 3, 2)), nu_e=np.ones((3, 3)), image_shape=(10, 20))
    params.save("a.npz")
    assert smoe("info", "a.npz", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kernels"], facts["dimensions"], facts["channels"]) == (3, 2, 3)
    assert facts["scalars"] == 3 * (1 + 2 + 3 + 6 + 3)
    assert facts["bytes_as_float16"] == 2 * facts["scalars"]
    assert facts["bits_per_pixel"] == 16 * facts["scalars"] / 200
    assert facts["experts"] == "affine"
    assert facts["image_shape"] == [10, 20]
    assert facts["dtype"] == "float64"
    assert facts["radial"] is False
    assert facts["ranges"]["A"] == [-10, 20]
    assert (facts["negative_gates"], facts["weights_not_above_0"]) == (1, 1)
    # sigma = 20 pixels / singular value of A
    assert np.allclose(facts["sigma_in_pixels"]["smallest"][::6], [1, 2])
    assert np.allclose(facts["sigma_in_pixels"]["largest"][::6], [4, 10])
    assert smoe("info", "a.npz") == 0
    out = capsys.readouterr().out
    assert re.search(r"image shape +10×20\n", out)
    assert re.search(r"size +45 scalars \(90 bytes as float16, 3.6 bits a pixel\)\n", out)
    assert re.search(r"negative gates +1 kernel\n", out)
    assert re.search(r"pis +-0.1 … 0.5\n", out)


def test_info_tells_how_good_a_model_of_a_picture_is(after_a_run, fails, capsys):
    image = smoe_np.read_image("grey.tif")
    drawn = smoe_np.render(smoe_np.load_params("r/params_last.npz"), (14, 18))
    info = ["info", "r/params_last.npz", "-i"]
    assert smoe(*info, "grey.tif", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["psnr"] == pytest.approx(smoe_np.psnr(image, drawn), abs=1e-3)
    assert facts["ssim"] == pytest.approx(smoe_np.ssim(image, drawn), abs=1e-5)
    assert smoe(*info, "grey.tif") == 0
    out = capsys.readouterr().out
    assert re.search(rf"PSNR +{facts['psnr']:.2f} dB\nSSIM +{facts['ssim']:.4f}\n", out)
    smoe_np.write_image("drawn.tif", drawn, 32)
    assert smoe(*info, "drawn.tif", "--json") == 0
    assert json.loads(capsys.readouterr().out)["psnr"] is None  # JSON knows no infinity
    assert smoe(*info, "drawn.tif") == 0
    assert re.search(r"PSNR +∞ dB\nSSIM +1.0000\n", capsys.readouterr().out)
    assert "channels" in fails(*info, "colour.tif")
    smoe_np.write_image("tall.tif", np.concatenate([image, image[::-1]]))
    assert smoe(*info, "tall.tif", "--json") == 0
    told = capsys.readouterr()
    assert "warning: 'tall.tif' has 28×18 pixels, the picture of the model has 14×18" in told.err
    assert smoe("plot", "r/params_last.npz", "-i", "tall.tif", "-o", "sheet.png") == 0
    assert "warning: 'tall.tif' has 28×18 pixels, the picture" in capsys.readouterr().err
    whole = smoe_np.Smoe(smoe_np.read_image("tall.tif"), params=smoe_np.load_params(
        "r/params_last.npz"))
    assert json.loads(told.out)["psnr"] == pytest.approx(
        smoe_np.psnr(smoe_np.read_image("tall.tif"), whole.reconstruction), abs=1e-3)


def test_info_tells_how_good_a_model_of_one_dimension_is(here, capsys):
    line = smoe_np.read_image("grey.tif")[3] / np.float32(255)
    smoe_np.write_image("line.tif", line[None], 32)
    fitted = smoe_np.Smoe(line[:, None], 5, channel_axis=-1).train(20)
    fitted.save("line.npz")
    assert smoe("info", "line.npz", "-i", "line.tif", "--channel-axis", 0, "--json") == 0
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(
        fitted.history[-1].psnr, abs=1e-3)


def test_info_counts_only_what_a_model_needs(here, capsys):
    params = smoe_np.SmoeParams(pis=[1], musX=[[0, 0]], A=[3], gamma_e=[[0, 0]], nu_e=[1])
    params.save("a.npz")
    assert smoe("info", "a.npz", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["experts"] == "constant"
    assert facts["scalars"] == 1 + 2 + 1 + 1
    assert facts["bits_per_pixel"] is None
    assert smoe("info", "a.npz") == 0
    assert re.search(r"size +5 scalars \(10 bytes as float16\)\n", capsys.readouterr().out)


def test_info_tells_of_a_packed_file_what_it_holds(here, capsys):
    params = smoe_np.Smoe(smoe_np.read_image("grey.tif"), 3).train(2).params
    params.save("a.npz")
    bits = {"weights": 7, "centres": 12, "extents": 9, "shears": 8, "values": 6, "slopes": 10}
    kinds = list(packed.kinds_of(params.arrays()))
    bits = {kind: bits[kind] for kind in kinds}
    params.save("a.smoe", bits=bits)
    assert smoe("info", "a.smoe", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    size = os.path.getsize("a.smoe")
    assert (facts["packed_bytes"], facts["packed_bits"]) == (size, bits)
    assert smoe("info", "a.smoe") == 0
    told = capsys.readouterr().out
    assert f"({size} bytes, " in told
    assert "7 of weights, 12 of centres, 9 of extents" in told
    assert smoe("info", "a.npz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["packed_bits"] is None


def test_a_packed_model_without_kernels_is_told_too(here, capsys):
    params = smoe_np.Smoe(smoe_np.read_image("grey.tif"), 2).params
    params.select(np.zeros(4, bool)).save("none.smoe")
    assert smoe("info", "none.smoe") == 0
    assert "0 scalars" in capsys.readouterr().out


def test_info_of_odd_models_is_told_too(here, capsys):
    flat = {"pis": [1], "musX": [[0, 0]], "A": [[[0, 0], [0, 0]]], "gamma_e": [[0, 0]], "nu_e": [1]}
    none = {name: np.zeros((0, *np.shape(value)[1:])) for name, value in flat.items()}
    for arrays in flat, none:
        smoe_np.SmoeParams(**arrays, image_shape=(4, 4)).save("odd.npz")
        assert smoe("info", "odd.npz") == 0
        assert smoe("info", "odd.npz", "--json") == 0
        json.loads(capsys.readouterr().out.partition("{")[2].join("{ "))


# ---- pipes


def run_unread(*arguments):
    """Run a command whose reader of stdout is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return run_process(*arguments, stdout=writing)
    finally:
        os.close(writing)


def test_a_reader_that_goes_away_is_no_error_to_talk_about(after_a_run):
    done = run_unread("info", "r/params_last.npz")
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_reader_that_goes_away_does_not_end_a_fit_whose_model_goes_to_a_file(here):
    done = run_unread("fit", "grey.tif", "-o", "m.npz", "--kernels", "3", "-n", "20")
    assert done.stderr.splitlines()[-1].startswith("iteration 20:")
    assert done.returncode == 141
    assert smoe_np.load_params("m.npz").num_kernels == 3


def test_a_psnr_that_is_missed_is_status_1_whether_that_is_read_or_not(here):
    done = run_unread("fit", "grey.tif", "-o", "m.npz", "--psnr", "90", "-n", "10")
    assert "out of reach" in done.stderr
    assert done.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(after_a_run):
    with open("/dev/full", "w") as full:
        done = run_process("info", "r/params_last.npz", stdout=full)
    assert done.stderr.lower() == "smoe: cannot write to standard output: no space left on device\n"
    assert done.returncode == 2


def test_standard_output_may_be_missing(here, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1) == 0


@pytest.mark.parametrize(("shape", "axis"), [((2, 12, 14), 0), ((12, 14, 5), -1), ((2, 40), 0)])
def test_a_model_knows_which_axis_of_its_picture_holds_the_channels(here, capsys, shape, axis):
    tifffile.imwrite("many.tif", np.random.default_rng(0).random(shape).astype(np.float32),
                     photometric="minisblack")
    assert smoe("fit", "many.tif", "-o", "m.npz", "--kernels", 3, "-n", 9, "--channel-axis", axis,
                "-q") == 0
    for command in (["info", "m.npz", "-i", "many.tif", "--json"],
                    ["quantize", "m.npz", "-i", "many.tif", "-o", "m.smoe", "--bits", 9]):
        assert smoe(*command) == 0
    if len(shape) == 3:
        assert smoe("plot", "m.npz", "-i", "many.tif", "-o", "sheet.png") == 0
    assert capsys.readouterr().err == ""


def test_where_two_axes_may_hold_the_channels_the_size_of_the_picture_tells_which(here, capsys):
    tifffile.imwrite("many.tif", np.random.default_rng(0).random((6, 20, 6)).astype(np.float32),
                     photometric="minisblack")
    for axis, name in ((0, "first.npz"), (-1, "last.npz")):
        assert smoe("fit", "many.tif", "-o", name, "--kernels", 9, "-n", 20, "--channel-axis", axis,
                    "-q") == 0
        assert smoe("info", name, "-i", "many.tif") == 0
        assert smoe("info", name, "-i", "many.tif", "--channel-axis", axis) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out[: len(out) // 2] == out[len(out) // 2 :]
