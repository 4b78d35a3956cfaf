"""Real files, made by Pillow or byte by byte: what is refused, what is kept, what comes back."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import (
    FileTooLarge,
    ImageTooSmall,
    ImageUnreadable,
    InpaintError,
    InvalidField,
    TooManyPixels,
    UnsupportedImage,
)
from inpaint.picture import Limits, Picture, decode, encode, luminance, probe

HEIGHT, WIDTH = 40, 60


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def drawn(shape=(HEIGHT, WIDTH, 3), top=256, dtype=np.uint8):
    """Smooth and noisy at once, never the same in any turn."""
    noise = np.random.default_rng(0).integers(0, top // 4, shape)
    ramp = np.linspace(0, top * 3 // 4 - 1, shape[0] * shape[1]).reshape(shape[:2])
    return (noise + (ramp[..., None] if len(shape) == 3 else ramp)).astype(dtype)


def png(depth, colour, rows, *, width=WIDTH, height=HEIGHT, chunks=()):
    """A PNG byte by byte, for what Pillow does not write."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def tiff16(photometric, samples, order="<"):
    """A TIFF of 16 bits with any photometric interpretation."""
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    tags = [(256, samples.shape[1]), (257, samples.shape[0]), (258, 16), (259, 1)]
    tags += [(262, photometric), (273, 8 + 2 + 12 * 9 + 4), (277, channels)]
    tags += [(278, samples.shape[0]), (279, samples.nbytes)]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(tags))
    return header + entries + bytes(4) + samples.astype(order + "u2").tobytes()


COLOUR = Image.fromarray(drawn())
GRAY = COLOUR.convert("L")
GRAY16 = Image.fromarray(drawn((HEIGHT, WIDTH), 65_536, np.uint16))
ALPHA = Image.fromarray(drawn((HEIGHT, WIDTH)))
CLEAR = COLOUR.copy()
CLEAR.putalpha(ALPHA)
GRAY_CLEAR = GRAY.copy()
GRAY_CLEAR.putalpha(ALPHA)
PALETTE = COLOUR.quantize(16)


def exif_of(orientation, **others):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x013B] = "Jane Roe"
    exif.get_ifd(0x8769)[0x9003] = "1999:12:31 23:59:59"
    for tag, value in others.items():
        exif[int(tag)] = value
    return exif


# --- probe ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "format", "mode", "lossless"),
    [
        (saved(COLOUR, "PNG"), "png", "rgb", True),
        (saved(CLEAR, "PNG"), "png", "rgb+alpha", True),
        (saved(GRAY, "PNG"), "png", "gray", True),
        (saved(GRAY.convert("1"), "PNG"), "png", "gray", True),
        (saved(GRAY_CLEAR, "PNG"), "png", "gray+alpha", True),
        (saved(GRAY16, "PNG"), "png", "gray16", True),
        (saved(PALETTE, "PNG"), "png", "palette", True),
        (saved(PALETTE, "PNG", transparency=3), "png", "palette+alpha", True),
        (saved(COLOUR, "PNG", transparency=(1, 2, 3)), "png", "rgb+alpha", True),
        (saved(COLOUR, "JPEG"), "jpeg", "rgb", False),
        (saved(COLOUR, "JPEG", progressive=True), "jpeg", "rgb", False),
        (saved(GRAY, "JPEG"), "jpeg", "gray", False),
        (saved(COLOUR, "WEBP"), "webp", "rgb", False),
        (saved(CLEAR, "WEBP"), "webp", "rgb+alpha", False),
        (saved(COLOUR, "WEBP", lossless=True), "webp", "rgb", True),
        (saved(CLEAR, "WEBP", lossless=True), "webp", "rgb+alpha", True),
        (saved(COLOUR, "WEBP", icc_profile=b"x" * 30), "webp", "rgb", False),
        (saved(COLOUR, "WEBP", lossless=True, icc_profile=b"x" * 30), "webp", "rgb", True),
        (saved(COLOUR, "TIFF"), "tiff", "rgb", True),
        (saved(COLOUR, "TIFF", big_tiff=True), "tiff", "rgb", True),
        (saved(COLOUR, "TIFF", compression="tiff_lzw"), "tiff", "rgb", True),
        (saved(CLEAR, "TIFF"), "tiff", "rgb+alpha", True),
        (saved(GRAY, "TIFF"), "tiff", "gray", True),
        (saved(GRAY.convert("1"), "TIFF", compression="group4"), "tiff", "gray", True),
        (saved(GRAY_CLEAR, "TIFF"), "tiff", "gray+alpha", True),
        (saved(GRAY16, "TIFF"), "tiff", "gray16", True),
        (saved(PALETTE, "TIFF"), "tiff", "palette", True),
    ],
)
def test_the_header_tells_format_size_and_mode(data, format, mode, lossless):
    header = probe(data)
    assert (header.format, header.width, header.height) == (format, WIDTH, HEIGHT)
    assert (header.mode, header.lossless) == (mode, lossless)
    picture = decode(data)
    assert (picture.height, picture.width) == (HEIGHT, WIDTH)
    assert (picture.alpha is not None) == header.alpha


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(40), "ZIP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<svg/>", "SVG"),
        (b"<?xml version='1.0'?><a/>", "XML"),
        (b"\n <!DOCTYPE html><title>404</title>", "HTML"),
        (saved(PALETTE, "GIF"), "GIF"),
        (saved(COLOUR, "BMP"), "BMP"),
        (saved(COLOUR, "AVIF"), "AVIF"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (b"just a note \xe2\x82\xac", "text"),
        (("é" * 600).encode()[:-1], "text"),
        (bytes(range(256)), "not known"),
    ],
)
def test_another_type_of_file_is_refused_by_its_name(data, name):
    with pytest.raises(UnsupportedImage, match=name) as refusal:
        probe(data)
    assert "JPEG, PNG, WebP and TIFF" in refusal.value.detail


