"""Many requests of many clients at once."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sklearn.datasets import load_sample_image

from fcos_tf.data.images import ImageError
from fcos_tf.detecting.served import ServedModel
from tests.serving.asking import REFUSED, ask, difference, found_in, picture, predicted

BROKEN_EVERY = 20  # 5 %


def resident_mib(process):
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_mixed_requests_of_eight_clients(model, server, photos, count):
    """None is lost, none is wrong, and memory stays where it is."""
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
        answers += clients.map(answer, range(count // 2, count))
        after = resident_mib(process)
    assert answers == [None] * count
    print(f"{count} requests: {before:.0f} MiB after half of them, {after:.0f} MiB after all")
    assert after < before + 40
