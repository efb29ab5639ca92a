"""``cafe extract --decoder``: by name only, and never a cache of the other decoder."""

from __future__ import annotations

import pytest


@pytest.fixture
def photos(make_photos):
    """JPEG files, which alone have a choice of decoder."""
    return make_photos("jpg")


def test_a_named_file_of_the_other_decoder_is_refused(cafe, photos, tmp_path):
    pytest.importorskip("simplejpeg", reason="the extra [simplejpeg] is not installed")
    ask = ("extract", "--dataset", photos, "--out", tmp_path / "a.h5", "--device", "cpu")
    assert cafe(*ask).code == 0
    before = (tmp_path / "a.h5").read_bytes()
    refused = cafe(*ask, "--decoder", "simplejpeg")
    assert refused.code == 2
    assert "image.decoder" in refused.err and '"simplejpeg" was asked for' in refused.err
    assert (tmp_path / "a.h5").read_bytes() == before


def test_an_unknown_decoder_is_refused(cafe, photos):
    refused = cafe("extract", "--dataset", photos, "--decoder", "simplejpg")
    assert refused.code == 2
    assert "unknown decoder 'simplejpg'" in refused.err and "did you mean 'simplejpeg'?" in refused.err
