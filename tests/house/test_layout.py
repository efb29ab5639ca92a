"""The house as it stands: floors, package list, light imports."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {"cafe": 0, "cafe.cache": 1, "cafe.cli": 2}


def floor(module):
    for name in ("cafe.cli", "cafe.cache"):
        if module == name or module.startswith(name + "."):
            return FLOORS[name]
    return FLOORS["cafe"]


def sources():
    for folder, package in (("cafe", "cafe"), ("cache", "cafe.cache"), ("cli", "cafe.cli")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "cafe" and parts[0] in ("cache", "cli"):
                continue  # the links; read from their own folders
            yield ".".join([package, *(p for p in parts if p != "__init__")]), path


def imports(path, module):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_imports_only_go_down():
    wrong = [
        f"{module} imports {name}"
        for module, path in sources()
        for name in imports(path, module)
        # `import cafe` names everything lazily and may point up under TYPE_CHECKING.
        if name.split(".")[0] == "cafe" and floor(name) > floor(module) and module != "cafe"
    ]
    assert not wrong


def test_no_circular_imports():
    modules = dict(sources())
    graph = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        found = set()
        for node in ast.walk(top):
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                found |= {name for name in names if name in modules and name != module}
        graph[module] = found
    done, path = set(), []

    def visit(module):
        assert module not in path, f"circle: {' > '.join([*path[path.index(module) :], module])}"
        if module not in done:
            path.append(module)
            for name in graph[module]:
                visit(name)
            path.pop()
            done.add(module)

    for module in graph:
        visit(module)


def test_package_list_is_the_folders():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(module.split(".")) for module, path in sources() if path.name == "__init__.py"}
    assert listed == found


def test_every_folder_with_code_is_a_package():
    for _, path in sources():
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


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
    "code",
    ["import cafe", "import cafe; dir(cafe)", "import cafe.registry; cafe.registry.entries('methods', 'METHOD')"],
)
def test_import_is_light(code):
    check = f"{code}; import sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_nothing_promises_later():
    words = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "not implemented" + " yet")
    wrong = [f"{path}: {word}" for _, path in sources() for word in words if word in path.read_text(encoding="utf-8")]
    assert not wrong
