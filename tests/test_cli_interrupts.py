"""``smoe train`` goes on where it was interrupted; signals end every command in one line."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import (
    CHECKPOINT,
    ENVIRONMENT,
    arrays_of,
    assert_same_params,
    settings_of,
    smoe,
    stop_at,
    the_one_line,
)

import smoe_np
from smoe_np import bench, commands_training
from smoe_np.results import ResultsFolder

pytestmark = pytest.mark.usefixtures("all_processors")

# ---- going on


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
    monkeypatch.setattr(ResultsFolder, "finish",
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
    assert "had ended already; give -n N to train N more iterations" in the_one_line(capsys)
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
    monkeypatch.setattr(commands_training, "read_image", lambda path: signal.raise_signal(number))
    assert smoe("train", "-i", "grey.tif", "-r", "r") == status
    assert the_one_line(capsys) == line
    assert not Path("r").exists()


def test_a_signal_after_training_ends_in_one_line(here, capsys, monkeypatch):
    write = ResultsFolder.finish

    def finish(self, model):
        monkeypatch.setattr(ResultsFolder, "finish", write)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ResultsFolder, "finish", finish)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 1, "-q") == 143
    assert "terminated at iteration 1; the checkpoint is" in the_one_line(capsys)
    assert Path("r/params_last.npz").exists()
