from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.native.libraries import C_PRELUDE
from tracestore.native.build import build_library, find_compiler


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("native") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACESTORE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def build(cache: Path) -> Callable[..., Path]:
    """Build a library from source text; skip where nothing can compile it."""

    def make(name: str, source: str, *, language: str = "c", flags: Sequence[str] = ()) -> Path:
        if find_compiler(language) is None:  # type: ignore[arg-type]
            pytest.skip(f"this machine has no {language} compiler")
        file_name = f"{name}.c" if language == "c" else f"{name}.cpp"
        return build_library(name, {file_name: C_PRELUDE + source}, language=language, flags=flags)  # type: ignore[arg-type]

    return make
