"""For every test: Hypothesis draws the same examples each time; `gpu` tests need a GPU."""

import pytest
from hypothesis import settings

from smoe_np.backend import why_no_gpu

settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = why_no_gpu() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
