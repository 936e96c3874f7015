"""Kernels under AddressSanitizer and UndefinedBehaviorSanitizer: in two subprocesses."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smoe_np.launch_native import find_compiler, why_no_native

HERE = Path(__file__).parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0")
PROCESSES = [("2d-1c-float32", "3d-3c-float32"),
             ("2d-3c-float32", "3d-1c-float64", "2d-1c-float32-emulated")]


def runtime():
    """The sanitizer's library, which must be loaded before all others, or a reason to skip."""
    if why_no_native() is not None:
        pytest.skip(why_no_native())
    compiler = find_compiler()
    found = subprocess.run([*compiler, "-print-file-name=libasan.so"], capture_output=True,
                           text=True, check=False).stdout.strip()
    # clang may name that of g++, which is not its own
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    if "clang" not in version.stdout and os.path.isabs(found) and os.path.exists(found):
        return os.path.realpath(found)
    pytest.skip(f"{compiler[0]} has no libasan.so, that of g++, to load")


def run(builds):
    library = runtime()
    environment = {**os.environ, "LD_PRELOAD": library, "OPENBLAS_NUM_THREADS": "1",
                   "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run([sys.executable, HERE / "sanitized_run.py", *builds, *SANITIZE],
                          env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs():
    """What has come of the process of every build."""
    runtime()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(run, PROCESSES))
    return {name: one for names, one in zip(PROCESSES, done) for name in names}


@pytest.mark.parametrize("name", [name for names in PROCESSES for name in names])
def test_kernels_stay_within_their_buffers_and_within_cxx(runs, name):
    # builds fail together with those of their process
    assert runs[name].returncode == 0, runs[name].stderr[-3000:]
    assert f"{name} done" in runs[name].stdout.splitlines(), runs[name].stderr[-3000:]


def test_a_kernel_that_leaves_its_buffer_is_caught():
    done = run(["overrun"])
    assert done.returncode != 0
    assert "done" not in done.stdout
    assert "AddressSanitizer" in done.stderr
    assert "render" in done.stderr
