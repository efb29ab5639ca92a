"""The model card of a run: README.md in the Hub's format, made of what run.json says and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.encoders.opening import MINI, known_model
from cafe.errors import InputError
from cafe.files import replacing
from cafe.report.sentences import percent
from cafe.runs import CARD_FILE, read_run

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_METRIC_NAMES = {
    "acc1": ("accuracy", "Accuracy"),
    "mean_per_class_recall": ("balanced_accuracy", "Balanced accuracy"),
    "ece": ("ece", "Expected calibration error"),
}
_MOST_SHOWN = 50  # class names


def write_card(run: Path) -> None:
    """Write the card of a run into its folder; one that is there is replaced."""
    with replacing(run / CARD_FILE) as temporary:
        temporary.write_text(model_card(read_run(run)), encoding="utf-8")


def model_card(document: Mapping[str, Any]) -> str:
    """Write the card of a run.

    Parameters
    ----------
    document : mapping
        Contents of ``run.json``.

    Returns
    -------
    str
        Markdown, with a head in YAML: ``base_model``, ``library_name``, ``pipeline_tag``, ``license``, ``datasets``,
        ``metrics`` and ``model-index``.

    Examples
    --------
    >>> card = model_card({"method": "zero-shot", "encoder": "openai/clip-vit-base-patch32", "class_names": ["a", "b"]})
    >>> card.splitlines()[:4]
    ['---', 'library_name: "cafe"', 'pipeline_tag: "image-classification"', 'license: "mit"']
    """
    row: Mapping[str, Any] = document.get("row") or {}
    names = [str(name) for name in document.get("class_names") or ()]
    provenance = document.get("provenance") or {}
    dataset = str(row.get("dataset") or provenance.get("dataset") or "unnamed")
    title = f"{_plain(dataset)}: {len(names)} classes, {document['method']} on {_plain(_encoder_name(document))}"
    parts = [
        _head(document, row, dataset),
        f"# {title}",
        f"An image classifier fitted by cafe {document.get('cafe_version', '')} on "
        "features of a frozen encoder. This folder holds the fitted part alone; the encoder is downloaded, or named "
        "with `--model`.",
        _use(),
        "## Classes",
        _listed(names),
        "## Encoder",
        _encoder(document),
        "## Data and protocol",
        _protocol(row, provenance, dataset),
        "## How good it is",
        _metrics(row),
        "## Thresholds",
        _thresholds(document),
        "## Limits",
        _limits(row, names),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def check_card(run: Path) -> None:
    """Refuse a card that was edited so that it says something else than the run.

    Text may be added and changed as one likes; the head must stay YAML, and name this base model and these metrics.

    Raises
    ------
    InputError
        If it is missing or does not; the message says what differs.
    """
    import yaml

    path = run / CARD_FILE
    again = "write it anew by removing it and running the command again"
    if not path.is_file():
        raise InputError(f"{run} has no model card ({CARD_FILE}); {again}")
    heads = []
    for text in (path.read_text(encoding="utf-8", errors="replace"), model_card(read_run(run))):
        head_match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text, flags=re.S)
        try:
            head = yaml.safe_load(head_match[1]) if head_match else None
        except yaml.YAMLError:
            head = None
        if not isinstance(head, dict):
            raise InputError(f"{path} has no head in YAML between two lines of ---, as the Hub needs; {again}")
        heads.append(head)
    for key in ("library_name", "pipeline_tag", "base_model", "base_model_revision", "model-index"):
        if heads[0].get(key) != heads[1].get(key):
            raise InputError(f"{path} was edited: its {key} is not what the run says; {again}")


def licence_of(model: str) -> str:
    """Return the licence of a model's weights as the Hub writes it; ``"other"`` where it is not known here.

    Examples
    --------
    >>> licence_of("cafe:mini"), licence_of("facebook/metaclip-b32-400m"), licence_of("my/own")
    ('mit', 'cc-by-nc-4.0', 'other')
    """
    known = known_model(model)
    return (known.licence if known and known.licence else "other").lower()


def _head(document: Mapping[str, Any], row: Mapping[str, Any], dataset: str) -> str:
    """Return the front matter of the card: licence, tags, base model and results."""
    encoder = str(document.get("encoder") or "")
    head: dict[str, Any] = {
        "library_name": "cafe",
        "pipeline_tag": "image-classification",
        "license": licence_of(encoder),
    }
    if head["license"] == "other":
        head["license_name"] = "that-of-the-base-model"
    if _HUB_ID.fullmatch(encoder):
        head["base_model"] = encoder
        revision = _revision(document)
        if revision:
            head["base_model_revision"] = revision
    head |= {
        "datasets": [_plain(dataset)],
        "metrics": ["accuracy"],
        "tags": ["few-shot", "clip", "image-classification", str(document["method"])],
    }
    if row.get("acc1") is not None:
        head["model-index"] = [
            {
                "name": _plain(f"{dataset}-{document['method']}"),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": _plain(dataset), "type": _plain(dataset)},
                        "metrics": [
                            {"type": kind, "name": name, "value": row[key]}
                            for key, (kind, name) in _METRIC_NAMES.items()
                            if row.get(key) is not None
                        ],
                    }
                ],
            }
        ]
    # JSON is YAML, and quotes whatever names hold.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    return "\n".join(["---", *lines, "---"])


def _use() -> str:
    """Return the section on how to use the classifier."""
    return (
        '```python\nimport cafe\n\nclassifier = cafe.Classifier.load(".")  # this folder; or .from_pretrained(REPO)\n'
        'classifier.predict(["image.jpg"])\n```'
    )


def _encoder_name(document: Mapping[str, Any]) -> str:
    """Return the encoder's name, of two both; of a folder its last part, for the rest is nobody's business."""
    names = map(str, document.get("encoders") or [document.get("encoder") or "an unnamed encoder"])
    return "+".join(Path(name).name if Path(name).is_absolute() else name for name in names)


def _encoder(document: Mapping[str, Any]) -> str:
    """Return the section on the encoder (on both, if two are joined): name, revision, checksum and licence."""
    if both := document.get("encoders"):
        parts = (document.get("provenance") or {}).get("joined") or [{}] * len(both)
        return "\n".join(
            _encoder({"encoder": name, "provenance": part}) for name, part in zip(both, parts, strict=True)
        )
    encoder, licence = str(document.get("encoder") or ""), licence_of(str(document.get("encoder") or ""))
    image = ((document.get("provenance") or {}).get("image") or {}).get("encoder") or {}
    lines = [f"- base model: `{_plain(_encoder_name(document))}`, frozen"]
    if encoder == MINI:
        lines.append("- it comes with cafe; it knows digits and simple shapes, and little of photographs")
    lines.append(f"- revision: {_revision(document) or 'a folder or an embedded model, which has none'}")
    if image.get("weights_sha256"):
        lines.append(f"- SHA-256 of its image weights: `{image['weights_sha256']}`; another model is refused")
    said = licence if licence != "other" else "not known here; that of the base model applies"
    lines.append(f"- licence of the base model: {said}")
    return "\n".join(lines)


def _revision(document: Mapping[str, Any]) -> str | None:
    """Return the revision of the encoder, None if it has none."""
    recorded = (document.get("provenance") or {}).get("recorded") or {}
    revision = (recorded.get("image") or {}).get("revision")
    return None if revision is None else str(revision)


def _protocol(row: Mapping[str, Any], provenance: Mapping[str, Any], dataset: str) -> str:
    """Return the section on how the classifier was trained and tested."""
    lines = [f"- data set: {_plain(dataset)}"]
    made_of = (provenance.get("image") or {}).get("dataset")
    origin = made_of.get("split_origin") if isinstance(made_of, Mapping) else None
    if origin:
        lines.append(f"- its split: {_plain(str(origin))}")
    if row:
        shots = "all training images" if row.get("shots") is None else f"{row['shots']} images a class"
        lines.append(f"- trained on {row.get('n_train', 0):,} images ({shots}, seed {row.get('seed')})")
        if row.get("tested_by"):
            lines.append(
                f"- tested on {row['n_test']:,} images that the tested fit had not seen, by {row['tested_by']}"
            )
        else:
            lines.append("- not tested")
        if row.get("refitted_on"):
            lines.append(f"- kept is a fit on all {row['refitted_on']:,} labelled images, made after the test")
        lines.append(f"- settings were chosen on: {row.get('chosen_on', 'nothing')}")
        if row.get("cache_fingerprint"):
            lines.append(f"- fingerprint of the features: `{row['cache_fingerprint']}`")
    return "\n".join(lines)


def _metrics(row: Mapping[str, Any]) -> str:
    """Return the section on accuracy and calibration."""
    if row.get("acc1") is None:
        return "It was not tested, so nothing is known of how good it is."
    interval = " to ".join(percent(end, 2) for end in row.get("acc1_interval") or ())
    table = [("accuracy", percent(row["acc1"], 2), interval)]
    for key, name in (
        ("mean_per_class_recall", "balanced accuracy"),
        ("majority_acc1", "the most frequent class alone"),
        ("zero_shot_acc1", "zero-shot, by text alone"),
        ("ece", "expected calibration error"),
    ):
        if row.get(key) is not None:
            table.append((name, percent(row[key], 2), ""))
    lines = ["| metric | value | 95 % interval |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} | {interval} |" for name, value, interval in table)])


def _thresholds(document: Mapping[str, Any]) -> str:
    """Return the section on temperature, the threshold of unknown images, and sets of classes."""
    promises = document.get("promises") or {}
    if not promises:
        return "There are none: the labelled images were too few, or it was fitted without."
    temperature = float(promises.get("used_temperature", 1.0))
    said = "none, for none is sure to help" if temperature == 1.0 else f"logits are divided by {temperature:.3f}"
    lines = [f"- temperature: {said}"]
    thresholds = promises.get("thresholds") or {}
    thresholds = thresholds.get("mapping", thresholds)
    for rate, value in _entries(thresholds.get("unknown")):
        lines.append(f"- unknown, at a rate of false alarms of {rate}: a score above {value:.4f}")
    for coverage, value in _entries(thresholds.get("set")):
        lines.append(f"- in the set of classes, at a coverage of {coverage}: 1 - probability up to {value:.4f}")
    return "\n".join(lines)


def _entries(values: Any) -> list[tuple[str, float]]:
    """Return thresholds by rate or coverage."""
    values = (values or {}).get("mapping", values) or {}
    return [(str(key), float(value)) for key, value in values.items()]


def _limits(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the section on what the classifier cannot do, and its weakest classes."""
    lines = [
        "- It names one of its classes for any image. Images of none of them are called unknown at the rate above, and "
        "not more surely than that.",
        "- Figures hold for images like those it was tested on: other cameras, places and times are other images.",
        "- What the encoder's own card says of its training data and biases holds for this classifier too.",
    ]
    untested = [_plain(str(name)) for name in row.get("untested_classes") or ()]
    if untested:
        lines.append(f"- Classes without a test image, of which nothing is known: {', '.join(untested[:_MOST_SHOWN])}.")
    weak = [
        f"{_plain(str(each['class']))} ({percent(each['recall'], 2)} of {each['n_test']:g})"
        for each in row.get("weakest_classes") or ()
        if each.get("recall") is not None
    ]
    if weak:
        lines.append(f"- Weakest classes (recall): {', '.join(weak)}.")
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    """Join the first names, and count the rest."""
    shown = ", ".join(_plain(name) for name in names[:_MOST_SHOWN])
    return shown + (f", ... ({len(names)} in all; run.json has them)" if len(names) > _MOST_SHOWN else "")


def _plain(text: str) -> str:
    """Return text in which nothing is a command to Markdown, HTML or a terminal."""
    text = "".join(character if character.isprintable() else " " for character in text)
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`\[\]|])", r"\\\1", text)
