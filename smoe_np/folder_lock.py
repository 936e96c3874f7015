"""A lock on a folder, so that only one process at a time writes to it."""

import errno
import os

_held = {}  # by device and inode of a folder: its open descriptor, and how often it is held


def hold(path):
    """Lock a folder against other processes, until ``let_go`` or the end of this process.

    This process may lock it several times. Where folders cannot be locked (Windows, some file
    systems), this does nothing.

    Parameters
    ----------
    path : str
        An existing folder.

    Returns
    -------
    object
        The key for ``let_go``, which is to be called once for each ``hold``.

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
    """Release a folder once; the lock ends with the last release."""
    if key not in _held:
        return
    folder, times = _held.pop(key)
    if times > 1:
        _held[key] = folder, times - 1
    else:
        os.close(folder)
