"""16 bits per channel: files of other libraries, compared sample by sample there and back."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from inpaint.composite import Rim
from inpaint.deep import rounded, turned
from inpaint.errors import ImageUnreadable, InpaintError, TooManyPixels, UnsupportedImage
from inpaint.exif import orientation
from inpaint.mask import decode_hole, hole_of_alpha
from inpaint.picture import Limits, Picture, decode, encode, probe

HEIGHT, WIDTH = 70, 90
PROFILE = bytes(range(256)) * 9


def drawn(channels=3, height=HEIGHT, width=WIDTH):
    """Smooth and noisy at once; each low byte occurs."""
    noise = np.random.default_rng(0).integers(0, 9_000, (height, width, channels))
    ramp = np.linspace(0, 56_000, height * width).reshape(height, width, 1)
    return (noise + ramp).astype(np.uint16)


RGB = drawn()
RGBA = drawn(4)


def seen_by_opencv(data):
    """Samples as an independent decoder has them: (H,W,3) or (H,W,4), RGB first."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return found[..., [2, 1, 0, 3][: found.shape[2]]]


def by_opencv(samples, suffix):
    bgr = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    return cv2.imencode(suffix, bgr)[1].tobytes()


def tiff(samples, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **{"photometric": "rgb", "metadata": None, **options})
    return file.getvalue()


FILES = {
    "png": by_opencv(RGB, ".png"),
    "tiff of opencv": by_opencv(RGB, ".tiff"),  # LZW with predictor
    "plain": tiff(RGB),
    "big-endian": tiff(RGB, byteorder=">"),
    "strips": tiff(RGB, rowsperstrip=7),
    "tiles": tiff(RGB, tile=(32, 48)),
    "planes": tiff(np.moveaxis(RGB, 2, 0).copy(), planarconfig="separate"),
    "planes in tiles": tiff(
        np.moveaxis(RGB, 2, 0).copy(), planarconfig="separate", tile=(32, 32), compression="lzw"
    ),
    "lzw": tiff(RGB, compression="lzw", rowsperstrip=16),
    "lzw, predicted, big-endian": tiff(RGB, compression="lzw", predictor=2, byteorder=">"),
    "deflate, predicted": tiff(RGB, compression="zlib", predictor=2, rowsperstrip=16),
    "packbits": tiff(RGB, compression="packbits"),
    "zstd": tiff(RGB, compression="zstd"),
    "lzma": tiff(RGB, compression="lzma"),
    "bigtiff": tiff(RGB, bigtiff=True),
}


@pytest.mark.parametrize("name", FILES)
def test_every_sample_is_read_and_comes_back(name):
    data = FILES[name]
    header = probe(data)
    assert (header.mode, header.width, header.height) == ("rgb16", WIDTH, HEIGHT)
    picture = decode(data)
    assert picture.samples.dtype == np.uint16
    assert np.array_equal(picture.samples, RGB)
    again = encode(picture)
    assert probe(again).mode == "rgb16"
    assert np.array_equal(seen_by_opencv(again), RGB)
    assert np.array_equal(decode(again).samples, RGB)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("target", ["png", "tiff"])
def test_alpha_is_kept_in_16_bits(suffix, target):
    picture = decode(by_opencv(RGBA, suffix))
    assert probe(by_opencv(RGBA, suffix)).mode == "rgb16+alpha"
    assert np.array_equal(picture.samples, RGBA[..., :3])
    assert np.array_equal(picture.alpha, RGBA[..., 3])
    again = encode(picture, target)
    assert probe(again).mode == "rgb16+alpha"
    assert np.array_equal(seen_by_opencv(again), RGBA)


