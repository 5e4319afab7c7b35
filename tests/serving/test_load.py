"""Many requests of many clients at once."""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from fcos_tf.data.images import ImageError
from fcos_tf.detecting.served import ServedModel
from tests.export.encoded import save, with_texts
from tests.serving.asking import REFUSED, ask, b64, difference, found_in, picture, predicted
from tests.serving.conftest import LIMITS

BROKEN_EVERY = 20  # 5 %


MIB_OF_LIMITS = 12 * LIMITS.pixels / 2**20 + 32 * LIMITS.images  # as docs/serving.md states it


def resident_mib(process, what="VmRSS"):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{what}:\s*(\d+) kB", status)[1]) / 2**10


def forget_peak(process):
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def worst(kind, side, **options):
    """An image of one colour: the fewest bytes for its pixels."""
    return save(Image.new("RGB", (side, side), (90, 120, 30)), kind, **options)


def test_the_worst_request_within_the_limits_needs_what_is_stated(server):
    """One image, or eight, of as many pixels as are allowed, in every format."""
    address, process = server
    side = math.isqrt(LIMITS.pixels)
    part = math.isqrt(LIMITS.pixels // LIMITS.images)
    progressive = {"progressive": True, "subsampling": 0}
    frames = [Image.new("RGB", (side, side), (level, 0, 0)) for level in range(8)]
    files = {
        "png": [worst("PNG", side)],
        "webp": [worst("WEBP", side)],
        "lossless webp": [worst("WEBP", side, lossless=True)],
        "animated webp": [save(frames[0], "WEBP", save_all=True, append_images=frames[1:])],
        "jpeg": [worst("JPEG", side)],
        "progressive jpeg": [worst("JPEG", side, **progressive)],
        "eight progressive jpegs": [worst("JPEG", part, **progressive)] * 8,
        "eight pngs with texts": [with_texts(worst("PNG", part), 4)] * 8,
    }
    for name, images in files.items():
        forget_peak(process)
        before = resident_mib(process)
        code, answer = ask(f"{address}:predict", {"instances": [b64(data) for data in images]})
        needed = resident_mib(process, "VmHWM") - before
        print(f"{name}: {sum(map(len, images))} bytes, {needed:.0f} of {MIB_OF_LIMITS:.0f} MiB")
        assert code == 200, (name, answer)
        assert needed < MIB_OF_LIMITS, name


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mixed_requests_of_eight_clients(model, server, photos, count):
    """None is lost, none is wrong; memory stays once all kinds (the first 920) have come."""
    address, process = server
    pixels = load_sample_image("flower.jpg")[100:132, 200:248]
    groups = [*([data] for data in photos), photos[:2], photos[3:6], [pixels]]
    expected = [predicted(model, group) for group in groups]
    broken = [item for item in REFUSED if item[0] == ":predict" and item[1] is not None]
    client = ServedModel(address)

    def answer(i):
        """None where the answer to request `i` is right, or what is wrong."""
        turn, place = divmod(i, BROKEN_EVERY)
        if place == 7 and turn % 2:
            try:
                return f"no error: {client.detect([picture(photos[2][: 1000 + i])])}"
            except ImageError:
                return None
        if place == 7:
            suffix, body, status, message = broken[turn // 2 % len(broken)]
            code, got = ask(f"{address}{suffix}", body)
            right = code == status and re.search(message, got["error"])
            return None if right else f"{code}: {got}"
        kind = i % len(groups)
        if groups[kind][0] is pixels:
            request = {"signature_name": "detect_images", "instances": [pixels.tolist()]}
            code, got = ask(f"{address}:predict", request)
            found = found_in(got["predictions"])
        else:
            found = client.detect([picture(data) for data in groups[kind]])
        return difference(found, expected[kind])

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(answer, range(count // 2)))
        before = resident_mib(process)
        forget_peak(process)
        answers += clients.map(answer, range(count // 2, count))
        after, peak = resident_mib(process), resident_mib(process, "VmHWM")
    assert answers == [None] * count
    print(f"{count} requests: {before:.0f} MiB after half, {after:.0f} after all, most {peak:.0f}")
    assert after < before + 40
    assert peak < before + 8 * MIB_OF_LIMITS
