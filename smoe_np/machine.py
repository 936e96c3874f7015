"""Processors and memory that are available to this process."""

import contextlib
import math
import os

GROUPS = "/proc/self/cgroup"  # the control groups of this process, which limit containers
FOLDERS = "/sys/fs/cgroup"  # where the limits of control groups are found
THREADS = "SMOE_NP_THREADS"  # environment variable: the largest number of processors to use


def processors():
    """Number of processors to use: those available to this process, or fewer if asked for.

    In a container, the available ones are its share of processor time, rounded up.

    Raises
    ------
    ValueError
        If the environment variable ``SMOE_NP_THREADS`` is not a whole number of at least 1.
    """
    try:
        there = len(os.sched_getaffinity(0))
    except AttributeError:  # not available on every system
        there = os.cpu_count() or 1
    for folder in _groups("cpu"):
        share = _numbers(folder, "cpu.max") or [  # microseconds that may be used per period; period
            *_numbers(folder, "cpu.cfs_quota_us"), *_numbers(folder, "cpu.cfs_period_us")]
        if len(share) == 2 and min(share) > 0:
            there = min(there, math.ceil(share[0] / share[1]))
    told = os.environ.get(THREADS, "")
    if not told:
        return there
    if not (told.isascii() and told.isdecimal() and told.strip("0")):
        raise ValueError(f"the environment variable {THREADS} must be a whole number of at least "
                         f"1, got {told[:40]!r}")
    digits = told.lstrip("0")
    return min(there, int(digits)) if len(digits) < 10 else there


def free_bytes():
    """Bytes of memory available, or of all memory if only that is known; None if neither is."""
    return min((free for free in (_free_of_machine(), _free_of_groups()) if free is not None),
               default=None)


def _free_of_machine():
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as memory:
        for line in memory:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows, or not known
        return None


def _free_of_groups():
    """Bytes left below the limits of control groups; their file caches count as free."""
    found = []
    for folder in _groups("memory"):
        most = _numbers(folder, "memory.max") or _numbers(folder, "memory.limit_in_bytes")
        used = _numbers(folder, "memory.current") or _numbers(folder, "memory.usage_in_bytes")
        if most and used:
            files = _numbers(folder, "memory.stat", "total_inactive_file", "inactive_file") or [0]
            found.append(max(0, most[0] - used[0] + files[0]))
    return min(found, default=None)


def _groups(controller):
    """The folders of the control groups of this process, from its own to the topmost one."""
    with contextlib.suppress(OSError, ValueError), open(GROUPS, encoding="utf-8") as groups:
        for line in groups:
            _, names, path = line.rstrip("\n").split(":", 2)
            if names and controller not in names.split(","):
                continue
            top = os.path.join(FOLDERS, controller) if names else FOLDERS  # version 1, or 2
            steps = [step for step in path.split("/") if step not in ("", ".", "..")]
            while True:  # in a container, only a group further up may be visible
                yield os.path.join(top, *steps)
                if not steps:
                    break
                steps.pop()


def _numbers(folder, name, *words):
    """The whole numbers in a file's first line; with words, the number after the first one found.

    An empty list if the file cannot be read, or says "max", which stands for no limit.
    """
    try:
        with open(os.path.join(folder, name), encoding="ascii") as file:
            lines = [line.split() for line in file]
        if not words:
            return [int(number) for number in lines[0]]
        told = {line[0]: int(line[1]) for line in lines}
        return [told[word] for word in words if word in told][:1]
    except (OSError, ValueError, IndexError):
        return []
