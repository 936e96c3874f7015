"""The command line does what it is told, and says in one line what is wrong."""

import errno
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import smoe_np
from smoe_np import bench, cli, cli_options, launch_native
from smoe_np.cli import main
from smoe_np.progress import Progress

SOURCE = str(Path(smoe_np.__file__).resolve().parents[1])
ENVIRONMENT = os.environ | {"PYTHONPATH": SOURCE, "PYTHONIOENCODING": "utf-8"}
CHECKPOINT = "r/checkpoints/last.npz"


def smoe(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a grey and a colour picture; training looks up after each step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch_native, "STEADY", 0)
    make_pictures()
    return tmp_path


def make_pictures():
    smoe_np.write_image("grey.tif", bench.picture((14, 18))[..., 0])
    smoe_np.write_image("colour.tif", bench.picture((14, 18), 3))


@pytest.fixture
def fails(capsys):
    """Run a command that must fail with status 2 and one line, and give back that line."""

    def run(*arguments):
        assert smoe(*arguments) == 2
        return the_one_line(capsys)

    return run


def the_one_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("smoe: ")
    return lines[0]


def arrays_of(path):
    return smoe_np.load_params(path).arrays()


def assert_same_params(a, b):
    a, b = arrays_of(a), arrays_of(b)
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def settings_of(folder):
    return json.loads(Path(folder, "settings.json").read_text())


# ---- train


@pytest.mark.parametrize(("picture", "shape"), [
    ("grey.tif", (14, 18)), ("colour.tif", (14, 18, 3))])
def test_train_leaves_results_and_tells_how_it_went(here, capsys, picture, shape):
    assert smoe("train", "-i", picture, "-r", "r", "-n", 4, "-v", 2, "-k", 3) == 0
    out, err = capsys.readouterr()
    assert re.match(r"14×18 pixels, \d channels?; 6 kernels; backend \w+; needs about \d+ MiB\n",
                    out)
    assert re.search(r"PSNR [\d.]+ dB, 6 kernels, [\d.]+ s; results in r\n$", out)
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "iteration 0", "iteration 2", "iteration 4"]
    assert smoe_np.read_image("r/reconstruction_best.png").shape == shape
    assert smoe_np.load_params("r/params_last.npz").image_shape == (14, 18)
    assert Path(CHECKPOINT).exists()


def test_train_does_what_the_library_does(here):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 6, "-v", 4, "-k", 3, "-q") == 0
    model = smoe_np.Smoe(smoe_np.read_image("grey.tif"), 3).train(6, val_iter=4)
    model.params.save("library.npz")
    assert_same_params("r/params_last.npz", "library.npz")


