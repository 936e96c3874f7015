"""TIFF files of all kinds are read as what they look like."""

import struct

import numpy as np
import pytest
import tifffile
from picture_files import TIFF_SHAPES, ramp, written

from smoe_np.images import read_image


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


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("back", [0, -1], ids=["to itself", "to the first"])
def test_a_chain_of_directories_that_has_no_end_is_refused(tmp_path, bigtiff, back):
    path = written(tmp_path / "a.tif", ramp(5, 6), metadata=None, bigtiff=bigtiff)
    data = bytearray(path.read_bytes())
    data += bytes(-len(data) % 8)
    at, form = (8, "<Q") if bigtiff else (4, "<I")
    count = "<Q" if bigtiff else "<H"
    first, = struct.unpack_from(form, data, at)
    tags, = struct.unpack_from(count, data, first)
    after = first + struct.calcsize(count) + tags * (20 if bigtiff else 12)
    struct.pack_into(form, data, after, len(data))  # a second directory, of no tags ...
    data += struct.pack(count, 0) + struct.pack(form, [len(data), first][back])  # ... and its next
    path.write_bytes(data)
    with pytest.raises(ValueError, match="its directories go round in circles; copy it again"):
        read_image(path)
