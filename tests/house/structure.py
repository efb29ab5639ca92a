"""Reads the structure of the program from its source: modules, imports, floors, circles.

Nothing is imported or run. Every ``import`` of a module counts, at its top or inside a function; apart are only
blocks under ``if TYPE_CHECKING:`` and ``cafe/__init__.py``, which names its exports lazily.

``python tests/house/structure.py`` prints the rooms, their sizes, the arrows between them and every fault;
``python tests/house/structure.py --write`` puts the drawing into docs/design.md.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Top-level folders and the packages that they are imported as.
FOLDERS = {"cafe": "cafe", "cache": "cafe.cache", "cli": "cafe.cli"}
# From the top down; what is in none of the packages named here is the core.
FLOORS = {
    "cli": ("cafe.cli",),
    "product": ("cafe.classifier", "cafe.sharing", "cafe.serving"),
    "cache": ("cafe.cache",),
    "core": ("cafe",),
}
HEIGHT = {floor: len(FLOORS) - place for place, floor in enumerate(FLOORS)}
KINDS = {"METHOD", "DATASET", "SOURCE", "ENCODER", "IMPORTER", "SUITE"}
BEGIN, END = "<!-- drawing of the house: begin -->", "<!-- drawing of the house: end -->"


@dataclass(frozen=True)
class Module:
    """One source file.

    Attributes
    ----------
    name : str
        As it is imported, such as ``"cafe.cache.locks"``.
    path : Path
        The file.
    lines : int
        Its length.
    imports : frozenset of str
        Modules of the program that it imports anywhere, itself apart.
    is_one_of_a_kind : bool
        Whether it says its name in a constant that the registry reads: a method, a data set, an encoder, ...
    """

    name: str
    path: Path
    lines: int
    imports: frozenset[str]
    is_one_of_a_kind: bool


def floor_of(module: str) -> str:
    """Return the floor that a module stands on.

    Examples
    --------
    >>> floor_of("cafe.cache.locks"), floor_of("cafe.methods.auto")
    ('cache', 'core')
    """
    for floor, packages in FLOORS.items():
        if any(module == package or module.startswith(f"{package}.") for package in packages):
            return floor
    raise ValueError(f"{module} is no module of cafe")


def room_of(module: str) -> str:
    """Return the room of a module: the package below its floor, or the file itself where it stands loose.

    Examples
    --------
    >>> room_of("cafe.methods.inputs.problem"), room_of("cafe.cache.extract.plan"), room_of("cafe.cli.fit")
    ('cafe.methods', 'cafe.cache.extract', 'cafe.cli')
    """
    parts = module.split(".")
    depth = {"cli": 2, "product": 2, "cache": 3, "core": 2}[floor_of(module)]
    return ".".join(parts[:depth])


def read_modules(root: Path = ROOT) -> dict[str, Module]:
    """Return every module of the program by its name."""
    paths = dict(_source_files(root))
    return {
        name: Module(
            name=name,
            path=path,
            lines=len(path.read_text(encoding="utf-8").splitlines()),
            imports=frozenset(_imports(name, path, set(paths)) - {name}),
            is_one_of_a_kind=not KINDS.isdisjoint(_constants(path)),
        )
        for name, path in paths.items()
    }


def arrows_up(modules: dict[str, Module]) -> list[str]:
    """Return every import of a higher floor."""
    return [
        f"{module.name} ({floor_of(module.name)}) imports {imported} ({floor_of(imported)})"
        for module in modules.values()
        for imported in sorted(module.imports)
        if HEIGHT[floor_of(imported)] > HEIGHT[floor_of(module.name)]
    ]


def circles(graph: dict[str, frozenset[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach one another (Tarjan's strongly connected components of two or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for neighbour in sorted(graph[node]):
            if neighbour not in index:
                visit(neighbour)
                low[node] = min(low[node], low[neighbour])
            elif neighbour in stack:
                low[node] = min(low[node], index[neighbour])
        if low[node] == index[node]:
            place = stack.index(node)
            group, stack[place:] = stack[place:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def rooms(modules: dict[str, Module]) -> dict[str, list[Module]]:
    """Return the modules of each room, rooms from the top floor down, then by name; the package's face is left out."""
    grouped: dict[str, list[Module]] = {}
    for module in modules.values():
        if module.name != "cafe":
            grouped.setdefault(room_of(module.name), []).append(module)
    return dict(sorted(grouped.items(), key=lambda item: (-HEIGHT[floor_of(item[0])], item[0])))


