"""The codec: each part against a formula or a library, then bytes that decode."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.stats
import torch
from art_atmc_distortion import Hinge
from art_atmc_distortion.codec import (
    Architecture,
    Codec,
    Coder,
    Photographs,
    Recipe,
    bd_rate,
    calibrate,
    distortion,
    load,
    ms_ssim,
    mse,
    psnr,
    save,
    train,
)
from art_atmc_distortion.codec.photographs import opened
from art_atmc_distortion.codec.prior import Prior, bits, passes
from art_atmc_distortion.codec.references import jpeg, over, webp
from art_atmc_distortion.codec.transform import CHANNELS, COLOURS, FREQUENCIES, GROUPS, basis, blocks, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch.set_num_threads(1)
SMALL = Architecture(hidden=8, transform=8, filter=4)


def smooth(height=96, width=128, seed=0):
    """An image with edges and texture."""
    random = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(random.normal(size=(height, width, 3)), (3, 3, 0))
    steps = np.indices((height, width)).sum(0)[:, :, None] // 32 % 2
    return np.clip(128 + 400 * noise + 40 * steps, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs():
    return Photographs([smooth(seed=seed) for seed in range(4)])


@pytest.fixture(scope="module")
def codec(photographs):
    torch.manual_seed(0)
    made = Codec(SMALL)
    train(made, photographs, Recipe(at_most=60.0, steps=40, batch=2, side=32))
    return made


@pytest.fixture(scope="module")
def coder(codec):
    return Coder(codec)


def test_the_transform_is_orthonormal_and_that_of_scipy():
    matrix = basis().double()
    assert torch.allclose(matrix @ matrix.T, torch.eye(CHANNELS, dtype=torch.float64), atol=1e-6)
    block = np.random.default_rng(0).normal(size=(3, 8, 8))
    mixed = np.einsum("cd,dhw->chw", COLOURS.double().numpy(), block)
    planes = scipy.fft.dctn(mixed, axes=(1, 2), norm="ortho")
    found = matrix.numpy() @ block.reshape(-1)
    assert np.allclose(found[:3], planes[:, 0, 0], atol=1e-6)
    brightness = [planes[0][frequency] for frequency in FREQUENCIES[1:]]
    assert np.allclose(found[3 : GROUPS[3]], brightness, atol=1e-6)
    colour = [planes[c][frequency] for frequency in FREQUENCIES[1:] for c in (1, 2)]
    assert np.allclose(found[GROUPS[3] :], colour, atol=1e-6)


def test_blocks_are_put_back():
    images = torch.randn(2, 3, 24, 16)
    assert torch.equal(pixels(blocks(images)), images)
    assert torch.equal(blocks(images)[0, :64, 1, 0].reshape(8, 8), images[0, 0, 8:16, :8])


@given(st.integers(-40, 40), st.floats(-30, 30), st.floats(-3, 4))
@settings(deadline=None, max_examples=60)
def test_bits_are_those_of_a_laplace_distribution(symbol, mean, scale):
    law = scipy.stats.laplace(mean, math.exp(scale))
    above = law.sf(symbol - 0.5) - law.sf(symbol + 0.5)
    chance = above if symbol > mean else law.cdf(symbol + 0.5) - law.cdf(symbol - 0.5)
    expected = min(-math.log2(chance), 24) if chance > 0 else 24
    found = float(bits(*(torch.tensor(float(v), dtype=torch.float64) for v in (symbol, mean, scale))))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (9, 8)])
def test_passes_cover_each_position_once(group, shape):
    assert torch.equal(torch.stack(passes(group, *shape)).sum(0), torch.ones(shape, dtype=torch.int64))


def test_expectations_know_only_what_was_decoded():
    """A symbol changes nothing of what is expected of itself and of those before it."""
    torch.manual_seed(0)
    prior = Prior(8)
    for network in prior.networks:
        torch.nn.init.normal_(network[-1].weight)
    symbols = torch.randint(-3, 4, (1, CHANNELS, 6, 5)).float()

    def expected(given):
        order = []

        def choose(group, mask, mean, scale):
            order.append((group, mask, mean[:, :, mask].clone()))
            return given[:, group] * mask

        prior((1, 6, 5), choose)
        return order

    before = expected(symbols)
    for place in (0, 3, 6, len(before) - 1):
        group, mask, _ = before[place]
        changed = symbols.clone()
        changed[:, group] += 7 * mask
        after = expected(changed)
        for earlier in range(place + 1):
            assert torch.equal(before[earlier][2], after[earlier][2])
        if place < len(before) - 1:
            assert not torch.equal(before[place + 1][2], after[place + 1][2])


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (7, 129), (65, 33)])
def test_bytes_decode_to_what_was_encoded(coder, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    restored = coder.decode(coder.encode(image))
    assert restored.shape == image.shape
    assert np.array_equal(restored, coder.reconstruct(image))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.booleans())
@settings(deadline=None, max_examples=10)
def test_any_image_decodes(coder, height, width, seed, flat):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (1 if flat else height, 1 if flat else width, 3), dtype=np.uint8)
    image = np.broadcast_to(image, (height, width, 3)).copy()
    assert np.array_equal(coder.decode(coder.encode(image)), coder.reconstruct(image))


def test_bytes_are_those_that_training_counts(codec, coder):
    image = smooth(128, 192, seed=9)
    with torch.no_grad():
        rate = float(codec(torch.from_numpy(image).permute(2, 0, 1)[None].float()).rate)
    ideal = rate * 128 * 192 / 8
    assert abs(len(coder.encode(image)) - ideal) <= 0.01 * ideal + 20


def test_damaged_bytes_are_no_image(coder):
    data = coder.encode(smooth(40, 40))
    for broken in (data[:-9], data[:20], data[:14], data[:30] + bytes([data[30] ^ 16]) + data[31:]):
        with pytest.raises(ValueError, match="damaged"):
            coder.decode(broken)
    for foreign in (b"", b"\x89PNG" + data, data[1:]):
        with pytest.raises(ValueError, match="no image of this codec"):
            coder.decode(foreign)
    huge = data[:6] + b"\xff\x7f\xff\x7f" + data[10:]
    with pytest.raises(ValueError, match="announces 32767 x 32767 pixels"):
        coder.decode(huge)
    other = Coder(Codec(SMALL))
    with pytest.raises(ValueError, match="give the model that encoded it"):
        other.decode(data)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((8, 8, 3)), TypeError, "uint8, got float64"),
        ([[1]], TypeError, "uint8, got list"),
        (np.zeros((8, 8), np.uint8), ValueError, "repeat the one channel"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, "leave transparency out"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "got 0 x 8"),
        (np.zeros((1, 2**15, 3), np.uint8), ValueError, "1 to 32767"),
        (np.zeros((4096, 1025, 3), np.uint8), ValueError, "at most 4194304 pixels"),
    ],
)
def test_what_is_no_image_is_refused(coder, image, error, message):
    with pytest.raises(error, match=message):
        coder.encode(image)


def test_images_of_other_modes_are_read_or_refused(tmp_path):
    for mode, channels in (("L", 1), ("P", 1), ("RGB", 3), ("1", 1), ("CMYK", 4)):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4)).save(path)
        assert opened(path).shape == (4, 5, 3), channels
    for mode in ("RGBA", "LA"):
        Image.new(mode, (5, 4)).save(tmp_path / "clear.png")
        with pytest.raises(ValueError, match="transparency"):
            opened(tmp_path / "clear.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="no image that Pillow reads"):
        opened(tmp_path / "text.png")
    with pytest.raises(ValueError, match="holds no PNG"):
        Photographs.of(tmp_path / "nothing")


def test_training_goes_on_bit_for_bit(photographs, tmp_path):
    recipe = Recipe(at_most=60.0, steps=6, batch=1, side=16)
    results = []
    for name, stops in (("whole", [6]), ("parts", [3, 6])):
        for stop in stops:
            torch.manual_seed(0)
            codec = Codec(SMALL)
            file = tmp_path / f"{name}.pt"
            if stop < 6:
                with pytest.raises(KeyboardInterrupt):
                    train(codec, Stopping(photographs, stop), recipe, checkpoint=file, every=1)  # type: ignore[arg-type]
            else:
                rows = train(codec, photographs, recipe, checkpoint=file, every=1)
        results.append((rows, codec.state_dict()))
    (whole, first), (parts, second) = results
    assert whole == parts
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="give another file or the same recipe"):
        train(Codec(SMALL), photographs, dataclasses.replace(recipe, rule=Hinge(3.0)), checkpoint=file)


def test_the_multiplier_is_moved_by_what_the_bound_is_to_be_met_on(photographs):
    """A flat image has hardly an error and noise a large one, whatever the photographs have."""
    random = np.random.default_rng(0)
    noise = torch.from_numpy(random.integers(0, 256, (6, 3, 16, 16))).float()
    recipe = Recipe(at_most=20.0, steps=4, frozen=0.0, batch=1, side=16)
    for held_out, rises in ((torch.full_like(noise, 77.0), False), (noise, True)):
        torch.manual_seed(0)
        rows = train(Codec(SMALL), photographs, recipe, held_out=held_out)
        multipliers = [row.multiplier for row in rows]
        assert multipliers == sorted(multipliers, reverse=not rises)
        assert len(set(multipliers)) == 4


class Stopping:
    """Photographs that end after some batches."""

    def __init__(self, photographs, stop):
        self.photographs, self.stop = photographs, stop

    def batches(self, *arguments):
        for place, batch in enumerate(self.photographs.batches(*arguments)):
            if place == self.stop:
                raise KeyboardInterrupt
            yield batch


def test_calibration_meets_the_bound_or_says_so(codec, photographs):
    copy = Codec(SMALL)
    copy.load_state_dict(codec.state_dict())
    patches = photographs.held_out(12, 32)
    at_most = 1.2 * distortion(copy, patches)[1]
    found = calibrate(copy, patches, at_most, tolerance=0.01)
    assert 0.99 * at_most <= found <= at_most
    assert found == distortion(copy, patches)[1]
    before = float(copy.fineness)
    with pytest.raises(ValueError, match="train to a bound near it"):
        calibrate(copy, patches, 1e-3)
    assert float(copy.fineness) == before


def test_a_saved_codec_encodes_alike(codec, coder, tmp_path):
    save(codec, tmp_path / "codec.pt")
    assert Coder(load(tmp_path / "codec.pt")).fingerprint == coder.fingerprint
    (tmp_path / "other.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no codec"):
        load(tmp_path / "other.pt")


def test_held_out_corners_are_not_trained_on():
    image = np.zeros((100, 100, 3), np.uint8)
    image[-24:, -24:] = 255
    found = Photographs([image])
    random = np.random.default_rng(0)
    batches = found.batches(8, 16, random)
    assert not any(next(batches).any() for _ in range(20))
    assert found.held_out(9, 16).mean() > 200


@pytest.mark.parametrize(
    ("recipe", "message"), [({"side": 20}, "multiple of 8"), ({"at_most": 0}, "`at_most`"), ({"steps": 0}, "`steps`")]
)
def test_bad_recipes_are_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"at_most": 60.0, **recipe})


def test_a_distortion_that_is_not_a_number_ends_the_training(photographs):
    broken = Codec(SMALL)
    with torch.no_grad():
        broken.log_step[0] = math.nan
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        train(broken, photographs, Recipe(at_most=60.0, steps=1, batch=1, side=16))


def test_bd_rate_of_known_curves():
    curve = [(0.2, 28.0), (0.5, 31.0), (1.0, 34.0), (1.9, 37.5)]
    assert bd_rate(curve, curve) == 0
    assert bd_rate([(1.1 * rate, q) for rate, q in curve], curve) == pytest.approx(0.1)
    assert bd_rate(curve, curve, (30, 34)) == 0
    with pytest.raises(ValueError, match="the curves meet over"):
        bd_rate(curve, curve, (20, 30))
    with pytest.raises(ValueError, match="no range"):
        bd_rate(curve, [(1.0, 40.0), (2.0, 50.0)])


# Means over the 24 Kodak images as CompressAI publishes them (results/image/kodak of its repository).
JPEG = [
    (0.2212, 23.780), (0.3266, 26.577), (0.4231, 28.042), (0.5084, 29.042), (0.5879, 29.785), (0.6601, 30.378),
    (0.7289, 30.903), (0.7860, 31.308), (0.8497, 31.705), (0.9060, 32.059), (0.9644, 32.399), (1.0372, 32.790),
    (1.1274, 33.235), (1.2398, 33.793), (1.3688, 34.394), (1.5718, 35.239), (1.8588, 36.329), (2.3502, 37.912),
    (3.4013, 40.557),
]  # fmt: skip
WEBP = [
    (0.2344, 28.328), (0.2963, 29.151), (0.3529, 29.821), (0.4070, 30.407), (0.4608, 30.939), (0.5127, 31.443),
    (0.5674, 31.936), (0.6207, 32.425), (0.6747, 32.883), (0.7218, 33.238), (0.7709, 33.607), (0.8237, 33.972),
    (0.8740, 34.328), (0.9343, 34.693), (0.9984, 35.104), (1.2163, 36.369), (1.5201, 37.778), (2.0104, 39.557),
    (2.9285, 41.759),
]  # fmt: skip
HYPERPRIOR = [
    (0.1313, 27.582), (0.2089, 29.197), (0.3199, 30.972), (0.4784, 32.838), (0.6687, 34.526), (0.9388, 36.743),
    (1.2592, 38.584), (1.6602, 40.557),
]  # fmt: skip


def test_bd_rate_of_published_curves():
    assert bd_rate(WEBP, JPEG) == pytest.approx(-0.361, abs=0.01)
    assert bd_rate(HYPERPRIOR, JPEG) == pytest.approx(-0.551, abs=0.01)
    assert bd_rate(HYPERPRIOR, WEBP) == pytest.approx(-0.287, abs=0.01)


def test_ms_ssim_is_that_of_scipy():
    image = smooth(176, 180)
    other = np.clip(image.astype(int) + np.random.default_rng(0).integers(-20, 20, image.shape), 0, 255).astype(
        np.uint8
    )

    def blurred(x):
        # A window of 11 is a Gaussian cut off 5 pixels away; its inside has no border.
        full = scipy.ndimage.gaussian_filter(x, 1.5, truncate=5 / 1.5, axes=(0, 1))
        return full[5:-5, 5:-5]

    total = np.ones(3)
    a, b = image.astype(float), other.astype(float)
    for place, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        ma, mb = blurred(a), blurred(b)
        cs = (2 * (blurred(a * b) - ma * mb) + 58.5225) / (blurred(a * a) - ma**2 + blurred(b * b) - mb**2 + 58.5225)
        value = cs * (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025) if place == 4 else cs
        total *= value.mean(axis=(0, 1)) ** weight
        a, b = (x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2] for x in (a, b))
        a, b = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4 for x in (a, b))
    assert ms_ssim(image, other) == pytest.approx(total.mean(), abs=1e-6)
    with pytest.raises(ValueError, match="at least 176"):
        ms_ssim(image[:100], other[:100])


@pytest.mark.parametrize(("codec_of", "kind"), [(jpeg, "JPEG"), (webp, "WEBP")])
def test_references_count_the_bytes_of_their_files(codec_of, kind, tmp_path):
    options = {"optimize": True} if kind == "JPEG" else {"method": 6}
    Image.fromarray(smooth()).save(tmp_path / "image", kind, quality=50, **options)
    size, restored = codec_of(50)(smooth())
    assert size == (tmp_path / "image").stat().st_size
    point = over([smooth()], codec_of(50))
    assert (point.bpp, point.psnr) == (8 * size / (96 * 128), psnr(smooth(), restored))


def test_decibels_and_errors_are_inverse():
    assert 10 * math.log10(255**2 / mse(31.4)) == pytest.approx(31.4)
    assert psnr(smooth(), smooth()) == math.inf


@pytest.mark.slow
def test_another_process_with_other_threads_decodes_alike(codec, coder, tmp_path):
    image = smooth(120, 100)
    save(codec, tmp_path / "codec.pt")
    (tmp_path / "image.bin").write_bytes(coder.encode(image))
    script = (
        "import sys, pathlib, torch, numpy\n"
        "torch.set_num_threads(2)\n"
        "from art_atmc_distortion.codec import Coder, load\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "image = Coder(load(folder / 'codec.pt')).decode((folder / 'image.bin').read_bytes())\n"
        "numpy.save(folder / 'image.npy', image)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert np.array_equal(np.load(tmp_path / "image.npy"), coder.decode(coder.encode(image)))
