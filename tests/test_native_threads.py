"""Compiled kernels among threads, processes and signals."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import assert_same_model, needs_native, needs_posix, picture

from smoe_np import Smoe, launch_native

pytestmark = pytest.mark.usefixtures("all_processors")


def trained(seed=0, threads=None, steps=60):
    smoe = Smoe(picture((61, 83), seed=seed), 9, backend="native")
    if threads is not None:
        smoe.engine.threads = threads
    return smoe.train(steps, val_iter=20, l1reg=0.3, lr_div=2)


@needs_native
def test_a_training_gives_the_same_bits_with_any_number_of_threads():
    one, *others = (trained(threads=threads) for threads in (1, 2, 5))
    assert one.params.num_kernels < 9 * 7
    for other in others:
        assert_same_model(other.params, one.params)
        assert [(r.loss, r.kernels) for r in other.history] == [
            (r.loss, r.kernels) for r in one.history]


@needs_native
def test_trainings_in_two_threads_at_once_give_what_they_give_alone():
    alone = [trained(seed) for seed in range(2)]
    together = {}
    threads = [threading.Thread(target=lambda seed=seed: together.update({seed: trained(seed)}))
               for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        assert_same_model(together[seed].params, alone[seed].params)


SMALL = ("import os, signal, sys, threading, time\n"
         "import numpy as np\n"
         "from smoe_np import Smoe\n"
         "image = np.add.outer(np.sin(np.arange(60) / 5), np.cos(np.arange(50) / 7)) / 4 + 0.5\n")


@needs_posix
@needs_native
@pytest.mark.filterwarnings("ignore")
def test_a_child_that_was_forked_trains_as_its_parent_does():
    code = SMALL + (
        "def train():\n"
        "    smoe = Smoe(image, 7, backend='native')\n"
        "    smoe.engine.threads = 2\n"
        "    return smoe.train(30).params.musX\n"
        "wanted = train()\n"  # so that there are threads, which the child does not have
        "child = os.fork()\n"
        "if child == 0:\n"
        "    same, tasks = (train() == wanted).all(), '/proc/self/task'\n"
        "    helped = not os.path.isdir(tasks) or len(os.listdir(tasks)) > 1\n"
        "    os._exit(0 if same and helped else 3)\n"
        "assert (train() == wanted).all()\n"
        "assert os.waitpid(child, 0)[1] == 0\n")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not os.path.isfile("/proc/self/statm"), reason="needs Linux")
@needs_native
def test_where_the_system_has_no_thread_left_a_training_goes_on_without():
    code = SMALL + (
        "import resource\n"
        "def train(threads):\n"
        "    smoe = Smoe(image, 7, backend='native')\n"
        "    smoe.engine.threads = threads\n"
        "    return smoe.train(30).params.musX\n"
        "wanted = train(1)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "stack = 8 << 20  # of a thread, which must not find room\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + stack // 2,) * 2)\n"
        "assert (train(9) == wanted).all()\n"
        "assert len(os.listdir('/proc/self/task')) < 9\n")
    subprocess.run(["sh", "-c", 'ulimit -s 8192; exec "$@"', "sh", sys.executable, "-c", code],
                   check=True, timeout=60)


@needs_posix
@needs_native
def test_ctrl_c_ends_a_long_training_soon_and_in_good_order():
    code = SMALL + (
        "smoe = Smoe(image, 7, backend='native')\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    smoe.train(10**8, val_iter=10**8)\n"
        "except KeyboardInterrupt:\n"
        "    assert smoe.iteration > 0\n"
        "    assert smoe.stopped == 'interrupted'\n"
        "    assert np.isfinite(smoe.params.musX).all()\n"
        "    print('interrupted', flush=True)\n")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(2)
    # far less, but for a machine that has other things to do: a training would take hours
    assert process.communicate(timeout=20)[0] == "interrupted\n"
    assert process.returncode == 0
    assert launch_native.STEADY <= 0.3  # which is how seldom a training looks up


@needs_native
def test_small_numbers_are_as_exact_after_a_call_as_before():
    # kernels count numbers as 0 that are too small for full precision; that is their own affair
    tiny = np.full(64, 1e-40, np.float32)
    smoe = Smoe(picture((30, 30)), 4, backend="native")
    for threads in (1, 2):
        smoe.engine.threads = threads
        smoe.train(3)
        smoe.reconstruction, smoe.gating, smoe.engine.loss_and_gradients(smoe.params)  # noqa: B018
        assert (tiny * np.float32(1) == tiny).all()
        assert (tiny * np.float32(1) > 0).all()
