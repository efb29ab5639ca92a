"""The house stands: imports only go down, nothing goes in a circle, and the drawing of docs/design.md is true."""

import configparser
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("structure", Path(__file__).with_name("structure.py"))
structure = importlib.util.module_from_spec(_spec)
sys.modules["structure"] = structure  # dataclasses look their module up
_spec.loader.exec_module(structure)


@pytest.fixture(scope="module")
def modules():
    return structure.read_modules()


def planted(tmp_path, **files):
    """A small program with the given files, `__` for a folder: what the checks must find in it."""
    for folder in ("cafe", "cache", "cli"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("", encoding="utf-8")
    for name, text in files.items():
        path = tmp_path / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return structure.read_modules(tmp_path)


def graph_of(modules):
    """Imports between modules; `cafe` itself, which names its exports lazily, is apart."""
    return {name: module.imports - {"cafe"} for name, module in modules.items() if name != "cafe"}


def test_imports_only_go_down(modules):
    assert structure.arrows_up({name: module for name, module in modules.items() if name != "cafe"}) == []


def test_no_module_imports_itself_by_way_of_others(modules):
    assert structure.circles(graph_of(modules)) == []


def test_no_room_stands_on_itself_by_way_of_others(modules):
    assert structure.circles(structure.room_arrows(modules)) == []


def test_the_drawing_is_that_of_the_code(modules):
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert structure.drawn(page) == structure.drawing(modules), (
        "docs/design.md shows another house; draw it again with: python tests/house/structure.py --write"
    )


def test_only_the_top_names_the_package_itself(modules):
    """`import cafe` resolves names of every floor, so whoever below does that imports upwards by another way."""
    assert [name for name, module in modules.items() if "cafe" in module.imports] == []


def test_no_package_is_deeper_than_two_sub_rooms(modules):
    for name, module in modules.items():
        path = module.path.relative_to(ROOT)
        assert len(path.parts) - 1 <= 3, f"{name}: {path} lies more than two folders below {path.parts[0]}/"


@pytest.mark.parametrize(
    "importer",
    [
        "from cafe.cache.locks import claim",
        "def later():\n    from cafe.cache.locks import claim",
        "def later():\n    import cafe.cache.locks",
        "from .cache import locks",
        "class Later:\n    def method(self):\n        if True:\n            from cafe.cache import locks",
    ],
)
def test_an_arrow_up_is_seen_wherever_it_hides(tmp_path, importer):
    modules = planted(tmp_path, cafe__low=importer, cache__locks="def claim(): ...")
    assert structure.arrows_up(modules) == ["cafe.low (core) imports cafe.cache.locks (cache)"]


def test_an_arrow_up_from_the_cache_to_the_product_is_seen(tmp_path):
    modules = planted(tmp_path, cafe__classifier__load="", cache__locks="import cafe.classifier.load")
    assert structure.arrows_up(modules) == ["cafe.cache.locks (cache) imports cafe.classifier.load (product)"]


def test_a_circle_through_a_lazy_import_is_seen(tmp_path):
    modules = planted(
        tmp_path,
        cafe__first="import cafe.second",
        cafe__second="def later():\n    from cafe import third",
        cafe__third="from cafe.first import x",
    )
    assert structure.circles(graph_of(modules)) == [["cafe.first", "cafe.second", "cafe.third"]]


def test_type_checking_blocks_are_apart(tmp_path):
    text = "if TYPE_CHECKING:\n    from cafe.cache import locks\nelse:\n    import cafe.b"
    modules = planted(tmp_path, cafe__a=text, cafe__b="", cache__locks="")
    assert modules["cafe.a"].imports == {"cafe.b"}


def test_package_list_is_the_folders(modules):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = {name for name, module in modules.items() if module.path.name == "__init__.py"}
    assert set(config["options"]["packages"].split()) == packages


def test_every_folder_with_code_is_a_package(modules):
    for module in modules.values():
        assert (module.path.parent / "__init__.py").is_file(), f"{module.path.parent} has no __init__.py"


@pytest.mark.parametrize("link", ["cache", "cli"])
def test_links(link):
    assert (ROOT / "cafe" / link).resolve() == ROOT / link


@pytest.mark.parametrize("folder", ["cache", "cli"])
def test_top_level_folders_refuse_their_wrong_name(folder):
    run = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"this folder is imported as cafe.{folder}" in run.stderr


HEAVY = ("torch", "transformers", "numpy", "h5py", "sklearn", "matplotlib", "PIL", "scipy")


@pytest.mark.parametrize(
    "code", ["import cafe", "import cafe; dir(cafe)", "from cafe.registry import entries; entries('methods', 'METHOD')"]
)
def test_import_is_light(code):
    check = f"{code}; import sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
