"""Every Python block of the documentation runs, and so does every example in a docstring."""

import contextlib
import doctest
import importlib.util
import io
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "tracestore").rglob("*.py")
)
NEEDED = {
    "ts.networks": "tracestore.networks",
    "ts.surrogates": "tracestore.surrogates",
    "ts.training": "tracestore.training",
    "write_training_page": "tracestore.training.training_page",
    "write_report": "tracestore.reports.report",
    "write_calibration_page": "tracestore.reports.calibration_page",
    "compare_showers": "tracestore.reports.showers.page",
    "awkward": "tracestore.formats.awkward",
    "hdf5": "tracestore.formats.hdf5",
    'backend="zarr"': "tracestore.formats.zarr",
    "memory://": "tracestore.storage.objects",
    "torch": "tracestore.samplers.torch_loader",
    "to_datatree": "tracestore.posteriors.datatree",
    "to_pandas": "tracestore.posteriors.data_frame",
    "to_dask": "tracestore.store.dask_arrays",
    "DaskExecutor": "tracestore.executors.dask",
    "MPIExecutor": "tracestore.executors.mpi",
    "ts.PPXSimulator": "tracestore.ppx.sockets",
    "InterposedProgram": "tracestore.ppx.sockets",
    "simulators.pythia": "tracestore.simulators.pythia",
}
"""What a page needs when it has a word."""
EXAMPLES_NEED = {"tracestore.inference.hmc": "tracestore.simulators.tensor_target"}
"""What the examples of a light module need."""
PEERS = ("accelerate", "bayesflow", "ciw", "gymnasium", "lightning", "sbi")
"""Packages that pages show tracestore with, and that nothing of it needs; blocks with a missing one are not run."""
COMPILER = "cc"
"""Pages with a program in C need it."""
# the pages show sizes that make sense to a reader; a test needs only that the code runs
SMALLER = {
    r"\bnum_traces=[\d_]+": "num_traces=400",
    r"\bnum_draws=[\d_]+": "num_draws=200",
    r"\bnum_trials=[\d_]+": "num_trials=12",
    r'train\("traces", "network"\)': 'train("traces", "network", config=ts.training.TrainConfig(epochs=1))',
}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@pytest.mark.processes
@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch, import_or_skip):
    text = page.read_text("utf-8")
    for mark, module in NEEDED.items():
        if mark in text:
            import_or_skip(module)
    if (f'["{COMPILER}", ' in text or "load_kernel" in text) and shutil.which(COMPILER) is None:
        pytest.skip("there is no C compiler")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(python_blocks(page), 1):
        missing = [peer for peer in PEERS if not is_installed(peer)]
        if any(re.search(rf"^(from|import) {peer}\b", block, re.MULTILINE) for peer in missing):
            continue
        for pattern, replacement in SMALLER.items():
            block = re.sub(pattern, replacement, block)
        source = tmp_path / f"block_{number}.py"  # addresses are made from source text, so there must be a file
        source.write_text(block, "utf-8")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, str(source), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_of_the_repository_exist(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch, import_or_skip):
    monkeypatch.chdir(tmp_path)
    import_or_skip(EXAMPLES_NEED.get(name, name))
    module = import_or_skip(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0
