"""Ctrl-C and SIGTERM in the middle of a training."""

import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
from helpers import picture
from trainings import DTYPES, SPARSE, assert_same_training, interrupt_at

from smoe_np import Smoe

pytestmark = pytest.mark.usefixtures("each_engine", "all_processors")


@pytest.fixture(scope="module")
def image(each_engine):
    return picture((40, 35))[..., 0]


# ---- interruptions


@DTYPES
def test_ctrl_c_is_raised_after_a_whole_step_and_training_resumes_bit_for_bit(
        image, tmp_path, dtype):
    whole = Smoe(image, 8, dtype=dtype).train(60, val_iter=17, **SPARSE)
    smoe, path = Smoe(image, 8, dtype=dtype), tmp_path / "c.npz"
    with pytest.raises(KeyboardInterrupt):
        smoe.train(60, val_iter=17, checkpoint=path, progress=interrupt_at(44), **SPARSE)
    assert smoe.stopped == "interrupted"
    assert smoe.iteration == smoe.adam.steps == 44
    assert [r.iteration for r in smoe.history] == [0, 17, 34]
    again = Smoe.from_checkpoint(path, image)
    assert again.stopped == "interrupted"
    assert_same_training(again, smoe)
    for interrupted in (smoe, again):
        interrupted.resume()
        assert interrupted.stopped is None
        assert_same_training(interrupted, whole)


@pytest.mark.parametrize("at", [1, 17, 34, 59])
def test_ctrl_c_may_come_at_any_iteration(image, at):
    whole = Smoe(image, 8).train(60, val_iter=17, **SPARSE)
    smoe = Smoe(image, 8)
    with pytest.raises(KeyboardInterrupt):
        smoe.train(60, val_iter=17, progress=interrupt_at(at), **SPARSE)
    assert smoe.iteration == at
    assert_same_training(smoe.resume(), whole)


def test_ctrl_c_may_come_again_and_again(image, tmp_path):
    whole = Smoe(image, 4).train(12, val_iter=5)
    Smoe(image, 4).train(0, val_iter=5, checkpoint=tmp_path / "c.npz")
    smoe = Smoe(image, 4)
    progress = interrupt_at(*range(1, 12))
    with pytest.raises(KeyboardInterrupt):
        smoe.train(12, val_iter=5, progress=progress, checkpoint=tmp_path / "c.npz")
    for i in range(2, 12):
        smoe = Smoe.from_checkpoint(tmp_path / "c.npz", image)
        with pytest.raises(KeyboardInterrupt):
            smoe.resume(progress=progress, checkpoint=tmp_path / "c.npz")
        assert smoe.iteration == i
    assert_same_training(Smoe.from_checkpoint(tmp_path / "c.npz", image).resume(), whole)


def test_ctrl_c_during_a_validation_is_raised_too_and_callbacks_are_not_called_twice(image):
    smoe, calls = Smoe(image, 4), []

    def callback(smoe):
        calls.append(smoe.iteration)
        if smoe.iteration == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        smoe.train(10, val_iter=4, callbacks=[callback])
    assert smoe.iteration == 4
    smoe.resume(callbacks=[callback])
    assert calls == [0, 4, 8, 10]


@pytest.mark.parametrize("when", ["progress", "callbacks"])
def test_ctrl_c_at_the_very_end_is_not_swallowed(image, when):
    smoe, hook = Smoe(image, 4), interrupt_at(6)
    hooks = {"progress": hook} if when == "progress" else {"callbacks": [hook]}
    with pytest.raises(KeyboardInterrupt):
        smoe.train(6, val_iter=4, **hooks)
    assert smoe.iteration == 6
    assert_same_training(smoe.resume(), Smoe(image, 4).train(6, val_iter=4))


def test_ctrl_c_is_not_swallowed_when_training_fails_meanwhile(image):
    smoe = Smoe(image, 1)
    with pytest.warns(RuntimeWarning, match="last kernel"), pytest.raises(KeyboardInterrupt):
        smoe.train(50, val_iter=5, l1reg=10.0, lr_div=0.01, progress=lambda s:
                   s.stopped and signal.raise_signal(signal.SIGINT))


def test_ctrl_c_keeps_the_handlers_of_the_caller(image):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Smoe(image, 4).train(6, progress=interrupt_at(3))
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_ends_a_callback_that_hangs(image):
    def hang(smoe):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one must not wait")

    with pytest.raises(KeyboardInterrupt):
        Smoe(image, 4).train(6, callbacks=[hang])


def test_sigterm_ends_the_process_with_a_checkpoint_from_which_it_goes_on(
        image, tmp_path, each_engine):
    script = textwrap.dedent("""
        import signal, sys
        sys.path.insert(0, sys.argv[2])
        from helpers import picture
        from smoe_np import Smoe, launch_native

        def progress(smoe):
            if smoe.iteration == 21:
                signal.raise_signal(signal.SIGTERM)

        image = picture((40, 35))[..., 0]
        launch_native.STEADY = 0  # a look at what the user wants after each step
        smoe = Smoe(image, 8, backend=sys.argv[3])
        smoe.train(30, val_iter=7, checkpoint=sys.argv[1], progress=progress)
        print("not reached")
    """)
    path = tmp_path / "c.npz"
    folder = str(pathlib.Path(__file__).parent)
    ended = subprocess.run([sys.executable, "-c", script, path, folder, each_engine],
                           capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM, ended.stderr
    assert ended.stdout == ""
    again = Smoe.from_checkpoint(path, image)
    assert again.iteration == 21
    assert_same_training(again.resume(), Smoe(image, 8).train(30, val_iter=7))
