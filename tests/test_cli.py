"""The command line does what it is told, and says in one line what is wrong."""

import errno
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_runs import (
    CHECKPOINT,
    assert_same_params,
    full_disk,
    make_pictures,
    run_process,
    settings_of,
    smoe,
    stop_at,
    the_one_line,
)

import smoe_np
from smoe_np import bench, cli_options, commands_training, launch_native

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
    ("", "no command given; the commands are fit, train, sparsify, denoise"),
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
    (FIT + "--bytes 88 --experts constant", "bytes must be at least 89"),
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
    monkeypatch.setattr(commands_training, "read_image", lambda path: np.zeros((1, 0)))
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
    expected = smoe_np.render(smoe_np.load_params("r/params_last.npz"), shape, samples="auto")
    np.testing.assert_allclose(picture / 255, expected, atol=0.5001 / 255)
    assert capsys.readouterr().out == f"new.tif: {shape[0]}×{shape[1]} pixels, 4 kernels\n"


@pytest.mark.parametrize(("options", "shape", "region", "samples"), [
    (["--crop", 3, 5, 6, 4], (6, 4), ((3, 9), (5, 9)), 1),
    (["--crop", 2.5, 4, 5, 10, "--scale", 3], (15, 30), ((2.5, 7.5), (4, 14)), 1),
    (["--crop", -2, 0, 18, 18, "--shape", 4, 4], (4, 4), ((-2, 16), (0, 18)), 5),
    (["--samples", 3], (14, 18), None, 3)])
def test_render_draws_a_part_and_means_of_samples(trained, options, shape, region, samples):
    assert smoe("render", "r/params_last.npz", "-o", "new.tif", *options) == 0
    expected = smoe_np.render(smoe_np.load_params("r/params_last.npz"), shape, region=region,
                              samples=samples)
    np.testing.assert_allclose(smoe_np.read_image("new.tif") / 255, expected, atol=0.5001 / 255)


@pytest.mark.parametrize(("options", "why"), [
    (["--crop", 1, 2], "--crop takes 4 numbers for a model of 2 dimensions"),
    (["--crop", 1, 2, 3, 0], "--crop must be finite, and of a size above 0"),
    (["--crop", 1, "nan", 3, 4], "--crop must be finite"),
    (["--crop", 1, 2, 3, 1e9], "region must be finite, and at most"),
    (["--samples", "many"], "argument --samples: invalid samples value: 'many'"),
    (["--samples", 0], "samples must be at least 1, got 0")])
def test_parts_and_samples_that_are_none_are_refused(trained, fails, options, why):
    assert why in fails("render", "r/params_last.npz", "-o", "new.tif", *options)
    assert not Path("new.tif").exists()


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
