"""Images: what is stored comes back, what is broken or of no use is refused in words."""

import errno
import io
import os
import sys
import warnings

import numpy as np
import pytest
import tifffile
from broken_files import read_or_refused
from helpers import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import TIFF_SHAPES, png_bytes, ramp, written

from smoe_np import load_params
from smoe_np.images import read_image, write_image
from smoe_np.pixels import as_float


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


# ---- errors


def one_line(caught, path):
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_an_array_of_numpy_is_said_to_be_one(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 6)))
    for read, what in ((read_image, "picture"), (load_params, "model")):
        with pytest.raises(ValueError, match=f"is an array of NumPy, not a {what}; ") as caught:
            read(tmp_path / "a.npy")
        one_line(caught, tmp_path / "a.npy")


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