SIXTEEN = [bytes(WIDTH * 8)] * HEIGHT


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (png(16, 4, SIXTEEN), "PNG with 16 bits per channel .gray.alpha."),
        (tiff16(6, drawn((HEIGHT, WIDTH, 3), 65_536, np.uint16)), "TIFF with 16 bits"),
        (tiff16(1, drawn((HEIGHT, WIDTH, 2), 65_536, np.uint16)), "TIFF with 16 bits"),
        (saved(COLOUR.convert("CMYK"), "JPEG"), "CMYK JPEG"),
        (saved(COLOUR.convert("CMYK"), "TIFF"), "CMYK TIFF"),
        (saved(COLOUR.convert("LAB"), "TIFF"), "CIELAB TIFF"),
        (saved(GRAY.convert("F"), "TIFF"), "floating-point numbers of 32 bits"),
        (saved(GRAY.convert("I"), "TIFF"), "numbers of 32 bits"),
        (saved(COLOUR, "WEBP", save_all=True, append_images=[GRAY]), "animated WebP of 2 frames"),
        (saved(COLOUR, "PNG", save_all=True, append_images=[CLEAR]), "animated PNG of 2 frames"),
    ],
)
def test_what_would_not_be_kept_is_refused_by_its_name(data, name):
    with pytest.raises(UnsupportedImage, match=name):
        probe(data)


