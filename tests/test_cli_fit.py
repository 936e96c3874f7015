"""``smoe fit`` leaves a model, and goes on where it was interrupted."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_runs import (
    CHECKPOINT,
    assert_same_params,
    fit,
    full_disk,
    quality,
    settings_of,
    smoe,
    stop_at,
    the_one_line,
)

import smoe_np
from smoe_np import bench, commands_training
from smoe_np.progress import Progress
from smoe_np.results import ModelFile

# ---- fit


@pytest.mark.parametrize(("picture", "channels", "each"), [
    ("grey.tif", "1 channel", 9), ("colour.tif", "3 channels", 15)])
def test_fit_leaves_a_model_and_tells_how_good_and_how_large_it_is(
        here, capsys, picture, channels, each):
    assert smoe("fit", picture, "-o", "m.npz", "--kernels", 5, "-n", 40, "-v", 20) == 0
    out, err = capsys.readouterr()
    params = smoe_np.load_params("m.npz")
    assert params.image_shape == (14, 18)
    K, psnr = params.num_kernels, quality("m.npz", picture)
    start, end = out.splitlines()
    assert re.fullmatch(rf"14×18 pixels, {channels}; 5 kernels in 40 iterations; backend \w+",
                        start)
    size = re.escape(f"{K * each} scalars ({2 * K * each} bytes as float16, "
                     f"{16 * K * each / 252:.3g} bits a pixel)")
    assert re.fullmatch(rf"PSNR {psnr:.2f} dB, {K} kernels, {size}, [\d.]+ s; model in m\.npz", end)
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "iteration 0", "iteration 20", "iteration 40"]
    assert sorted(os.listdir()) == ["colour.tif", "grey.tif", "m.npz"]


@pytest.mark.parametrize(("options", "settings"), [
    (["--kernels", 5], {"kernels": 5}),
    (["--scalars", 62], {"scalars": 62}),
    (["--bytes", 190], {"bytes": 190}),
    (["--psnr", 20], {"psnr": 20}),
    (["--kernels=5", "--experts", "constant"], {"kernels": 5, "experts": "constant"}),
    (["--kernels=5", "--seed", 7], {"kernels": 5, "seed": 7}),
    (["--kernels=5", "--validation_iterations", 7], {"kernels": 5, "val_iter": 7}),
    (["--kernels=5", "-v", 7], {"kernels": 5, "val_iter": 7}),
])
def test_fit_does_what_the_library_does(here, options, settings):
    for number, n in enumerate(("-n", "--iterations")):
        assert smoe("fit", "grey.tif", "-o", f"{number}.npz", n, 30, "-q", *options) == 0
    model = smoe_np.Smoe(smoe_np.read_image("grey.tif")).fit(iterations=30, **settings)
    model.params.save("library.npz")
    assert_same_params("0.npz", "library.npz")
    assert_same_params("1.npz", "library.npz")


@pytest.mark.parametrize(("options", "bits"), [([], 9), (["--bits", 16], 16), (["--bits", 8], 8)])
def test_a_packed_model_has_the_bytes_that_are_wanted(here, capsys, options, bits):
    assert smoe("fit", "grey.tif", "-o", "m.smoe", "--bytes", 260, "-n", 30, *options) == 0
    model = smoe_np.Smoe(smoe_np.read_image("grey.tif"))
    model.fit(bytes=260, bits=bits, iterations=30)
    model.quantize(bytes=260).params.save("library.smoe", bits=model.bits)
    assert Path("m.smoe").read_bytes() == Path("library.smoe").read_bytes()
    size = os.path.getsize("m.smoe")
    assert 240 < size <= 260
    told = capsys.readouterr().out
    assert f"scalars ({size} bytes, {8 * size / 252:.3g} bits a pixel)" in told
    quality = smoe_np.psnr(smoe_np.read_image("grey.tif") / 255,
                           smoe_np.render(smoe_np.load_params("m.smoe"), (14, 18)))
    assert float(re.search(r"PSNR ([\d.]+) dB", told)[1]) == pytest.approx(quality, abs=0.02)


def test_kernels_are_no_sharper_than_is_wanted(here, fails):
    most = {}
    for options in ((), ("--sharpness", 0.2)):
        assert smoe("fit", "grey.tif", "-o", "m.npz", "--kernels", 20, "-n", 60, "-q",
                    "--overwrite", *options) == 0
        A = smoe_np.load_params("m.npz").A / 18  # per pixel
        most[options] = np.sqrt((A * A).sum(2)).max()
    assert most["--sharpness", 0.2] < 0.2001 < most[()]
    for wrong in ("0", "-1", "nan", "inf"):
        assert "--sharpness must be above 0 and finite" in fails(
            "fit", "grey.tif", "-o", "n.npz", "--kernels", 3, f"--sharpness={wrong}")
    assert "--sharpness must be at least 0.01, got 1e-09" in fails(
        "fit", "grey.tif", "-o", "n.npz", "--kernels", 3, "--sharpness", 1e-9)
    assert "--sharpness cannot be given with -c" in fails(
        "fit", "grey.tif", "-o", "n.npz", "-c", "m.npz", "--sharpness", 2)


def test_bits_are_those_of_a_packed_model(here, fails):
    assert smoe("fit", "grey.tif", "-o", "m.smoe", "--kernels", 9, "-n", 3, "-q", "--bits", 8) == 0
    assert os.path.getsize("m.smoe") < 79 + 9 * 9 + 6
    assert "--bits applies to .smoe files only" in fails(
        "fit", "grey.tif", "-o", "m.npz", "--kernels", 9, "--bits", 8)


def test_a_psnr_that_rounding_takes_away_is_said(here, capsys):
    wanted = ["--psnr", 24, "-n", 60, "--overwrite"]
    assert smoe("fit", "grey.tif", "-o", "m.smoe", *wanted) == 0  # 16 bits take nothing away
    capsys.readouterr()
    assert smoe("fit", "grey.tif", "-o", "m.smoe", *wanted, "--bits", 4, "-q") == 1
    assert the_one_line(capsys) == (
        "smoe: warning: rounding to 4 bits a number took the model below 24 dB; with more --bits "
        "it loses less")


def test_results_tell_of_the_bits(here):
    assert smoe("fit", "grey.tif", "-o", "m.smoe", "-r", "r", "--kernels", 5, "-n", 5, "-q",
                "--bits", 8) == 0
    assert settings_of("r")["bits"] == smoe_np.param_files.load_packed("m.smoe")[1]["bits"]


def test_a_packed_fit_goes_on_with_its_bits(here, capsys, monkeypatch):
    whole = ["--kernels", 5, "-n", 40, "-v", 10, "-q", "--bits", 8]
    assert smoe("fit", "grey.tif", "-o", "whole.smoe", *whole) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 25, signal.SIGINT)
        assert smoe("fit", "grey.tif", "-o", "m.smoe", *whole) == 130
    command = the_one_line(capsys).split("go on with: smoe ")[1]
    assert smoe(*shlex.split(command)) == 0
    assert Path("m.smoe").read_bytes() == Path("whole.smoe").read_bytes()


@pytest.mark.parametrize("name", ["a new\nline's\\.tif", "\u2028\xa0ü.tif", "bad\udcff.tif"])
def test_the_command_that_goes_on_is_a_line_whatever_the_names(here, capsys, monkeypatch, name):
    os.rename("grey.tif", name)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, signal.SIGINT)
        assert smoe("fit", name, "-o", "m.npz", "--kernels", 3, "-n", 9, "-q") == 130
    command = the_one_line(capsys).split("go on with: ")[1]
    echo = ["bash", "-c", f"printf '%s|' {command}"]
    words = subprocess.run(echo, capture_output=True, check=True).stdout.split(b"|")
    assert words[:3] == [b"smoe", b"fit", os.fsencode(name)]


@pytest.mark.parametrize(("option", "value"), [("--dtype", "float64"), ("--batches", 2)])
def test_fit_computes_as_it_is_told(here, option, value):
    assert fit("--kernels", 3, "-n", 2, "-q", "-r", "r", option, value, "--backend=numpy") == 0
    settings = settings_of("r")
    assert settings["backend"] == "numpy"
    assert settings["model"][option[2:]] == value


def test_fit_takes_a_channel_axis(here):
    smoe_np.write_image("stack.tif", bench.picture((6, 8))[None, ..., 0].repeat(3, axis=0))
    for axis, channels in (("0", 3), ("none", 1)):
        assert smoe("fit", "stack.tif", "-o", f"{axis}.npz", "--kernels", 2, "-n", 2, "-q",
                    "--channel-axis", axis) == 0
        assert smoe_np.load_params(f"{axis}.npz").num_channels == channels


def test_the_same_fit_leaves_the_same_bytes(here):
    for name in "a.npz", "b.npz":
        assert smoe("fit", "grey.tif", "-o", name, "--kernels", 4, "-n", 30, "-q") == 0
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


def test_a_quiet_fit_prints_nothing_where_all_goes_well(here, capsys):
    assert fit("--kernels", 3, "-n", 3, "-q") == 0
    assert fit("--psnr", 12, "-n", 3, "-q", "--overwrite") == 0
    assert capsys.readouterr() == ("", "")


def test_fit_to_a_psnr_tells_of_each_try_and_which_was_the_best(here, capsys):
    assert fit("--psnr", 22, "-n", 20, "-v", 20) == 0
    out, err = capsys.readouterr()
    model = smoe_np.Smoe(smoe_np.read_image("grey.tif")).fit(psnr=22, iterations=20, val_iter=20)
    tried = [re.fullmatch(r"try (\d+): PSNR ([\d.]+) dB, \d+ kernels? after (\d+) iterations", line)
             for line in err.splitlines() if line.startswith("try")]
    assert len(tried) > 2
    assert [(line[1], line[2], line[3]) for line in tried] == [
        (str(number), f"{one.psnr:.2f}", str(one.iterations))
        for number, one in enumerate(model.tried, start=1)]
    assert "; fits of 20 iterations to reach 22 dB; " in out
    assert re.search(rf"PSNR {model.history[-1].psnr:.2f} dB, {model.params.num_kernels} kernels,"
                     rf" .* s \(the best of {len(tried)} tries in [\d.]+ s\); model in m.npz\n$",
                     out)
    assert quality("m.npz") >= 22


def test_a_psnr_out_of_reach_is_one_line_and_status_1_and_leaves_the_best_model(here, capsys):
    assert fit("--psnr", 90, "-n", 10, "-q") == 1
    line = the_one_line(capsys)
    assert re.match("smoe: warning: psnr 90 is out of reach: 2[45]\\d kernels reach", line)
    assert f"reach {quality('m.npz'):.2f} dB in 10 iterations" in line
    assert not Path("m.checkpoint.npz").exists()


def test_fit_leaves_the_results_of_train_where_it_is_asked_to(drawn_here, capsys):
    assert fit("--kernels", 5, "-n", 20, "-v", 10, "-r", "r") == 0
    assert capsys.readouterr().out.endswith("; model in m.npz, results in r\n")
    assert {path.relative_to("r").as_posix() for path in Path("r").rglob("*.*")} == {
        "params/params_000000.npz", "params/params_000010.npz", "params/params_000020.npz",
        "reconstructions/reconstruction_000000.png", "reconstructions/reconstruction_000010.png",
        "reconstructions/reconstruction_000020.png", "checkpoints/last.npz", "params_best.npz",
        "params_last.npz", "reconstruction_best.png", "history.csv", "settings.json", "loss.png",
        "sheet.png", "report.html"}
    assert_same_params("r/params_last.npz", "m.npz")
    settings = settings_of("r")
    assert (settings["training"]["target"], settings["training"]["value"]) == ("kernels", 5)
    assert settings["image"] == "grey.tif"
    assert not Path("m.checkpoint.npz").exists()


def test_results_of_a_fit_to_a_psnr_are_of_the_last_try_on_the_way_and_of_the_best_in_the_end(here):
    assert fit("--psnr", 22, "-n", 20, "-v", 10, "-r", "r", "-q") == 0
    for sub in "params", "reconstructions":  # and not of short ones, which end at 2
        assert [re.sub(r"\D", "", path.name) for path in sorted(Path("r", sub).iterdir())] == [
            "000000", "000010", "000020"]
    assert_same_params("r/params_best.npz", "m.npz")
    tried = settings_of("r")["tried"]
    assert len(tried) > 2
    last = Path("r/history.csv").read_text().splitlines()[-1].split(",")
    best = min((one for one in tried if one["psnr"] >= 22), key=lambda one: one["kernels"])
    assert float(last[3]) == best["psnr"]


def test_the_model_may_lie_among_the_results(here):
    assert smoe("fit", "grey.tif", "-o", "r/m.npz", "-r", "r", "--kernels", 3, "-n", 2, "-q") == 0
    assert_same_params("r/m.npz", "r/params_best.npz")


def test_fit_replaces_a_model_and_results_only_when_asked(here, fails):
    assert fit("--kernels", 2, "-n", 2, "-r", "r", "-q") == 0
    before = Path("m.npz").read_bytes()
    fails("fit", "grey.tif", "-o", "m.npz", "--kernels", 3, "-n", 2)
    fails("fit", "grey.tif", "-o", "n.npz", "--kernels", 3, "-n", 2, "-r", "r")
    assert Path("m.npz").read_bytes() == before
    assert fit("--kernels", 3, "-n", 2, "-r", "r", "-q", "--overwrite") == 0
    assert smoe_np.load_params("m.npz").num_kernels == 3
    assert settings_of("r")["training"]["value"] == 3


def test_a_fit_that_diverges_leaves_its_best_model_and_status_1(here, capsys, monkeypatch):
    loss = smoe_np.Smoe._mse
    monkeypatch.setattr(smoe_np.Smoe, "_mse",
                        lambda self: loss(self) if self.iteration < 4 else np.nan)
    assert fit("--kernels", 3, "-n", 9, "-v", 2) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("smoe: warning: training ended at iteration 4: the loss")
    assert out.endswith("; model in m.npz, checkpoint in m.checkpoint.npz\n")
    assert f"PSNR {quality('m.npz'):.2f} dB" in out


def test_the_help_begins_with_fit_and_says_how_train_differs(capsys):
    assert smoe("--help") == 0
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.M)
    assert commands == ["fit", "train", "sparsify", "quantize", "denoise", "render", "plot", "info",
                        "bench"]
    assert smoe("train", "--help") == 0
    assert "smoe fit makes a better model" in capsys.readouterr().out.replace("\n", " ")


def test_defaults_in_the_help_of_fit_are_those_of_the_library(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert smoe("fit", "--help") == 0
    text = capsys.readouterr().out
    for line in ("-n, --iterations N .*3000", "-v, .*100", "--experts .*auto", "--seed N .*0",
                 "--dtype .*float32"):
        assert re.search(rf"{line}\)", text), line
    assert smoe_np.fit.fit_settings(kernels=1)["iterations"] == 3000


# ---- going on with a fit


FITS = {  # options, and after how many tries and iterations a signal comes
    "kernels": (["--kernels", 6, "-n", 60, "-v", 20], 0, 37),
    "at a validation": (["--kernels", 6, "-n", 60, "-v", 20], 0, 40),
    "psnr": (["--psnr", 22, "-n", 20, "-v", 10], 3, 13),
    "between tries": (["--psnr", 22, "-n", 20, "-v", 10], 2, 20),
}


@pytest.mark.parametrize("results", [[], ["-r", "r r"]])
@pytest.mark.parametrize(("name", "number", "status", "what"), [
    ("kernels", signal.SIGINT, 130, "interrupted"), ("kernels", signal.SIGTERM, 143, "terminated"),
    *((name, signal.SIGINT, 130, "interrupted") for name in list(FITS)[1:])])
def test_an_interrupted_fit_goes_on_by_the_command_that_it_prints(
        here, capsys, monkeypatch, name, number, status, what, results):
    options, tries, iteration = FITS[name]
    assert smoe("fit", "grey.tif", "-o", "whole.npz", *options, "-q", "-r", "whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, iteration, number, tries)
        assert smoe("fit", "grey.tif", "-o", "m m.npz", *options, *results, "-q") == status
    line = the_one_line(capsys)
    if name == "between tries":  # the next one had begun when it was looked up
        tries, iteration = tries + 1, 0
    where = f"iteration {iteration}" + f" of try {tries + 1}" * ("psnr" in options[0])
    checkpoint = "r r/checkpoints/last.npz" if results else "m m.checkpoint.npz"
    assert f"smoe: {what} at {where}; the checkpoint is {checkpoint}; go on with: " in line
    assert not Path("m m.npz").exists()
    if results:
        assert settings_of("r r")["stopped"] == "interrupted"
        assert Path("r r/params_last.npz").exists()
    command = shlex.split(line.partition("go on with: ")[2])
    assert command == ["smoe", "fit", "grey.tif", "-o", "m m.npz", *results, "-c", checkpoint, "-q"]

    assert smoe(*command[1:]) == 0
    assert capsys.readouterr() == ("", "")
    assert Path("m m.npz").read_bytes() == Path("whole.npz").read_bytes()
    assert not Path("m m.checkpoint.npz").exists()
    if results:
        files = [sorted(path.relative_to(folder) for path in Path(folder).rglob("*"))
                 for folder in ("whole", "r r")]
        assert files[0] == files[1]
        for path in (path for path in files[0] if "params" in path.name and path.suffix):
            assert_same_params("whole" / path, "r r" / path)


def test_the_command_that_goes_on_with_a_fit_keeps_what_the_checkpoint_does_not_know(
        here, capsys, monkeypatch):
    smoe_np.write_image("-stack.tif", bench.picture((6, 8))[None, ..., 0].repeat(3, axis=0))
    Path("-m.npz").write_text("older")
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert smoe("fit", "-q", "--kernels", 2, "-n", 3, "--output=-m.npz", "--channel-axis", 0,
                    "--backend", "numpy", "--overwrite", "--", "-stack.tif") == 130
    assert Path("-m.npz").read_text() == "older"
    command = the_one_line(capsys).partition("go on with: smoe ")[2]
    assert command == ("fit ./-stack.tif -o ./-m.npz -c ./-m.checkpoint.npz --overwrite --backend "
                       "numpy --channel-axis 0 -q")
    assert smoe(*shlex.split(command)) == 0
    assert smoe_np.load_params("-m.npz").num_channels == 3


def test_a_fit_of_some_seconds_goes_on_with_what_is_left(here, capsys, monkeypatch, clock):
    assert smoe("fit", "grey.tif", "-o", "whole.npz", "--kernels", 3, "--seconds", 2) == 0
    out, _ = capsys.readouterr()
    assert "3 kernels in 2 s" in out
    assert re.search(r" 2\.0 s; model in whole\.npz\n$", out)
    with monkeypatch.context() as patch:
        stop_at(patch, 30, signal.SIGINT)
        assert fit("--kernels", 3, "--seconds", 2, "-q") == 130
    _, err = capsys.readouterr()
    before = clock.now
    assert smoe(*shlex.split(err.partition("go on with: smoe ")[2].replace(" -q", ""))) == 0
    assert re.search(r" 2\.0 s; model in m\.npz\n$", capsys.readouterr().out)
    assert 0.5 < clock.now - before < 1.9


def test_the_checkpoint_of_a_fit_is_nobodys_but_its_own(here, capsys, monkeypatch):
    foreign = Path("m.checkpoint.npz")
    foreign.write_text("mine")
    assert fit("--kernels", 3, "-n", 3, "-q") == 2
    assert "'m.checkpoint.npz' exists" in the_one_line(capsys)
    with monkeypatch.context() as patch:  # a signal before there is any checkpoint of this fit
        patch.setattr(commands_training, "read_image",
                      lambda path: signal.raise_signal(signal.SIGINT))
        assert fit("--kernels", 3, "-n", 3, "-q", "--overwrite") == 130
    assert "go on with" not in the_one_line(capsys)
    assert foreign.read_text() == "mine"
    assert fit("--kernels", 3, "-n", 3, "-q", "-r", "r") == 0  # which has its checkpoint elsewhere
    assert foreign.read_text() == "mine"
    assert fit("--kernels", 3, "-n", 3, "-q", "--overwrite") == 0
    assert not foreign.exists()


def test_a_checkpoint_that_is_given_by_another_name_stays(here, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2, signal.SIGINT)
        assert fit("--kernels", 3, "-n", 4, "-q") == 130
    os.rename("m.checkpoint.npz", "kept.npz")
    before = Path("kept.npz").read_bytes()
    assert fit("-c", "kept.npz", "-q") == 0
    assert Path("kept.npz").read_bytes() == before
    assert sorted(path.name for path in Path().glob("*.npz")) == ["kept.npz", "m.npz"]


def test_a_fit_that_had_ended_gives_its_model_again(here, capsys):
    for target in ["--kernels", 3], ["--psnr", 20]:
        assert fit(*target, "-n", 20, "-r", "r", "-q", "--overwrite") == 0
        assert smoe("fit", "grey.tif", "-o", "again.npz", "-r", "r", "-c", CHECKPOINT, "-q",
                    "--overwrite") == 0
        assert Path("again.npz").read_bytes() == Path("m.npz").read_bytes()
    assert capsys.readouterr() == ("", "")


def test_a_model_that_cannot_be_written_at_the_end_is_not_lost(here, fails, monkeypatch):
    finish = ModelFile.finish

    def meanwhile(self, model):
        Path("m.npz").write_text("of somebody else")
        finish(self, model)

    with monkeypatch.context() as patch:
        patch.setattr(ModelFile, "finish", meanwhile)
        line = fails("fit", "grey.tif", "-o", "m.npz", "--kernels", 3, "-n", 3, "-q")
    assert ("'m.npz' has been created meanwhile, and is not overwritten; the checkpoint is "
            "m.checkpoint.npz") in line
    assert Path("m.npz").read_text() == "of somebody else"
    assert smoe(*shlex.split(line.partition("go on with: smoe ")[2])) == 0
    assert not Path("m.checkpoint.npz").exists()
    assert smoe("fit", "grey.tif", "-o", "whole.npz", "--kernels", 3, "-n", 3, "-q") == 0
    assert_same_params("m.npz", "whole.npz")


@pytest.mark.parametrize(("results", "after"), [
    ([], 5),  # two to try it, three checkpoints
    (["-r", "r"], 13),  # five to try it, of a first validation six, of a second the first two
])
def test_a_disk_that_fills_up_ends_a_fit_with_the_command_that_goes_on(
        here, fails, monkeypatch, results, after):
    options = ["--kernels", 4, "-n", 40, "-v", 4, "-q"]
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        line = fails("fit", "grey.tif", "-o", "m.npz", *options, *results)
    assert "no space left on the device" in line
    assert not list(Path().glob("**/.*"))
    assert smoe(*shlex.split(line.partition("go on with: smoe ")[2])) == 0
    assert smoe("fit", "grey.tif", "-o", "whole.npz", *options, "-r", "whole") == 0
    assert_same_params("m.npz", "whole.npz")
    if results:
        assert sorted(p.name for p in Path("r").rglob("*")) == sorted(
            p.name for p in Path("whole").rglob("*"))


def test_a_full_disk_is_told_before_a_fit_begins(here, capsys, monkeypatch):
    for name, after in (("m.npz", 0), ("m.checkpoint.npz", 1)):
        with monkeypatch.context() as patch:
            full_disk(patch, after)
            assert fit("--kernels", 3) == 2
        out, err = capsys.readouterr()
        assert err.startswith(f"smoe: cannot write '{name}': no space left")
        assert out == ""
    assert sorted(os.listdir()) == ["colour.tif", "grey.tif"]


def test_a_second_signal_ends_a_fit_at_once(here, capsys, monkeypatch):
    step = Progress.__call__

    def stepping(self, model):
        step(self, model)
        if model.iteration == 13:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    options = ["--kernels", 4, "-n", 30, "-v", 10, "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", stepping)
        assert fit(*options) == 130
    command = the_one_line(capsys).partition("go on with: smoe ")[2]
    assert smoe(*shlex.split(command)) == 0  # from the last validation
    assert smoe("fit", "grey.tif", "-o", "whole.npz", *options) == 0
    assert_same_params("m.npz", "whole.npz")
