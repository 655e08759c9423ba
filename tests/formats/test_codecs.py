"""Which codec observations get: by ratios of a sample, the same on every machine."""

import numpy as np
import pyarrow as pa
import pytest

from tracestore.errors import InvalidInputError
from tracestore.formats.codecs import CODECS, SAMPLE_ROWS, choose_codec, rows_per_chunk

ROW = (20, 35, 35)
ROW_BYTES = 4 * 20 * 35 * 35


def calorimeter_rows(num_rows, rng, *, noise=0.0):
    """Deposits in a few blobs, about 4.5 % of the cells; with `noise`, something everywhere."""
    rows = np.zeros((num_rows, *ROW), np.float32)
    for row in rows:
        for _ in range(6):
            z, y, x = (int(rng.integers(0, length - width)) for length, width in zip(ROW, (5, 7, 6), strict=True))
            row[z : z + 5, y : y + 7, x : x + 6] = rng.gamma(1.0, 1.0, (5, 7, 6))
    return rows + noise * rng.standard_normal(rows.shape, np.float32) if noise else rows


@pytest.fixture
def rng():
    return np.random.default_rng(17)


@pytest.mark.parametrize(("remote", "codec", "least"), [(False, "lz4", 5), (True, "zstd", 8)])
def test_sparse_rows_are_compressed(rng, remote, codec, least):
    chosen, ratio = choose_codec(calorimeter_rows(8, rng).tobytes(), ROW_BYTES, remote=remote)
    assert chosen == codec
    assert ratio > least


@pytest.mark.parametrize("remote", [False, True])
def test_noisy_rows_are_not_compressed_and_the_ratio_says_why(rng, remote):
    chosen, ratio = choose_codec(calorimeter_rows(8, rng, noise=0.01).tobytes(), ROW_BYTES, remote=remote)
    assert chosen == "none"
    assert 0.95 < ratio < 1.1


@pytest.mark.parametrize(("remote", "codec"), [(False, "lz4"), (True, "zstd")])
def test_constant_rows_are_compressed(remote, codec):
    chosen, ratio = choose_codec(np.full(SAMPLE_ROWS * 100, 0.1).tobytes(), 800, remote=remote)
    assert chosen == codec
    assert ratio > 100


def test_a_network_is_content_with_less(rng):
    # zstd packs small integers to 6 bits of 8, lz4 finds nothing in them
    rows = rng.integers(0, 64, SAMPLE_ROWS * 4096, np.uint8).tobytes()
    assert choose_codec(rows, 4096, remote=False)[0] == "none"
    assert choose_codec(rows, 4096, remote=True)[0] == "zstd"


def test_a_local_disk_is_not_content_with_little(rng):
    rows = rng.integers(0, 256, (SAMPLE_ROWS, 4096), np.uint8)
    rows[:, :600] = 0
    codec, ratio = choose_codec(rows.tobytes(), 4096)
    assert codec == "none"
    assert 1.1 < ratio < 1.3


def test_sample_is_compressed_in_the_chunks_that_will_be_stored(rng):
    # rows repeat after more than one chunk, which a compressor that sees one chunk at a time cannot know
    row = rng.integers(0, 256, 80_000, np.uint8).tobytes()
    assert rows_per_chunk(80_000) == 1
    _, ratio = choose_codec(4 * row, 80_000, remote=True)
    one = pa.Codec("zstd", compression_level=1).compress(row, asbytes=True)
    assert ratio == pytest.approx(len(row) / len(one))


def test_without_rows_there_is_nothing_to_gain():
    assert choose_codec(b"", 8, remote=True) == ("none", 1.0)


def test_choice_takes_any_buffer(rng):
    rows = calorimeter_rows(2, rng)
    assert choose_codec(memoryview(rows), ROW_BYTES) == choose_codec(rows.tobytes(), ROW_BYTES)


def test_choice_is_among_the_codecs(rng):
    assert {choose_codec(rng.bytes(800), 8, remote=remote)[0] for remote in (False, True)} <= set(CODECS)


def test_sample_of_broken_rows_is_refused():
    with pytest.raises(InvalidInputError, match="whole rows of 8 bytes; it has 9"):
        choose_codec(bytes(9), 8)


@pytest.mark.parametrize(
    ("row_bytes", "rows"),
    [(1, 131_072), (8, 16_384), (1000, 131), (65_535, 2), (65_536, 1), (ROW_BYTES, 1), (10**9, 1)],
)
def test_small_rows_share_a_chunk(row_bytes, rows):
    assert rows_per_chunk(row_bytes) == rows


@pytest.mark.parametrize("row_bytes", [0, -1])
def test_rows_without_elements_have_no_chunk(row_bytes):
    with pytest.raises(InvalidInputError, match=f"must be positive.*got {row_bytes}"):
        rows_per_chunk(row_bytes)
