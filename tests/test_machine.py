"""What a process may use of its machine, of a container's share too."""

import os

import pytest

from smoe_np import machine
from smoe_np.engine_numpy import NumpyEngine

UNLIMITED = "9223372036854771712\n"


@pytest.fixture
def groups(tmp_path, monkeypatch, all_processors):
    """Make control groups: what the process is told it is in, and files by name."""
    def make(told, **files):
        (tmp_path / "cgroup").write_text(told)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(machine, "GROUPS", str(tmp_path / "cgroup"))
        monkeypatch.setattr(machine, "FOLDERS", str(tmp_path / "fs"))

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16), raising=False)
    monkeypatch.setattr(machine, "_free_of_machine", lambda: 10**9)
    return make


VERSION_2 = "0::/\n"
VERSION_1 = "9:name=systemd:/a\n4:memory:/a/b\n2:cpu,cpuacct:/a/b\n0::/\n"


@pytest.mark.parametrize(("told", "files", "wanted"), [
    (VERSION_2, {"cpu.max": "200000 100000\n"}, 2),
    (VERSION_2, {"cpu.max": "150000 100000\n"}, 2),  # one and a half
    (VERSION_2, {"cpu.max": "1000 100000\n"}, 1),
    (VERSION_2, {"cpu.max": "max 100000\n"}, 16),
    (VERSION_2, {"cpu.max": "9900000 100000\n"}, 16),
    (VERSION_2, {"cpu.max": "\n"}, 16),
    (VERSION_2, {"cpu.max": "0 0\n"}, 16),
    (VERSION_2, {}, 16),
    ("0::/pods/one\n", {"pods/cpu.max": "300000 100000\n", "pods/one/cpu.max": "max 100000"}, 3),
    ("0::/../../elsewhere\n", {"cpu.max": "400000 100000\n"}, 4),
    (VERSION_1, {"cpu/cpu.cfs_quota_us": "500000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 5),
    (VERSION_1, {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 16),
    ("what is this?\n", {"cpu.max": "200000 100000\n"}, 16),
    ("", {"cpu.max": "200000 100000\n"}, 16)])
def test_a_container_has_its_share_of_processors(groups, told, files, wanted):
    groups(told, **files)
    assert machine.processors() == wanted


@pytest.mark.parametrize(("told", "wanted"), [
    ("1", 1), ("3", 3), ("99", 16), ("", 16), ("9" * 40, 16), ("0" * 40 + "3", 3)])
def test_fewer_processors_are_used_where_that_is_told(groups, monkeypatch, told, wanted):
    groups("")
    monkeypatch.setenv("SMOE_NP_THREADS", told)
    assert machine.processors() == wanted
    engine = NumpyEngine((8, 8))
    assert engine.threads == wanted


@pytest.mark.parametrize("told", ["0", "000", "-1", "two", "1.5", "³"])
def test_what_is_no_number_of_processors_is_refused(monkeypatch, told):
    monkeypatch.setenv("SMOE_NP_THREADS", told)
    with pytest.raises(ValueError, match="SMOE_NP_THREADS must be a whole number of at least 1"):
        machine.processors()


@pytest.mark.parametrize(("told", "files", "wanted"), [
    (VERSION_2, {"memory.max": "5000\n", "memory.current": "3000\n"}, 2000),
    (VERSION_2, {"memory.max": "5000\n", "memory.current": "3000\n",
                 "memory.stat": "anon 7\nfile 600\ninactive_file 500\n"}, 2500),
    (VERSION_2, {"memory.max": "5000\n", "memory.current": "7000\n"}, 0),
    (VERSION_2, {"memory.max": "max\n", "memory.current": "3000\n"}, 10**9),
    (VERSION_2, {"memory.max": "5000\n"}, 10**9),
    ("0::/one\n", {"one/memory.max": "max", "one/memory.current": "1", "memory.max": "9",
                   "memory.current": "2"}, 7),
    (VERSION_1, {"memory/memory.limit_in_bytes": "5000\n", "memory/memory.usage_in_bytes": "1000\n",
                 "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 2\n"}, 4002),
    (VERSION_1, {"memory/a/memory.limit_in_bytes": UNLIMITED,
                 "memory/a/memory.usage_in_bytes": "1000\n"}, 10**9)])
def test_a_container_has_its_share_of_memory(groups, told, files, wanted):
    groups(told, **files)
    assert machine.free_bytes() == wanted


def test_where_nothing_tells_of_groups_the_machine_is_there(
        monkeypatch, tmp_path, all_processors):
    monkeypatch.setattr(machine, "GROUPS", str(tmp_path / "none"))
    assert machine.processors() == len(os.sched_getaffinity(0))
    assert machine.free_bytes() > 0
    monkeypatch.setattr(machine, "_free_of_machine", lambda: None)
    assert machine.free_bytes() is None
