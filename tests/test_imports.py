"""What an import loads, seen from a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "alouette",
    "awkward",
    "ciw",
    "dask",
    "distributed",
    "flatbuffers",
    "google_crc32c",
    "gymnasium",
    "h5py",
    "matplotlib",
    "mpi4py",
    "numcodecs",
    "obstore",
    "pandas",
    "pythia8mc",
    "safetensors",
    "scipy",
    "torch",
    "xarray",
    "zarr",
    "zmq",
)
LEAVES = {
    "tracestore.networks": ("torch", "train"),
    "tracestore.surrogates": ("torch", "train"),
    "tracestore.training": ("torch", "train"),
    "tracestore.training.mpi_communicator": ("mpi4py", "mpi"),
    "tracestore.training.tensorboard": ("tensorboard", "tensorboard"),
    "tracestore.training.training_page": ("matplotlib", "report"),
    "tracestore.training.training_plots": ("matplotlib", "report"),
    "tracestore.samplers.parcels": ("torch", "train"),
    "tracestore.samplers.tensor_batch": ("torch", "train"),
    "tracestore.samplers.torch_loader": ("torch", "train"),
    "tracestore.samplers.trace_dataset": ("torch", "train"),
    "tracestore.samplers.plan_page": ("matplotlib", "report"),
    "tracestore.samplers.plan_plots": ("matplotlib", "report"),
    "tracestore.executors.dask": ("distributed", "sort"),
    "tracestore.executors.mpi": ("mpi4py", "mpi"),
    "tracestore.store.dask_arrays": ("dask", "sort"),
    "tracestore.pages.figures": ("matplotlib", "report"),
    "tracestore.reports.plots": ("matplotlib", "report"),
    "tracestore.reports.pair_plots": ("matplotlib", "report"),
    "tracestore.reports.report": ("matplotlib", "report"),
    "tracestore.reports.calibration_page": ("matplotlib", "report"),
    "tracestore.reports.calibration_plots": ("matplotlib", "report"),
    "tracestore.reports.chain_plots": ("matplotlib", "report"),
    "tracestore.reports.sections.calibration": ("matplotlib", "report"),
    "tracestore.reports.weight_plots": ("matplotlib", "report"),
    "tracestore.reports.showers.curve_plots": ("matplotlib", "report"),
    "tracestore.reports.showers.image_plots": ("matplotlib", "report"),
    "tracestore.reports.showers.page": ("matplotlib", "report"),
    "tracestore.reports.showers.trend_plots": ("matplotlib", "report"),
    "tracestore.reports.showers.sections": ("matplotlib", "report"),
    "tracestore.posteriors.datatree": ("xarray", "xarray"),
    "tracestore.posteriors.data_frame": ("pandas", "xarray"),
    "tracestore.ppx.build": ("zmq", "ppx"),
    "tracestore.ppx.conversation": ("zmq", "ppx"),
    "tracestore.ppx.direct": ("zmq", "ppx"),
    "tracestore.ppx.interposed": ("zmq", "ppx"),
    "tracestore.ppx.link": ("zmq", "ppx"),
    "tracestore.ppx.preloaded": ("zmq", "ppx"),
    "tracestore.ppx.program": ("zmq", "ppx"),
    "tracestore.ppx.programs": ("zmq", "ppx"),
    "tracestore.ppx.serving": ("zmq", "ppx"),
    "tracestore.ppx.simulator": ("zmq", "ppx"),
    "tracestore.ppx.sockets": ("zmq", "ppx"),
    "tracestore.hijacking.torch_operations": ("torch", "train"),
    "tracestore.hijacking.torch_priors": ("torch", "train"),
    "tracestore.hijacking.torch_source": ("torch", "train"),
    "tracestore.native.torch_kernel": ("torch", "train"),
    "tracestore.simulators.cross_section_tensors": ("torch", "train"),
    "tracestore.simulators.pythia": ("pythia8mc", "pythia"),
    "tracestore.simulators.pythia_library": ("pythia8mc", "pythia"),
    "tracestore.simulators.tau": ("alouette", "sims"),
    "tracestore.simulators.tauola_stack": ("alouette", "sims"),
    "tracestore.simulators.tensor_arrays": ("torch", "train"),
    "tracestore.simulators.tensor_log_probs": ("torch", "train"),
    "tracestore.simulators.tensor_recorder": ("torch", "train"),
    "tracestore.simulators.tensor_supports": ("torch", "train"),
    "tracestore.simulators.tensor_target": ("torch", "train"),
    "tracestore.storage.object_clients": ("obstore", "objects"),
    "tracestore.storage.object_errors": ("obstore", "objects"),
    "tracestore.storage.object_file": ("obstore", "objects"),
    "tracestore.storage.objects": ("obstore", "objects"),
    "tracestore.formats.zarr": ("numcodecs", "zarr"),
    "tracestore.formats.zarr_arrays": ("numcodecs", "zarr"),
    "tracestore.formats.zarr_codecs": ("numcodecs", "zarr"),
    "tracestore.formats.zarr_columns": ("numcodecs", "zarr"),
    "tracestore.formats.hdf5": ("h5py", "hdf5"),
    "tracestore.formats.awkward": ("awkward", "awkward"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(map(module_name, (ROOT / "tracestore").rglob("*.py")))


def is_leaf(module: str) -> bool:
    return any(module == leaf or module.startswith(f"{leaf}.") for leaf in LEAVES)


LIGHT = [module for module in MODULES if not is_leaf(module)]


def run_fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_facade_loads_no_dependency_at_all():
    loaded = set(json.loads(run_fresh("import sys, json, tracestore; print(json.dumps(list(sys.modules)))")))
    assert not {name for name in loaded if name.startswith("tracestore.")}
    assert not loaded & {"numpy", "pyarrow", "xxhash", "greenlet", *HEAVY}


@pytest.mark.processes
def test_light_modules_load_no_heavy_package():
    # one interpreter, module after module: the first module that brings a heavy package in is named
    code = f"""
import importlib, sys
for module in {LIGHT!r}:
    importlib.import_module(module)
    for heavy in {HEAVY!r}:
        assert heavy not in sys.modules, f"{{module}} loads {{heavy}}"
print(len(sys.modules))
"""
    assert int(run_fresh(code)) > len(LIGHT)


@pytest.mark.processes
def test_each_room_loads_alone():
    # an import that works only after another one has run is a hidden cycle
    rooms = [module for module in LIGHT if module.count(".") == 1]
    code = """
import os, sys
for room in {rooms!r}:
    child = os.fork()
    if not child:
        status = 1
        try:
            __import__(room)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        print(room)
"""
    assert run_fresh(code.format(rooms=rooms)).split() == []


@pytest.mark.processes
@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf in MODULES])
def test_leaf_names_the_extra_to_install(leaf):
    package, extra = LEAVES[leaf]
    code = f"""
import sys
sys.modules[{package!r}] = None
from tracestore.errors import MissingExtraError
try:
    import {leaf}
except MissingExtraError as error:
    print(error)
"""
    output = run_fresh(code)
    assert "is not installed" in output
    assert f"pip install 'tracestore[{extra}]'" in output
