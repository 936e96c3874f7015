"""Reading and writing of image files."""

import contextlib
import io
import logging
import math
import os
import struct
import warnings

import numpy as np

from .files import NUMPY_START, atomic_write, briefly, open_to_read, path_text
from .numerals import counted, size_in_words
from .packed import MAGIC
from .pixels import as_array, as_float

_DARK = 1 << 14  # values of cameras of 10, 12 or 14 bits, stored in 16 bits, are all below this

_MODEL_STARTS = (b"PK\3\4", MAGIC)  # .npz and .smoe
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_START = b"\x89PNG\r\n\x1a\n"  # the bit depth is at byte 24, the colour type at 25, such as:
_PNG_GREY, _PNG_GREY_ALPHA = 0, 4
_TIFF_SAMPLES = ("b1", "u1", "u2", "f2", "f4", "f8")  # dtype.str without the byte order
_TIFF_ENDINGS = (".tif", ".tiff")
_PILLOW_FORMATS = {".bmp": "BMP", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG"}
_EXIF_ORIENTATION = 0x0112
CHANNELS = 1, 3  # numbers of channels that files hold as such, behind the spatial axes
_WRITTEN = {8: np.uint8, 16: np.uint16, 32: np.float32}
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE = range(4)  # photometric interpretations of TIFF
_PREMULTIPLIED_ALPHA, _PLAIN_ALPHA = 1, 2  # extra samples of TIFF


class _Unreadable(Exception):
    """What is wrong with an image file, worded to follow its name."""


# ---- reading ------------------------------------------------------------------------------------


def read_image(path):
    """Read an image file, or a volume from a TIFF stack.

    Parameters
    ----------
    path : str or os.PathLike
        Name of the file.

    Returns
    -------
    image : ndarray (H, W), (H, W, 3), (Z, H, W) or (Z, H, W, 3); uint8, uint16 or float32
        Grey or RGB image. Only TIFF files hold volumes.

    Warns
    -----
    UserWarning
        If transparency was replaced by white, only the first of several images or only 8 of 16 bits
        were read, or all values of a 16-bit image are below a quarter of the range (as with 12-bit
        values stored in 16 bits).

    Raises
    ------
    ValueError
        If the file is empty, truncated, damaged, not an image, or of an unsupported kind.
    ImportError
        If the format needs Pillow, and Pillow is not installed.
    OSError
        If the file cannot be opened; see `smoe_np.files.open_to_read`.

    Notes
    -----
    TIFF is read with tifffile; other formats, and TIFF compressions that tifffile does not support,
    with Pillow. Values keep their type. Orientation tags are applied, and transparent images are
    composited on white. Palettes are expanded, to grey if all their colours are grey; 1-bit images
    have values 0 and 255. Pillow reads PNG files of 16 bits and several channels with 8 bits.
    """
    text = path_text(path)
    remarks = []
    with open_to_read(path) as stream:
        start = stream.read(4)
        stream.seek(0)
        try:
            if not start:
                raise _Unreadable("is empty; save it again")
            if start in _MODEL_STARTS:
                raise _Unreadable("is a model, not a picture; draw it with smoe render")
            if start == NUMPY_START[:4]:
                raise _Unreadable("is an array of NumPy, not a picture; load it and give it to "
                                  "smoe_np.Smoe, or write it as TIFF with smoe_np.write_image")
            if start in _TIFF_STARTS:
                image = _read_tiff(stream, remarks)
            else:
                image = _read_with_pillow(stream, remarks)
                _note_if_dark(image, remarks)
        except _Unreadable as trouble:
            raise ValueError(f"{text!r} {trouble}") from None
        except ImportError:
            raise
        except Exception as error:  # decoders fail in every way there is
            raise ValueError(f"{text!r} is cut off, damaged or not a picture ({briefly(error)}); "
                             f"save or copy it again") from error
    for remark in remarks:
        warnings.warn(f"{text!r} {remark}", UserWarning, stacklevel=2)
    return np.require(image, requirements=["C_CONTIGUOUS", "WRITEABLE"])


def _read_tiff(stream, remarks):
    import tifffile

    log = logging.getLogger("tifffile")
    if not log.handlers:  # otherwise it writes to stderr about a damaged file, beside our error
        log.addHandler(logging.NullHandler())
    with tifffile.TiffFile(stream) as tiff:
        _check_directories(tiff)
        series = tiff.series[0]
        page = series.keyframe
        photometric = _MINISBLACK if page.photometric is None else int(page.photometric)
        if photometric > _PALETTE:  # CMYK, YCbCr, CIELAB ...
            return _read_one_page_with_pillow(stream, remarks, tiff)
        _check_tiff(series, os.fstat(stream.fileno()).st_size)
        try:
            image = series.asarray()
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            return _read_one_page_with_pillow(stream, remarks, tiff)
        # If strips are missing, tifffile returns what there is.
        if image.shape != series.shape or image.size == 0:
            raise _Unreadable(f"holds no pixels for its shape {series.shape}; copy it again")
        if len(tiff.series) > 1:
            remarks.append(f"holds {len(tiff.series)} series of pictures; the first is read")
        image = _samples_to_full_range(image, page.bitspersample, photometric == _PALETTE)
        if photometric == _PALETTE:
            image = _grey_if_possible(_palette(page.colormap)[image])
        elif photometric == _MINISWHITE:
            image = (1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max) - image
        if page.bitspersample == 16 and photometric != _PALETTE:
            _note_if_dark(image, remarks)
        rows = series.axes.index("Y")
        orientation = page.tags.valueof("Orientation", 1)
        image, channels_at = _upright(image, orientation, rows), _channel_axis(series.axes)
        if channels_at is None:
            return image
        extra = tuple(int(kind) for kind in page.extrasamples)
        return _without_alpha(np.moveaxis(image, channels_at, -1), photometric, extra, remarks)


def _check_directories(tiff):
    """Raise unless the chain of the file's directories ends: tifffile would follow it for ever."""
    stream, form, seen = tiff.filehandle, tiff.tiff, set()
    stream.seek(8 if form.version == 43 else 4)  # where the first offset is, in a BigTIFF or a TIFF
    while True:
        found = stream.read(form.offsetsize)
        if len(found) < form.offsetsize:
            return  # cut off: tifffile says so, if it needs what is missing
        offset, = struct.unpack(form.offsetformat, found)
        if offset == 0:
            return
        if offset in seen:
            raise _Unreadable("is damaged: its directories go round in circles; copy it again")
        seen.add(offset)
        stream.seek(offset)
        tags = stream.read(form.tagnosize)
        if len(tags) < form.tagnosize:
            return
        number, = struct.unpack(form.tagnoformat, tags)
        stream.seek(offset + form.tagnosize + number * form.tagsize)


def _check_tiff(series, packed_bytes):
    if series.dtype is None or series.dtype.str[1:] not in _TIFF_SAMPLES:
        raise _Unreadable(
            f"holds samples of type {series.dtype}; "
            "convert it to 8 or 16 bits without sign, or to float"
        )
    spatial = len(series.axes) - (_channel_axis(series.axes) is not None)
    if not {"Y", "X"} <= set(series.axes) or spatial > 3:
        raise _Unreadable(
            f"has axes {series.axes} of shape {series.shape}; save a single picture or volume"
        )
    # tifffile allocates the declared size before it reads a single byte.
    unpacked_bytes = math.prod(series.shape) * series.dtype.itemsize
    if unpacked_bytes > max(1 << 28, 1100 * packed_bytes):
        raise _Unreadable(
            f"declares {unpacked_bytes} bytes of pixels in a file of {packed_bytes} bytes; "
            "save or copy it again"
        )


def _channel_axis(axes):
    """Index of the axis of samples ("S") or channels ("C"), or None."""
    return next((axis for axis, letter in enumerate(axes) if letter in "SC"), None)


def _samples_to_full_range(image, bits, is_index):
    if image.dtype.kind == "f":
        return image.astype(np.float32)
    if image.dtype.kind == "b":
        return image.astype(np.uint8) * (1 if is_index else 255)
    full = np.iinfo(image.dtype).max
    held = (1 << bits) - 1
    if held == full or is_index:
        return image
    return ((image.astype(np.uint32) * full + held // 2) // held).astype(image.dtype)


def _note_if_dark(image, remarks):
    if image.dtype == np.uint16 and 0 < image.max() < _DARK:
        remarks.append(f"has 16 bits, but no value above {image.max()}, which makes it dark; if "
                       f"its values have fewer bits, scale them up to 65535")


def _palette(colormap):
    """(entries, 3) uint8 of TIFF's (3, entries) uint16."""
    # The standard requires 16 bits, but some writers store 8-bit values (libtiff checks too).
    shift = 8 if colormap.max() > 255 else 0
    return (colormap >> shift).astype(np.uint8).T


def _without_alpha(image, photometric, extra, remarks):
    """(..., 1, 2, 3 or 4) samples to (...) or (..., 3)."""
    colours = 3 if photometric == _RGB else 1
    if image.shape[-1] == colours + 1 and extra[:1] in ((_PREMULTIPLIED_ALPHA,), (_PLAIN_ALPHA,)):
        image = _opaque(image, remarks, premultiplied=extra[0] == _PREMULTIPLIED_ALPHA)
    if image.shape[-1] == 1:
        return image[..., 0]
    if image.shape[-1] != 3:
        raise _Unreadable(f"has {image.shape[-1]} channels; save it with 1 or 3")
    return image


def _read_one_page_with_pillow(stream, remarks, tiff):
    if len(tiff.pages) > 1:
        raise _Unreadable(
            "is a stack in a compression or colour space that tifffile alone does not read; "
            "pip install imagecodecs, or save it uncompressed as grey or RGB"
        )
    stream.seek(0)
    image = _read_with_pillow(stream, remarks)
    # Pillow scales samples of fewer than 8 bits to the full range itself, but not those of 12.
    bits = tiff.pages[0].bitspersample
    if bits == 16:
        _note_if_dark(image, remarks)
    return _samples_to_full_range(image, bits, False) if image.dtype == np.uint16 else image


def _pillow():
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(
            'every format but plain TIFF needs Pillow: pip install "smoe_np[plots]"'
        ) from None
    return Image


def _read_with_pillow(stream, remarks):
    Image = _pillow()
    with warnings.catch_warnings():
        # Pillow warns above 90 megapixels, which cameras have; above twice that it refuses.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            data = stream.read()
            image = Image.open(io.BytesIO(data))
        except Image.UnidentifiedImageError:
            raise _Unreadable(
                "is not a picture, or has a format that Pillow does not read; convert it to PNG "
                "or TIFF"
            ) from None
        except Image.DecompressionBombError as error:
            raise _Unreadable(f"is too large ({error}); save it smaller, or as TIFF") from None
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        remarks.append(f"holds {frames} frames; the first is read")
    colours = data[25] if data[:8] == _PNG_START and data[24] == 16 else _PNG_GREY
    if colours != _PNG_GREY:
        remarks.append("has 16 bits a sample, of which Pillow reads 8; convert it to TIFF to keep "
                       "all")
    image.load()  # some formats set their mode only now
    orientation = 1
    with contextlib.suppress(Exception):  # a broken EXIF block must not cost the picture
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    pixels = _pixels(image, remarks)
    if colours == _PNG_GREY_ALPHA:  # which Pillow returns as RGB
        pixels = _grey_if_possible(pixels)
    return _upright(pixels, orientation)


def _pixels(image, remarks):
    """(H, W) or (H, W, 3) of a loaded Pillow image."""
    mode = image.mode
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    ):
        is_grey = mode in ("1", "L", "LA", "La")
        pixels = _opaque(np.asarray(image.convert("LA" if is_grey else "RGBA")), remarks)
        pixels = pixels[..., 0] if is_grey else pixels
    elif mode in ("1", "L"):
        pixels = np.asarray(image.convert("L"))
    elif mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
    elif mode == "I":  # how some formats, and older versions of Pillow, return 16 bits
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise _Unreadable("holds 32-bit integers; convert it to 8 or 16 bits without sign")
        pixels = pixels.astype(np.uint16)
    elif mode == "F":
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert("RGB"))
    return _grey_if_possible(pixels) if mode in ("P", "PA") else pixels


def _grey_if_possible(rgb):
    first = rgb[..., :1]
    return rgb[..., 0] if (rgb == first).all() else rgb


def _opaque(image, remarks, premultiplied=False):
    """Pixels without their last sample, alpha; composited on white if they are not opaque."""
    full = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
    if (image[..., -1] == full).all():
        return image[..., :-1]
    remarks.append("is transparent; it is put on white")
    return _on_white(image, premultiplied)


def _on_white(image, premultiplied=False):
    """Composite (..., colours + alpha) on white."""
    colour, alpha = image[..., :-1], image[..., -1:]
    if image.dtype.kind == "f":
        return (colour if premultiplied else colour * alpha) + (1 - alpha)
    white = int(np.iinfo(image.dtype).max)
    wide = np.uint16 if white == 255 else np.uint32  # white² + white/2 just fits
    colour, alpha = colour.astype(wide), alpha.astype(wide)
    if premultiplied:
        return np.minimum(colour + (white - alpha), white).astype(image.dtype)
    return ((colour * alpha + white * (white - alpha) + white // 2) // white).astype(image.dtype)


def _upright(image, orientation, rows=0):
    """Apply an orientation tag (1 to 8, of TIFF and EXIF); the axis of columns follows ``rows``."""
    columns = rows + 1
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(rows, columns)
    if orientation in (2, 3, 6, 7):
        image = np.flip(image, columns)
    if orientation in (3, 4, 7, 8):
        image = np.flip(image, rows)
    return image


# ---- writing ------------------------------------------------------------------------------------


def write_image(path, image, bits=8, dimensions=None):
    """Write an image to a file, or a volume to a TIFF file.

    The file is written atomically: completely or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        Name of the file. Its ending decides the format: .tif or .tiff, or with Pillow .png, .jpg,
        .jpeg or .bmp.
    image : array_like (H, W), (H, W, 1) or (H, W, 3); for TIFF also (Z, H, W[, 1 or 3])
        Image or volume. Floats in [0, 1] and bool are written with ``bits`` bits; uint8 and uint16
        are written unchanged. A volume with a size of 1 along some axis may be written in any
        format.
    bits : {8, 16, 32}
        Bit depth for images of floats: 16 for TIFF and grey PNG only; 32, which stores floats, for
        TIFF only.
    dimensions : int, optional
        Number of spatial axes, 1, 2 or 3; one more axis holds channels. By default the last axis
        holds channels if there are 3 or more axes and it has 1 or 3 entries. If ``dimensions`` is
        given, there may be any number of channels: other numbers than 1 and 3 become the first axis
        of the file, as the slices of a volume, and channels of a signal become its rows.

    Raises
    ------
    ValueError
        If the ending is not one of these, the image has other dimensions, the format cannot hold an
        image of this shape, type, size or bit depth, or floats are NaN or outside [0, 1].
    TypeError
        If the image holds neither bool, uint8, uint16 nor floats.
    ImportError
        If the format needs Pillow, and Pillow is not installed.
    OSError
        If the file cannot be written; see `smoe_np.files.atomic_write`.
    """
    ending = check_path(path, bits)
    pixels, is_colour = _pixels_to_write(image, bits, dimensions)
    encode = _encode_tiff if ending in _TIFF_ENDINGS else _encode_with_pillow
    data = encode(pixels, is_colour, ending)
    with atomic_write(path) as stream:
        stream.write(data)


def check_path(path, bits=8, channels=1, shape=(2, 2)):
    """The ending of a path, in lower case; ValueError if such an image cannot be written there."""
    text = path_text(path)
    ending = os.path.splitext(text)[1].lower()
    if ending not in _TIFF_ENDINGS and ending not in _PILLOW_FORMATS:
        known = " ".join(sorted([*_TIFF_ENDINGS, *_PILLOW_FORMATS]))
        raise ValueError(f"path {text!r} ends in {ending!r}; use one of {known}")
    if bits not in _WRITTEN:
        raise ValueError(f"bits must be one of {', '.join(map(str, _WRITTEN))}, got {bits!r}")
    most = 32 if ending in _TIFF_ENDINGS else 16 if ending == ".png" and channels == 1 else 8
    if bits > most:
        raise ValueError(f"{ending} holds at most {most} bits here, not {bits}; write .tif, or "
                         f"fewer bits")
    axes = len(shape) + come_first(channels, len(shape))
    fits = axes == 2 or axes == 3 and (ending in _TIFF_ENDINGS or len(shape) == 3 and 1 in shape)
    if not fits:
        remedy = "; write .tif" if axes == 3 else ""
        if remedy and len(shape) == 3:
            remedy += ", or one slice, which has a size of 1 along some axis"
        raise ValueError(f"path {text!r}: such a file cannot hold {size_in_words(shape)} pixels of "
                         f"{counted(channels, 'channel')}{remedy}")
    return ending


def _pixels_to_write(image, bits, dimensions):
    """The array to write to a file, and whether its last axis holds colours."""
    image = as_array(image, "image")
    if image.dtype.kind != "u":
        image = as_float(image)
        if bits < 32:
            image *= 2**bits - 1
            image = np.rint(image, out=image).astype(_WRITTEN[bits])
    elif image.dtype.itemsize > 2:
        raise TypeError(f"image has dtype {image.dtype}; give uint8, uint16 or floats in [0, 1]")
    if dimensions is None:
        if image.ndim < 2:
            return image, False  # each format rejects this with its own message
        if image.ndim >= 3 and image.shape[-1] in (2, 4):
            raise ValueError(f"image has {image.shape[-1]} channels; a file takes 1 or 3")
        dimensions = image.ndim - (image.ndim >= 3 and image.shape[-1] in CHANNELS)
    elif dimensions not in (1, 2, 3):
        raise ValueError(f"dimensions must be 1, 2 or 3, got {dimensions!r}")
    if image.ndim == dimensions:
        image = image[..., None]
    if image.ndim != dimensions + 1:
        raise ValueError(f"image of shape {image.shape} must have dimensions={dimensions} axes of "
                         f"space, and at most one of channels behind them")
    if come_first(image.shape[-1], dimensions):
        return np.ascontiguousarray(np.moveaxis(image, -1, 0)), False
    is_colour = image.shape[-1] == 3
    return np.ascontiguousarray(image if is_colour else image[..., 0]), is_colour


def come_first(channels, dimensions):
    """Whether a file has the channels first: those of a signal, and numbers other than 1 and 3."""
    return dimensions == 1 or channels not in CHANNELS


def _encode_tiff(pixels, is_colour, ending):
    import tifffile

    if pixels.ndim - is_colour not in (2, 3):
        raise ValueError(
            f"image of shape {pixels.shape} is neither a picture nor a volume; "
            "give (H, W) or (Z, H, W), with 1 or 3 channels behind"
        )
    data = io.BytesIO()
    tifffile.imwrite(
        data,
        pixels,
        photometric="rgb" if is_colour else "minisblack",
        # Without metadata of the shape, a volume of one slice would be read as a 2-D image.
        metadata={} if pixels.ndim - is_colour == 3 else None,
    )
    return data.getbuffer()


def _encode_with_pillow(pixels, is_colour, ending):
    form = _PILLOW_FORMATS[ending]
    if pixels.ndim - is_colour == 3 and 1 in pixels.shape[:3]:  # a slice of a volume
        pixels = pixels.squeeze(pixels.shape.index(1))
    if pixels.ndim - is_colour != 2:
        raise ValueError(
            f"image of shape {pixels.shape} does not fit into {form}; give (H, W) or (H, W, 3), "
            "or write a volume as .tif"
        )
    if pixels.dtype.itemsize == 2 and (form != "PNG" or is_colour):
        raise ValueError(
            f"image is uint16, which {form} holds {'only as grey' if form == 'PNG' else 'not'}; "
            "write it as .tif, or give uint8 or floats"
        )
    Image = _pillow()
    data = io.BytesIO()
    settings = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    try:
        # Pillow before version 10 accepts 16 bits in native byte order only.
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        Image.fromarray(pixels).save(data, format=form, **settings)
    except Exception as error:  # such as JPEG's limit of 65500 pixels along an axis
        raise ValueError(
            f"image of shape {pixels.shape} cannot be written as {form} ({error}); write it as .tif"
        ) from error
    return data.getbuffer()
