"""The benchmark first proves the engine right, and then measures what it says."""

import json
import re
import sys

import fake_cupy
import numpy as np
import pytest
import tifffile
from helpers import assert_gradients_agree, needs_native, random_model, relative_error

import smoe_np
from smoe_np import (
    bench,
    bench_dense,
    bench_kernels,
    bench_measure,
    bench_report,
    dense,
    machine,
)
from smoe_np.cli import main
from smoe_np.initialize import kernel_grid
from smoe_np.launch_cuda import CudaLauncher
from smoe_np.launch_native import NativeLauncher, find_compiler


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing is measured for long, and nothing compiled only to see how long it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SMALL_ITERATIONS", 4)
        patch.setattr(bench_kernels, "CEILING_SECONDS", 0.0)
        patch.setattr(bench_kernels, "TRIAD_BYTES", 1 << 20)
        patch.setattr(bench_kernels, "seconds_of_first_use", lambda backend: [3.0, 0.01])
        yield


seconds_of_first_use = bench_kernels.seconds_of_first_use


@pytest.fixture(scope="module")
def report():
    """A run of the small case, and what was said on the way."""
    lines = []
    found = bench.run(bench.cases(size=20), "all", say=lines.append)
    return found, lines


@pytest.fixture(scope="module")
def drawn():
    """A small drawing, measured here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_measure, "FITTED", 2)
        return bench_measure.rendering({**DRAWING, "backend": "numpy"})


DRAWING = {"shape": [18, 32], "channels": 3, "kernels_per_dim": 4, "renders": True,
           "iterations": 0}


def test_the_standard_cases_are_those_that_are_quoted():
    assert [(*case["shape"], case["channels"], case["kernels_per_dim"])
            for case in bench.cases()] == [
        (128, 128, 1, 12), (512, 512, 1, 32), (512, 512, 1, 128), (512, 768, 3, 197),
        (2160, 3840, 1, 133)]
    assert [case["renders"] for case in bench.cases()] == [False] * 4 + [True]
    assert [case["iterations"] for case in bench.cases(iterations=7)] == [7] * 4 + [0]


def test_the_large_picture_is_measured_if_it_is_asked_for_and_there_is_memory(monkeypatch, capsys):
    monkeypatch.setattr(machine, "free_bytes", lambda: bench.LARGE_BYTES)
    large, = (case for case in bench.cases(large=True) if case not in bench.cases())
    assert large["shape"] == [4000, 6000]
    assert np.prod(kernel_grid(large["shape"], large["kernels_per_dim"])) >= 10**6
    monkeypatch.setattr(machine, "free_bytes", lambda: None)  # not known
    assert large in bench.cases(large=True)
    monkeypatch.setattr(machine, "free_bytes", lambda: bench.LARGE_BYTES - 1)
    assert main(["bench", "--large"]) == 2
    assert "the large picture takes" in capsys.readouterr().err


def test_what_cannot_be_measured_is_refused_before_anything_is(tmp_path, capsys):
    picture = tmp_path / "bytes.tif"
    tifffile.imwrite(picture, np.full((9, 9), 255, np.float32))
    for arguments, reason in ((["--size", "9999999"], "9999999×9999999 pixels takes"),
                              (["-i", str(picture)], f"image {str(picture)!r} has values from")):
        assert main(["bench", *arguments]) == 2
        told = capsys.readouterr().err
        assert reason in told
        assert len(told.splitlines()) == 1


def test_free_memory_is_known_on_linux():
    free = machine.free_bytes()
    assert free > 1 << 20 if sys.platform == "linux" else free is None or free > 1 << 20


def test_a_small_case_takes_the_place_of_the_standard_ones():
    assert bench.cases(size=32) == [
        {"shape": [32, 32], "channels": 1, "kernels_per_dim": 6, "iterations": 4,
         "renders": False}]


def test_a_picture_is_measured_as_well(tmp_path):
    path = tmp_path / "a.tif"
    smoe_np.write_image(path, bench.picture((4, 5), 3))
    first, *others = bench.cases(image_path=path, kernels_per_dim=9)
    assert first == {"image_path": str(path), "kernels_per_dim": 9, "iterations": 40,
                     "renders": False}
    assert others == bench.cases()


@pytest.mark.parametrize("wrong", [
    {"size": 0}, {"iterations": 0}, {"image_path": "a", "kernels_per_dim": 0},
    {"kernels_per_dim": 3}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="|".join(wrong)):
        bench.cases(**wrong)


def test_the_picture_is_always_the_same_and_has_edges_gradients_and_texture():
    picture = bench.picture((64, 64), 3)
    assert picture.dtype == np.float32
    np.testing.assert_array_equal(picture, bench.picture((64, 64), 3))
    assert picture.min() >= 0
    assert picture.max() <= 1
    steps = np.abs(np.diff(picture[..., 0], axis=0))
    assert steps.max() > 0.2  # an edge
    assert 0.001 < np.median(steps) < 0.05  # smooth elsewhere, and nowhere flat


# ---- correctness


def test_the_engine_is_compared_with_the_definition():
    errors = bench.check()
    assert errors["float32"]["image"] < 1e-5
    assert errors["float32"]["gradient"] < 2e-4
    assert errors["float64"]["gradient"] < 1e-9


@pytest.mark.parametrize(("what", "factor"), [("image", 1 + 1e-4), ("gradient", 1 + 1e-6),
                                              ("gradient", np.nan)])
def test_a_wrong_engine_is_found_out(monkeypatch, capsys, what, factor):
    exact_render, exact_gradients = dense.render, dense.gradients
    if what == "image":
        monkeypatch.setattr(dense, "render", lambda *args: exact_render(*args) * factor)
    else:
        monkeypatch.setattr(dense, "gradients", lambda *args: {
            name: array * (factor if name == "A" else 1)
            for name, array in exact_gradients(*args).items()})
    assert main(["bench", "--size", "8"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith(f"smoe: the {'image' if what == 'image' else 'gradient of A'} in ")
    assert "nothing was measured" in line


# ---- the dense rival


@pytest.mark.parametrize("block", [1, 100, 10**6])
@pytest.mark.parametrize("shape", [(11, 14), (5, 4, 3)])
@pytest.mark.parametrize("C", [1, 3])
def test_the_dense_rival_computes_the_model(monkeypatch, shape, C, block):
    monkeypatch.setitem(bench_dense.BLOCK, "numpy", block)
    params = random_model(0, K=12, C=C, D=len(shape))
    target = np.random.default_rng(1).uniform(0, 1, (*shape, C))
    loss, gradients = bench_dense.loss_and_gradients(params, target)
    assert loss == pytest.approx(dense.loss(params, target))
    assert_gradients_agree(gradients, dense.gradients(params, target), 1e-12)
    np.testing.assert_allclose(bench_dense.render(params, shape),
                               dense.render(params, shape).clip(0, 1), atol=1e-12)


def test_the_dense_rival_trains_as_the_engines_do_in_float32():
    image = bench.picture((24, 24))
    smoe = smoe_np.Smoe(image, 4)
    rival = bench_dense.train(smoe.params, image, 5)
    assert {array.dtype for array in rival.arrays().values()} == {np.dtype(np.float32)}
    assert relative_error(rival.A, smoe.train(5).params.A) < 1e-4


@pytest.mark.parametrize("limit", [0.0, 60.0])
def test_the_time_of_the_dense_rival_is_that_of_all_pixels(monkeypatch, limit):
    """By a clock that goes on by a second for each block, and by one for Adam."""
    shape, now = (10, 12), [0.0]
    monkeypatch.setitem(bench_dense.BLOCK, "numpy", 12 * 40)
    monkeypatch.setattr(bench_dense.time, "perf_counter", lambda: now[0])
    for name in "_add_block", "_regress", "_step":
        monkeypatch.setattr(bench_dense, name, slowly(now, getattr(bench_dense, name)))
    params, target = random_model(0, K=12), bench.picture(shape)
    assert bench_dense.seconds_of_rendering(params, shape, limit) == pytest.approx(3)
    # a block of a step regresses too
    assert bench_dense.seconds_of_step(params, target, limit) == pytest.approx(3 * 2 + 1)


def slowly(now, function):
    def run(*arguments):
        now[0] += 1
        return function(*arguments)

    return run


@pytest.mark.parametrize("renders", [False, True])
def test_the_dense_rival_of_a_case_is_timed(monkeypatch, renders):
    monkeypatch.setattr(bench_measure, "FIT_ITERATIONS", 1)
    case = {**DRAWING, "renders": renders, "iterations": 2, "library": "numpy"}
    assert bench_measure.dense(case)["dense_ms"] > 0


# ---- compiled kernels


@needs_native
def test_compiling_and_loading_are_timed(monkeypatch, tmp_path):
    quick = tmp_path / "quick"  # as the compiler, but without optimization
    quick.write_text(f'#!/bin/sh\nexec {find_compiler()[0]} "$@" -O0\n')
    quick.chmod(0o700)
    monkeypatch.setenv("CXX", str(quick))
    compiled, loaded = seconds_of_first_use("native")
    assert 0 < loaded < compiled


@needs_native
def test_a_compiler_that_fails_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(OSError, match="the compiler false"):
        seconds_of_first_use("native")


@needs_native
def test_kernels_are_timed_if_that_is_asked_for_and_else_not():
    launch = NativeLauncher(2, 1, "float32")
    out = np.zeros(128, np.float32)  # more than a tile has
    launches = [("multiply_add", 1, 64, (1000, out)), ("multiply_add", 1, 64, (1000, out))]
    before = launch.record(launches)
    seconds = launch.profile()
    timed = launch.record(launches)
    launch.run(before)
    assert seconds["multiply_add"] == 0
    launch.run(timed)
    once = seconds["multiply_add"].item()
    assert once > 0
    launch.run(timed)
    assert seconds["multiply_add"] > once
    assert seconds["triad"] == 0


def details_of(backend, graphs):
    image = bench.picture((40, 48))
    profiles = []

    def train(profile):
        profiles.append(profile)
        smoe, pairs, _ = bench_measure._train(
            image, {"kernels_per_dim": 6, "iterations": 6, "backend": backend}, profile)
        return smoe.engine, pairs * image.size

    return bench_kernels.details(train, graphs, 1), profiles


def assert_details_add_up(found):
    assert found["ms_in_kernels"] == pytest.approx(sum(found["kernels"].values()))
    assert found["kernels"].keys() >= {"step", "gather", "judge", "update", "bound", "scan", "fill",
                                       "place", "arrange"}
    assert found["kernels"].keys().isdisjoint({"multiply_add", "triad", "render"})
    assert min(found["gflops"], found["gflops_most"], found["gbytes"], found["gbytes_most"]) > 0


@needs_native
def test_details_of_kernels_on_a_cpu_add_up():
    found, (one_thread, all_threads) = details_of("native", graphs=False)
    assert_details_add_up(found)
    assert found["ms_in_kernels"] < found["ms"]  # which it is part of, as is the next
    assert found["ns_per_pair_step"] < found["ns_per_pair"]
    assert one_thread.steps == all_threads.steps == 6
    assert found["ms_one_thread"] == pytest.approx(1e3 * one_thread.seconds / 6)
    assert found["gflops_most_one_thread"] > 0
    assert "ms_without_graphs" not in found


@needs_native
def test_details_of_kernels_on_a_gpu_add_up(monkeypatch):
    with fake_cupy.install(monkeypatch) as cupy:
        monkeypatch.setattr(cupy.cuda, "get_elapsed_time",
                            lambda before, after: after.after - before.after, raising=False)
        found, (plain, without, timed) = details_of("cupy", graphs=True)
    assert_details_add_up(found)
    # the pretended clock goes on by a millisecond with each launch
    assert found["kernels"]["step"] == found["kernels"]["update"] >= 1
    assert plain.kernels == without.kernels == {}
    assert found["ms_without_graphs"] == pytest.approx(1e3 * without.seconds / 6)
    assert "threads" not in found


@needs_native
def test_a_gpu_that_is_timed_never_waits_for_the_host(monkeypatch):
    with fake_cupy.install(monkeypatch) as cupy:
        launch = CudaLauncher(2, 1, "float32")
        clocks = bench_kernels._clocks(launch)
        launch.run(launch.record([("layout", 1, 1, (launch.zeros(3, np.int32),))] * 3))
        launched = [name for name, *_ in cupy.machine.launches]
        assert launched == ["multiply_add", *["layout"] * 3]  # it was idle before the first alone
        monkeypatch.setattr(cupy.cuda, "get_elapsed_time",
                            lambda before, after: after.after - before.after, raising=False)
        launch.stream.synchronize()
        assert [clocks[name]() for name in ("layout", "multiply_add")] == [0.003, 0]


@needs_native
def test_pixels_at_which_a_pair_is_looked_at_are_counted():
    smoe = smoe_np.Smoe(bench.picture((64, 48)), 8, backend="native", channel_axis=-1)
    smoe.train(1)
    assert 0.2 < bench_kernels.pixels_of_pair(smoe.engine) / smoe.engine.grid.pixels < 0.95
    smoe.engine.tau = 1e4  # nothing is left out
    smoe.engine.loss(smoe.params)
    assert bench_kernels.pixels_of_pair(smoe.engine) == smoe.engine.grid.pixels


def test_operations_of_a_pair_are_counted_from_the_formulas():
    # by hand: 2 + 13 + 1 + 3, and 1 + 3 + 3 + 1 + 5
    assert bench_kernels.operations_of_pair(1) == 32
    assert bench_kernels.operations_of_pair(3) == 52


# ---- measuring


def test_every_backend_that_works_is_measured_and_the_others_have_a_reason(report):
    found, _ = report
    measured = {case["backend"] for case in found["cases"]}
    assert measured == found["errors"].keys()
    assert measured | found["unavailable"].keys() == smoe_np.engine.ENGINES.keys()
    assert measured.isdisjoint(found["unavailable"])
    assert "numpy" in measured
    text = bench_report.as_text(found).splitlines()
    for name, why_not in found["unavailable"].items():
        assert f"not measured: {name}: {why_not}" in text


def test_a_drawing_reports_what_it_measured(drawn):
    assert (drawn["shape"], drawn["channels"], drawn["kernels"]) == ([18, 32], 3, 8)
    assert drawn["pairs_per_pixel"] >= 1
    assert drawn["ns_per_pair"] == pytest.approx(
        1e6 * drawn["ms_per_iteration"] / (18 * 32 * drawn["pairs_per_pixel"]))
    assert drawn["builds"] == 1


def test_a_case_reports_what_it_measured(report):
    found, lines = report
    case = found["cases"][-1]
    assert (case["shape"], case["channels"], case["kernels"]) == ([20, 20], 1, 36)
    assert case["backend"] in smoe_np.engine.ENGINES
    assert case["pairs_per_pixel"] > 1
    assert case["ns_per_pair"] == pytest.approx(
        1e6 * case["ms_per_iteration"] / (400 * case["pairs_per_pixel"]))
    assert case["times_exp"] == pytest.approx(case["ms_per_iteration"] / case["exp_ms"])
    assert case["builds"] >= 1
    assert 0 <= case["build_ms_per_iteration"] <= case["ms_per_iteration"]
    assert case["build_ms_per_iteration"] == pytest.approx(
        case["ms_per_build"] * case["builds"] / case["iterations"])
    assert case["psnr"] > 10
    assert "comparing the engine" in lines[0]
    assert "case 1 of 1" in lines[-1]
    assert sum("dense" in line for line in lines) == 1
    assert case["times_dense"] == pytest.approx(case["dense_ms"] / case["ms_per_iteration"])


def test_peak_memory_is_that_of_the_case_alone(report):
    np.ones(100 << 20, np.uint8)  # a process that starts another hands on its own peak
    assert bench_measure.peak_mib() > 100
    assert report[0]["cases"][0]["peak_mib"] > 10
    answer = bench._in_own_process(
        "training", {"shape": [8, 8], "channels": 1, "kernels_per_dim": 1, "iterations": 1,
                     "renders": False, "backend": "numpy"})
    assert answer["peak_mib"] < bench_measure.peak_mib() - 20


def test_the_time_of_exp_grows_with_the_values():
    few, many = (min(bench_measure.seconds_of_exp(n) for _ in range(5)) for n in (1 << 16, 1 << 20))
    assert few < many


def test_the_time_of_exp_over_very_many_values_is_scaled_up(monkeypatch):
    monkeypatch.setattr(bench_measure, "EXP_MOST", 1 << 16)
    seconds = [bench_measure.seconds_of_exp(1 << 40) for _ in range(3)]
    assert min(seconds) > 10


def test_errors_of_a_measurement_arrive(tmp_path):
    path = tmp_path / "broken.tif"
    path.write_bytes(b"II*\0 and no more")
    with pytest.raises(ValueError, match="broken.tif"):
        bench._in_own_process("training", {"image_path": str(path), "kernels_per_dim": 1,
                                           "iterations": 1, "backend": "numpy"})


def test_a_measurement_that_is_killed_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(OSError, match="ended with status 1"):
        bench._in_own_process("training", {})


# ---- what is printed


def test_the_table_has_a_row_for_each_case_and_backend(report):
    found, _ = report
    table = bench_report.as_text(found).splitlines()[1 : 2 + len(found["cases"])]
    assert len({len(line) for line in table}) == 1
    for line, case in zip(table[1:], found["cases"]):
        assert line.startswith("20×20 ")
        assert line.split()[1:3] == ["36", case["backend"]]


@needs_native
def test_compiled_kernels_have_a_second_table(report, monkeypatch):
    monkeypatch.setattr(bench_report, "LEAST_SHARE", 0.0)
    found, _ = report
    text = bench_report.as_text(found)
    _, head, row, *_ = text[text.index("\n\n"):].splitlines()[1:]
    assert len(head) == len(row)
    assert row.split()[2] == "native"
    assert "native: 3.0 s to compile kernels at first use, 0.010 s to load them afterwards" in text
    assert re.search(r"^20×20, 36, native: \w+ \d+%, ", text, re.MULTILINE)


def test_many_kernels_are_compared_with_few(report, drawn):
    found, _ = report
    few = found["cases"][-1]
    many = {**few, "kernels": 99, "ms_per_iteration": 2.5 * few["ms_per_iteration"]}
    rival = {"dense_ms": 1.0, "times_dense": 2.0}
    text = bench_report.as_text({**found, "cases": [few, many, {**drawn, **rival}]})
    assert text.count("numpy: 99 kernels take 2.50 times as long as 36") == 1
    assert text.count(" times as long as ") == 1
    assert "18×32 RGB drawn" in text


def test_a_gpu_is_told_with_and_without_graphs(report):
    found, _ = report
    details = {"ms": 0.5, "ms_without_graphs": 0.75, "ms_in_kernels": 0.4, "gflops": 1.0,
               "gflops_most": 2.0, "gbytes": 1.0, "gbytes_most": 2.0, "kernels": {"step": 0.4}}
    case = {**found["cases"][-1], "backend": "cupy", "details": details}
    text = bench_report.as_text({**found, "cases": [case]})
    assert "20×20, 36, cupy: 0.750 ms without graphs, 0.500 ms with them" in text
    assert "20×20, 36, cupy: step 80%" in text


def test_the_command_measures_a_picture_in_colour(tmp_path, capsys):
    path = tmp_path / "a.tif"
    smoe_np.write_image(path, bench.picture((9, 12), 3))
    assert main(["bench", "--size", "8", "-i", str(path), "-k", "3", "-n", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    colour, small = report["cases"]
    assert (colour["shape"], colour["channels"], colour["kernels"]) == ([9, 12], 3, 6)
    assert (small["shape"], small["iterations"]) == ([8, 8], 2)
    assert "case 2 of 2" in err
    assert "9×12 RGB" in bench_report.as_text(report)
