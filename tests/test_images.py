"""Images: what is stored comes back, what is broken or of no use is refused in words."""

import errno
import io
import os
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from broken_files import read_or_refused
from helpers import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np.images import read_image, write_image
from smoe_np.pixels import as_float


def ramp(*shape, dtype=np.uint8):
    """Every value of the type in turn, as far as they go, with steps that are no power of two."""
    count = int(np.prod(shape))
    return (np.arange(count) * 7919 % (np.iinfo(dtype).max + 1)).astype(dtype).reshape(shape)


@pytest.fixture
def Image():
    return pytest.importorskip("PIL.Image")


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


# ---- write_image and read_image -----------------------------------------------------------------


def written(path, image, **settings):
    """A TIFF file by tifffile itself, with settings that write_image does not have."""
    settings.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, image, **settings)
    return path


TIFF_SHAPES = [(5, 6), (1, 1), (1, 6), (5, 6, 3), (4, 5, 6), (1, 5, 6), (3, 5, 6), (4, 5, 6, 3)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [*TIFF_SHAPES, (2, 1, 1), (2, 5, 1, 3)])
def test_a_tiff_file_gives_back_what_was_written(tmp_path, shape, dtype):
    image = ramp(*shape, dtype=dtype)
    image.flat[-1] = np.iinfo(dtype).max
    write_image(tmp_path / "a.TIFF", image)
    found = read_image(tmp_path / "a.TIFF")
    if shape == (2, 1, 1):
        image = image[..., 0]  # a last axis of 1 is one channel
    assert found.dtype == dtype
    assert found.flags.writeable
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("ending", ["png", "bmp", "PNG"])
@pytest.mark.parametrize("shape", [(5, 6), (1, 1), (5, 6, 3)])
def test_a_lossless_file_gives_back_what_was_written(tmp_path, Image, ending, shape):
    write_image(tmp_path / f"a.{ending}", ramp(*shape))
    found = read_image(tmp_path / f"a.{ending}")
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, ramp(*shape))


def test_a_grey_png_file_holds_16_bits(tmp_path, Image):
    image = ramp(5, 6, dtype=np.uint16)
    for order in "<>":
        write_image(tmp_path / "a.png", image.astype(f"{order}u2"))
        found = read_image(tmp_path / "a.png")
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, image)


def test_a_jpeg_file_is_nearly_what_was_written(tmp_path, Image):
    i, j = np.indices((16, 24))
    image = np.stack([i / 15, j / 23, 1 - i / 15], axis=-1)
    for ending in ("jpg", "jpeg"):
        write_image(tmp_path / f"a.{ending}", image)
        assert abs(as_float(read_image(tmp_path / f"a.{ending}")) - image).max() < 0.05
        write_image(tmp_path / f"g.{ending}", image[..., 0])
        assert read_image(tmp_path / f"g.{ending}").shape == (16, 24)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_written_as_the_nearest_of_8_bits(tmp_path, dtype):
    values = np.array([[0, 0.4 / 255, 0.6 / 255, 0.5, 1, -1e-7, 1 + 1e-6]], dtype=dtype)
    write_image(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), [[0, 0, 1, 128, 255, 0, 255]])


@pytest.mark.parametrize(("bits", "dtype", "error"), [
    (8, np.uint8, 0.5 / 255), (16, np.uint16, 0.5 / 65535), (32, np.float32, 1e-7)])
def test_floats_are_written_with_as_many_bits_as_are_said(tmp_path, bits, dtype, error):
    image = np.linspace(0, 1, 35).reshape(5, 7)
    write_image(tmp_path / "a.tif", image, bits)
    found = read_image(tmp_path / "a.tif")
    assert found.dtype == dtype
    assert np.abs(as_float(found, "float64") - image).max() <= 1.01 * error


@pytest.mark.parametrize(("name", "shape", "bits"), [
    ("a.jpg", (4, 5), 16), ("a.bmp", (4, 5), 16), ("a.png", (4, 5), 32), ("a.png", (4, 5, 3), 16),
    ("a.tif", (4, 5), 12), ("a.tif", (4, 5), 64)])
