"""The recipes of CONTRIBUTING.md hold: their files, added to a copy of the program, pass all that newcomers meet.

Nothing else is edited in the copy. In it run the contract tests of every folder, as far as a newcomer is what they
try, and the tests that hold lists of the whole program true.
"""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("newcomers", Path(__file__).with_name("newcomers.py"))
newcomers = importlib.util.module_from_spec(_spec)
sys.modules["newcomers"] = newcomers  # dataclasses look their module up
_spec.loader.exec_module(newcomers)

PAGE = (newcomers.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NEWCOMERS = newcomers.read_newcomers(PAGE)
CONTRACTS = {
    "METHOD": "tests/methods/test_method_contracts.py",
    "DATASET": "tests/data/test_contract.py",
    "SOURCE": "tests/data/test_contract.py",
    "ENCODER": "tests/encoders/test_contract.py",
    "IMPORTER": "tests/cache/transfer/test_importers.py",
    "SUITE": "tests/compare/test_compare.py",
}
# Decorators, or fixtures, by which a test of these files is run for everything that there is of a kind.
WALKS = {
    "METHOD": ("parametrize('name', METHODS)", "parametrize_with_checks"),
    "DATASET": ("parametrize('entry', DATASETS",),
    "SOURCE": ("parametrize('entry', SOURCES",),
    "ENCODER": ("parametrize('name', sorted(ENCODERS))", "(encoder", "(model"),
    "IMPORTER": ("every_layout",),
    "SUITE": ("parametrize('suite', list(entries(",),
}
# Tests of lists of the whole program, in which newcomers then stand.
LISTS = {
    "tests/cli/test_help.py": ("test_documentation_is_up_to_date", "test_every_importer_is_named_by_the_help"),
    "tests/data/test_contract.py": ("test_known_data_sets",),
    "tests/encoders/test_opening_encoders.py": ("test_known_models", "test_the_list_is_light"),
    "tests/house/test_exports.py": ("test_every_name_resolves", "test_the_table_and_the_type_checking_block_agree"),
    "tests/house/test_structure.py": ("test_imports_only_go_down", "test_no_module_imports_itself_by_way_of_others"),
    "tests/prompts/test_prompts.py": ("test_published_sets",),
}
each = pytest.mark.parametrize("newcomer", NEWCOMERS, ids=lambda newcomer: newcomer.name)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the program with all newcomers in it."""
    folder = tmp_path_factory.mktemp("copy")
    newcomers.copy_program(folder, NEWCOMERS)
    return folder


@pytest.fixture(scope="module")
def outcomes(copy):
    """What became of each contract test that tries a newcomer, and of each test of a list: PASSED or SKIPPED."""
    words = [word for newcomer in NEWCOMERS for word in (newcomer.name, newcomer.class_name)]
    chosen = " or ".join([*words, *(test for tests in LISTS.values() for test in tests)])
    files = sorted({*CONTRACTS.values(), *LISTS})
    printed = newcomers.run_module(copy, "pytest", "-n", "0", "-p", "no:cacheprovider", "-v", "-k", chosen, *files)
    return dict(re.findall(r"^(tests/\S+::\w+(?:\[.*\])?) ([A-Z]+)", printed, flags=re.MULTILINE))


def names_of_tests(constant):
    """Names of the contract tests that are run for everything of a kind, from their source."""
    tree = ast.parse((newcomers.ROOT / CONTRACTS[constant]).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            head = " ".join([*map(ast.unparse, node.decorator_list), f"({ast.unparse(node.args)})"])
            if any(walk in head for walk in WALKS[constant]):
                yield node.name


def test_there_is_a_recipe_for_everything_that_is_found_by_walking():
    assert {newcomer.constant for newcomer in NEWCOMERS} == set(CONTRACTS)


@each
def test_every_contract_test_tries_the_newcomer(outcomes, newcomer):
    tried = {}
    for test, outcome in outcomes.items():
        if newcomer.name in test or f"[{newcomer.class_name}" in test:
            name = re.search(r"::(\w+)", test)[1]
            tried.setdefault(name, set()).add(outcome)
    tests = set(names_of_tests(newcomer.constant))
    assert len(tests) >= 1
    assert set(tried) == tests
    assert all("PASSED" in outcome for outcome in tried.values()), tried


def test_lists_hold_with_newcomers_in_them(outcomes):
    passed = {test.partition("[")[0] for test, outcome in outcomes.items() if outcome == "PASSED"}
    assert passed >= {f"{file}::{test}" for file, tests in LISTS.items() for test in tests}


def test_the_recipes_are_clean_code(copy):
    files = [newcomer.path for newcomer in NEWCOMERS]
    newcomers.run_module(copy, "ruff", "check", *files)
    newcomers.run_module(copy, "ruff", "format", "--check", *files)
