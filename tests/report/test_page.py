"""The page is one file, loads nothing, and cannot be broken by a name."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from cafe.report.page import page
from cafe.report.tables import markdown_report

VOID = {"meta", "source", "img"}


class Structure(HTMLParser):
    """Collects tags, addresses and text, and notes any tag that is not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses, self.text, self.faults = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def parsed(html):
    structure = Structure()
    structure.feed(html)
    return structure


def test_the_page_is_well_formed_and_self_contained(comparison):
    html = page(comparison)
    structure = parsed(html)
    assert structure.faults == [] and structure.open == []
    assert len(structure.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in structure.addresses)
    assert "script" not in structure.tags and "link" not in structure.tags
    assert not re.search(r"url\(|@import", html)


def test_holds_table_settings_provenance_and_every_row(comparison):
    text = " ".join(parsed(page(comparison)).text)
    for expected in ("60.5 ± 1.5", "zero-shot", "few-shot-val", "ab12", "0.1.0", "Every row (3)", "546 test images"):
        assert expected in text, expected
    assert "nan" not in text.lower().split()


def test_text_is_escaped(comparison, make_row, make_entry):
    rows = [make_row("<b>x</b>", 4, 1, 0.5, dataset='a"&<img src=x>')]
    summary = [make_entry("<i>y</i>", 4, 0.5, 0.1)]
    html = page(replace(comparison, title="<script>alert(1)</script>", rows=rows, summary=summary))
    structure = parsed(html)
    assert not {"script", "b", "i"} & set(structure.tags)
    assert structure.tags.count("img") == 1
    assert "<script>alert(1)</script>" in "".join(structure.text)


def test_the_page_says_when_something_was_chosen_on_test_data(comparison, make_row, make_entry):
    assert "chosen on test data</dt><dd>nothing" in page(comparison)
    comparison.rows.append(make_row("tip-adapter", 4, 1, 0.9, selection={"policy": "oracle-test"}))
    comparison.summary.append(make_entry("tip-adapter", 4, 0.9, 0.1, oracle=True))
    html = page(comparison)
    assert "chosen on test data</dt><dd>yes" in html
    assert "tip-adapter †" in html


def test_page_and_table_hold_pairs_published_figures_and_notes(comparison, make_pair, make_published):
    notes = ["linear-probe: it cannot score classes that it has no image of"]
    comparison = replace(comparison, pairs=[make_pair()], published=[make_published()], notes=notes)
    html, table = page(comparison), markdown_report(comparison)
    for words in ("-25.00", "-30.00 to -20.00", "0.0003", "65.96", "-0.96", "exp.log", "cannot score"):
        assert words in html, words
    for words in ("65.96", "-0.96", "exp.log", "cannot score"):
        assert words in table, words