def test_more_bits_than_a_file_holds_are_refused(tmp_path, Image, name, shape, bits):
    with pytest.raises(ValueError, match="write .tif, or fewer bits|must be one of|write it as .t"):
        write_image(tmp_path / name, np.zeros(shape), bits)
    assert not (tmp_path / name).exists()


def test_booleans_are_written_black_and_white(tmp_path):
    write_image(tmp_path / "a.tif", np.array([[True, False]]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), [[255, 0]])


def test_one_channel_is_written_as_grey(tmp_path, Image):
    for name in ("a.png", "a.tif"):
        write_image(tmp_path / name, ramp(5, 6, 1))
        np.testing.assert_array_equal(read_image(tmp_path / name), ramp(5, 6))


def test_all_8_bits_survive_floats(tmp_path):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_image(tmp_path / "a.tif", as_float(image))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)


@pytest.mark.parametrize("name", ["a.xyz", "a", "png"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"; use one of .bmp .jpeg .jpg .png .tif .tiff"):
        write_image(tmp_path / name, ramp(5, 6))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "shape", "mention"),
    [
        ("a.jpg", (5, 6), "uint16, which JPEG holds not; write it as .tif"),
        ("a.bmp", (5, 6), "uint16, which BMP holds not; write it as .tif"),
        ("a.png", (5, 6, 3), "uint16, which PNG holds only as grey; write it as .tif"),
    ],
)
def test_16_bits_are_refused_where_they_do_not_fit(tmp_path, name, shape, mention):
    with pytest.raises(ValueError, match=mention):
        write_image(tmp_path / name, ramp(*shape, dtype=np.uint16))


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3), (6,)])
def test_a_volume_is_refused_where_it_does_not_fit(tmp_path, shape):
    with pytest.raises(ValueError, match="does not fit into PNG; give"):
        write_image(tmp_path / "a.png", ramp(*shape))


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4, 5), (2, 3, 4, 5, 3)])
def test_a_tiff_file_of_too_few_or_too_many_axes_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="is neither a picture nor a volume; give"):
        write_image(tmp_path / "a.tif", ramp(*shape))


@pytest.mark.parametrize("channels", [2, 4])
def test_two_or_four_channels_are_not_written(tmp_path, channels):
    with pytest.raises(ValueError, match=f"image has {channels} channels; a file takes 1 or 3"):
        write_image(tmp_path / "a.tif", ramp(5, 6, channels))


@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_wider_integers_are_not_written(tmp_path, dtype):
    with pytest.raises(TypeError, match="image has dtype u?int.*; give uint8, uint16"):
        write_image(tmp_path / "a.tif", np.zeros((5, 6), dtype))


def test_floats_that_are_no_image_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="image holds NaN or infinite values, 1 of"):
        write_image(tmp_path / "a.tif", np.array([[np.nan, 0.5]]))
    with pytest.raises(ValueError, match="image has values from 0 to 255"):
        write_image(tmp_path / "a.tif", np.array([[0.0, 255.0]]))


def test_an_image_larger_than_the_format_allows_is_refused(tmp_path, Image):
    with pytest.raises(ValueError, match="cannot be written as JPEG .*; write it as .tif"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 70_000), np.uint8))
    assert os.listdir(tmp_path) == []


