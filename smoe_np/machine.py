"""What there is of a machine for this process: processors and memory."""

import contextlib
import os


def processors():
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def free_bytes():
    """Memory that may be taken here, or all that there is, or None where nothing tells it."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as memory:
        for line in memory:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows, and where it is not known
        return None