def room_arrows(modules: dict[str, Module]) -> dict[str, frozenset[str]]:
    """Return for each room the other rooms that it imports from."""
    return {
        room: frozenset({room_of(name) for module in members for name in module.imports if name != "cafe"} - {room})
        for room, members in rooms(modules).items()
    }


def drawing(modules: dict[str, Module]) -> str:
    """Draw the house: a block for each floor, a line for each room with the rooms that it stands on.

    A line names only rooms that are imported directly; ``errors``, ``version`` and ``registry``, which everybody may
    use, are left out. So are the arrows of files that are one of a kind, such as a method or a data set: adding one
    changes no wall.
    """
    everybodys = {"cafe.errors", "cafe.version", "cafe.registry"}
    walls = {name: module for name, module in modules.items() if not module.is_one_of_a_kind}
    arrows, grouped = room_arrows(walls), rooms(walls)
    width = max(len(_short(room)) for room in grouped)
    lines = []
    for floor in FLOORS:
        own = [room for room in grouped if floor_of(room) == floor]
        if own:
            lines += [floor, ""]
        for room in own:
            below = ", ".join(sorted(_short(name) for name in arrows[room] - everybodys))
            lines.append(f"  {_short(room):{width}}  {f'> {below}' if below else ''}".rstrip())
        if own:
            lines.append("")
    return "\n".join(["```text", *lines[:-1], "```"])


def drawn(text: str) -> str:
    """Return the drawing that stands in a document between its markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def put_drawing(text: str, new: str) -> str:
    """Return a document with another drawing between its markers."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.partition(END)[2]}"


def _constants(path: Path) -> set[str]:
    """Return the names that are given a value at the top of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _short(room: str) -> str:
    return room.removeprefix("cafe.")


def _source_files(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if folder == "cafe" and parts[0] in FOLDERS:
                continue  # the links to cache/ and cli/, which are read from their own folders
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def _imports(name: str, path: Path, known: set[str]) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    imported: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imported |= {_nearest(alias.name, known) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module or "") if part)
            imported |= {_nearest(f"{base}.{alias.name}", known) for alias in node.names}
    return imported - {""}


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, blocks under ``if TYPE_CHECKING:`` apart."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield other
                yield from _statements(other)
            continue
        yield node
        yield from _statements(node)


def _nearest(dotted: str, known: set[str]) -> str:
    """Return the module that a dotted name leads to, itself or the one that defines it; empty if it is not ours."""
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    return dotted


def main() -> None:
    """Print the drawing and the faults, or write the drawing into docs/design.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the drawing into docs/design.md")
    parser.add_argument("--code", type=Path, default=ROOT, help="a checkout (default: this one)")
    arguments = parser.parse_args()
    modules = read_modules(arguments.code)
    picture = drawing(modules)
    if arguments.write:
        page = arguments.code / "docs" / "design.md"
        page.write_text(put_drawing(page.read_text(encoding="utf-8"), picture), encoding="utf-8")
    print(picture)
    graph = {name: module.imports for name, module in modules.items() if name != "cafe"}
    graph = {name: imports - {"cafe"} for name, imports in graph.items()}
    for room, members in rooms(modules).items():
        print(f"{_short(room):16} {len(members):3} files {sum(module.lines for module in members):6,} lines")
    lines = sum(module.lines for module in modules.values())
    print(f"{len(modules)} modules, {lines:,} lines, {sum(map(len, graph.values()))} imports between modules")
    for title, faults in (
        ("imports of a higher floor", arrows_up(modules)),
        ("circles of modules", circles(graph)),
        ("circles of rooms", circles(room_arrows(modules))),
    ):
        print(f"{len(faults)} {title}")
        for fault in faults:
            print(f"  {fault}")


if __name__ == "__main__":
    main()
