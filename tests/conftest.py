"""For every test: Hypothesis draws the same examples each time; `gpu` tests need a GPU.

Tests run on all processors already: threads of BLAS, and those of one engine among many, would only
wait for each other. BLAS gets one, before NumPy is there; so does each engine of a test that runs
beside others, unless it asks for ``all_processors`` or sets their number.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("SMOE_NP_THREADS", "1")

import pytest
from broken_files import scratch  # noqa: F401
from cli_runs import after_a_run, clock, drawn_here, example, fails, here  # noqa: F401 (fixtures)
from fake_cupy import cupy  # noqa: F401
from figures import headless, trained  # noqa: F401
from hypothesis import HealthCheck, settings

from smoe_np import engine, engine_numpy, launch_native
from smoe_np.backend import why_no_gpu
from smoe_np.machine import THREADS

settings.register_profile("deterministic", deadline=None, derandomize=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deterministic")


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = why_no_gpu() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", params=["numpy", "native"])
def each_engine(request):
    """What "auto" stands for: each engine in turn; training looks up after each step."""
    chosen = engine.ENGINES[request.param]
    if chosen.why_not() is not None:
        pytest.skip(chosen.why_not())

    def choose(D, C):
        return request.param if chosen.why_not(D, C) is None else "numpy"

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(engine, "_choose", choose)
        monkeypatch.setattr(launch_native, "STEADY", 0.0)
        yield request.param


@pytest.fixture
def Image():
    """Pillow."""
    return pytest.importorskip("PIL.Image")


@pytest.fixture
def all_processors(monkeypatch):
    """Engines use all processors, as they do by default."""
    monkeypatch.delenv(THREADS, raising=False)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks so small that a small picture makes several batches."""
    monkeypatch.setattr(engine_numpy, "CHUNK", 64)
