"""To what size images are brought; decoding of every usual kind of image, and of broken ones."""

import io
import os
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from fcos_tf.data.images import (
    ImageError,
    decode_image,
    read_bytes,
    resize_image,
    stored_size,
)
from fcos_tf.image_size import ImageSize, parse_image_size


def new_size(height, width, text, chance=0.0):
    return parse_image_size(text).resized(height, width, chance)


@pytest.mark.parametrize(
    ("given_size", "expected"),
    [
        ("512x640", ImageSize(canvas=(512, 640))),
        (" 240X320 ", ImageSize(canvas=(240, 320))),
        ((240, 320), ImageSize(canvas=(240, 320))),
        ([240, 320], ImageSize(canvas=(240, 320))),
        ("800,1333", ImageSize(sides=(800, 800, 1333))),
        ("800, 1333", ImageSize(sides=(800, 800, 1333))),
        ("640-800,1333", ImageSize(sides=(640, 800, 1333))),
        (ImageSize(sides=(1, 1, 2)), ImageSize(sides=(1, 1, 2))),
    ],
)
def test_parse_image_size(given_size, expected):
    assert parse_image_size(given_size) == expected


@pytest.mark.parametrize(
    "bad",
    ["", "512", "512*512", "axb", "0x5", "-1x5", "1333,800", "800-640,1333", "640-1400,1333",
     "640-,1333", (512,), (0, 5), (1.5, 2), 5, None, (True, 5)],
)  # fmt: skip
def test_parse_image_size_refuses(bad):
    with pytest.raises(ValueError, match=r"image_size: expected .* got"):
        parse_image_size(bad)


def test_resized_by_hand():
    # min(512/375, 512/500) = 1.024: 375 * 1.024 = 384
    assert new_size(375, 500, "512x512") == (384, 512)
    # min(240/480, 320/640) = 0.5
    assert new_size(480, 640, "240x320") == (240, 320)
    # min(100/50, 300/50) = 2: the height decides
    assert new_size(50, 50, "100x300") == (100, 100)
    # min(800/480, 1333/640) = 1.6667: 640 * 1.6667 = 1066.67, floored
    assert new_size(480, 640, "800,1333") == (800, 1066)
    # min(800/400, 1333/1600) = 0.833125: 400 * 0.833125 = 333.25, floored
    assert new_size(400, 1600, "800,1333") == (333, 1333)
    # 1 * min(32/1, 32/3200) = 0.01 would vanish
    assert new_size(1, 3200, "32x32") == (1, 32)


def test_resized_rounds_in_float64():
    # 800 / 322 * 322 = 799.9999999999999; 400 * 2.484 = 993.8
    assert 800 / 322 * 322 < 800
    assert new_size(322, 400, "800,1333") == (799, 993)


def test_multi_scale_draws_every_short_side_alike():
    # 20 to 23: chance [0, 1/4) gives 20, [1/4, 1/2) gives 21 and so on. 40x80: twice as wide.
    size = parse_image_size("20-23,1000")
    drawn = [size.resized(40, 80, chance) for chance in (0.0, 0.24, 0.25, 0.74, 0.75, 0.999)]
    assert drawn == [(20, 40), (20, 40), (21, 42), (22, 44), (23, 46), (23, 46)]
    # The long side still limits: min(23/40, 30/80) = 0.375
    assert parse_image_size("20-23,30").resized(40, 80, 0.999) == (15, 30)
    assert size.is_random and not size.fixed().is_random
    assert size.fixed().resized(40, 80) == (23, 46)


def test_scale_jitter_by_hand():
    size = ImageSize(canvas=(100, 100), scale_jitter=(0.1, 2.1))
    # 50x100 fits at scale 1; chance 0, 0.5, 0.75: times 0.1, 1.1, 1.6
    assert [size.resized(50, 100, c) for c in (0.0, 0.5, 0.75)] == [(5, 10), (55, 110), (80, 160)]
    assert size.fixed().resized(50, 100, 0.75) == (50, 100)


def test_two_canvases_by_orientation():
    # 800 = 25 * 32; 1333 is padded to 42 * 32 = 1344
    assert parse_image_size("640-800,1333").canvases() == ((800, 1344), (1344, 800))
    assert parse_image_size("500x600").canvases() == ((500, 600), (500, 600))


def test_resize_is_bilinear_with_half_pixel_centres():
    image = np.array([[[0] * 3, [100] * 3]], np.uint8)  # [1, 2, 3]
    # Scale 2. Columns 0..3 look at (j + .5) / 2 - .5 = -.25, .25, .75, 1.25 of the source.
    resized = resize_image(image, 2, 4)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized[..., 0], [[0, 25, 75, 100]] * 2)


