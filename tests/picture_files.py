"""Files of pictures as other programs write them."""

import struct
import zlib

import numpy as np
import tifffile

TIFF_SHAPES = [(5, 6), (1, 1), (1, 6), (5, 6, 3), (4, 5, 6), (1, 5, 6), (3, 5, 6), (4, 5, 6, 3)]


def ramp(*shape, dtype=np.uint8):
    """Every value of the type in turn, as far as they go, with steps that are no power of two."""
    count = int(np.prod(shape))
    return (np.arange(count) * 7919 % (np.iinfo(dtype).max + 1)).astype(dtype).reshape(shape)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(bits, colour_type, width, rows, *chunks):
    """A PNG file of raw rows, for the kinds that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(chunks)
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def written(path, image, **settings):
    """A TIFF file by tifffile itself, with settings that write_image does not have."""
    settings.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, image, **settings)
    return path


def saved(path, picture, **settings):
    picture.save(path, **settings)
    return path
