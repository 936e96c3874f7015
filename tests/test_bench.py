"""The benchmark first proves the engine right, and then measures what it says."""

import json
import sys

import numpy as np
import pytest
from helpers import assert_gradients_agree, random_model, relative_error

import smoe_np
from smoe_np import bench, bench_dense, bench_kernels, bench_report, dense, launch_native
from smoe_np.cli import main


@pytest.fixture(scope="module")
def report():
    """A run of the small case, and what was said on the way."""
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SMALL_ITERATIONS", 4)
        found = bench.run(bench.cases(size=20), say=lines.append)
    return found, lines


def test_the_standard_cases_are_those_that_are_quoted():
    assert [(*case["shape"], case["channels"], case["kernels_per_dim"])
            for case in bench.cases()] == [
        (128, 128, 1, 12), (512, 512, 1, 32), (512, 512, 1, 128), (512, 768, 3, 197)]
    assert bench.cases(large=True)[-1]["shape"] == [4000, 6000]
    assert {case["iterations"] for case in bench.cases(iterations=7)} == {7}


def test_a_small_case_takes_the_place_of_the_standard_ones():
    assert bench.cases(size=32) == [
        {"shape": [32, 32], "channels": 1, "kernels_per_dim": 6, "iterations": 10}]


def test_a_picture_is_measured_as_well(tmp_path):
    path = tmp_path / "a.tif"
    smoe_np.write_image(path, bench.picture((4, 5), 3))
    first, *others = bench.cases(image_path=path, kernels_per_dim=9)
    assert first == {"image_path": str(path), "kernels_per_dim": 9, "iterations": 40}
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


@pytest.mark.parametrize("C", [1, 3])
def test_the_dense_rival_computes_the_model(C):
    params, target = random_model(0, K=12, C=C), bench.picture((11, 14), C).astype(np.float64)
    x = dense.pixel_centres((11, 14))
    loss, gradients = bench_dense.loss_and_gradients(params, target.reshape(len(x), C), x)
    assert loss == pytest.approx(dense.loss(params, target))
    assert_gradients_agree(gradients, dense.gradients(params, target), 1e-12)


def test_the_dense_rival_trains_as_the_engines_do():
    image = bench.picture((24, 24))
    smoe = smoe_np.Smoe(image, 4)
    rival = bench_dense.train(smoe.params, image, 5)
    assert relative_error(rival.A, smoe.train(5).params.A) < 1e-4


# ---- measuring


def test_compiling_and_loading_are_timed():
    if launch_native.why_no_native() is not None:
        pytest.skip(launch_native.why_no_native())
    compiled, loaded = bench_kernels.seconds_of_first_use()
    assert 0 < loaded < compiled


def test_every_backend_that_works_is_measured_and_the_others_have_a_reason(monkeypatch):
    monkeypatch.setattr(bench, "SMALL_ITERATIONS", 4)
    report = bench.run(bench.cases(size=16), "all")
    measured = {case["backend"] for case in report["cases"]}
    assert measured | report["unavailable"].keys() == smoe_np.engine.ENGINES.keys()
    assert "numpy" in measured
    assert all(report["unavailable"].values())


def test_details_of_compiled_kernels_add_up():
    if launch_native.why_no_native() is not None:
        pytest.skip(launch_native.why_no_native())
    smoe = smoe_np.Smoe(bench.picture((40, 48)), 6, backend="native").train(4)
    before = smoe.engine.state()
    found = bench_kernels.details(smoe, 2)
    assert found["ms_in_kernels"] == pytest.approx(sum(found["kernels"].values()))
    assert {"step", "gather", "judge", "update"} == found["kernels"].keys()
    assert {"bound", "scan", "fill", "place", "arrange"} <= found["lists"].keys()
    assert 0 < found["gflops"] < found["gflops_most"]
    assert before.keys() == smoe.engine.state().keys()


def test_operations_of_a_pair_are_counted_from_the_formulas():
    # by hand: 10 + 16 + 1 + 6, and 6 + 2 + 18
    assert bench_kernels.operations_of_pair(2, 1) == 59


def test_a_picture_is_drawn_to_be_timed():
    assert bench._render_ms({"render": [32, 40], "kernels_per_dim": 3, "backend": "numpy"}) > 0


def test_a_case_reports_what_it_measured(report):
    found, lines = report
    (case,) = found["cases"]
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
    assert "case 1 of 1" in lines[1]
    assert case["dense_ms"] > 0


def test_peak_memory_is_that_of_the_case_alone(report):
    np.ones(100 << 20, np.uint8)  # a process that starts another hands on its own peak
    assert bench.peak_mib() > 100
    assert report[0]["cases"][0]["peak_mib"] > 10
    answer = bench._in_own_process(
        {"shape": [8, 8], "channels": 1, "kernels_per_dim": 1, "iterations": 1,
         "backend": "numpy"})
    assert answer["peak_mib"] < bench.peak_mib() - 20


def test_the_time_of_exp_grows_with_the_values():
    few, many = (min(bench.seconds_of_exp(n) for _ in range(5)) for n in (1 << 16, 1 << 20))
    assert few < many


def test_the_time_of_exp_over_very_many_values_is_scaled_up(monkeypatch):
    monkeypatch.setattr(bench, "EXP_MOST", 1 << 16)
    seconds = [bench.seconds_of_exp(1 << 40) for _ in range(3)]
    assert min(seconds) > 10


def test_errors_of_a_measurement_arrive(tmp_path):
    path = tmp_path / "broken.tif"
    path.write_bytes(b"II*\0 and no more")
    with pytest.raises(ValueError, match="broken.tif"):
        bench._in_own_process({"image_path": str(path), "kernels_per_dim": 1, "iterations": 1,
                               "backend": "numpy"})


def test_a_measurement_that_is_killed_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(OSError, match="ended with status 1"):
        bench._in_own_process({})


# ---- what is printed


def test_the_table_has_a_row_for_each_case(report):
    text = bench_report.as_text(report[0]).splitlines()
    assert len({len(line) for line in text[1:3]}) == 1
    assert text[2].startswith("20×20 ")
    assert text[2].split()[1] == "36"


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
