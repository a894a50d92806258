"""Which way imports point, and what the command line may not import."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    *("torch", "monai", "lightning", "numpy", "transformers", "scipy", "matplotlib"),
    *("pandas", "pyarrow", "plotly", "optuna", "ray", "pytorch_forecasting"),
)
BANNED = ("torchvision", "timm")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports anywhere in it, also inside functions, made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module, node.lineno
            for alias in node.names:  # `from apps import driving` names a module, too
                yield f"{module}.{alias.name}", node.lineno
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                yield str(name.value), node.lineno


def offences(paths: list[Path], wrong) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in paths
        for module, line in imports(path)
        if wrong(path, module)
    ]


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_core_imports_no_application():
    found = offences(
        sources("core"),
        lambda _, module: any(inside(module, room) for room in ("apps", "demos", "notebooks")),
    )
    assert found == []


def test_no_application_imports_a_demo():
    found = offences(
        sources("apps"),
        lambda _, module: any(inside(module, room) for room in ("demos", "notebooks")),
    )
    assert found == []


def test_an_application_imports_no_other():
    applications = [folder.name for folder in (ROOT / "apps").iterdir() if folder.is_dir()]

    def wrong(path: Path, module: str) -> bool:
        own = path.relative_to(ROOT / "apps").parts[0]
        others = [f"apps.{name}" for name in applications if name != own]
        return any(inside(module, other) for other in others)

    files = [path for path in sources("apps") if path.parent != ROOT / "apps"]
    assert files
    assert offences(files, wrong) == []


def test_nothing_imports_packages_that_replace_torch():
    everywhere = sources("core", "apps", "tests", "benchmarks", "demos")
    found = offences(everywhere, lambda _, module: any(inside(module, name) for name in BANNED))
    assert found == []


def test_the_walk_sees_lazy_relative_and_dynamic_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "apps" / "one" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "def f():\n    from ..two import x\n    from .b import y\n    import apps.three as t\n"
        "    import_module('apps.four')\n    from apps import five\n"
    )
    seen = {module for module, _ in imports(path)}
    assert {"apps.two", "apps.one.b", "apps.three", "apps.four", "apps.five"} <= seen


# How a person starts each entry, as Python that a probe can be put around.
ENTRIES = {
    "run.py": "import runpy; runpy.run_path('apps/medical/run.py', run_name='__main__')",
    "timeseries": "import runpy; runpy.run_path('apps/timeseries/run.py', run_name='__main__')",
    "driving": "import runpy; runpy.run_path('apps/driving/run.py', run_name='__main__')",
    "triptych": "from apps.cli import main; sys.exit(main())",
}


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("run.py", ["--help"]),
        ("run.py", ["info"]),
        ("run.py", ["info", "--json"]),
        ("triptych", ["--help"]),
        ("triptych", ["medical", "info", "--json"]),
        ("timeseries", ["--help"]),
        ("timeseries", ["fit", "--help"]),
        ("timeseries", ["models"]),
        ("timeseries", ["models", "--json"]),
        ("driving", ["--help"]),
        ("driving", ["world", "--help"]),
    ],
)
def test_help_and_info_load_nothing_heavy(python, entry, arguments):
    probe = (
        "import atexit, sys\n"
        f"loaded = lambda: [name for name in {HEAVY!r} if name in sys.modules]\n"
        "atexit.register(lambda: print('LOADED', *loaded(), file=sys.stderr))\n"
        f"sys.argv = [{entry!r}, *{arguments!r}]\n"
    )
    done = python("-c", probe + ENTRIES[entry])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.splitlines()[-1] == "LOADED", done.stderr
    if "--json" in arguments:
        assert set(json.loads(done.stdout)) >= {"verbs", "models", "weights", "exit_codes"}


@pytest.mark.parametrize("page", ["app", "home", "medical", "timeseries", "driving"])
def test_the_first_paint_of_a_page_loads_neither_torch_nor_monai(python, page):
    pytest.importorskip("streamlit", reason="needs the extra 'demos'")
    done = python(
        "-c",
        "import sys\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file('demos/{page}.py', default_timeout=100).run()\n"
        "assert not app.exception, app.exception\n"
        "print('LOADED', *(name for name in ('torch', 'monai', 'lightning') if name in sys.modules))",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize(("app", "verb"), [("medical", "info"), ("timeseries", "models")])
def test_run_py_works_from_any_folder(python, tmp_path, app, verb):
    done = python(str(ROOT / f"apps/{app}/run.py"), verb, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == app


def test_both_entries_are_the_same_code(python):
    as_file = python("apps/medical/run.py", "info", "--json")
    as_command = python(
        "-c",
        "import sys; from apps.cli import main; sys.argv[1:] = ['medical', 'info', '--json']; "
        "sys.exit(main())",
    )
    assert json.loads(as_file.stdout) == json.loads(as_command.stdout)


@pytest.mark.parametrize("first", ["", "import apps.medical.predict", "import apps.medical.store"])
def test_the_python_interface_is_functions_in_any_order_of_imports(python, first):
    done = python(
        "-c",
        f"{first}\nimport types\nfrom apps.medical import load_model, predict\n"
        "print(isinstance(load_model, types.FunctionType), isinstance(predict, types.FunctionType))",
    )
    assert done.stdout.strip() == "True True", done.stderr