def test_colours_multiplied_by_alpha_are_divided_again():
    alpha = np.full((HEIGHT, WIDTH, 1), 65_535, np.uint16)
    alpha[:20], alpha[20:40] = 0, 32_768
    stored = np.dstack([(RGB.astype(np.uint64) * alpha // 65_535).astype(np.uint16), alpha])
    picture = decode(tiff(stored, extrasamples=["assocalpha"]))
    assert np.array_equal(picture.samples[40:], RGB[40:])
    assert np.abs(picture.samples[20:40].astype(int) - RGB[20:40]).max() <= 2
    assert np.array_equal(picture.alpha, alpha[..., 0])


@pytest.mark.parametrize(
    ("compression", "number"), [(None, 1), ("lzw", 5), ("zlib", 8), ("packbits", 32773)]
)
def test_a_tiff_keeps_its_compression(compression, number):
    again = encode(decode(tiff(RGB, compression=compression)))
    with tifffile.TiffFile(io.BytesIO(again)) as file:
        assert file.pages.first.compression == number
        assert np.array_equal(file.asarray(), RGB)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x013B] = "Jane Roe"
    exif.get_ifd(0x8769)[0x9003] = "1999:12:31 23:59:59"
    return exif


def described(format, samples=RGB, orientation=1):
    """A file that says much about itself, its samples written by an independent library."""
    if format == "tiff":
        file = io.BytesIO(
            tiff(
                samples,
                iccprofile=PROFILE,
                resolution=(600, 300),
                resolutionunit="inch",
                extratags=[(274, "H", 1, orientation, True), (315, "s", 0, "Jane Roe", True)],
            )
        )
        return file.getvalue()
    small = io.BytesIO()
    exif = exif_of(orientation).tobytes()
    Image.new("RGB", (16, 16)).save(
        small, "PNG", icc_profile=PROFILE, dpi=(600, 300), exif=exif, compress_level=1
    )
    told = small.getvalue()[33 : small.getvalue().index(b"IDAT") - 4]
    gamma = bytes.fromhex("00000004 67414d41 0000b18f 0bfc6105")  # 0.45455, as in PNG's standard
    data = by_opencv(samples, ".png")
    return data[:33] + gamma + told + data[33:]


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize("target", ["same", "png", "tiff", "jpeg"])
def test_profile_exif_and_resolution_are_carried_over(format, target):
    result = Image.open(io.BytesIO(encode(decode(described(format)), target)))
    assert result.info["icc_profile"] == PROFILE
    assert np.allclose(np.asarray(result.info["dpi"], float), (600, 300), atol=0.5)
    result.load()
    exif = result.getexif()
    assert exif[0x013B] == "Jane Roe"
    assert exif.get(0x0112, 1) == 1
    if format == "png":
        assert exif.get_ifd(0x8769)[0x9003] == "1999:12:31 23:59:59"


def test_exif_behind_the_samples_of_a_png_is_found():
    data = described("png")
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4])
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert decode(moved).metadata.exif == decode(data).metadata.exif is not None


def test_gamma_and_colour_space_of_a_png_stay_in_8_and_in_16_bits():
    data = described("png")
    assert dict(decode(data).metadata.colours)[b"gAMA"] == bytes.fromhex("0000b18f")
    assert Image.open(io.BytesIO(encode(decode(data)))).info["gamma"] == 0.45455
    eight = by_opencv(RGB, ".png")
    small = cv2.imencode(".png", rounded(RGB)[..., ::-1])[1].tobytes()
    gamma = data[33:49]
    assert Image.open(io.BytesIO(encode(decode(small[:33] + gamma + small[33:])))).info["gamma"]
    assert "gamma" not in Image.open(io.BytesIO(encode(decode(eight)))).info


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_orientation_is_applied_once(format, orientation):
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: np.rot90(RGB, 2).transpose(1, 0, 2),
        8: np.rot90(RGB),
    }[orientation]
    assert np.array_equal(turned(RGB, orientation), upright)
    picture = decode(described(format, orientation=orientation))
    assert np.array_equal(picture.samples, upright)
    assert picture.metadata.dpi[0] == pytest.approx(300 if orientation >= 5 else 600, abs=0.1)
    again = encode(picture)
    assert probe(again).orientation == 1
    assert np.array_equal(decode(again).samples, upright)


def test_pixels_are_the_nearest_of_8_bits():
    every = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(rounded(every), np.rint(every / 257))
    assert np.array_equal(decode(FILES["png"]).pixels, np.rint(RGB / 257))


@pytest.fixture
def hole():
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[20:50, 30:70] = True
    return hole


@pytest.mark.parametrize("samples", [RGB, RGBA])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_only_the_hole_is_written_and_it_takes_the_fill_widened(samples, suffix, hole):
    fill = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    result = seen_by_opencv(encode(decode(by_opencv(samples, suffix)).with_pixels(fill, hole)))
    assert np.array_equal(result[~hole], samples[~hole])
    assert np.array_equal(result[hole][:, :3], fill[hole].astype(np.uint16) * 257)
    assert np.array_equal(result[..., 3:], samples[..., 3:])


def test_a_feathered_rim_is_blended_in_16_bits(hole):
    before = np.full((HEIGHT, WIDTH, 3), 20_000, np.uint16)
    picture = Picture(before.copy(), None, "tiff")
    rim = Rim(picture.samples, hole, 8)
    filled = picture.with_pixels(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), hole)
    rim.blend(filled.samples)
    profile = filled.samples[20:50, 50, 0].astype(int)
    assert np.all(np.diff(profile[:8]) >= 0)
    assert np.any(profile[:8] % 257)
    assert np.all(profile[8:-8] == 90 * 257)
    assert np.array_equal(filled.samples[~hole], before[~hole])


