"""What is wrong with a command is said in one line, and nothing is written."""

import os
import shlex
import shutil
import sys

import numpy as np
import pytest
import tifffile
from cli_runs import (
    CHECKPOINT,
    smoe,
)

from smoe_np import commands_training

# ---- errors of the user


TRAIN = "train -i grey.tif -r new "
FIT = "fit grey.tif -o new.npz "
GO_ON = FIT + "-c stopped.checkpoint.npz "


@pytest.mark.parametrize(("command", "why"), [
    ("", "no command given; the commands are fit, train, sparsify, quantize, denoise"),
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
    (TRAIN + "-n -1", "--iterations must be at least 0"),
    (TRAIN + "-v 0", "--validation-iterations must be at least 1"),
    (TRAIN + "-k 0", "--kernels-per-dim must be at least 1"),
    (TRAIN + "-b 0", "--batches must be at least 1"),
    (TRAIN + "-lr nan", "--base-lr must be 0 or more"),
    (TRAIN + "-lr fast", "invalid float value: 'fast'"),
    (TRAIN + "-d 0", "--lr-div must be above 0"),
    (TRAIN + "--dtype float16", "invalid choice: 'float16'"),
    (TRAIN + "--backend abacus", "invalid choice: 'abacus'"),
    (TRAIN + "--channel-axis last", "invalid axis value: 'last'"),
    (TRAIN + "--channel-axis 7", "--channel-axis is 7"),
    (TRAIN + "-p missing.npz", "'missing.npz': there is no such file"),
    (TRAIN + "-p r/params_last.npz -k 3", "-k cannot be given with -p"),
    (TRAIN + "-p broken.npz", "'broken.npz' is not a readable .npz file"),
    (TRAIN + "-c missing.npz", "'missing.npz': there is no such file"),
    (TRAIN + "-c checkpoint.npz", "'checkpoint.npz' is not a readable .npz file"),
    (TRAIN + "-c r/params_last.npz", "is not a checkpoint"),
    (f"train -i colour.tif -r new -c {CHECKPOINT}", "does not fit"),
    ("train -i colour.tif -r new -p r/params_last.npz", "a model of 2 dimensions and 1 channel,"),
    ("train -i missing.png -r new", "'missing.png': there is no such file"),
    ("train -i . -r new", "is a folder"),
    ("train -i empty -r new", "'empty' is empty"),
    ("train -i broken.tif -r new", "'broken.tif' is cut off, damaged or not a picture"),
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
    (FIT + "--kernels 0", "--kernels must be at least 1"),
    (FIT + "--kernels many", "invalid int value: 'many'"),
    (FIT + "--kernels 99999", "kernels must stand for at most 2520 kernels for 252 pixels, got 99"),
    (FIT + "--psnr 0", "--psnr must be above 0"),
    (FIT + "--psnr nan", "--psnr must be above 0"),
    (FIT + "--scalars 8", "--scalars must be at least 9, which a single kernel of 2 dimensions"),
    (FIT + "--bytes 80 --experts constant", "--bytes must be at least 83"),
    (FIT + "--kernels 3 -n 0", "--iterations must be at least 1"),
    (FIT + "--kernels 3 --seconds 0", "--seconds must be above 0"),
    (FIT + "--kernels 3 -n 5 --seconds 5", "--seconds: not allowed with argument -n/--iterations"),
    (FIT + "--psnr 30 --seconds 5", "seconds goes with kernels, scalars or bytes"),
    (FIT + "--kernels 3 --experts some", "invalid choice: 'some'"),
    (FIT + "--kernels 3 --seed -1", "--seed must be at least 0"),
    (FIT + "--kernels 3 -v 0", "--validation-iterations must be at least 1"),
    (FIT + "--kernels 3 --batches 0", "--batches must be at least 1"),
    (FIT + "--kernels 3 --dtype float16", "invalid choice: 'float16'"),
    (FIT + "--kernels 3 --channel-axis 7", "--channel-axis is 7"),
    (FIT + "-k 3", "unrecognized arguments: -k"),
    ("fit missing.png -o new.npz --kernels 3", "'missing.png': there is no such file"),
    ("fit missing.png -o new.npz --kernels 0", "--kernels must be at least 1"),
    ("fit . -o new.npz --kernels 3", "is a folder"),
    ("fit broken.tif -o new.npz --kernels 3", "'broken.tif' is cut off, damaged or not a picture"),
    ("fit grey.tif -o new.tif --kernels 3", "give a name that ends so instead of 'new.tif'"),
    ("fit grey.tif -o new/new.npz --kernels 3", "'new/new.npz': its folder does not exist"),
    ("fit grey.tif -o new/new.npz --kernels 3 -r results", "its folder does not exist"),
    ("fit grey.tif -o grey.tif/new.npz --kernels 3", "part of the path is a file, not a folder"),
    ("fit grey.tif -o broken.npz --kernels 3", "'broken.npz' exists; give another name, or --over"),
    ("fit grey.tif -o stopped.npz --kernels 3", "'stopped.checkpoint.npz' exists, probably from an "
     "interrupted fit; continue that with -c, give the model another name, or --overwrite"),
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
    ("bench -k 3", "--kernels-per-dim is for a picture of your own; give its --image-path too"),
    ("sparsify grey.tif -o new.npz -k 3 --kernels 99 -q", "--kernels must be below 6, the number "
     "of kernels that there are, got 99; begin with more of them, such as --kernels-per-dim 18"),
    ("sparsify grey.tif -o new.npz --kernels 999999 -q", "a start on so small a picture has at most"
     ),
    ("bench --size 0", "--size must be at least 1"),
    ("bench -i missing.png", "'missing.png': there is no such file"),
])
def test_errors_are_one_line_that_says_what_is_wrong(after_a_run, fails, command, why):
    before = {path: path.stat().st_mtime_ns for path in after_a_run.rglob("*") if path.is_file()}
    assert why in fails(*shlex.split(command))
    assert before == {path: path.stat().st_mtime_ns for path in after_a_run.rglob("*")
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


def test_how_to_go_on_with_a_run_is_told_where_its_checkpoint_is_not_the_one_given(
        after_a_run, fails):
    shutil.copy(CHECKPOINT, "copy.npz")
    for other in ("copy.npz", "r"):
        assert f"or --checkpoint-path={CHECKPOINT} to go on with the run in it" in fails(
            "train", "-i", "grey.tif", "-r", "r", "-c", other, "-n", 3)
    shutil.copytree("r", "-my run")
    assert "or --checkpoint-path='-my run/checkpoints/last.npz' to go on" in fails(
        "train", "-i", "grey.tif", "--results-path=-my run", "-c", "copy.npz", "-n", 3)
    assert "to go on" not in fails("train", "-i", "grey.tif", "-r", "r", "-n", 3)


def test_names_of_files_are_no_options(after_a_run, fails):
    os.mkdir("base_lr")
    for name in ("base_lr/val_iter.npz", "it's val_iter.npz"):
        os.link(CHECKPOINT, name)
        assert f"{name!r} does not fit" in fails("train", "-i", "colour.tif", "-r", "n", "-c", name)


def test_an_image_without_pixels_is_one_line(here, fails, monkeypatch):
    monkeypatch.setattr(commands_training, "read_image", lambda path: np.zeros((1, 0)))
    assert "image 'grey.tif' of shape (1, 0) is empty" in fails(
        "train", "-i", "grey.tif", "-r", "new")


def test_values_that_no_picture_has_are_told_with_the_name_of_the_file(here, fails):
    tifffile.imwrite("image bytes.tif", np.full((9, 9), 255, np.float32))
    tifffile.imwrite("holes.tif", np.full((9, 9), np.nan, np.float32))
    for name, why in (("image bytes.tif", "has values from 255 to 255"),
                      ("holes.tif", "holds NaN or infinite values, 81 of 81")):
        for command in (["train", "-r", "new", "-i"], ["fit", "-o", "new.npz", "--kernels", 3],
                        ["denoise", "-o", "new.tif"]):
            assert f"image {name!r} {why}" in fails(*command, name)


def test_missing_pillow_is_one_line(after_a_run, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "needs Pillow" in fails("render", "r/params_last.npz", "-o", "new.png")
    assert "needs Pillow" in fails("train", "-i", "r/reconstruction_best.png", "-r", "new")


def test_a_command_can_be_tried_again_after_an_error(here, capsys):
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1, "-lr", -1) == 2
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1) == 0
