"""Published tables: as they were printed, and compared only with what is comparable."""

import numpy as np
import pytest

from cafe.compare.published import backbone, beside_published, published_tables
from cafe.report.tables import PAPER_DATASETS


def entry(method, shots, mean, dataset="dtd", encoder="RN50", **more):
    base = {"series": method, "variant": None, "x": None, "part": None, "oracle": False}
    return {**base, "dataset": dataset, "encoder": encoder, "method": method, "shots": shots, "acc1_mean": mean, **more}


@pytest.mark.parametrize("name", list(published_tables()))
def test_every_table_has_its_source_and_plausible_figures(name):
    table = published_tables()[name]
    assert table["source"] and table["protocol"] and table["backbone"]
    assert table["chosen_on_test"] in (True, False, None)
    for row in table["rows"]:
        assert row["method"] and row["label"] and row["shots"] in (0, 1, 2, 4, 8, 16)
        assert all(5 < value < 100 for value in row.get("acc1", {}).values())


@pytest.mark.parametrize(
    "name", ["tip_adapter_log", "ape_collation", "cross_modal", "gda", "vit_b16_collation", "clip_adapter_figure"]
)
def test_averages_are_those_printed(name):
    """A digit lost in copying would move an average; three published averages are off by more than rounding."""
    complete = [row for row in published_tables()[name]["rows"] if len(row["acc1"]) == len(PAPER_DATASETS)]
    rows = [row for row in complete if row["average"] is not None]
    assert rows
    off = [(r["label"], r["shots"]) for r in rows if abs(np.mean(list(r["acc1"].values())) - r["average"]) > 0.06]
    assert len(off) <= 3, off


def test_backbones_are_read_from_encoder_names():
    names = {
        "openai/clip-vit-base-patch32": "ViT-B/32", "openai/clip-vit-large-patch14": "ViT-L/14", "ViT-B-16": "ViT-B/16",
        "open_clip:ViT-B-32/laion2b": "ViT-B/32", "RN50": "RN50", "RN50x16": "RN50x16", "cafe:mini": None,
    }  # fmt: skip
    assert {name: backbone(name) for name in names} == names


def test_difference_only_where_the_backbone_is_the_same():
    (same,) = [row for row in beside_published([entry("clip-adapter", 16, 0.65)]) if row["table"] == "tip_adapter_log"]
    assert (same["published"], same["here"]) == (65.96, 65.0)
    assert same["difference"] == pytest.approx(-0.96)
    other = beside_published([entry("clip-adapter", 16, 0.65, encoder="ViT-B-32")])
    assert other and all(row["difference"] is None for row in other)
    assert {row["backbone_here"] for row in other} == {"ViT-B/32"}


def test_nothing_stands_beside_what_was_not_published():
    assert beside_published([entry("clip-adapter", 3, 0.65)]) == []
    assert beside_published([entry("clip-adapter", 16, 0.65, dataset="digits")]) == []
    assert beside_published([entry("clip-adapter", 16, 0.65, oracle=True)]) == []
    assert beside_published([entry("clip-adapter", 16, 0.65, x=0.2)]) == []
    assert beside_published([entry("clip-adapter", 16, 0.65, variant="text")]) == []
    assert beside_published([entry("clip-adapter", 16, None)]) == []


def test_shift_is_compared_part_by_part():
    rows = beside_published([entry("zero-shot", 0, 0.5, dataset="imagenet", part="imagenet-v2")])
    assert {row["published"] for row in rows} >= {51.3, 53.27}
