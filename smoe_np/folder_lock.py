"""A folder to which one process at a time writes."""

import errno
import os

_held = {}  # by device and number of a folder: what keeps it


def hold(path):
    """Keep other processes from holding a folder, until ``let_go`` or the end of this process.

    Where there are no such locks (Windows, some file systems), nobody is kept from anything.

    Parameters
    ----------
    path : str
        A folder that is there.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return
    folder = os.open(path, os.O_RDONLY)
    key = _key(os.fstat(folder))
    try:
        if key not in _held:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held[key], folder = folder, None
    except BlockingIOError:
        raise BlockingIOError(
            errno.EAGAIN, f"another run is writing to {path!r}; wait for its end, or give another "
                          f"folder") from None
    except OSError:  # this file system has no locks
        pass
    finally:
        if folder is not None:
            os.close(folder)


def let_go(path):
    """Hold a folder no longer, if it was held."""
    try:
        folder = _held.pop(_key(os.stat(path)), None)
    except OSError:  # it has gone, and will not be held again
        return
    if folder is not None:
        os.close(folder)


def _key(status):
    return status.st_dev, status.st_ino