def test_an_image_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_image(tmp_path / "a.tif", ramp(5, 6))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left on the device"):
        write_image(tmp_path / "a.tif", ramp(50, 60))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), ramp(5, 6))
    assert os.listdir(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize(("largest", "told"), [
    (0, False), (1, True), (4012, True), (16383, True), (16384, False), (65535, False)])
def test_16_bits_that_hold_fewer_are_told(tmp_path, Image, ending, largest, told):
    image = np.full((3, 4), largest, np.uint16)
    path = tmp_path / f"camera{ending}"
    write_image(path, image)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(read_image(path), image)
    assert len(caught) == told
    if told:
        assert f"no value above {largest}, which makes it dark" in str(caught[0].message)


@pytest.mark.parametrize(("settings", "lowest", "highest", "told"), [
    ({"photometric": "miniswhite"}, 65535 - 4000, 65535, True),
    ({"photometric": "miniswhite"}, 0, 4000, False),
    ({"compression": "lzw"}, 0, 4000, True), ({"compression": "lzw"}, 0, 40000, False)])
def test_the_dark_are_told_as_they_look_however_they_are_stored(tmp_path, Image, settings, lowest,
                                                               highest, told):
    image = np.linspace(lowest, highest, 12).astype(np.uint16).reshape(3, 4)
    path = tmp_path / "a.tif"
    if "compression" in settings:
        Image.fromarray(image).save(path, compression="tiff_lzw")
    else:
        written(path, image, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_image(path)
    assert found.max() == (65535 - lowest if "photometric" in settings else highest)
    assert len(caught) == told


@pytest.mark.parametrize("name", ["model.npz", "model.smoe"])
def test_a_model_is_called_so(tmp_path, name):
    random_model(0, K=3).save(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}' is a model, .* draw it with smoe render"):
        read_image(tmp_path / name)


# ---- read_image: TIFF of all kinds --------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_float_tiff_files_are_read_as_float32(tmp_path, dtype):
    image = np.linspace(-1, 300, 30).reshape(5, 6).astype(dtype)
    found = read_image(written(tmp_path / "a.tif", image))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, image.astype(np.float32))


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
def test_tiff_files_of_either_byte_order_are_read(tmp_path, byteorder, bigtiff):
    image = ramp(5, 6, dtype=np.uint16)
    path = written(tmp_path / "a", image, byteorder=byteorder, bigtiff=bigtiff)
    found = read_image(path)
    assert found.dtype == np.uint16
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("shape", TIFF_SHAPES)
@pytest.mark.parametrize("metadata", [None, {}])
def test_stacks_of_other_writers_are_read(tmp_path, shape, metadata):
    kind = "rgb" if shape[-1] == 3 else "minisblack"
    path = written(tmp_path / "a.tif", ramp(*shape), photometric=kind, metadata=metadata)
    found = read_image(path)
    np.testing.assert_array_equal(found, ramp(*shape).reshape(found.shape))
    assert found.shape == shape or metadata is None


@pytest.mark.parametrize("shape", [(3, 5, 6), (4, 3, 5, 6)])
def test_planes_of_colour_become_the_last_axis(tmp_path, shape):
    path = written(tmp_path / "a.tif", ramp(*shape), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(path), np.moveaxis(ramp(*shape), -3, -1))


@pytest.mark.parametrize(("axes", "shape"), [("CYX", (3, 5, 6)), ("ZCYX", (4, 3, 5, 6))])
def test_three_channels_of_a_microscope_become_the_last_axis(tmp_path, axes, shape):
    path = written(tmp_path / "a.ome.tif", ramp(*shape), metadata={"axes": axes})
    np.testing.assert_array_equal(read_image(path), np.moveaxis(ramp(*shape), -3, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_])
def test_tiff_files_where_zero_is_white_are_inverted(tmp_path, dtype):
    image = ramp(5, 6) > 99 if dtype is np.bool_ else ramp(5, 6, dtype=dtype)
    found = read_image(written(tmp_path / "a.tif", image, photometric="miniswhite"))
    maximum = 255 if dtype is np.bool_ else np.iinfo(dtype).max
    scale = 255 if dtype is np.bool_ else 1
    np.testing.assert_array_equal(found, maximum - scale * image.astype(int))


def test_one_bit_becomes_0_and_255(tmp_path):
    image = ramp(5, 6) > 99
    found = read_image(written(tmp_path / "a.tif", image))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image * 255)


@pytest.mark.parametrize(("bits", "dtype"), [(2, np.uint8), (4, np.uint8), (12, np.uint16)])
def test_odd_numbers_of_bits_are_scaled_to_the_full_range(tmp_path, Image, bits, dtype):
    samples = np.arange(30).reshape(5, 6) * 7 % (1 << bits)
    in_bits = (samples[..., np.newaxis] >> np.arange(bits)[::-1]) & 1
    packed = np.packbits(in_bits.reshape(5, -1).astype(np.uint8), axis=1)
    path = written(tmp_path / "a.tif", packed, metadata=None)
    data = bytearray(path.read_bytes())
    for tag, kind, value in ((256, "I", 6), (258, "H", bits)):  # the true width and bits per sample
        at = data.index(struct.pack("<HHI", tag, 4 if kind == "I" else 3, 1)) + 8
        data[at : at + struct.calcsize(kind)] = struct.pack(f"<{kind}", value)
    path.write_bytes(data)
    found = read_image(path)
    assert found.dtype == dtype
    full = np.iinfo(dtype).max / ((1 << bits) - 1)
    np.testing.assert_allclose(found, samples * full, atol=0.51)


