"""``smoe train`` does what it is told, and tells what goes wrong with it."""

import errno
import pickle
import re
import shlex
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_runs import (
    CHECKPOINT,
    assert_same_params,
    full_disk,
    settings_of,
    smoe,
    the_one_line,
)

import smoe_np
from smoe_np import bench, cli_options, commands_training

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


# ---- training that goes wrong


def test_a_run_that_goes_on_with_what_diverged_is_warned_of_it(here, capsys):
    run = ["train", "-i", "grey.tif", "-r", "r", "-q"]
    assert smoe(*run, "-k", 3, "-n", 9, "-lr", 1e30) == 1
    assert "train on with a lower --base-lr, --lr-mult or reg" in the_one_line(capsys)
    assert smoe(*run, "-c", CHECKPOINT, "-n", 9) == 1
    told = capsys.readouterr().err
    assert f"the run of {CHECKPOINT} diverged with the settings that are used again now" in told
    assert smoe(*run, "-c", CHECKPOINT, "-n", 9, "-lr", 1e-4) == 0
    assert capsys.readouterr().err == ""


def test_a_run_that_ends_worse_than_it_was_tells_how_good_that_was(here, capsys):
    run = ["train", "-i", "grey.tif", "-r", "r", "--no-plots", "-v", 100]
    assert smoe(*run, "-k", 3, "-n", 60) == 0
    assert "; it was" not in capsys.readouterr().out
    assert smoe(*run, "-c", CHECKPOINT, "-n", 1, "-lr", 0.004, "-r", "a", "--no-plots") == 0
    assert "; it was" not in capsys.readouterr().out  # half a dB at most is not told
    best = Path("r/params_best.npz").read_bytes()
    assert smoe(*run, "-c", CHECKPOINT, "-n", 5, "-lr", 0.1) == 0
    assert re.search(r"PSNR [\d.]+ dB, 6 kernels, .*; it was [\d.]+ dB at iteration 60; results",
                     capsys.readouterr().out)
    assert Path("r/params_best.npz").read_bytes() == best


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

    monkeypatch.setattr(commands_training, "read_image", read)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 0, "-q") == 0
    assert capsys.readouterr().err.splitlines() == [
        "smoe: warning: two lines", "smoe: warning: encountered in"]


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

    monkeypatch.setattr(commands_training, "Smoe", greedy)
    line = fails("train", "-i", "grey.tif", "-r", "r")
    assert line.startswith("smoe: out of memory (Unable to allocate 9 TiB)")


def test_training_survives_a_terminal_that_is_gone(here, monkeypatch):
    def gone(text):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys.stderr, "write", gone)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 2) == 0
    monkeypatch.setattr(sys, "stderr", None)
    assert smoe("train", "-i", "grey.tif", "-r", "r2", "-n", 2) == 0
