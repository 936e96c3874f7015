"""The progress that the command line shows."""

import re
import signal
import sys
from types import SimpleNamespace

from cli_runs import CHECKPOINT, fit, settings_of, smoe, stop_at

from smoe_np.fit import FIT_ITERATIONS
from smoe_np.progress import Progress

# ---- progress


def test_on_a_terminal_with_tqdm_there_is_a_bar(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 4, "-v", 2) == 0
    err = capsys.readouterr().err
    assert "4/4" in err
    assert "PSNR" in err
    assert "iteration 2:" not in err


def test_the_bar_of_a_run_that_goes_on_starts_where_it_stopped(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGINT)
        assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 5) == 130
    err = capsys.readouterr().err
    assert "3/5" in err
    assert re.search(r"\nsmoe: interrupted .*\n$", err)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-c", CHECKPOINT) == 0
    err = capsys.readouterr().err
    assert "3/5" in err
    assert "5/5" in err


def bars(err):
    """Where bars stood, and where they were to end."""
    found = [(int(n), int(total)) for n, total in re.findall(r"\| (\d+)/(\d+) \[", err)]
    assert all(n <= total for n, total in found), found
    return found


def test_the_bar_of_a_fit_to_a_psnr_begins_anew_with_each_try(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert fit("--psnr", 22, "-n", 20, "-v", 20, "-r", "r") == 0
    err = capsys.readouterr().err
    tried = settings_of("r")["tried"]
    for number, one in enumerate(tried, start=1):
        end = one["iterations"]
        found = bars("".join(line for line in re.split("[\r\n]", err)
                             if line.startswith(f"try {number}:")))
        assert {(0, end), (end, end)} <= set(found)
        assert {total for _, total in found} == {end}
        assert f"try {number}: PSNR {one['psnr']:.2f} dB" in err
    assert f"try {len(tried) + 1}" not in err
    assert "iteration 20:" not in err


def test_the_bar_of_a_fit_that_goes_on_starts_where_it_stopped(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with monkeypatch.context() as patch:
        stop_at(patch, 13, signal.SIGINT, tries=2)
        assert fit("--psnr", 22, "-n", 20, "-v", 20) == 130
    assert bars(capsys.readouterr().err)[-1] == (13, 20)
    assert fit("-c", "m.checkpoint.npz") == 0
    err = capsys.readouterr().err
    assert bars(err)[0] == (13, 20)
    assert bars(err)[-1] == (20, 20)
    assert "try 1:" not in err
    assert err.lstrip("\r").startswith("try 3:")


def test_the_bar_of_a_fit_of_some_seconds_follows_the_end_that_moves(
        here, capsys, monkeypatch, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert fit("--kernels", 2, "--seconds", 1, "-v", 10) == 0
    found = bars(capsys.readouterr().err)
    assert found[0] == (0, FIT_ITERATIONS)  # until it is seen how long steps take
    assert 20 < found[-1][0] == found[-1][1] != FIT_ITERATIONS


def test_the_time_of_a_bar_is_that_of_its_try(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model = SimpleNamespace(searches_psnr=True, tried=[], iteration=30,
                            until=50)
    with Progress(model) as progress:
        progress(model)
        bar = progress._bar
        bar.start_t -= 1000
        assert (bar.n, bar.format_dict["initial"]) == (30, 30)
        model.tried, model.iteration = [None], 10
        progress(model)
        assert (bar.n, bar.format_dict["initial"]) == (10, 10)
        assert bar.format_dict["elapsed"] < 1000


def test_on_a_terminal_without_tqdm_there_are_lines(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert smoe("train", "-i", "grey.tif", "-r", "r", "-n", 4, "-v", 2) == 0
    assert "iteration 2: loss " in capsys.readouterr().err