@pytest.mark.parametrize("factor", [256, 257, 1], ids=["shifted", "scaled", "8 bits"])
def test_palettes_of_tiff_files_are_expanded(tmp_path, factor):
    table = np.stack([np.arange(256), np.arange(256)[::-1], np.arange(256) // 2])
    colormap = (table * factor).astype(np.uint16)
    image = ramp(5, 6)
    found = read_image(written(tmp_path / "a.tif", image, photometric="palette", colormap=colormap))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, table.T[image])


def test_a_grey_palette_of_a_tiff_file_becomes_grey(tmp_path):
    colormap = np.stack([np.arange(256)[::-1] * 257] * 3).astype(np.uint16)
    path = written(tmp_path / "a.tif", ramp(5, 6), photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(read_image(path), 255 - ramp(5, 6))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("alpha_kind", ["unassalpha", "assocalpha"])
def test_transparent_tiff_files_are_put_on_white(tmp_path, dtype, colours, alpha_kind):
    white = 1 if dtype is np.float32 else np.iinfo(dtype).max
    alpha = np.linspace(0, 1, 30).reshape(5, 6, 1)
    colour = np.linspace(0.9, 0.1, 30 * colours).reshape(5, 6, colours)
    stored = colour if alpha_kind == "unassalpha" else colour * alpha
    samples = np.concatenate([stored, alpha], axis=-1) * white
    path = written(
        tmp_path / "a.tif",
        (samples if dtype is np.float32 else np.rint(samples)).astype(dtype),
        photometric="rgb" if colours == 3 else "minisblack",
        planarconfig="contig",
        extrasamples=[alpha_kind],
    )
    with pytest.warns(UserWarning, match="a.tif' is transparent; it is put on white") as caught:
        found = read_image(path)
    assert caught[0].filename == __file__
    assert found.dtype == dtype
    wanted = (colour * alpha + 1 - alpha) * white
    wanted = wanted[..., 0] if colours == 1 else wanted
    np.testing.assert_allclose(found, wanted, atol=1.6 if white > 1 else 1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_of_tiff_files_are_applied(tmp_path, orientation):
    stored = ramp(2, 5, 6, 3)
    tag = (274, "H", 1, orientation, True)
    path = written(tmp_path / "a.tif", stored, photometric="rgb", metadata=None, extratags=[tag])
    # Where the tag says that the first row and column of the file are, as in the standard.
    wanted = {
        1: stored,
        2: stored[:, :, ::-1],
        3: stored[:, ::-1, ::-1],
        4: stored[:, ::-1],
        5: stored.transpose(0, 2, 1, 3),
        6: np.rot90(stored, -1, (1, 2)),
        7: stored[:, ::-1, ::-1].transpose(0, 2, 1, 3),
        8: np.rot90(stored, 1, (1, 2)),
    }[orientation]
    np.testing.assert_array_equal(read_image(path), wanted)


def test_only_the_first_of_several_pictures_in_a_tiff_file_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for size in (6, 7):
            tiff.write(ramp(5, size), photometric="minisblack", metadata=None)
    with pytest.warns(UserWarning, match="holds 2 series of pictures; the first is read"):
        assert read_image(tmp_path / "a.tif").shape == (5, 6)


@pytest.mark.parametrize("dtype", ["i1", "i2", "u4", "c8"])
def test_tiff_files_of_other_types_are_refused(tmp_path, dtype):
    path = written(tmp_path / "a.tif", np.zeros((5, 6), dtype))
    with pytest.raises(ValueError, match="holds samples of type .*; convert it to 8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_tiff_files_of_other_channels_are_refused(tmp_path, channels):
    path = written(tmp_path / "a.tif", ramp(5, 6, channels), planarconfig="contig")
    with pytest.raises(ValueError, match=f"has {channels} channels; save it with 1 or 3"):
        read_image(path)


def test_a_tiff_file_without_pixels_is_refused(tmp_path):
    path = written(tmp_path / "a.tif", ramp(5, 6), metadata=None)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHI", 257, 4, 1)) + 8
    data[at : at + 4] = bytes(4)  # a height of 0
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"holds no pixels for its shape \(0, 6\); copy it again"):
        read_image(path)


def test_tiff_files_of_too_many_axes_are_refused(tmp_path):
    path = written(tmp_path / "a.tif", ramp(2, 3, 5, 6))
    with pytest.raises(ValueError, match=r"has axes QQYX of shape \(2, 3, 5, 6\); save a single"):
        read_image(path)


def test_a_tiff_file_that_declares_more_than_it_holds_is_refused(tmp_path):
    path = written(tmp_path / "a.tif", ramp(5, 6), compression="zlib", metadata=None)
    data = bytearray(path.read_bytes())
    for tag in (256, 257):  # width and height
        at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data[at : at + 4] = struct.pack("<I", 60_000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="declares 3600000000 bytes of pixels in a file of"):
        read_image(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg"])
def test_tiff_compressions_that_need_pillow_are_read_by_it(tmp_path, Image, compression):
    image = np.full((16, 16), 77, np.uint8)
    Image.fromarray(image).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)


def test_other_colour_spaces_of_tiff_files_are_read_by_pillow(tmp_path, Image):
    Image.new("CMYK", (6, 5), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), [[[255, 0, 0]] * 6] * 5)


def test_a_stack_in_a_compression_that_tifffile_lacks_is_refused(tmp_path, Image):
    pages = [Image.new("L", (6, 5))] * 2
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:],
                  compression="tiff_lzw")  # fmt: skip
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install imagecodecs, or save it uncompressed"):
            read_image(tmp_path / "a.tif")
    else:
        assert read_image(tmp_path / "a.tif").shape == (2, 5, 6)