def test_jpeg_of_12_bits_and_of_ycck_are_refused_by_name():
    data = bytearray(saved(COLOUR, "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedImage, match="12 bits"):
        probe(bytes(data))
    data = bytearray(saved(COLOUR.convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    with pytest.raises(UnsupportedImage, match="YCCK"):
        probe(bytes(data))


def test_limits_hold_on_the_header_alone():
    bomb = png(8, 2, [], width=30_000, height=30_000)
    with pytest.raises(TooManyPixels, match="30000 x 30000"):
        probe(bomb)
    with pytest.raises(TooManyPixels, match="40000000 pixels"):
        probe(png(8, 2, [], width=8_000, height=8_000))
    with pytest.raises(ImageTooSmall, match="1 x 1"):
        probe(saved(Image.new("RGB", (1, 1)), "PNG"))
    with pytest.raises(FileTooLarge, match="at most 99"):
        probe(saved(COLOUR, "PNG"), Limits(max_bytes=99))
    assert probe(bomb, Limits(max_pixels=10**9, max_side=30_000)).width == 30_000


def test_large_limits_bring_no_warning_about_decompression_bombs():
    data = saved(Image.new("L", (9_500, 9_500)), "PNG")  # above Pillow's own 89 million
    assert decode(data, Limits(max_pixels=10**8)).width == 9_500


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_header_cut_off_is_unreadable_and_says_in_which_field(format):
    with pytest.raises(ImageUnreadable, match="mask") as refusal:
        probe(saved(COLOUR, format)[:20], field="mask")
    assert refusal.value.field == "mask"


def test_a_wrong_checksum_of_the_png_header_is_unreadable():
    data = bytearray(saved(COLOUR, "PNG"))
    data[20] ^= 1
    with pytest.raises(ImageUnreadable):
        probe(bytes(data))


def test_headers_made_to_waste_time_are_refused_at_once():
    with pytest.raises(ImageUnreadable):
        probe(b"\xff\xd8\xff" + b"\xe0\0\2\xff" * 500_000)
    with pytest.raises(ImageUnreadable):
        probe(b"\xff\xd8\xff" + b"\xff" * 2_000_000)


# --- decode -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        saved(COLOUR, "PNG"),
        saved(COLOUR, "JPEG"),
        saved(COLOUR, "WEBP"),
        saved(COLOUR, "TIFF"),
        saved(COLOUR, "PNG", exif=exif_of(6)),
    ],
)
def test_a_truncated_file_is_unreadable(data):
    with pytest.raises(ImageUnreadable, match="cut off or damaged"):
        decode(data[: len(data) * 3 // 4])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "LZW"])
def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else(format):
    exif = exif_of(6)
    data = (
        saved(COLOUR, "TIFF", compression="tiff_lzw", exif=exif)
        if format == "LZW"
        else saved(COLOUR, format, exif=exif)
    )
    generator = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(data)
        for place in generator.integers(0, min(len(data), generator.choice([200, 10**6])), 3):
            damaged[place] = generator.integers(256)
        try:
            picture = decode(bytes(damaged))
        except InpaintError:
            continue
        assert picture.pixels.shape == (picture.height, picture.width, 3)
        assert probe(encode(picture)).width == picture.width
        assert probe(encode(picture, "tiff")).width == picture.width


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(format, orientation):
    stored = saved(
        GRAY, format, exif=exif_of(orientation), **{"quality": 100} if format == "WEBP" else {}
    )
    plain = decode(saved(GRAY, format, **{"quality": 100} if format == "WEBP" else {})).pixels
    upright = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1),
        7: np.rot90(plain, 2).transpose(1, 0, 2),
        8: np.rot90(plain),
    }[orientation]
    picture = decode(stored)
    header = probe(stored)
    assert np.array_equal(picture.pixels, upright)
    assert (header.height, header.width) == upright.shape[:2]
    again = encode(picture)
    assert probe(again).orientation == 1
    assert (probe(again).height, probe(again).width) == upright.shape[:2]


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (COLOUR, "PNG"),
        (COLOUR, "TIFF"),
        (CLEAR, "PNG"),
        (CLEAR, "TIFF"),
        (GRAY, "PNG"),
        (GRAY, "TIFF"),
        (GRAY16, "PNG"),
        (GRAY16, "TIFF"),
        (GRAY_CLEAR, "PNG"),
        (GRAY_CLEAR, "TIFF"),
    ],
)
def test_lossless_files_come_back_sample_for_sample(image, format):
    result = opened(encode(decode(saved(image, format))))
    assert (result.format, result.mode) == (format, image.mode)
    assert np.array_equal(np.asarray(result), np.asarray(image))


def test_lossless_webp_stays_lossless_even_below_transparency():
    data = saved(CLEAR, "WEBP", lossless=True, exact=True)
    again = encode(decode(data))
    assert probe(again).lossless
    assert np.array_equal(np.asarray(opened(again)), np.asarray(CLEAR))


def test_lossy_webp_stays_webp():
    assert probe(encode(decode(saved(COLOUR, "WEBP")))).lossless is False


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_keeps_its_compression(compression):
    result = opened(encode(decode(saved(COLOUR, "TIFF", compression=compression))))
    assert result.info["compression"] == compression
    assert np.array_equal(np.asarray(result), np.asarray(COLOUR))


def test_a_tiff_compressed_as_jpeg_comes_back_lossless():
    data = saved(COLOUR, "TIFF", compression="jpeg")
    result = opened(encode(decode(data)))
    assert np.array_equal(np.asarray(result), decode(data).samples)


def test_a_tiff_of_several_pages_gives_its_first():
    data = saved(COLOUR, "TIFF", save_all=True, append_images=[GRAY])
    assert np.array_equal(decode(data).samples, np.asarray(COLOUR))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_palette_and_one_bit_become_their_colours(format):
    assert np.array_equal(
        decode(saved(PALETTE, format)).samples, np.asarray(PALETTE.convert("RGB"))
    )
    bits = GRAY.convert("1")
    assert np.array_equal(decode(saved(bits, format)).samples, np.asarray(bits.convert("L")))