def test_resize_does_not_smooth_what_it_leaves_out():
    image = np.repeat(np.array([[0, 255, 0, 0, 0, 255]], np.uint8)[..., None], 3, axis=-1)
    # Scale 1/3. Columns 0 and 1 look at (j + .5) * 3 - .5 = 1 and 4: exactly those pixels.
    np.testing.assert_array_equal(resize_image(image, 1, 2)[..., 0], [[255, 0]])


def keep(height, width):
    return height, width


def photo(height=40, width=60):
    """A smooth colour gradient, so that lossy formats stay close."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 2 % 256], -1).astype(np.uint8)


def encode(image, kind, **options):
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def decoded(data, size_for=keep):
    return decode_image(data, "a.jpg", size_for)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF", "TIFF"])
def test_lossless_formats(kind):
    grey = np.repeat(photo()[..., :1], 3, axis=-1)  # a GIF holds 256 greys exactly
    image, size = decoded(encode(grey, kind, **({"lossless": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(image, grey)
    assert image.dtype == np.uint8 and size == (40, 60)


def test_jpeg_is_decoded_as_opencv_does():
    data = encode(photo(), "JPEG")
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decoded(data)[0], expected)


def test_real_photos_are_decoded_as_opencv_does(shared_data):
    for file in sorted((shared_data / "voc2007" / "JPEGImages").glob("*.jpg"))[:20]:
        expected = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        image, size = decode_image(read_bytes(str(file)), str(file), keep)
        np.testing.assert_array_equal(image, expected[..., ::-1])
        assert size == expected.shape[:2]


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_all_kinds_of_pixels_become_rgb(mode):
    plain = Image.fromarray(photo())
    if mode == "P":
        image, expected = plain.convert("P"), np.asarray(plain.convert("P").convert("RGB"))
    elif mode == "RGBA":
        image, expected = plain.copy(), photo()
        image.putalpha(7)  # left out, not blended
    elif mode == "I;16":
        grey = (photo()[..., 0].astype(np.uint16) << 8) + 129
        image, expected = Image.fromarray(grey), np.repeat(photo()[..., :1], 3, axis=-1)
    else:
        image = plain.convert(mode)
        expected = np.asarray(image.convert("RGB"))
    found, _ = decoded(encode(image, "TIFF" if mode == "CMYK" else "PNG"))
    np.testing.assert_array_equal(found, expected)
    assert found.std() > 20


def test_cmyk_jpeg():
    found, _ = decoded(encode(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(found.astype(int) - photo()).mean() < 4


def test_the_first_picture_of_an_animation():
    frames = [Image.fromarray(np.full([4, 6, 3], value, np.uint8)) for value in (40, 200)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decoded(data)[0] == 40).all()


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    data = encode(photo(), "JPEG", exif=exif)
    image, size = decoded(data)
    assert size == (40, 60) and image.shape == (40, 60, 3)  # boxes refer to the stored pixels
    assert np.abs(image.astype(int) - photo()).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_when_asked(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(photo(), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    image, size = decode_image(data, "a", keep, apply_exif=True)
    assert size == image.shape[:2] == stored_size(io.BytesIO(data), apply_exif=True)
    np.testing.assert_array_equal(image, expected)


def test_a_turned_jpeg_is_decoded_small():
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = np.asarray(Image.fromarray(photo()).resize((1200, 800)))
    data = encode(smooth, "JPEG", exif=exif)
    image, size = decode_image(data, "a", lambda h, w: (h // 8, w // 8), apply_exif=True)
    assert size == (1200, 800) and image.shape == (150, 100, 3)
    turned = np.rot90(smooth, -1)
    assert np.abs(image.astype(int) - resize_image(turned, 150, 100))[2:-2, 2:-2].mean() < 4


def test_one_pixel():
    image, size = decoded(encode(np.uint8([[[9, 8, 7]]]), "PNG"), lambda h, w: (5, 7))
    assert size == (1, 1) and image.shape == (5, 7, 3) and (image == [9, 8, 7]).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_jpeg_is_decoded_small():
    data = encode(np.zeros([9000, 12000, 3], np.uint8), "JPEG")
    tracemalloc.start()
    image, size = decoded(data, lambda h, w: (h // 24, w // 24))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == (9000, 12000) and image.shape == (375, 500, 3)
    # An eighth of each side still is three times as large as needed: 1125 x 1500 x 3 bytes are
    # 5 MB; the whole image would be 324 MB.
    assert peak < 30e6


def test_reduced_decoding_keeps_the_picture():
    smooth = np.asarray(Image.fromarray(photo()[..., [0, 1, 1]]).resize((1200, 800)))
    data = encode(smooth, "JPEG", quality=95)
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    small, size = decoded(data, lambda h, w: (100, 150))
    assert size == (800, 1200)
    expected = resize_image(whole, 100, 150)
    assert np.abs(small.astype(int) - expected)[2:-2, 2:-2].max() <= 4


def test_reduction_leaves_twice_the_size_needed():
    data = encode(photo(80, 120), "JPEG")
    whole, _ = decoded(data)
    # To 21x31 a half, 40x60, is less than twice as large: the whole image is decoded.
    np.testing.assert_array_equal(
        decoded(data, lambda h, w: (21, 31))[0], resize_image(whole, 21, 31)
    )
    assert (decoded(data, lambda h, w: (20, 30))[0] != resize_image(whole, 20, 30)).any()


def test_resizing_follows_tensorflow_within_a_grey_level():
    import tensorflow as tf

    random = np.random.default_rng(0)
    image = random.integers(0, 256, [37, 53, 3], dtype=np.uint8)
    for size in ((74, 106), (20, 29), (37, 10), (1, 1), (130, 53)):
        expected = tf.image.resize(image, size).numpy()  # bilinear, half-pixel, not antialiased
        assert np.abs(resize_image(image, *size) - expected).max() <= 1.0
        exact = resize_image(image.astype(np.float32), *size)
        assert exact.dtype == np.float32
        assert np.abs(exact - expected).max() <= 1e-3


PNG = encode(photo(), "PNG")
JPEG = encode(photo(), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image at all", "it is of no known format"),
        (b"\xff\xd8\xff\xe0 no JPEG", ""),
        (JPEG[: len(JPEG) // 2], "(?i:truncated)"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:20], ""),
        (PNG[:60] + b"\0" * 40 + PNG[100:], ""),
        (encode(photo(), "GIF")[:200], ""),
        (encode(photo(), "WEBP")[:150], ""),
        (encode(photo(), "BMP")[:2000], "truncated"),
        (b"<html><body>404 Not Found</body></html>", "it is of no known format"),
        (encode(Image.fromarray(np.full([4, 4], 1e9, np.float32)), "TIFF"), "got mode F"),
        (encode(Image.fromarray(np.full([4, 4], 200, np.int32)), "TIFF"), "got mode I"),
        (PNG[:16] + (50_000).to_bytes(4, "big") * 2 + PNG[24:], ""),  # says it has 2.5 Gpixels
    ],
    ids=["empty", "text", "head", "half JPEG", "half PNG", "PNG head", "PNG holes", "GIF", "WebP",
         "BMP", "HTML", "float", "32 bits", "bomb"],
)  # fmt: skip
def test_broken_images_are_named(data, reason):
    with pytest.raises(ImageError, match=rf"^cannot decode image a\.jpg: .*{reason}"):
        decoded(data)


def test_bytes_of_a_part_of_a_file(tmp_path):
    file = tmp_path / "shard"
    file.write_bytes(b"0123456789")
    assert read_bytes(str(file)) == b"0123456789"
    assert read_bytes(str(file), 3, 4) == b"3456"
    with pytest.raises(ImageError, match=r"cannot read .*shard: expected 4 bytes from 8 on, got 2"):
        read_bytes(str(file), 8, 4)
    with pytest.raises(ImageError, match=r"no image file .*nowhere"):
        read_bytes(str(tmp_path / "nowhere"))
    with pytest.raises(ImageError, match=r"cannot read .*: .*directory"):
        read_bytes(str(tmp_path))


def test_devices_and_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    os.symlink("/dev/zero", tmp_path / "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(ImageError, match=rf"cannot read .*{name}: expected a regular file"):
            read_bytes(str(tmp_path / name))


def test_only_the_named_formats_are_tried(monkeypatch):
    import PIL.EpsImagePlugin

    def start(*args):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", start)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"  # what Pillow takes by itself
    with pytest.raises(ImageError, match="it is of no known format"):
        decoded(postscript)
    assert stored_size(io.BytesIO(postscript)) is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pixels_are_limited_by_the_header():
    # 8192 x 16384 are MAX_PIXELS; one row more is decoded only where a JPEG can be decoded smaller.
    big = encode(Image.new("L", (8192, 16385)), "JPEG")
    assert decoded(big, lambda h, w: (100, 100))[1] == (16385, 8192)
    message = r"a\.jpg: expected at most 134217728 pixels, got 8192 x 16385"
    for data in (big, encode(Image.new("1", (8192, 16385)), "PNG")):
        tracemalloc.start()
        with pytest.raises(ImageError, match=message):
            decoded(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10e6


def test_bytes_through_tensorflows_file_systems():
    import tensorflow as tf

    tf.io.gfile.GFile("ram://folder/a", "wb").write(b"0123456789")
    assert read_bytes("ram://folder/a", 2, 3) == b"234"
    with pytest.raises(ImageError, match="cannot read ram://folder/b"):
        read_bytes("ram://folder/b")