# ---- read_image: what Pillow reads --------------------------------------------------------------


def saved(path, picture, **settings):
    picture.save(path, **settings)
    return path


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pictures_are_put_on_white(tmp_path, Image, mode):
    samples = ramp(5, 6, len(mode))
    samples[0, :2, -1] = 0, 255  # nothing and everything of the colour is seen
    path = saved(tmp_path / "a.png", Image.fromarray(samples))
    with pytest.warns(UserWarning, match="a.png' is transparent; it is put on white") as caught:
        found = read_image(path)
    assert caught[0].filename == __file__
    colour, alpha = samples[..., :-1] / 255, samples[..., -1:] / 255
    wanted = np.rint(255 * (colour * alpha + 1 - alpha))
    np.testing.assert_array_equal(found, wanted[..., 0] if mode == "LA" else wanted)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_pictures_whose_alpha_hides_nothing_are_read_without_a_word(tmp_path, Image, mode):
    samples = ramp(5, 6, len(mode))
    samples[..., -1] = 255
    wanted = samples[..., 0] if mode == "LA" else samples[..., :-1]
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(samples)))
    np.testing.assert_array_equal(found, wanted)
    assert found.flags.writeable
    path = written(tmp_path / "a.tif", samples.astype(np.uint16) * 257, planarconfig="contig",
                   photometric="rgb" if mode == "RGBA" else "minisblack",
                   extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path), wanted.astype(np.uint16) * 257)


def test_a_transparent_colour_is_put_on_white(tmp_path, Image):
    image = ramp(5, 6)
    transparent = int(image[1, 1])
    path = saved(tmp_path / "a.png", Image.fromarray(image), transparency=transparent)
    with pytest.warns(UserWarning, match="put on white"):
        found = read_image(path)
    np.testing.assert_array_equal(found, np.where(image == transparent, 255, image))


def test_palettes_are_expanded(tmp_path, Image):
    picture = Image.new("P", (2, 2))
    picture.putdata([0, 1, 2, 1])
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    wanted = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", picture)), wanted)
    with pytest.warns(UserWarning, match="put on white"):
        found = read_image(saved(tmp_path / "t.png", picture, transparency=0))
    np.testing.assert_array_equal(found[0], [[255, 255, 255], [40, 50, 60]])