def test_a_transparent_palette_entry_becomes_alpha():
    picture = decode(saved(PALETTE, "PNG", transparency=3))
    assert np.array_equal(picture.alpha == 0, np.asarray(PALETTE) == 3)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_gray_of_any_depth_becomes_alpha(depth):
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2**depth
    bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
    rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    picture = decode(png(depth, 0, rows, chunks=[(b"tRNS", struct.pack(">H", 1))]))
    assert np.array_equal(picture.samples, values * (255 // (2**depth - 1)))
    assert np.array_equal(picture.alpha == 0, values == 1)


def test_16_bit_tiff_with_white_as_zero_is_not_a_negative():
    samples = drawn((HEIGHT, WIDTH), 65_536, np.uint16)
    picture = decode(tiff16(0, samples))
    assert np.array_equal(picture.samples, 65_535 - samples)
    assert np.array_equal(np.asarray(opened(encode(picture))), 65_535 - samples)


def test_16_bit_tiff_in_the_other_byte_order_is_read():
    samples = drawn((HEIGHT, WIDTH), 65_536, np.uint16)
    assert np.array_equal(decode(tiff16(1, samples, ">")).samples, samples)


def test_pixels_are_rgb_of_8_bits_whatever_the_file():
    samples = np.asarray(GRAY16)
    pixels = decode(saved(GRAY16, "PNG")).pixels
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[..., 0], np.rint(samples / 257))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert decode(saved(CLEAR, "PNG")).pixels.shape == (HEIGHT, WIDTH, 3)


def test_many_threads_decode_and_encode_at_once():
    files = [saved(image, format) for image in (COLOUR, GRAY) for format in ("PNG", "JPEG", "TIFF")]
    alone = [encode(decode(data)) for data in files]
    results: dict[int, list[bytes]] = {}

    def work(number):
        results[number] = [encode(decode(data)) for _ in range(5) for data in files]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[number] == alone * 5 for number in range(4))


# --- the hole ---------------------------------------------------------------------------------


@pytest.fixture
def hole():
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[10:20, 15:40] = True
    return hole


@pytest.mark.parametrize("image", [COLOUR, CLEAR, GRAY, GRAY16, GRAY_CLEAR])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_only_the_hole_is_written(image, format, hole):
    picture = decode(saved(image, format))
    pixels = np.full((HEIGHT, WIDTH, 3), (250, 10, 90), np.uint8)
    result = np.asarray(opened(encode(picture.with_pixels(pixels, hole))))
    before = np.asarray(image)
    assert result.dtype == before.dtype
    assert np.array_equal(result[~hole], before[~hole])
    assert not np.array_equal(result[hole], before[hole])


def test_a_fill_that_lies_in_the_samples_already_is_not_copied(hole):
    picture = decode(saved(COLOUR, "PNG"))
    assert picture.pixels is picture.samples
    picture.pixels[hole] = 7
    assert picture.with_pixels(picture.pixels, hole).samples is picture.samples


def test_samples_that_are_read_only_are_not_written(hole):
    samples = np.asarray(COLOUR)
    assert not samples.flags.writeable
    result = Picture(samples, None, "png").with_pixels(np.zeros_like(samples), hole)
    assert np.array_equal(samples, np.asarray(COLOUR))
    assert not result.samples[hole].any()


@pytest.mark.parametrize("image", [COLOUR, CLEAR, GRAY, GRAY16, GRAY_CLEAR])
def test_a_picture_of_many_strips_is_decoded_and_filled_as_one(image, hole, monkeypatch):
    pixels = drawn()
    whole = decode(saved(image, "PNG"))
    expected = whole.pixels.copy(), encode(whole.with_pixels(pixels, hole, opaque=True))
    monkeypatch.setattr("inpaint.strips.STRIP", 7 * WIDTH)
    again = decode(saved(image, "PNG"))
    assert np.array_equal(again.pixels, expected[0])
    assert encode(again.with_pixels(pixels, hole, opaque=True)) == expected[1]


def test_gray_stays_gray_and_takes_the_luminance_of_the_fill(hole):
    pixels = np.full((HEIGHT, WIDTH, 3), (250, 10, 90), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))[0, 0]
    eight = decode(saved(GRAY, "PNG")).with_pixels(pixels, hole).samples
    sixteen = decode(saved(GRAY16, "PNG")).with_pixels(pixels, hole).samples
    assert np.all(eight[hole] == expected)
    assert np.all(sixteen[hole] == int(expected) * 257)


def test_luminance_of_gray_is_the_gray():
    gray = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    assert np.array_equal(luminance(gray), gray[:, 0])


def test_alpha_is_kept_and_made_opaque_only_where_asked(hole):
    picture = decode(saved(CLEAR, "PNG"))
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    kept = picture.with_pixels(pixels, hole).alpha
    opaque = picture.with_pixels(pixels, hole, opaque=True).alpha
    assert np.array_equal(kept, picture.alpha)
    assert np.all(opaque[hole] == 255)
    assert np.array_equal(opaque[~hole], picture.alpha[~hole])


# --- encode -----------------------------------------------------------------------------------

