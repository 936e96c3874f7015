"""What tests of the command line share: a folder with pictures, runs, and how they are stopped."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import smoe_np
from smoe_np import bench, commands_training, launch_native
from smoe_np.cli import main
from smoe_np.machine import THREADS
from smoe_np.progress import Progress

SOURCE = str(Path(smoe_np.__file__).resolve().parents[1])
ENVIRONMENT = os.environ | {"PYTHONPATH": SOURCE, "PYTHONIOENCODING": "utf-8"}
ENVIRONMENT.pop(THREADS, None)  # all processors, as a user has them
CHECKPOINT = "r/checkpoints/last.npz"


def smoe(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def drawn_here(tmp_path, monkeypatch):
    """A folder to work in, with a grey and a colour picture; training looks up after each step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch_native, "STEADY", 0)
    make_pictures()
    return tmp_path


@pytest.fixture
def here(drawn_here, monkeypatch):
    """The same, where training draws nothing: most tests would spend their time on that."""
    monkeypatch.setattr(commands_training, "_gallery", lambda *args: None)
    return drawn_here


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


def fit(*options):
    return smoe("fit", "grey.tif", "-o", "m.npz", *options)


def quality(path, picture="grey.tif"):
    image = smoe_np.read_image(picture) / 255
    return smoe_np.psnr(image, smoe_np.render(smoe_np.load_params(path), (14, 18)).reshape(
        image.shape))


def stop_at(monkeypatch, iteration, number, tries=0):
    """Send a signal to this process in the course of training."""
    step = Progress.__call__

    def stepping(self, model):
        step(self, model)
        if (model.iteration, len(model.tried)) == (iteration, tries):
            signal.raise_signal(number)

    monkeypatch.setattr(Progress, "__call__", stepping)


def full_disk(monkeypatch, after):
    """The disk is full after so many files."""
    sync, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def run_process(*arguments, **streams):
    return subprocess.run([sys.executable, "-m", "smoe_np", *arguments], env=ENVIRONMENT, text=True,
                          encoding="utf-8", stderr=subprocess.PIPE, check=False, **streams)


@pytest.fixture
def clock(monkeypatch):
    """A clock for training that gains 10 ms whenever it is looked at."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            self.now += 0.01
            return self.now

    clock = Clock()
    for module in (smoe_np.smoe, smoe_np.training_loop):
        monkeypatch.setattr(module, "time", clock)
    return clock


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
def after_a_run(example, tmp_path, monkeypatch):
    """A copy of the example, to work in."""
    monkeypatch.chdir(shutil.copytree(example, tmp_path / "copy"))
    return tmp_path / "copy"