def test_palettes_whose_used_colours_are_grey_become_grey(tmp_path, Image):
    picture = Image.new("P", (2, 2))
    picture.putdata([0, 1, 2, 1])
    picture.putpalette([5, 5, 5, 9, 9, 9, 7, 7, 7, 1, 2, 3])
    found = read_image(saved(tmp_path / "a.png", picture))
    np.testing.assert_array_equal(found, [[5, 9], [7, 9]])


def test_one_bit_pictures_become_0_and_255(tmp_path, Image):
    picture = Image.fromarray(ramp(5, 6) > 99)
    assert picture.mode == "1"
    found = read_image(saved(tmp_path / "a.png", picture))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, (ramp(5, 6) > 99) * 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_a_volume_is_a_picture(tmp_path, Image, axis, channels):
    image = ramp(5, 6, 3)[..., :channels]
    volume = np.expand_dims(image, axis)
    wanted = image[..., 0] if channels == 1 else image
    write_image(tmp_path / "a.png", volume)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), wanted)
    write_image(tmp_path / "a.tif", volume)  # which knows volumes
    assert read_image(tmp_path / "a.tif").shape == volume.shape[: 3 + (channels == 3)]


@pytest.mark.parametrize("shape", [
    (5, 6, 3), (5, 6, 4), (5, 6, 2), (5, 6, 1), (4, 3, 3), (2, 2, 3)])
def test_how_many_axes_are_of_space_can_be_told(tmp_path, shape):
    volume = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    write_image(tmp_path / "v.tif", volume, dimensions=3)
    np.testing.assert_array_equal(read_image(tmp_path / "v.tif"), volume)
    write_image(tmp_path / "v.tif", volume[..., None], dimensions=3)
    np.testing.assert_array_equal(read_image(tmp_path / "v.tif"), volume)
    write_image(tmp_path / "v.tif", volume[..., None].repeat(3, -1), dimensions=3)
    np.testing.assert_array_equal(read_image(tmp_path / "v.tif")[..., 1], volume)
    write_image(tmp_path / "v.png", volume[:1], dimensions=3)
    np.testing.assert_array_equal(read_image(tmp_path / "v.png"), volume[0])
    with pytest.raises(ValueError, match="must have dimensions=1 axes"):
        write_image(tmp_path / "v.tif", volume, dimensions=1)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_of_colour_or_alpha_in_16_bits_the_8_are_read_that_pillow_gives_and_it_is_told(
        tmp_path, Image, colour_type, channels):
    image = ramp(5, 6, channels, dtype=np.uint16)
    if channels != 3:
        image[..., -1] = 65535
    rows = [row.astype(">u2").tobytes() for row in image]
    (tmp_path / "a.png").write_bytes(png_bytes(16, colour_type, 6, rows))
    with pytest.warns(UserWarning, match="a.png' has 16 bits a sample, of which Pillow reads 8"):
        found = read_image(tmp_path / "a.png")
    colours = image[..., 0] if channels == 2 else image[..., :3]
    np.testing.assert_allclose(as_float(found), as_float(colours), atol=1 / 255)


def test_16_bits_in_32_are_found(tmp_path, Image):
    image = ramp(5, 6, dtype=np.uint16)
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 6 5 65535\n" + image.astype(">u2").tobytes())
    found = read_image(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, image)


def fits_file(path, bits, image):
    sizes = f"NAXIS1  = {image.shape[1]}", f"NAXIS2  = {image.shape[0]}"
    cards = ["SIMPLE  = T", f"BITPIX  = {bits}", "NAXIS   = 2", *sizes, "END"]
    path.write_bytes("".join(card.ljust(80) for card in cards).ljust(2880).encode())
    with path.open("ab") as stream:
        stream.write(image.tobytes())
    return path


def test_32_bits_are_refused(tmp_path, Image):
    path = fits_file(tmp_path / "a.fits", 32, np.full((5, 6), 0x01020304, ">i4"))
    with pytest.raises(ValueError, match="holds 32-bit integers; convert it to 8 or 16 bits"):
        read_image(path)


