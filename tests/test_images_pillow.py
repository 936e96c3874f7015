"""What Pillow reads is read as what it looks like."""

import struct
import warnings

import numpy as np
import pytest
from picture_files import png_bytes, png_chunk, ramp, saved, written

from smoe_np.images import read_image, write_image
from smoe_np.pixels import as_float


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
