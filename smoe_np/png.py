"""A PNG encoder that needs no image library."""

import struct
import zlib

import numpy as np

COMPRESSION = 4


def encoded(pixels, palette=None, level=COMPRESSION):
    """Encode a picture as PNG (ISO/IEC 15948).

    Parameters
    ----------
    pixels : (H, W) or (H, W, 3) uint8, or (H, W) of indices
    palette : (n, 3) uint8, optional
        RGB colours of the indices.
    level : int
        zlib compression level, 1 (fast) to 9 (small).

    Returns
    -------
    bytes
    """
    if palette is not None and len(palette) > 256:
        pixels, palette = palette[pixels], None
    pixels = np.ascontiguousarray(pixels, np.uint8)
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    if palette is None:  # each row minus the one above (filter 2), which compresses better
        rows = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    kind = 3 if palette is not None else 2 if pixels.ndim == 3 else 0
    filters = np.full((height, 1), 0 if kind == 3 else 2, np.uint8)
    packed = zlib.compress(np.hstack([filters, rows]).tobytes(), level)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
              (b"PLTE", b"" if palette is None else palette.tobytes()),
              (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks if data or name == b"IEND")