def test_float_pictures_are_read_as_float32(tmp_path, Image):
    path = fits_file(tmp_path / "a.fits", -32, np.zeros((5, 6), ">f4"))
    found = read_image(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.zeros((5, 6)))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(tmp_path, Image, mode):
    picture = Image.new("RGB", (16, 16), (200, 60, 20)).convert(mode)
    found = read_image(saved(tmp_path / "a.jpg", picture, quality=100))
    assert found.shape == (16, 16, 3)
    assert abs(found.astype(int) - [200, 60, 20]).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_applied_as_pillow_would(tmp_path, Image, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(ramp(5, 6, 3)), exif=exif)
    with Image.open(path) as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(read_image(path), wanted)


def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path, Image):
    path = tmp_path / "a.png"
    rows = [row.tobytes() for row in ramp(5, 6)]
    path.write_bytes(png_bytes(8, 0, 6, rows, png_chunk(b"eXIf", b"no exif at all")))
    np.testing.assert_array_equal(read_image(path), ramp(5, 6))


def test_the_first_frame_of_an_animation_is_read(tmp_path, Image):
    frames = [Image.new("L", (6, 5), grey) for grey in (10, 200)]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="a.gif' holds 2 frames; the first is read"):
        found = read_image(path)
    np.testing.assert_array_equal(found, np.full((5, 6), 10))


def test_a_large_picture_is_read_without_noise(tmp_path, Image, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # of 30: Pillow would warn
    path = saved(tmp_path / "a.png", Image.fromarray(ramp(5, 6)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(path), ramp(5, 6))


def test_a_decompression_bomb_is_refused(tmp_path, Image):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b""))
    with pytest.raises(ValueError, match="is too large .*; save it smaller, or as TIFF"):
        read_image(tmp_path / "a.png")


# ---- read_image: errors -------------------------------------------------------------------------


def one_line(caught, path):
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_an_empty_file_is_refused_in_words(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="is empty; save it again") as caught:
        read_image(tmp_path / "a.png")
    one_line(caught, tmp_path / "a.png")


def test_a_missing_file_and_a_folder_are_said_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; check the path") as caught:
        read_image(tmp_path / "a.png")
    one_line(caught, tmp_path / "a.png")
    with pytest.raises(IsADirectoryError, match="it is a folder; give the path of a file"):
        read_image(tmp_path)


def test_a_file_that_is_no_picture_is_refused_in_words(tmp_path, Image):
    path = tmp_path / "a.png"
    path.write_bytes(b"not a picture at all")
    with pytest.raises(ValueError, match="is not a picture, or has a format that Pillow") as caught:
        read_image(path)
    one_line(caught, path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_a_truncated_picture_is_refused_in_words(tmp_path, name):
    if not name.endswith("tif"):
        pytest.importorskip("PIL")
    path = tmp_path / name
    write_image(path, ramp(50, 60))
    data = path.read_bytes()
    for length in (5, 20, 60, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="cut off|is not a picture") as caught:
            read_image(path)
        one_line(caught, path)


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'needs Pillow: pip install "smoe_np\[plots\]"$'):
        read_image(tmp_path / "a.png")
    with pytest.raises(ImportError, match=r'needs Pillow: pip install "smoe_np\[plots\]"$'):
        write_image(tmp_path / "b.png", ramp(5, 6))


def test_without_pillow_tiff_is_read_and_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    write_image(tmp_path / "a.tif", ramp(5, 6))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), ramp(5, 6))


def tiff_bytes(**settings):
    stream = io.BytesIO()
    tifffile.imwrite(stream, ramp(5, 6, 3), photometric="rgb", **settings)
    return stream.getvalue()


STARTS = [tiff_bytes(), tiff_bytes(compression="zlib", metadata=None), png_bytes(8, 0, 1, [b"a"])]


@settings(max_examples=150)
@given(
    data=st.sampled_from(STARTS),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5),
    length=st.integers(1, 600),
)
def test_whatever_the_bytes_an_image_is_read_or_a_value_error(scratch, data, changes, length):
    pytest.importorskip("PIL")
    data = bytearray(data[:length])
    for at, byte in changes:
        data[at % len(data)] = byte
    image = read_or_refused(read_image, scratch, data)
    if image is not None:
        assert image.dtype in (np.uint8, np.uint16, np.float32)
        assert image.ndim - (image.shape[-1] == 3 and image.ndim > 2) in (2, 3)