OPTIONS = {  # of tf-smoe's script and ours: names, a value, where it must arrive
    "iterations": (["-n", "--iterations"], 3, "training"),
    "val_iter": (["-v", "--validation_iterations"], 2, "training"),
    "kernels_per_dim": (["-k", "--kernels_per_dim"], 2, "model"),
    "l1reg": (["-reg", "--l1reg"], 0.25, "training"),
    "base_lr": (["-lr", "--base_lr"], 0.002, "training"),
    "batches": (["-b", "--batches"], 2, "model"),
    "lr_div": (["-d", "--lr_div"], 50.0, "training"),
    "lr_mult": (["-m", "--lr_mult"], 10.0, "training"),
    "bandwidth_reg": (["--bandwidth_reg"], 1e-6, "training"),
    "grad_clip": (["--grad_clip"], 0.5, "training"),
    "adam_eps": (["--adam_eps"], 1e-8, "training"),
    "dtype": (["--dtype"], "float64", "model"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_arrives_by_each_of_its_names(here, name):
    spellings, value, group = OPTIONS[name]
    for number, option in enumerate({*spellings, *(s.replace("_", "-") for s in spellings)}):
        few = [] if name == "iterations" else ["-n", 1]
        assert smoe("train", "--image_path", "grey.tif", "--results-path", f"r{number}", "-q", *few,
                    option, value) == 0
        assert settings_of(f"r{number}")[group][name] == value


@pytest.mark.parametrize(("names", "option", "value"), [
    (["-dp", "--disable_train_pis", "--disable-train-pis"], "train_pis", False),
    (["-dg", "--disable_train_gammas", "--disable-train-gammas"], "train_gammas", False),
    (["-ra", "--radial_as", "--radial-as"], "radial", True),
])
def test_flags_take_no_value_or_one_after_an_equals_sign(names, option, value):
    def given(*flags):
        return cli_options.parse(["train", "-i", "a", "-r", "b", *flags])[1]

    for name in names:
        for spelling in name, f"{name}=1", f"{name}=true", f"{name}=TRUE":
            assert given(spelling)[option] is value
        for spelling in f"{name}=0", f"{name}=false", f"{name}=False":
            assert option not in given(spelling)
            assert option not in given(names[0], spelling)
        assert given(f"{name}=0", names[0])[option] is value


def test_quiet_prints_nothing_where_all_goes_well(here, capsys):
    for flag in "-q", "--quiet", "--quiet=1":
        assert smoe("train", "-i", "grey.tif", "-r", f"r{flag}", "-n", 1, flag) == 0
    assert capsys.readouterr() == ("", "")
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1, "--quiet=0") == 0
    assert "PSNR" in capsys.readouterr().out


def test_defaults_in_the_help_are_those_of_the_library(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert smoe("train", "--help") == 0
    text = capsys.readouterr().out
    for line in ("-n, --iterations N .*1000", "-k, --kernels-per-dim N .*12", "-lr, .*0.001",
                 "-b, --batches N .*automatically", "--adam-eps X .*1e-15", "--grad-clip X .*none"):
        assert re.search(rf"{line}\)", text), line


@pytest.mark.parametrize("command", ["fit", "train", "render", "info", "bench"])
def test_every_command_has_help_with_an_example(command, capsys):
    assert smoe(command, "--help") == 0
    out, err = capsys.readouterr()
    assert f"\n  smoe {command} " in out
    assert err == ""


def test_version_is_that_of_the_library(capsys):
    assert smoe("--version") == 0
    assert capsys.readouterr().out == f"smoe_np {smoe_np.__version__}\n"


def test_training_starts_from_a_file_of_ours_or_of_tf_smoe(here):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 0, "-k", 2, "-q") == 0
    arrays = smoe_np.load_params("r/params_last.npz").to_tf_smoe()
    Path("theirs.pkl").write_bytes(pickle.dumps({"params": arrays}))
    for start in "r/params_last.npz", "theirs.pkl":
        assert smoe("train", "-i", "grey.tif", "-r", "from", "-p", start, "-n", 0, "-q",
                    "--overwrite") == 0
        assert_same_params("from/params_last.npz", "r/params_last.npz")


def test_a_channel_axis_can_be_named(here):
    smoe_np.write_image("stack.tif", bench.picture((6, 8))[None, ..., 0].repeat(3, axis=0))
    for axis, shape in (("0", [6, 8]), ("none", [3, 6, 8]), ("auto", [3, 6, 8])):
        assert smoe("train", "-i", "stack.tif", "-r", axis, "-n", 0, "-q",
                    "--channel-axis", axis) == 0
        assert settings_of(axis)["shape"] == shape


# ---- fit


def fit(*options):
    return smoe("fit", "grey.tif", "-o", "m.npz", *options)


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


def quality(path, picture="grey.tif"):
    image = smoe_np.read_image(picture) / 255
    return smoe_np.psnr(image, smoe_np.render(smoe_np.load_params(path), (14, 18)).reshape(
        image.shape))


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
    tried = [re.fullmatch(r"try (\d+): PSNR ([\d.]+) dB, \d+ kernels after (\d+) iterations", line)
             for line in err.splitlines() if line.startswith("try")]
    assert len(tried) > 2
    assert [(line[1], line[2], line[3]) for line in tried] == [
        (str(number), f"{one.psnr:.2f}", str(one.iterations))
        for number, one in enumerate(model.tried, start=1)]
    assert "; to 22 dB by fits of 20 iterations; " in out
    assert re.search(rf"PSNR {model.history[-1].psnr:.2f} dB, {model.params.num_kernels} kernels,"
                     rf" .* s \(the best of {len(tried)} tries\); model in m.npz\n$", out)
    assert quality("m.npz") >= 22


def test_a_psnr_out_of_reach_is_one_line_and_status_1_and_leaves_the_best_model(here, capsys):
    assert fit("--psnr", 90, "-n", 10, "-q") == 1
    line = the_one_line(capsys)
    assert re.match("smoe: warning: psnr 90 is out of reach: 2[45]\\d kernels reach", line)
    assert f"reach {quality('m.npz'):.2f} dB in 10 iterations" in line
    assert not Path("m.checkpoint.npz").exists()


def test_fit_leaves_the_results_of_train_where_it_is_asked_to(here, capsys):
    assert fit("--kernels", 5, "-n", 20, "-v", 10, "-r", "r") == 0
    assert capsys.readouterr().out.endswith("; model in m.npz, results in r\n")
    assert {path.relative_to("r").as_posix() for path in Path("r").rglob("*.*")} == {
        "params/params_000000.npz", "params/params_000010.npz", "params/params_000020.npz",
        "reconstructions/reconstruction_000000.png", "reconstructions/reconstruction_000010.png",
        "reconstructions/reconstruction_000020.png", "checkpoints/last.npz", "params_best.npz",
        "params_last.npz", "reconstruction_best.png", "history.csv", "settings.json"}
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
    assert float(last[3]) == min(one["psnr"] for one in tried if one["psnr"] >= 22)


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
    assert commands == ["fit", "train", "render", "info", "bench"]
    assert smoe("train", "--help") == 0
    assert "is better by smoe fit" in capsys.readouterr().out.replace("\n", " ")


def test_defaults_in_the_help_of_fit_are_those_of_the_library(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert smoe("fit", "--help") == 0
    text = capsys.readouterr().out
    for line in ("-n, --iterations N .*3000", "-v, .*100", "--experts .*affine", "--seed N .*0",
                 "--dtype .*float32"):
        assert re.search(rf"{line}\)", text), line
    assert smoe_np.fit.fit_settings(kernels=1)["iterations"] == 3000


# ---- going on


def stop_at(monkeypatch, iteration, number, tries=0):
    """Send a signal to this process in the course of training."""
    step = Progress.__call__

    def stepping(self, model):
        step(self, model)
        if (model.iteration, len(model.tried)) == (iteration, tries):
            signal.raise_signal(number)

    monkeypatch.setattr(Progress, "__call__", stepping)


@pytest.mark.parametrize(("number", "status", "what"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_an_interrupted_run_goes_on_by_the_command_that_it_prints(
        here, capsys, monkeypatch, number, status, what):
    options = ["-i", "grey.tif", "-k", 3, "-n", 20, "-v", 5, "-lr", 0.002, "-ra", "-q"]
    assert smoe("train", *options, "-r", "whole") == 0
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_at(patch, 13, number)
        assert smoe("train", *options, "-r", "r r") == status
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    line = the_one_line(capsys)
    assert f"{what} at iteration 13; the checkpoint is r r/checkpoints/last.npz" in line
    assert settings_of("r r")["stopped"] == "interrupted"
    assert Path("r r/params_last.npz").exists()
    assert Path("r r/params_best.npz").exists()

    command = shlex.split(line.partition("go on with: ")[2])
    assert command[0] == "smoe"
    assert smoe(*command[1:]) == 0
    assert capsys.readouterr() == ("", "")  # it was quiet, and goes on so
    for name in "params_last.npz", "params_best.npz", "params/params_000015.npz":
        assert_same_params(Path("whole", name), Path("r r", name))
    files = [sorted(path.relative_to(folder) for path in Path(folder).rglob("*"))
             for folder in ("whole", "r r")]
    assert files[0] == files[1]


def test_the_command_that_goes_on_keeps_what_the_checkpoint_does_not_know(
        here, capsys, monkeypatch):
    smoe_np.write_image("-stack.tif", bench.picture((6, 8))[None, ..., 0].repeat(3, axis=0))
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert smoe("train", "--image-path=-stack.tif", "-r", "r", "-n", 2, "-q", "--channel-axis",
                    0, "--backend", "numpy") == 130
    command = the_one_line(capsys).partition("go on with: smoe ")[2]
    assert command == (f"train -i ./-stack.tif -r r -c {CHECKPOINT} --backend numpy "
                       f"--channel-axis 0 -q")
    assert smoe(*shlex.split(command)) == 0


def test_a_second_signal_ends_even_the_writing_of_results(here, capsys, monkeypatch):
    stop_at(monkeypatch, 3, signal.SIGINT)
    monkeypatch.setattr(cli.ResultsFolder, "finish",
                        lambda self, model: signal.raise_signal(signal.SIGINT))
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 5, "-q") == 130
    assert "go on with: smoe train" in the_one_line(capsys)


def test_with_n_training_goes_on_for_n_more_with_the_settings_that_are_not_given(here):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-k", 3, "-n", 4, "-v", 2, "-lr", 0.002,
                "-reg", 0.01, "-q") == 0
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-c", CHECKPOINT, "-n", 3, "-lr", 0.001,
                "-q") == 0
    settings = settings_of("r")
    assert settings["iteration"] == 7
    assert settings["training"] | {"base_lr": 0.001, "l1reg": 0.01, "val_iter": 2,
                                   "iterations": 3} == settings["training"]
    image = smoe_np.read_image("grey.tif")
    model = smoe_np.Smoe(image, 3).train(4, 2, 0.002, l1reg=0.01)
    model.train(3, 2, 0.001, l1reg=0.01)
    model.params.save("library.npz")
    assert_same_params("r/params_last.npz", "library.npz")


def test_a_run_goes_on_in_another_folder(here, capsys):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 2, "-q") == 0
    before = sorted(Path("r").rglob("*"))
    assert smoe("train", "-i", "grey.tif", "-r", "r2", "-c", CHECKPOINT, "-n", 2, "-q") == 0
    assert settings_of("r2")["iteration"] == 4
    assert sorted(Path("r").rglob("*")) == before


