"""``smoe sparsify`` leaves a sparse model, and goes on where it was interrupted."""

import os
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
from cli_runs import assert_same_params, smoe, stop_at, the_one_line

import smoe_np
import smoe_np.plots
from smoe_np.sparsify import dense_start

STEPS = ("-n", 6, 12, 10)
SPARSIFY = ("sparsify", "grey.tif", "-o", "m.npz", *STEPS)


def test_it_does_what_the_library_does_and_tells_how_it_went(here, capsys):
    assert smoe(*SPARSIFY, "--kernels", 5, "-v", 10) == 0
    out, err = capsys.readouterr()
    start, end = out.splitlines()
    assert re.fullmatch(r"14×18 pixels, 1 channel; from (\d+) kernels to 5 kernels; backend \w+",
                        start)
    assert re.fullmatch(r"PSNR [\d.]+ dB, 5 kernels, 45 scalars \(.*\), [\d.]+ s; model in m\.npz",
                        end)
    assert err.splitlines()[-1].startswith("iteration 28: ")
    image = smoe_np.read_image("grey.tif")
    model = smoe_np.Smoe(image, dense_start(image.shape, 5))
    model.sparsify(5, iterations=(6, 12, 10), val_iter=10).params.save("library.npz")
    assert_same_params("m.npz", "library.npz")
    assert sorted(os.listdir()) == ["colour.tif", "grey.tif", "library.npz", "m.npz"]


def test_it_starts_from_a_grid_or_from_a_model(here):
    assert smoe(*SPARSIFY, "--kernels", 5, "-k", 4, "-q") == 0
    assert smoe_np.load_params("m.npz").num_kernels == 5
    assert smoe("sparsify", "grey.tif", "-o", "less.smoe", *STEPS, "--kernels", 2, "-p", "m.npz",
                "--bits", 9, "-q") == 0
    assert smoe_np.load_params("less.smoe").num_kernels == 2


def test_a_search_for_a_psnr_tells_of_each_try_and_draws_the_best(drawn_here, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(smoe_np.plots.ImagePlotter, "_draw",
                        lambda plotter, smoe, write: drawn.append(smoe.params.num_kernels))
    assert smoe(*SPARSIFY, "--psnr", 22, "-k", 6, "-v", 10, "-r", "r") == 0
    out, err = capsys.readouterr()
    tried = [re.fullmatch(r"try (\d+): PSNR ([\d.]+) dB, (\d+) kernels? after 28 iterations", line)
             for line in err.splitlines() if line.startswith("try")]
    assert [int(line[1]) for line in tried] == [*range(1, len(tried) + 1)]
    assert len(tried) > 2
    best = smoe_np.load_params("m.npz").num_kernels
    assert best == min(int(line[3]) for line in tried if float(line[2]) >= 22)
    assert f" (the best of {len(tried)} tries in " in out
    assert drawn == [best]  # no try was taken for the end


def test_a_psnr_that_is_out_of_reach_is_status_1_and_leaves_a_model(here, capsys):
    assert smoe(*SPARSIFY, "--psnr", 70, "-k", 3, "-q") == 1
    assert "out of reach" in the_one_line(capsys)
    assert Path("m.npz").exists()
    assert smoe(*SPARSIFY, "--psnr", 12, "-k", 3, "-q", "--overwrite") == 0


def test_a_psnr_that_is_nearly_reached_is_out_of_reach_too(here, capsys):
    assert smoe(*SPARSIFY, "--psnr", 70, "-k", 2, "-q") == 1
    best = float(re.search(r"kernels reach ([\d.]+) dB", the_one_line(capsys))[1])
    assert smoe(*SPARSIFY, "--psnr", best + 0.05, "-k", 2, "-q", "--overwrite") == 1
    assert "out of reach" in the_one_line(capsys)


def test_a_search_that_diverges_leaves_its_best_model_and_status_1(here, capsys, monkeypatch):
    loss = smoe_np.Smoe._mse
    monkeypatch.setattr(smoe_np.Smoe, "_mse",
                        lambda self: loss(self) if self.iteration < 4 else np.nan)
    assert smoe(*SPARSIFY, "--psnr", 30, "-k", 3, "-v", 2, "-q") == 1
    assert "the loss is nan" in the_one_line(capsys)
    assert Path("m.npz").exists()


@pytest.mark.parametrize("at", [3, 16, 25])
def test_it_goes_on_by_the_command_that_it_prints(here, capsys, monkeypatch, at):
    assert smoe(*SPARSIFY, "--kernels", 5, "-q", "-r", "r") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, at, signal.SIGINT)
        assert smoe(*("cut.npz" if word == "m.npz" else word for word in SPARSIFY), "--kernels", 5,
                    "-q", "-r", "cut") == 130
    command = the_one_line(capsys).split("go on with: smoe ")[1]
    assert command.startswith("sparsify grey.tif")
    assert smoe(*shlex.split(command)) == 0
    assert_same_params("m.npz", "cut.npz")


@pytest.mark.parametrize(("options", "why"), [
    ("", "sparsify needs a target: give --kernels or --psnr"),
    ("--kernels 3 --psnr 9", "not allowed with argument"),
    ("--kernels 99 -k 3", "--kernels must be below"),
    ("--kernels 0", "--kernels must be at least 1"),
    ("--psnr -1", "--psnr must be above 0"),
    ("--kernels 3 -k 4 -p m.npz", "-k cannot be given with -p"),
    ("--kernels 3 -n 5", "expected 3 arguments"),
    ("-c fit.checkpoint.npz", "is a checkpoint of smoe fit, not of smoe sparsify"),
    ("--kernels 3 -c fit.checkpoint.npz", "--kernels cannot be given with -c")])
def test_errors_are_one_line(here, fails, monkeypatch, capsys, options, why):
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGINT)
        smoe("fit", "grey.tif", "-o", "fit.npz", "--kernels", 3, "-n", 9, "-q")
    capsys.readouterr()
    assert why in fails("sparsify", "grey.tif", "-o", "new.npz", *options.split())
    assert not Path("new.npz").exists()
