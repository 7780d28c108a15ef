"""The house rules that a program can hold: directions of import, public names, lengths, places, documents, packaging."""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import console_commands, problems

ROOT = Path(__file__).parents[1]
TEXT = {".c", ".cfg", ".css", ".h", ".html", ".js", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}
NOT_OURS = {"build", "dist", "exp", "licenses", "lightning_logs", "models", "runs", "LICENSE", "__pycache__"}
LONGEST_FILE = 400
PLACES = re.compile(
    r"/(?:work|tmp|root|farm|home)/[A-Za-z.]|[.]{2}/shared|\bT[O]DO\b|\bFI[X]ME\b|NotImplemented[E]rror"
)


def files(folder: Path = ROOT) -> Iterator[Path]:
    """The project's own text files."""
    for path in sorted(folder.iterdir()):
        if (
            path.name in NOT_OURS
            or path.name.endswith(".egg-info")
            or (path.name[0] == "." and path.name != ".ci")
        ):
            continue
        if path.is_dir():
            yield from files(path)
        elif path.suffix in TEXT:
            yield path


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PYTHON = [path for path in files() if path.suffix == ".py"]
LIBRARY = [
    path for path in PYTHON if name(path).startswith(("asr/", "streaming/")) and path.name != "__main__.py"
]
DOCUMENTS = [path for path in files() if path.suffix == ".md"]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def has_code(path: Path) -> bool:
    """Whether a file holds more than its docstring."""
    return any(not isinstance(node, ast.Expr) for node in tree(path).body)


def imports(path: Path, *, at_run_time: bool = False) -> set[str]:
    """Dotted names of all modules that a file imports; with `at_run_time`, of those not for the type checker only."""
    found: set[str] = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree(path)):
        if at_run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}, line {node.lineno}: imports are absolute"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(LIBRARY) > 20 and {"README.md", "DESIGN.md"} <= {name(path) for path in DOCUMENTS}


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_directions_of_import(path: Path) -> None:
    top = {module.split(".")[0] for module in imports(path)}
    assert not top & {"recipes", "tools", "tests"}
    if name(path).startswith("asr/") and name(path) != "asr/cli.py":
        assert "streaming" not in top, "the library does not know the runtime"


PARTS = (
    "asr/encoders/",
    "asr/heads/",
    "asr/losses/",
    "asr/search/",
    "asr/native/",
    "asr/state.py",
    "asr/features.py",
    "asr/audio.py",
    "asr/errors.py",
)
USERS = (
    "asr.model",
    "asr.bundle",
    "asr.training",
    "asr.dataset",
    "asr.transcribe",
    "asr.evaluate",
    "asr.cli",
    "asr.convert",
)


@pytest.mark.parametrize("path", [path for path in LIBRARY if name(path).startswith(PARTS)], ids=name)
def test_parts_do_not_import_what_is_made_of_them(path: Path) -> None:
    assert not [module for module in imports(path, at_run_time=True) if module.startswith(USERS)]


@pytest.mark.parametrize("path", [path for path in LIBRARY if has_code(path)], ids=name)
def test_public_names_are_listed_and_exist(path: Path) -> None:
    body = tree(path).body
    lists = [n for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    assert len(lists) == 1, "a module says what is public in __all__"
    public = ast.literal_eval(lists[0].value)
    assert len(set(public)) == len(public)
    defined: set[str] = set()
    for node in ast.walk(
        ast.Module([n for n in body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], [])
    ):
        match node:
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                defined.update((alias.asname or alias.name).split(".")[0] for alias in names)
            case ast.Name(id=one, ctx=ast.Store()):
                defined.add(one)
    defined.update(
        n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    )
    if "__getattr__" not in defined:  # lazy packages are held by importing them
        assert set(public) <= defined
    private = {one for one in public if one.startswith("_") and not one.startswith("__")}
    assert not private


@pytest.mark.parametrize("path", [path for path in PYTHON if has_code(path)], ids=name)
def test_annotations_are_not_evaluated(path: Path) -> None:
    assert "__future__.annotations" in imports(path), "begin with: from __future__ import annotations"


@pytest.mark.parametrize("path", list(files()), ids=name)
def test_length_and_marks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix in {".py", ".c", ".h", ".js", ".css", ".html", ".sh", ""}:
        assert text.count("\n") <= LONGEST_FILE, "cut it where two subjects meet"
    if name(path) != ".ci/run":  # the one place that knows what lies beside the checkout
        assert not PLACES.findall(text), "paths of one machine, or marks of unfinished work"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_in_documents_exist(path: Path) -> None:
    found = {command: problems(command) for command in console_commands(path.read_text(encoding="utf-8"))}
    assert not {command: faults for command, faults in found.items() if faults}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if "://" not in link and not (path.parent / link).exists()]


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in LIBRARY}
    assert not [name(folder) for folder in folders if not (folder / "__init__.py").exists()]


def requirements(*, extras: bool = True) -> dict[str, Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].splitlines()
    if extras:
        lines += parser["options.extras_require"]["dev"].splitlines()
    wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in wanted}


def test_tested_versions_lie_in_the_declared_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    tested = {canonicalize_name(package): version for package, version in pairs}
    for package, requirement in requirements().items():
        assert package in tested, f"constraints.txt does not name {package}"
        assert requirement.specifier.contains(tested[package])
    assert requirements()["torch"].specifier.contains("2.13.0+cpu")
    lightning = requirements()["lightning"].specifier
    assert not lightning.contains("2.6.2") and not lightning.contains("2.6.3"), "malicious releases"


def test_imported_packages_are_declared() -> None:
    modules = {"yaml": "pyyaml", "prometheus_client": "prometheus-client"}
    standard = {"__future__", *__import__("sys").stdlib_module_names}
    optional = {
        "av",
        "datasets",
        "k2",
        "kenlm",
        "torchaudio",
        "onnx",
        "onnxruntime",
        "ray",
        "setuptools",
        "sherpa_onnx",
        "triton",
    }
    top = {module.split(".")[0] for path in LIBRARY for module in imports(path, at_run_time=True)}
    third_party = {modules.get(module, module) for module in top - standard - optional - {"asr", "streaming"}}
    assert third_party <= requirements(extras=False).keys()


def test_all_c_sources_are_compiled() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (extension,) = settings["tool"]["setuptools"]["ext-modules"]
    assert extension["optional"], "an install must not need a compiler"
    assert set(extension["sources"]) == {name(path) for path in (ROOT / "asr/native").glob("*.c")}
    assert set(extension["depends"]) == {name(path) for path in (ROOT / "asr/native").glob("*.h")}