def test_going_on_with_a_run_that_had_ended_changes_nothing_and_says_so(here, capsys):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 2, "-q") == 0
    before = arrays_of("r/params_last.npz")
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-c", CHECKPOINT, "-q") == 0
    assert "had ended; -n N trains N iterations more" in the_one_line(capsys)
    for name, array in arrays_of("r/params_last.npz").items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("option", [
    ["-k", 3], ["--kernels_per_dim=3"], ["-ra"], ["-dp"], ["-dg=1"], ["-b", 1],
    ["--dtype", "float32"], ["-p", "r/params_last.npz"]])
def test_what_a_checkpoint_fixes_cannot_be_given_with_it(here, fails, option):
    for n in [], ["-n", 2]:
        line = fails("train", "-i", "grey.tif", "-r", "r", "-c", CHECKPOINT, *n, *option)
        assert "cannot be given with -c: the checkpoint fixes it" in line


def test_a_run_that_is_finished_takes_no_other_settings(here, fails):
    line = fails("train", "-i", "grey.tif", "-r", "r", "-c", CHECKPOINT, "-lr", 1)
    assert "-lr with -c needs -n" in line


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


@pytest.fixture
def clock(monkeypatch):
    """A clock for training that gains 10 ms whenever it is looked at."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            self.now += 0.01
            return self.now

    clock = Clock()
    monkeypatch.setattr(smoe_np.smoe, "time", clock)
    return clock


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
        patch.setattr(cli, "read_image", lambda path: signal.raise_signal(signal.SIGINT))
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
    finish = cli.ModelFile.finish

    def meanwhile(self, model):
        Path("m.npz").write_text("of somebody else")
        finish(self, model)

    with monkeypatch.context() as patch:
        patch.setattr(cli.ModelFile, "finish", meanwhile)
        line = fails("fit", "grey.tif", "-o", "m.npz", "--kernels", 3, "-n", 3, "-q")
    assert "'m.npz' exists by now, and is left alone; the checkpoint is m.checkpoint.npz" in line
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


# ---- signals, in a process of its own


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_process_leaves_a_checkpoint_and_no_traceback(here, number, status):
    options = ["train", "-i", "grey.tif", "-k", "2", "-n", "1000", "-v", "200", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "smoe_np", *options, "-r", "r"], env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    deadline = time.monotonic() + 60
    while not Path("r/params/params_000200.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "")
    assert len(err.splitlines()) == 1
    assert f"the checkpoint is {CHECKPOINT}; go on with: smoe train" in err

    assert smoe(*shlex.split(err.partition("go on with: smoe ")[2])) == 0
    assert smoe(*options, "-r", "whole") == 0
    assert_same_params("r/params_last.npz", "whole/params_last.npz")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_a_process_that_fits_leaves_a_checkpoint_and_no_traceback(here, number, status):
    process = subprocess.Popen(
        [sys.executable, "-m", "smoe_np", "fit", "grey.tif", "-o", "m.npz", "--kernels", "4", "-n",
         "5000", "-q"], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8")
    deadline = time.monotonic() + 60
    while not Path("m.checkpoint.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "")
    assert len(err.splitlines()) == 1
    assert "the checkpoint is m.checkpoint.npz; go on with: smoe fit grey.tif -o m.npz" in err
    assert sorted(os.listdir()) == ["colour.tif", "grey.tif", "m.checkpoint.npz"]
    model = smoe_np.Smoe.from_checkpoint("m.checkpoint.npz", smoe_np.read_image("grey.tif"))
    assert model.settings["target"] == "kernels"
    assert model.iteration < model.until == 5000


@pytest.mark.parametrize(("number", "status", "line"), [
    (signal.SIGINT, 130, "smoe: interrupted"), (signal.SIGTERM, 143, "smoe: terminated")])
def test_a_signal_before_training_ends_in_one_line(here, capsys, monkeypatch, number, status, line):
    monkeypatch.setattr(cli, "read_image", lambda path: signal.raise_signal(number))
    assert smoe("train", "-i", "grey.tif", "-r", "r") == status
    assert the_one_line(capsys) == line
    assert not Path("r").exists()


def test_a_signal_after_training_ends_in_one_line(here, capsys, monkeypatch):
    write = cli.ResultsFolder.finish

    def finish(self, model):
        monkeypatch.setattr(cli.ResultsFolder, "finish", write)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(cli.ResultsFolder, "finish", finish)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1, "-q") == 143
    assert "terminated at iteration 1; the checkpoint is" in the_one_line(capsys)
    assert Path("r/params_last.npz").exists()


# ---- training that goes wrong


def test_divergence_is_one_line_and_status_1_and_leaves_the_results(here, capsys):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-k", 3, "-n", 9, "-lr", 1e30, "-q") == 1
    assert "warning: training ended at iteration" in the_one_line(capsys)
    assert settings_of("r")["stopped"] == "diverged"
    assert_same_params("r/params_last.npz", "r/params_best.npz")


def test_warnings_of_the_library_are_single_lines(here, capsys, monkeypatch):
    def read(path):
        for text in "two\nlines", "two\nlines", "encountered in", "overflow encountered in exp":
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        warnings.warn("not for users", DeprecationWarning, stacklevel=2)
        return np.zeros((4, 4), np.uint8)

    monkeypatch.setattr(cli, "read_image", read)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 0, "-q") == 0
    assert capsys.readouterr().err.splitlines() == [
        "smoe: warning: two lines", "smoe: warning: encountered in"]


def full_disk(monkeypatch, after):
    """The disk is full after so many files."""
    sync, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_is_told_before_training_begins(here, fails, monkeypatch):
    full_disk(monkeypatch, after=0)
    assert "cannot write results to 'r': no space left" in fails(
        "train", "-i", "grey.tif", "-r", "r", "-q")


def test_a_disk_that_fills_up_ends_training_with_the_command_that_goes_on(
        here, fails, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch, after=15)
        line = fails("train", "-i", "grey.tif", "-r", "r", "-k", 3, "-n", 9, "-v", 2, "-q")
    assert "no space left on the device" in line
    assert smoe(*shlex.split(line.partition("go on with: smoe ")[2])) == 0
    assert smoe("train", "-i", "grey.tif", "-r", "whole", "-k", 3, "-n", 9, "-v", 2, "-q") == 0
    assert_same_params("r/params_last.npz", "whole/params_last.npz")
    assert sorted(p.name for p in Path("r").rglob("*")) == sorted(
        p.name for p in Path("whole").rglob("*"))


def test_running_out_of_memory_is_one_line(here, fails, monkeypatch):
    def greedy(*args, **kwargs):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(cli, "Smoe", greedy)
    line = fails("train", "-i", "grey.tif", "-r", "r")
    assert line.startswith("smoe: out of memory (Unable to allocate 9 TiB)")


def test_training_survives_a_terminal_that_is_gone(here, monkeypatch):
    def gone(text):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys.stderr, "write", gone)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 2) == 0
    monkeypatch.setattr(sys, "stderr", None)
    assert smoe("train", "-i", "grey.tif", "-r", "r2", "-n", 2) == 0


# ---- progress


def test_on_a_terminal_with_tqdm_there_is_a_bar(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 4, "-v", 2) == 0
    err = capsys.readouterr().err
    assert "4/4" in err
    assert "PSNR" in err
    assert "iteration 2:" not in err


def test_the_bar_of_a_run_that_goes_on_starts_where_it_stopped(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGINT)
        assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 5) == 130
    err = capsys.readouterr().err
    assert "3/5" in err
    assert re.search(r"\nsmoe: interrupted .*\n$", err)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-c", CHECKPOINT) == 0
    err = capsys.readouterr().err
    assert "3/5" in err
    assert "5/5" in err


def bars(err):
    """Where bars stood, and where they were to end."""
    found = [(int(n), int(total)) for n, total in re.findall(r"\| (\d+)/(\d+) \[", err)]
    assert all(n <= total for n, total in found), found
    return found


def test_the_bar_of_a_fit_to_a_psnr_begins_anew_with_each_try(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert fit("--psnr", 22, "-n", 20, "-v", 20, "-r", "r") == 0
    err = capsys.readouterr().err
    tried = settings_of("r")["tried"]
    for number, one in enumerate(tried, start=1):
        end = one["iterations"]
        found = bars("".join(line for line in re.split("[\r\n]", err)
                             if line.startswith(f"try {number}:")))
        assert {(0, end), (end, end)} <= set(found)
        assert {total for _, total in found} == {end}
        assert f"try {number}: PSNR {one['psnr']:.2f} dB" in err
    assert f"try {len(tried) + 1}" not in err
    assert "iteration 20:" not in err


def test_the_bar_of_a_fit_that_goes_on_starts_where_it_stopped(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with monkeypatch.context() as patch:
        stop_at(patch, 13, signal.SIGINT, tries=2)
        assert fit("--psnr", 22, "-n", 20, "-v", 20) == 130
    assert bars(capsys.readouterr().err)[-1] == (13, 20)
    assert fit("-c", "m.checkpoint.npz") == 0
    err = capsys.readouterr().err
    assert bars(err)[0] == (13, 20)
    assert bars(err)[-1] == (20, 20)
    assert "try 1:" not in err
    assert err.lstrip("\r").startswith("try 3:")


def test_the_bar_of_a_fit_of_some_seconds_follows_the_end_that_moves(
        here, capsys, monkeypatch, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert fit("--kernels", 2, "--seconds", 1, "-v", 10) == 0
    found = bars(capsys.readouterr().err)
    assert found[0] == (0, 20)
    assert found[-1][0] == found[-1][1] > 20


def test_the_time_of_a_bar_is_that_of_its_try(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model = SimpleNamespace(settings={"target": "psnr"}, tried=[], iteration=30, until=50)
    with Progress(model) as progress:
        progress(model)
        bar = progress._bar
        bar.start_t -= 1000
        assert (bar.n, bar.format_dict["initial"]) == (30, 30)
        model.tried, model.iteration = [None], 10
        progress(model)
        assert (bar.n, bar.format_dict["initial"]) == (10, 0)
        assert bar.format_dict["elapsed"] < 1000


def test_on_a_terminal_without_tqdm_there_are_lines(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 4, "-v", 2) == 0
    assert "iteration 2: loss " in capsys.readouterr().err


# ---- errors of the user


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A folder with a picture, the results of a run, and files that are broken."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_pictures()
        assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1, "-k", 2, "-q") == 0
        Path("empty").write_bytes(b"")
        Path("broken.npz").write_bytes(Path("r/params_last.npz").read_bytes()[:300])
        Path("broken.tif").write_bytes(Path("grey.tif").read_bytes()[:150])
        Path("checkpoint.npz").write_bytes(Path(CHECKPOINT).read_bytes()[:-500])
        with pytest.MonkeyPatch.context() as stopping:
            stop_at(stopping, 3, signal.SIGINT)
            stopping.setattr(launch_native, "STEADY", 0)
            assert smoe("fit", "grey.tif", "-o", "stopped.npz", "--kernels", 4, "-q") == 130
    return folder


@pytest.fixture
def trained(example, tmp_path, monkeypatch):
    """A copy of the example, to work in."""
    monkeypatch.chdir(shutil.copytree(example, tmp_path / "copy"))
    return tmp_path / "copy"


TRAIN = "train -i grey.tif -r new "
FIT = "fit grey.tif -o new.npz "
GO_ON = FIT + "-c stopped.checkpoint.npz "


@pytest.mark.parametrize(("command", "why"), [
    ("", "no command given; the commands are fit, train, render, info, bench"),
    ("trane", "invalid choice: 'trane'"),
    ("--frobnicate", "unrecognized arguments: --frobnicate"),
    ("train", "required: -i/--image-path, -r/--results-path; see smoe train --help"),
    ("train -i grey.tif", "required: -r/--results-path"),
    (TRAIN + "--frobnicate 3", "unrecognized arguments: --frobnicate"),
    (TRAIN + "--iter 3", "unrecognized arguments: --iter"),
    (TRAIN + "-radial", "unrecognized arguments: -radial"),
    (TRAIN + "-q False", "unrecognized arguments: False"),
    (TRAIN + "-q=maybe", "takes =1 or =0, got 'maybe'"),
    (TRAIN + "-n", "-n/--iterations: expected one argument"),
    (TRAIN + "-n 1.5", "invalid int value: '1.5'"),
    (TRAIN + "-n -1", "iterations must be at least 0"),
    (TRAIN + "-v 0", "val_iter must be at least 1"),
    (TRAIN + "-k 0", "kernels_per_dim must be at least 1"),
    (TRAIN + "-b 0", "batches must be at least 1"),
    (TRAIN + "-lr nan", "base_lr must be 0 or more"),
    (TRAIN + "-lr fast", "invalid float value: 'fast'"),
    (TRAIN + "-d 0", "lr_div must be above 0"),
    (TRAIN + "--dtype float16", "invalid choice: 'float16'"),
    (TRAIN + "--backend abacus", "invalid choice: 'abacus'"),
    (TRAIN + "--channel-axis last", "invalid axis value: 'last'"),
    (TRAIN + "--channel-axis 7", "channel_axis is 7"),
    (TRAIN + "-p missing.npz", "'missing.npz': there is no such file"),
    (TRAIN + "-p r/params_last.npz -k 3", "-k cannot be given with -p"),
    (TRAIN + "-p broken.npz", "'broken.npz' is not a readable .npz file"),
    (TRAIN + "-c missing.npz", "'missing.npz': there is no such file"),
    (TRAIN + "-c checkpoint.npz", "'checkpoint.npz' is not a readable .npz file"),
    (TRAIN + "-c r/params_last.npz", "is not a checkpoint"),
    (f"train -i colour.tif -r new -c {CHECKPOINT}", "does not fit"),
    ("train -i colour.tif -r new -p r/params_last.npz", "a model of 2 dimensions and 1 channels"),
    ("train -i missing.png -r new", "'missing.png': there is no such file"),
    ("train -i . -r new", "is a folder"),
    ("train -i empty -r new", "'empty' is empty"),
    ("train -i broken.tif -r new", "'broken.tif' is cut off, damaged or no picture"),
    ("train -i grey.tif -r r", "'r' is not empty; give another one, or --overwrite"),
    (f"train -i colour.tif -r r -c r/../{CHECKPOINT}", "does not fit"),
    ("train -i r/reconstruction_best.png -r r --overwrite", "among the results"),
    ("train -i grey.tif -r grey.tif", "'grey.tif': it is not a folder"),
    ("train -i grey.tif -r grey.tif/new", "not a directory"),
    (TRAIN + "-c stopped.checkpoint.npz",
     "'stopped.checkpoint.npz' is a checkpoint of smoe fit, not of smoe train; go on with smoe f"),
    (TRAIN + "-c stopped.checkpoint.npz -n 3", "is a checkpoint of smoe fit"),
    ("fit", "required: IMAGE, -o/--output; see smoe fit --help"),
    ("fit grey.tif --kernels 3", "required: -o/--output"),
    ("fit grey.tif colour.tif -o new.npz --kernels 3", "unrecognized arguments: colour.tif"),
    (FIT, "fit needs a target: give --kernels, --psnr, --scalars or --bytes; see smoe fit --help"),
    (FIT + "--kernels 3 --psnr 30", "--psnr: not allowed with argument --kernels"),
    (FIT + "--scalars 300 --bytes 30", "--bytes: not allowed with argument --scalars"),
    (FIT + "--kernels 0", "kernels must be at least 1"),
    (FIT + "--kernels many", "invalid int value: 'many'"),
    (FIT + "--psnr 0", "psnr must be above 0"),
    (FIT + "--psnr nan", "psnr must be above 0"),
    (FIT + "--scalars 8", "scalars must be at least 9, which a single kernel of 2 dimensions"),
    (FIT + "--bytes 13 --experts constant", "bytes must be at least 14"),
    (FIT + "--kernels 3 -n 0", "iterations must be at least 1"),
    (FIT + "--kernels 3 --seconds 0", "seconds must be above 0"),
    (FIT + "--kernels 3 -n 5 --seconds 5", "--seconds: not allowed with argument -n/--iterations"),
    (FIT + "--psnr 30 --seconds 5", "seconds goes with kernels, scalars or bytes"),
    (FIT + "--kernels 3 --experts some", "invalid choice: 'some'"),
    (FIT + "--kernels 3 --seed -1", "seed must be at least 0"),
    (FIT + "--kernels 3 -v 0", "val_iter must be at least 1"),
    (FIT + "--kernels 3 --batches 0", "batches must be at least 1"),
    (FIT + "--kernels 3 --dtype float16", "invalid choice: 'float16'"),
    (FIT + "--kernels 3 --channel-axis 7", "channel_axis is 7"),
    (FIT + "-k 3", "unrecognized arguments: -k"),
    ("fit missing.png -o new.npz --kernels 3", "'missing.png': there is no such file"),
    ("fit missing.png -o new.npz --kernels 0", "kernels must be at least 1"),
    ("fit . -o new.npz --kernels 3", "is a folder"),
    ("fit broken.tif -o new.npz --kernels 3", "'broken.tif' is cut off, damaged or no picture"),
    ("fit grey.tif -o new.tif --kernels 3", "give a name that ends so instead of 'new.tif'"),
    ("fit grey.tif -o new/new.npz --kernels 3", "'new/new.npz': its folder does not exist"),
    ("fit grey.tif -o new/new.npz --kernels 3 -r results", "its folder does not exist"),
    ("fit grey.tif -o grey.tif/new.npz --kernels 3", "part of the path is a file, not a folder"),
    ("fit grey.tif -o broken.npz --kernels 3", "'broken.npz' exists; give another name, or --over"),
    ("fit grey.tif -o stopped.npz --kernels 3", "'stopped.checkpoint.npz' exists, as a fit that "
     "was interrupted leaves it; go on with it by -c, give the model another name, or --overwrite"),
    (FIT + f"-c {CHECKPOINT}", "is a checkpoint of smoe train, not of smoe fit; go on with smoe"),
    (FIT + "-c missing.npz", "'missing.npz': there is no such file"),
    (FIT + "-c checkpoint.npz", "'checkpoint.npz' is not a readable .npz file"),
    (FIT + "-c r/params_last.npz", "is not a checkpoint"),
    ("fit colour.tif -o new.npz -c stopped.checkpoint.npz", "does not fit"),
    ("fit grey.tif -o stopped.checkpoint.npz -c stopped.checkpoint.npz --overwrite",
     "'stopped.checkpoint.npz' is the checkpoint; give the model another name"),
    ("fit grey.tif -o stopped.npz -c r/../r/params_last.npz", "'stopped.checkpoint.npz' exists"),
    (FIT + "--kernels 3 -r r", "'r' is not empty; give another one, or --overwrite"),
    (FIT + "--kernels 3 -r grey.tif", "'grey.tif': it is not a folder"),
    ("fit grey.tif -o r/params_best.npz -r r --kernels 3 --overwrite", "among the results in 'r'"),
    ("fit r/reconstruction_best.png -o new.npz -r r --kernels 3 --overwrite", "among the results"),
    *((GO_ON + option, f"{option.split()[0]} cannot be given with -c: the checkpoint fixes it")
      for option in ("--kernels 4", "--psnr 30", "--scalars 90", "--bytes 90", "-n 5",
                     "--seconds 5", "--experts affine", "--seed 0", "-v 100", "--batches 1",
                     "--dtype float32")),
    ("render r/params_last.npz", "required: -o/--output"),
    ("render missing.npz -o new.tif", "'missing.npz': there is no such file"),
    ("render empty -o new.tif", "'empty' is empty"),
    ("render r/params_last.npz -o grey.tif", "'grey.tif' exists; give another name"),
    ("render r/params_last.npz -o new.xyz", "ends in '.xyz'"),
    ("render r/params_last.npz -o new/new.tif", "its folder does not exist"),
    ("render r/params_last.npz -o new.tif --scale 0", "--scale must be above 0"),
    ("render r/params_last.npz -o new.tif --scale inf", "--scale must be above 0"),
    ("render r/params_last.npz -o new.tif --scale 1e308", "smoe: "),
    ("render r/params_last.npz -o new.tif --shape 0 4", "shape must be 2 sizes of at least 1"),
    ("render r/params_last.npz -o new.tif --shape 4", "shape must be 2 sizes"),
    ("render r/params_last.npz -o new.tif --shape 4 4 --scale 2", "not allowed with"),
    ("info missing.npz", "'missing.npz': there is no such file"),
    ("info broken.npz", "'broken.npz' is not a readable .npz file"),
    ("bench -k 3", "kernels_per_dim is for a picture of your own"),
    ("bench --size 0", "size must be at least 1"),
    ("bench -i missing.png", "'missing.png': there is no such file"),
])
def test_errors_are_one_line_that_says_what_is_wrong(trained, fails, command, why):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert why in fails(*shlex.split(command))
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")
                      if path.is_file()}


def test_what_a_model_cannot_replace_is_told_before_a_fit(here, fails):
    os.mkdir("folder.npz")
    os.mkdir("n.checkpoint.npz")
    os.symlink("/dev/null", "device.npz")
    long = "x" * 245 + ".npz"  # the name of its checkpoint is longer
    for name, why in (("folder.npz", "'folder.npz': it is a folder"),
                      ("n.npz", "'n.checkpoint.npz': it is a folder"),
                      ("device.npz", "'device.npz': it is a device or the like"),
                      (long, ".checkpoint.npz': the name is too long")):
        assert why in fails("fit", "grey.tif", "-o", name, "--kernels", 3, "--overwrite")
    assert len(os.listdir()) == 5


def test_a_fit_never_replaces_its_own_picture(here, fails):
    shutil.copy("grey.tif", "m.npz")
    shutil.copy("grey.tif", "n.checkpoint.npz")
    for picture, name in (("m.npz", "m.npz"), ("n.checkpoint.npz", "n.npz")):
        assert "among the results that would be replaced" in fails(
            "fit", picture, "-o", name, "--kernels", 3, "--overwrite")


def test_an_image_without_pixels_is_one_line(here, fails, monkeypatch):
    monkeypatch.setattr(cli, "read_image", lambda path: np.zeros((1, 0)))
    assert "image of shape (1, 0) is empty" in fails("train", "-i", "grey.tif", "-r", "new")


def test_missing_pillow_is_one_line(trained, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "needs Pillow" in fails("render", "r/params_last.npz", "-o", "new.png")
    assert "needs Pillow" in fails("train", "-i", "r/reconstruction_best.png", "-r", "new")


def test_a_command_can_be_tried_again_after_an_error(here, capsys):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1, "-lr", -1) == 2
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1) == 0


# ---- render


@pytest.mark.parametrize(("size", "shape"), [
    ([], (14, 18)), (["--scale", 2], (28, 36)), (["--scale", 0.01], (1, 1)),
    (["--shape", 5, 9], (5, 9))])
def test_render_draws_at_any_size(trained, capsys, size, shape):
    assert smoe("render", "r/params_last.npz", "-o", "new.tif", *size) == 0
    picture = smoe_np.read_image("new.tif")
    expected = smoe_np.render(smoe_np.load_params("r/params_last.npz"), shape)
    np.testing.assert_allclose(picture / 255, expected, atol=0.5001 / 255)
    assert capsys.readouterr().out == f"new.tif: {shape[0]}×{shape[1]} pixels, 4 kernels\n"


def test_render_replaces_a_picture_only_when_asked(trained, fails):
    before = Path("grey.tif").read_bytes()
    fails("render", "r/params_last.npz", "-o", "grey.tif")
    assert Path("grey.tif").read_bytes() == before
    assert smoe("render", "r/params_last.npz", "-o", "grey.tif", "--overwrite", "--scale", 3) == 0
    assert smoe_np.read_image("grey.tif").shape == (42, 54)


def test_render_asks_for_the_size_that_a_file_of_tf_smoe_does_not_hold(trained, fails):
    arrays = smoe_np.load_params("r/params_last.npz").to_tf_smoe()
    Path("theirs.pkl").write_bytes(pickle.dumps({"params": arrays}))
    for size in [], ["--scale", 2]:
        assert "does not hold the size of its picture; give --shape" in fails(
            "render", "theirs.pkl", "-o", "new.tif", *size)
    assert smoe("render", "theirs.pkl", "-o", "new.tif", "--shape", 7, 9) == 0


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
    assert re.search(r"negative gates +1 kernels\n", out)
    assert re.search(r"pis +-0.1 … 0.5\n", out)


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


def test_info_of_odd_models_is_told_too(here, capsys):
    flat = {"pis": [1], "musX": [[0, 0]], "A": [[[0, 0], [0, 0]]], "gamma_e": [[0, 0]], "nu_e": [1]}
    none = {name: np.zeros((0, *np.shape(value)[1:])) for name, value in flat.items()}
    for arrays in flat, none:
        smoe_np.SmoeParams(**arrays, image_shape=(4, 4)).save("odd.npz")
        assert smoe("info", "odd.npz") == 0
        assert smoe("info", "odd.npz", "--json") == 0
        json.loads(capsys.readouterr().out.partition("{")[2].join("{ "))


# ---- pipes


def run_process(*arguments, **streams):
    return subprocess.run([sys.executable, "-m", "smoe_np", *arguments], env=ENVIRONMENT, text=True,
                          encoding="utf-8", stderr=subprocess.PIPE, check=False, **streams)


def test_a_reader_that_goes_away_is_no_error_to_talk_about(trained):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_process("info", "r/params_last.npz", stdout=writing)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(trained):
    with open("/dev/full", "w") as full:
        done = run_process("info", "r/params_last.npz", stdout=full)
    assert done.stderr.lower() == "smoe: cannot write to standard output: no space left on device\n"
    assert done.returncode == 2


def test_standard_output_may_be_missing(here, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1) == 0
