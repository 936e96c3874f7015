"""A folder to which one process at a time writes."""

import errno
import os

_held = {}  # by device and number of a folder: what keeps it, and how often it is held


def hold(path):
    """Keep other processes from holding a folder, until ``let_go`` or the end of this process.

    This process may hold it several times. Where there are no such locks (Windows, some file
    systems), nobody is kept from anything.

    Parameters
    ----------
    path : str
        A folder that is there.

    Returns
    -------
    object
        What ``let_go`` is given, once for each time.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    folder = os.open(path, os.O_RDONLY)
    status = os.fstat(folder)
    key = status.st_dev, status.st_ino
    if key in _held:
        os.close(folder)
    else:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise BlockingIOError(
                errno.EAGAIN, f"another run is writing to {path!r}; wait for its end, or give "
                              f"another folder") from None
        except OSError:  # this file system has no locks
            os.close(folder)
            return None
        _held[key] = folder, 0
    folder, times = _held[key]
    _held[key] = folder, times + 1
    return key


def let_go(key):
    """Hold a folder once less."""
    if key not in _held:
        return
    folder, times = _held.pop(key)
    if times > 1:
        _held[key] = folder, times - 1
    else:
        os.close(folder)
