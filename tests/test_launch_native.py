"""Kernels on the CPU: compiled once, kept where nobody else can write, never a reason to fail."""

import errno
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    gradient_floors,
    needs_native,
    needs_posix,
    picture,
    random_model,
)

import smoe_np
from smoe_np import Smoe, engine, launch_native
from smoe_np.engine_kernels import KernelEngine
from smoe_np.engine_native import NativeEngine
from smoe_np.engine_numpy import NumpyEngine
from smoe_np.kernel_files import kernel_source
from smoe_np.launch_native import NativeLauncher, cache_folder, why_no_native

FEW_LINES = """
extern "C" void smoe_run() {}
extern "C" double smoe_train() { return 7; }
"""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, of a process that has loaded nothing so far; few lines take its place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(launch_native, "kernel_source", lambda: FEW_LINES)
    monkeypatch.setattr(launch_native, "_loaded", {})
    remembered = (why_no_native, engine._choose, launch_native._version_of,
                  launch_native._warn_of_no_cache)
    for function in remembered:
        function.cache_clear()
    yield tmp_path / "cache" / "smoe_np"
    for function in remembered:
        function.cache_clear()


def load():
    return launch_native._load(2, 1, "float32", ())


def compiler(monkeypatch, tmp_path, script):
    """A program of that text is the C++ compiler."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setenv("CXX", str(path))
    return path


def count_compilations(monkeypatch):
    """A list to which each compilation adds."""
    done, compile_kernels = [], launch_native.compile_kernels

    def counting(*arguments):
        done.append(arguments)
        compile_kernels(*arguments)

    monkeypatch.setattr(launch_native, "compile_kernels", counting)
    return done


# ---- where compiled kernels are kept


@needs_posix
@pytest.mark.parametrize(("system", "environment", "wanted"), [
    ("linux", {"XDG_CACHE_HOME": "/{tmp}/x"}, "/{tmp}/x/smoe_np"),
    ("linux", {"XDG_CACHE_HOME": ""}, "/{tmp}/home/.cache/smoe_np"),
    ("linux", {}, "/{tmp}/home/.cache/smoe_np"),
    ("darwin", {"XDG_CACHE_HOME": "/{tmp}/x"}, "/{tmp}/home/Library/Caches/smoe_np"),
    ("win32", {"LOCALAPPDATA": "/{tmp}/Local"}, "/{tmp}/Local/smoe_np"),
    ("win32", {}, None),
    ("linux", {"XDG_CACHE_HOME": "somewhere"}, None)])
def test_the_cache_lies_where_each_system_has_it(
        monkeypatch, tmp_path, system, environment, wanted):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("/{tmp}", str(tmp_path)))
    found = cache_folder()
    assert found == (wanted and Path(wanted.replace("/{tmp}", str(tmp_path))))
    if found is not None:
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
    else:
        assert list(tmp_path.iterdir()) == []


@needs_native
def test_what_was_compiled_is_loaded_the_next_time(monkeypatch, cache):
    done = count_compilations(monkeypatch)
    load()
    assert sorted(path.suffix for path in cache.iterdir()) == [".sha256", ".so"]
    assert load().smoe_train(None, 0, None, 0, None, 1, 0.0) == 7
    assert len(done) == 1


@needs_native
def test_what_has_not_been_used_for_long_is_removed_when_something_new_is_kept(cache):
    load()
    used, = cache.glob("*.so")
    for name in ("smoe_np-old.so", "smoe_np-old.sha256", ".new-old", "mine.so"):
        (cache / name).write_text("")
        os.utime(cache / name, (1e9, 1e9))
    (cache / ".new-now").write_text("")
    os.utime(used, (1e9, 1e9))
    load()  # which is a use
    assert (cache / "smoe_np-old.so").exists()  # as nothing new has come
    launch_native._load(2, 1, "float32", ("-DOTHER",))
    left = {path.name for path in cache.iterdir()}
    assert {"mine.so", ".new-now", used.name, used.with_suffix(".sha256").name} < left
    assert not {"smoe_np-old.so", "smoe_np-old.sha256", ".new-old"} & left
    assert len(list(cache.glob("smoe_np-*.so"))) == 2


@needs_native
@pytest.mark.parametrize("change", ["source", "options", "compiler", "processor"])
def test_all_that_compiled_kernels_depend_on_is_in_their_name(monkeypatch, cache, change):
    done = count_compilations(monkeypatch)
    load()
    options = ()
    if change == "source":
        monkeypatch.setattr(launch_native, "kernel_source", lambda: FEW_LINES + "// other\n")
    elif change == "options":
        options = ("-DOTHER",)
    elif change == "compiler":
        monkeypatch.setattr(launch_native, "_version_of", lambda command: "another version")
    else:
        monkeypatch.setattr(launch_native, "_processor", lambda: "another processor")
    launch_native._load(2, 1, "float32", options)
    assert len(done) == 2
    assert len(list(cache.glob("*.so"))) == 2


@needs_native
@pytest.mark.parametrize("damage", [
    lambda so, note: so.write_bytes(so.read_bytes()[:-1] + b"\x00\x01"),
    lambda so, note: so.write_bytes(so.read_bytes()[:100]),
    lambda so, note: so.write_bytes(b""),
    lambda so, note: so.unlink(),
    lambda so, note: note.write_text("0" * 64),
    lambda so, note: note.write_text(""),
    lambda so, note: note.write_bytes(b"\xff\x00"),
    lambda so, note: note.unlink(),
    lambda so, note: so.chmod(0o722),
    lambda so, note: note.chmod(0o622)])
def test_a_file_that_is_not_as_it_was_is_compiled_anew(monkeypatch, cache, damage):
    done = count_compilations(monkeypatch)
    load()
    so, note = next(cache.glob("*.so")), next(cache.glob("*.sha256"))
    damage(so, note)
    assert load().smoe_train(None, 0, None, 0, None, 1, 0.0) == 7
    assert len(done) == 2
    load()
    assert len(done) == 2  # the one that took its place is good


@needs_posix
@needs_native
def test_a_folder_that_others_may_write_to_is_not_used_and_that_is_said_once(monkeypatch, cache):
    done = count_compilations(monkeypatch)
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="others may write"):
        load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load()
    assert len(done) == 2
    assert list(cache.iterdir()) == []


@needs_posix
@needs_native
def test_a_file_of_another_user_is_not_loaded(monkeypatch, cache):
    done = count_compilations(monkeypatch)
    load()
    somebody_else = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody_else)
    with pytest.warns(RuntimeWarning, match="others may write"):
        load()
    assert len(done) == 2


@needs_native
@pytest.mark.parametrize("where", ["folder", "file"])
def test_where_nothing_can_be_written_kernels_work_all_the_same(monkeypatch, cache, where):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "folder":
        monkeypatch.setattr(Path, "mkdir", fail)
    else:
        cache.mkdir(parents=True, mode=0o700)
        monkeypatch.setattr(os, "replace", fail)
    with pytest.warns(RuntimeWarning, match="not kept, .* again: .* cannot be .* left on device"):
        assert load().smoe_train(None, 0, None, 0, None, 1, 0.0) == 7
    assert not cache.is_dir() or list(cache.iterdir()) == []  # nor is anything half done left


@needs_native
def test_of_processes_that_start_at_once_one_compiles_and_all_work(monkeypatch, tmp_path):
    compiler(monkeypatch, tmp_path, 'case $1 in --version) exit 0;; esac\n'
             f'echo once >> "{tmp_path}/compilations"; sleep 0.5; exec c++ "$@"')
    code = ("from smoe_np import launch_native\n"
            f"launch_native.kernel_source = lambda: {FEW_LINES!r}\n"
            "library = launch_native._load(2, 1, 'float32', ())\n"
            "assert library.smoe_train(None, 0, None, 0, None, 1, 0.0) == 7\n")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (tmp_path / "compilations").read_text() == "once\n"
    left = (tmp_path / "cache" / "smoe_np").iterdir()
    assert sorted(path.suffix for path in left) == [".sha256", ".so"]
    refuse = "launch_native.compile_kernels = None\n"
    subprocess.run([sys.executable, "-c", code.replace("library =", refuse + "library =")],
                   env=environment, check=True)


@needs_native
def test_where_another_process_never_ends_its_compilation_this_one_goes_on(monkeypatch, cache):
    fcntl = pytest.importorskip("fcntl")
    load()
    path, = cache.glob("*.so")
    with open(cache / f".new-{path.stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert load().smoe_train(None, 0, None, 0, None, 1, 0.0) == 7  # it is there already
        path.unlink()
        monkeypatch.setattr(launch_native, "TIME_LIMIT", 1.0)
        assert load().smoe_train(None, 0, None, 0, None, 1, 0.0) == 7
    assert path.exists()


# ---- compilers that do not work

HANGS = "case $1 in --version) exit 0;; esac\nexec sleep 60"
# sets $name to the last argument, the file that is to be made, and is done if there is none
TO_NAME = 'for name; do :; done; [ "$name" = --version ] && exit; '
COMPILERS = [
    ("exit 1", r"compiler .*/compiler fails on the kernels \(no message\)"),
    ("echo first; echo '1:2: error: no <thread>' >&2; echo error: more >&2; exit 1",
     r"fails on the kernels \(1:2: error: no <thread>\)"),
    ("echo killed >&2; exit 137", r"fails on the kernels \(killed\)"),
    ("exit 0", r"fails on the kernels"),  # and leaves nothing
    (TO_NAME + 'echo nonsense > "$name"', "cannot be loaded"),
    (TO_NAME + """printf 'int other;' | c++ -shared -fPIC -x c++ - -o "$name" """,
     "cannot be loaded .*smoe_run"),
    (HANGS, r"compiler .* does not run \(it takes more than 0.3 s\)"),
    ("case $* in *-fopenmp-simd*) echo 'error: unknown -fopenmp-simd' >&2; exit 1;; esac",
     r"error: unknown -fopenmp-simd"),
]


@needs_posix
@needs_native
@pytest.mark.parametrize(("script", "words"), COMPILERS)
def test_a_compiler_that_does_not_work_is_said_in_one_sentence(
        monkeypatch, tmp_path, cache, caplog, script, words):
    monkeypatch.setattr(launch_native, "TIME_LIMIT", 0.3)
    if "c++" in script:
        monkeypatch.setattr(launch_native, "TIME_LIMIT", 30)
    compiler(monkeypatch, tmp_path, script)
    assert_numpy_takes_over(caplog, words)


@needs_posix
@pytest.mark.parametrize(("command", "words"), [
    ("/no/such/compiler", r"\$CXX = '/no/such/compiler' is not there; set CXX"),
    ("no-such-compiler -m64", r"\$CXX = 'no-such-compiler -m64' is not there"),
    ("'g++", r"\$CXX = \"'g\+\+\" is not there"),
    ("  ", r"\$CXX = '  ' is not there"),
    (None, r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\) is on the PATH; install one")])
def test_no_compiler_is_said_in_one_sentence(monkeypatch, tmp_path, cache, caplog, command, words):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if command is not None:
        monkeypatch.setenv("CXX", command)
    assert_numpy_takes_over(caplog, words)


@needs_posix
def test_a_compiler_that_cannot_be_started_is_said_in_one_sentence(
        monkeypatch, tmp_path, cache, caplog):
    compiler(monkeypatch, tmp_path, "").write_bytes(b"\x00\x01 no program")
    assert_numpy_takes_over(caplog, r"compiler .* does not start")


def test_no_room_to_compile_in_is_said_in_one_sentence(monkeypatch, cache, caplog):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    if why_no_native() is not None and "No space" not in why_no_native():
        pytest.skip(why_no_native())
    assert_numpy_takes_over(caplog, r"no place .* \(\[Errno 28\] No space left on device\); make")


def assert_numpy_takes_over(caplog, words):
    reason = why_no_native()
    assert re.search(words, reason)
    assert "\n" not in reason
    assert len(reason) < 600
    params = random_model(0, K=3)
    with caplog.at_level(logging.INFO, logger="smoe_np"):
        for _ in range(2):
            assert smoe_np.render(params, (9, 7)).shape == (9, 7)
            assert type(Smoe(picture((9, 7)), 2).engine) is NumpyEngine
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # once
    assert reason in caplog.text
    for call in (lambda: smoe_np.render(params, (9, 7), backend="native"),
                 lambda: Smoe(picture((9, 7)), 2, backend="native")):
        with pytest.raises(ValueError, match="backend 'native' cannot be used") as error:
            call()
        assert reason in str(error.value)


@needs_posix
@needs_native
def test_cxx_may_hold_options_and_is_what_compiles(monkeypatch, tmp_path, cache):
    real = launch_native.find_compiler()[0]
    path = compiler(monkeypatch, tmp_path, f'echo "$*" >> {tmp_path}/log; exec {real} "$@"')
    monkeypatch.setenv("CXX", f"{path} -DHERE=1")
    load()
    assert "-DHERE=1 --version" in (tmp_path / "log").read_text()
    assert "-DHERE=1 -std=c++17" in (tmp_path / "log").read_text()


# ---- other compilers and processors

X86 = os.uname().machine == "x86_64" if hasattr(os, "uname") else False
OTHERS = {"clang++": ("clang++", ()), "g++ for SSE2": ("g++", ("-march=x86-64",)),
          "g++ for AVX2": ("g++", ("-march=x86-64-v3",))}


@pytest.fixture(scope="module")
def other_builds():
    """The libraries of the compilers that are there, compiled two at a time."""
    def build(item):
        name, (command, options) = item
        if shutil.which(command) is None:
            return f"there is no {command}"
        processor = launch_native._processor().split()
        if (options and not X86) or ("v3" in "".join(options) and "avx2" not in processor):
            return f"this processor does not run {options[0]}"
        return load_with_compiler(command, ("-O1", *options))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(OTHERS, pool.map(build, OTHERS.items())))


def load_with_compiler(command, options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        launch_native.compile_kernels(
            [command], (*launch_native.OPTIONS, *launch_native._for_this_processor(), "-DNDIM=2",
                        "-DNCHAN=1", "-DREAL=float", "-DREAL_BYTES=4", *options),
            kernel_source(), path)
        return launch_native._open(path)


@needs_native
@pytest.mark.parametrize("name", OTHERS)
def test_other_compilers_and_processors_give_the_same(monkeypatch, other_builds, name):
    if isinstance(other_builds[name], str):
        pytest.skip(other_builds[name])

    class Launcher(NativeLauncher):
        def __init__(self, D, C, dtype):
            super().__init__(D, C, dtype)
            self.library = other_builds[name]

    class Engine(KernelEngine):
        launcher = Launcher

    target = picture((70, 53))
    for K, sigma, negative in ((40, 0.1, 0.0), (400, 0.4, 0.0), (40, 0.02, 0.0), (40, 0.2, 0.1)):
        params = random_model(K, K, sigma=sigma, negative=negative)
        found, wanted = (kind((70, 53), target) for kind in (Engine, NativeEngine))
        (loss, gradients), (others, expected) = (
            e.loss_and_gradients(params) for e in (found, wanted))
        if not negative:
            assert loss == pytest.approx(others, rel=1e-5)
            assert_gradients_agree(gradients, expected, 1e-4, gradient_floors(params, target))
            np.testing.assert_allclose(found.render(params), wanted.render(params), atol=1e-5)
        np.testing.assert_array_equal(found.gating(params), wanted.gating(params))


@needs_native
def test_a_launcher_checks_what_it_is_given():
    launcher = NativeLauncher(2, 1, "float32")
    with pytest.raises(TypeError, match="found of layout must be of int32, got float32"):
        launcher.record([("layout", 1, 1, (np.zeros(2, np.float32),))])