def test_transparency_of_16_bits_is_a_hole(hole):
    samples = RGBA.copy()
    samples[..., 3] = np.where(hole, 32_000, 33_000)
    picture = decode(by_opencv(samples, ".png"))
    assert np.array_equal(hole_of_alpha(picture), hole)
    opaque = picture.with_pixels(picture.pixels, hole, opaque=True)
    assert np.all(opaque.alpha[hole] == 65_535)
    assert np.all(opaque.alpha[~hole] == 33_000)


def test_a_mask_of_16_bit_colour_is_read(hole):
    white = np.repeat(hole[..., None] * np.uint16(60_000), 3, axis=2)
    assert np.array_equal(decode_hole(by_opencv(white, ".png"), HEIGHT, WIDTH)[0], hole)


@pytest.mark.parametrize("target", ["jpeg", "webp"])
def test_formats_of_8_bits_take_16_rounded_when_asked_by_name(target):
    ramp = np.linspace(0, 65_535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH, 1)
    picture = decode(by_opencv(np.repeat(ramp, 3, axis=2), ".png"))
    result = decode(encode(picture, target, 100))
    assert np.abs(result.pixels.astype(int) - picture.pixels).mean() < 3


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_unreadable(name):
    data = FILES[name]
    if name != "png":  # its directory may stand at the end
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            offsets = file.pages.first.dataoffsets
        if max(offsets) < len(data) // 2:
            return
    with pytest.raises(ImageUnreadable):
        decode(data[: len(data) * 3 // 4])


@pytest.mark.parametrize("name", ["png", "plain", "tiles", "lzw", "deflate, predicted", "zstd"])
def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else(name):
    data = FILES[name]
    generator = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(data)
        for place in generator.integers(0, min(len(data), generator.choice([400, 10**6])), 3):
            damaged[place] = generator.integers(256)
        try:
            picture = decode(bytes(damaged), Limits(max_pixels=10**6))
        except InpaintError:
            continue
        assert picture.pixels.shape == (picture.height, picture.width, 3)
        assert probe(encode(picture)).width == picture.width


def test_a_directory_far_beyond_the_end_is_unreadable():
    data = FILES["bigtiff"]
    far = data[:8] + b"\xff" * 8 + data[16:]
    with pytest.raises(ImageUnreadable):
        decode(far)
    assert orientation(far) == 1  # of EXIF that has this form


def test_a_strip_that_is_missing_is_damage_and_not_black():
    data = bytearray(tiff(RGB, rowsperstrip=7))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        counts = file.pages.first.tags["StripByteCounts"]
        data[counts.valueoffset : counts.valueoffset + 4] = bytes(4)
    with pytest.raises(ImageUnreadable, match="strip or tile 0"):
        decode(bytes(data))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_limits_hold_before_anything_is_decompressed(suffix):
    zeros = by_opencv(np.zeros((3_000, 3_000, 3), np.uint16), suffix)
    assert len(zeros) < 2_000_000
    with pytest.raises(TooManyPixels, match="3000 x 3000"):
        decode(zeros, Limits(max_pixels=8_000_000))


def test_compressions_that_are_not_read_are_refused_by_number():
    data = tiff(RGB, compression="jpegxl")
    with pytest.raises(UnsupportedImage, match="compression 50002.*LZW, Deflate, PackBits"):
        probe(data)


MEMORY = """
import resource, sys
import numpy as np
from inpaint.picture import Limits, Picture, decode, encode
height, width = 2_000, 3_000
samples = np.zeros((height, width, 3), np.uint16)
samples[:] = (np.arange(width, dtype=np.uint16) * 13)[None, :, None]
data = encode(Picture(samples, None, sys.argv[1]))
hole = np.zeros((height, width), bool)
hole[1000:1200, 1000:1200] = True
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
del samples
picture = decode(data, Limits(max_bytes=10**9))
filled = picture.with_pixels(picture.pixels, hole)
encode(filled)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_a_scan_needs_little_more_than_its_samples_and_their_8_bits(format):
    """6 megapixels: 36 MB of samples, 18 MB of pixels."""
    said = subprocess.run(
        [sys.executable, "-c", MEMORY, format], capture_output=True, text=True, check=True
    )
    assert int(said.stdout) < 100_000