PROFILE = bytes(range(256)) * 300  # longer than one JPEG segment


@pytest.mark.parametrize("target", ["same", "jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profile_exif_and_resolution_are_carried_over(format, target):
    data = saved(COLOUR, format, exif=exif_of(3).tobytes(), icc_profile=PROFILE, dpi=(300, 150))
    result = opened(encode(decode(data), target))
    exif = result.getexif()
    assert result.info["icc_profile"] == PROFILE
    assert exif[0x013B] == "Jane Roe"
    assert exif.get(0x0112, 1) == 1
    assert exif.get_ifd(0x8769)[0x9003] == "1999:12:31 23:59:59"
    if "WEBP" not in (format, result.format):
        assert np.allclose(np.asarray(result.info["dpi"], float), (300, 150), atol=0.1)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_colour_profile_of_three_megabytes_is_carried_over(format):
    profile = np.random.default_rng(0).bytes(3_000_000)
    result = opened(encode(decode(saved(COLOUR, format, icc_profile=profile))))
    assert result.info["icc_profile"] == profile


def test_resolution_turns_with_the_picture():
    data = saved(COLOUR, "JPEG", exif=exif_of(6), dpi=(300, 150))
    assert decode(data).metadata.dpi == (150, 300)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_no_resolution_is_made_up(format):
    assert decode(saved(COLOUR, format)).metadata.dpi is None


def test_sizes_in_foreign_exif_do_not_reach_a_tiff():
    data = saved(COLOUR, "JPEG", exif=exif_of(1, **{"256": 7, "258": 16, "259": 5}))
    result = opened(encode(decode(data), "tiff"))
    assert np.array_equal(np.asarray(result), decode(data).samples)


def test_the_thumbnail_of_the_unfilled_picture_goes():
    thumbnail = saved(COLOUR.resize((16, 16)), "JPEG")
    first = struct.pack("<HHHII", 1, 0x0112, 3, 1, 6) + struct.pack("<I", 26)
    second = struct.pack("<H", 2) + struct.pack("<HHII", 513, 4, 1, 56)
    second += struct.pack("<HHII", 514, 4, 1, len(thumbnail)) + struct.pack("<I", 0)
    exif = b"II*\0" + struct.pack("<I", 8) + first + second
    exif = exif.ljust(56, b"\0") + thumbnail
    result = encode(decode(saved(COLOUR, "JPEG", exif=b"Exif\0\0" + exif)))
    assert thumbnail not in result
    assert opened(result).getexif().get_ifd(1) == {}
    assert probe(result).orientation == 1


def test_unreadable_exif_is_dropped_and_the_picture_kept():
    data = saved(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).metadata.exif is None


def test_a_jpeg_keeps_its_tables_and_subsampling():
    for options in ({"quality": 37, "subsampling": 0}, {"quality": 93, "subsampling": 2}):
        before = opened(saved(COLOUR, "JPEG", **options))
        after = opened(encode(decode(saved(COLOUR, "JPEG", **options))))
        assert after.quantization == before.quantization
        assert after.layer == before.layer


def test_a_progressive_jpeg_stays_progressive():
    data = saved(COLOUR, "JPEG", progressive=True)
    assert opened(encode(decode(data))).info["progressive"] == 1


def test_quality_is_obeyed_when_given():
    picture = decode(saved(COLOUR, "JPEG", quality=90))
    sizes = [len(encode(picture, quality=quality)) for quality in (5, 50, 100)]
    assert sizes == sorted(sizes)
    assert len(encode(picture, "webp", 5)) < len(encode(picture, "webp", 100))


def test_jpeg_refuses_transparency_and_drops_an_alpha_that_hides_nothing():
    with pytest.raises(InvalidField, match="transparency") as refusal:
        encode(decode(saved(CLEAR, "PNG")), "jpeg")
    assert refusal.value.field == "output_format"
    opaque = COLOUR.copy()
    opaque.putalpha(255)
    assert probe(encode(decode(saved(opaque, "PNG")), "jpeg")).mode == "rgb"


@pytest.mark.parametrize("target", ["jpeg", "webp"])
def test_formats_of_8_bits_take_16_bit_gray_rounded_when_asked_by_name(target):
    picture = decode(saved(GRAY16, "PNG"))
    result = decode(encode(picture, target, 100))
    difference = result.pixels.astype(int) - picture.pixels
    assert np.abs(difference).mean() < 4


def test_webp_refuses_a_side_that_it_cannot_hold():
    picture = Picture(np.zeros((16, 16_384), np.uint8), None, "png")
    with pytest.raises(InvalidField, match="16383"):
        encode(picture, "webp")
