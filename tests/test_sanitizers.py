"""Kernels under AddressSanitizer and UndefinedBehaviorSanitizer: in subprocesses, one a build."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smoe_np.launch_native import find_compiler, why_no_native

HERE = Path(__file__).parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0")
BUILDS = {
    "2d-1c-float32": ("2", "1", "float32"),
    "2d-3c-float32": ("2", "3", "float32"),
    "3d-1c-float64": ("3", "1", "float64"),
    "3d-3c-float32": ("3", "3", "float32"),
    "2d-1c-float32-emulated": ("2", "1", "float32", "-DEMULATE_GPU"),
}


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


def run(build):
    library = runtime()
    environment = {**os.environ, "LD_PRELOAD": library, "OPENBLAS_NUM_THREADS": "1",
                   "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run([sys.executable, HERE / "sanitized_run.py", *build, *SANITIZE],
                          env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs():
    """What has come of every build, two at a time."""
    runtime()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BUILDS, pool.map(run, BUILDS.values())))


@pytest.mark.parametrize("name", BUILDS)
def test_kernels_stay_within_their_buffers_and_within_cxx(runs, name):
    assert runs[name].returncode == 0, runs[name].stderr[-3000:]
    assert runs[name].stdout == "done\n"


def test_a_kernel_that_leaves_its_buffer_is_caught():
    done = run(("0", "1", "float32"))
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr
    assert "render" in done.stderr
