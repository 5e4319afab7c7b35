"""What the tests of operations share."""

import pytest


@pytest.fixture(scope="session")
def torchvision():
    """The module; the extra `parity` has it."""
    pytest.importorskip("torch")
    from benchmarks.torchvision_peer import import_torchvision

    return import_torchvision()[1]
