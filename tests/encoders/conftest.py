"""Tiny random models in the layouts of both libraries."""

import pytest

from cafe.encoders.examples import save_tiny_open_clip


@pytest.fixture(scope="session")
def open_clip():
    """The library; the test is skipped where it is not installed, or its torchvision does not fit torch."""
    try:
        import open_clip
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        pytest.skip(f"open_clip cannot be imported here: {str(error).splitlines()[0]}")
    return open_clip


@pytest.fixture(scope="session")
def make_open_clip(open_clip):
    """The function that saves a tiny model of open_clip: ``make_open_clip(folder, vision=..., preprocess=...)``."""
    return save_tiny_open_clip


@pytest.fixture(scope="session")
def tiny_open_clip(make_open_clip, tmp_path_factory):
    """One tiny model of open_clip for the whole session, as what --model takes; only read it."""
    folder = tmp_path_factory.mktemp("open-clip") / "tiny"
    make_open_clip(folder)
    return f"open_clip:local-dir:{folder}"
