"""One loader in a process of its own: the half of `loader_peers.py` that may run in another environment.

    python loader_worker.py write LOADER FOLDER
    python loader_worker.py read  LOADER FOLDER --batch B --num-workers W --passes P

A LOADER other than this library's needs its package, numpy and torch only. FOLDER holds the records as plain numbers,
written by `loader_peers.py`; `write` puts them into the loader's own format beside them, and `read` passes over that
format in shuffled batches. Each stage prints one line of JSON.

A record is what training reads of a trace: its type, an observation of fixed shape, and a ragged row of doubles:
values, log probabilities and parameters, joined, which is the cheapest that a loader of records can get. A batch is a
stack of observations, and the rows one after the other with offsets.
"""

import argparse
import json
import math
import shutil
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, default_collate

SHAPE = (20, 35, 35)
SHARDS = 8
PAGE_NUMBERS = 1024
"""Single-precision numbers in a page of memory."""


def read_records(folder):
    """Types, offsets, rows and observations; the last is mapped."""
    types, offsets, rows = (np.load(folder / f"{name}.npy") for name in ("types", "offsets", "rows"))
    return types, offsets, rows, np.load(folder / "observations.npy", mmap_mode="r")


def each_record(folder):
    types, offsets, rows, observations = read_records(folder)
    for index, kind in enumerate(types.tolist()):
        yield kind, rows[offsets[index] : offsets[index + 1]], np.array(observations[index])


def collate(samples):
    """Stack records; `default_collate` writes the stack straight into shared memory when a worker process calls it."""
    kinds, rows, observations = zip(*samples, strict=True)
    return {
        "types": torch.tensor(kinds),
        "offsets": torch.from_numpy(np.cumsum([0, *map(len, rows)])),
        "rows": torch.from_numpy(np.concatenate(rows)),
        "observations": default_collate([torch.as_tensor(image) for image in observations]),
    }


class Datasets:
    """Hugging Face datasets as its guides show it: arrays of fixed shape, its format for torch, batches by index.

    A `BatchSampler` as sampler with ``batch_size=None`` is what they name for speed.
    """

    package = "datasets"
    name = "datasets"

    @classmethod
    def write(cls, folder):
        from datasets import Dataset, Features, List, Value  # type: ignore[import-not-found]  # in no extra

        features = Features(
            {"type": Value("int64"), "rows": List(Value("float64")), "observation": cls.observation_feature()}
        )

        def generate():
            for kind, rows, observation in each_record(folder):
                yield {"type": kind, "rows": rows, "observation": cls.shaped(observation)}

        made = Dataset.from_generator(generate, features=features, cache_dir=str(folder / "cache"))
        made.save_to_disk(str(folder / cls.name))
        shutil.rmtree(folder / "cache")

    @staticmethod
    def observation_feature():
        from datasets import Array3D

        return Array3D(SHAPE, "float32")

    @staticmethod
    def shaped(observation):
        return observation

    @staticmethod
    def formatted(data):
        return data.with_format("torch")

    @classmethod
    def loader(cls, folder, batch, num_workers):
        from datasets import load_from_disk

        data = cls.formatted(load_from_disk(str(folder / cls.name)))
        return DataLoader(
            data,
            sampler=BatchSampler(RandomSampler(data), batch, drop_last=False),
            batch_size=None,
            collate_fn=cls.tensors,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    @staticmethod
    def tensors(columns):
        rows = columns["rows"]
        return {
            "types": columns["type"],
            "offsets": torch.from_numpy(np.cumsum([0, *map(len, rows)])),
            "rows": torch.cat(list(rows)),
            "observations": columns["observation"],
        }


class DatasetsArrow(Datasets):
    """The same, tuned by hand: lists of fixed length, and whole columns taken from its Arrow tables."""

    name = "datasets-arrow"

    @staticmethod
    def observation_feature():
        from datasets import List, Value

        return List(Value("float32"), length=math.prod(SHAPE))

    @staticmethod
    def shaped(observation):
        return observation.ravel()

    @staticmethod
    def formatted(data):
        return data.with_format("arrow")

    @staticmethod
    def tensors(table):
        rows = table["rows"].combine_chunks()
        images = [chunk.flatten().to_numpy() for chunk in table["observation"].chunks]
        offsets = np.array(rows.offsets)
        return {
            "types": torch.from_numpy(np.array(table["type"])),
            "offsets": torch.from_numpy(offsets - offsets[0]),
            "rows": torch.from_numpy(np.array(rows.flatten())),
            "observations": torch.from_numpy(np.concatenate(images)).view(-1, *SHAPE),
        }


class WebDataset:
    """WebDataset: tar files, read in sequence, shuffled by shard and in a buffer, batched inside the workers.

    Tensors are in its own format, one member a record, which it reads nearly twice as fast as members of `.npy`.
    """

    package = "webdataset"
    name = "webdataset"

    @classmethod
    def write(cls, folder):
        import webdataset  # type: ignore[import-not-found]  # in no extra

        (folder / cls.name).mkdir()
        per_shard = -(-len(np.load(folder / "types.npy")) // SHARDS)
        pattern = str(folder / cls.name / "%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0) as writer:
            for index, (kind, rows, observation) in enumerate(each_record(folder)):
                writer.write({"__key__": f"{index:08d}", "trace.ten": [np.array([kind]), rows, observation]})

    @classmethod
    def loader(cls, folder, batch, num_workers):
        import webdataset

        shards = sorted(map(str, (folder / cls.name).glob("*.tar")))
        data = (
            webdataset.WebDataset(shards, shardshuffle=len(shards))
            .shuffle(1000)
            .decode()
            .to_tuple("trace.ten")
            .batched(batch, collation_fn=cls.tensors)
        )
        return webdataset.WebLoader(data, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)

    @staticmethod
    def tensors(samples):
        return collate([(int(kind[0]), rows, observation) for ((kind, rows, observation),) in samples])


class Streaming:
    """MosaicML streaming: MDS shards on the local disk, and its default shuffle."""

    package = "mosaicml-streaming"
    name = "streaming"

    @classmethod
    def write(cls, folder):
        from streaming import MDSWriter  # type: ignore[import-not-found]  # in no extra

        shape = ",".join(map(str, SHAPE))
        columns = {"type": "int", "rows": "ndarray:float64", "observation": f"ndarray:float32:{shape}"}
        with MDSWriter(out=str(folder / cls.name), columns=columns) as writer:
            for kind, rows, observation in each_record(folder):
                writer.write({"type": kind, "rows": rows, "observation": observation})

    @classmethod
    def loader(cls, folder, batch, num_workers):
        from streaming import StreamingDataset

        data = StreamingDataset(local=str(folder / cls.name), shuffle=True, batch_size=batch)
        return cls.torch_loader(data, batch, num_workers)

    @classmethod
    def torch_loader(cls, data, batch, num_workers, **options):
        return DataLoader(
            data,
            batch_size=batch,
            collate_fn=cls.tensors,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            **options,
        )

    @staticmethod
    def tensors(samples):
        return collate([(sample["type"], sample["rows"], sample["observation"]) for sample in samples])


class StreamingLocal(Streaming):
    """The same shards as an indexed data set, without the machinery that streams: its fastest on a local disk."""

    name = "streaming-local"

    @classmethod
    def loader(cls, folder, batch, num_workers):
        from streaming import LocalDataset

        return cls.torch_loader(LocalDataset(str(folder / cls.name)), batch, num_workers, shuffle=True)


class Tracestore:
    """This library; the store is made by `loader_peers.py`."""

    policy = "default"

    @classmethod
    def loader(cls, folder, batch, num_workers):
        from tracestore.samplers import BatchPolicy
        from tracestore.samplers.torch_loader import trace_loader

        shuffle = BatchPolicy(global_batch=batch, micro=1, order="random")
        policy = BatchPolicy.local(batch) if cls.policy == "default" else shuffle
        return trace_loader(folder / "tracestore", policy=policy, num_workers=num_workers)


class TracestoreShuffle(Tracestore):
    """The same in the order that the others have: any trace after any other."""

    policy = "plain shuffle"


LOADERS: dict[str, Any] = {
    "datasets": Datasets,
    "datasets-arrow": DatasetsArrow,
    "streaming": Streaming,
    "streaming-local": StreamingLocal,
    "tracestore": Tracestore,
    "tracestore-shuffle": TracestoreShuffle,
    "webdataset": WebDataset,
}


def drain(loader):
    """Take all batches, look at every page of the observations and let go of them."""
    num_traces, seen = 0, 0.0
    for batch in loader:
        observations = observations_of(batch)
        num_traces += len(observations)
        seen += float(observations.view(-1)[::PAGE_NUMBERS].sum())
    return num_traces


def checksums(loader):
    """Sums of all numbers as integers, whatever their order: equal for loaders that deliver the same records."""
    num_traces, image_sum, row_sum, row_bytes = 0, 0, 0, 0
    for batch in loader:
        observations = observations_of(batch)
        num_traces += len(observations)
        image_sum += int(observations.view(torch.int32).sum(dtype=torch.int64))
        for column in [batch["rows"]] if isinstance(batch, dict) else [batch.values, batch.log_probs, batch.parameters]:
            row_sum += int(column.view(torch.uint8).view(torch.int32).sum(dtype=torch.int64))
            row_bytes += column.nbytes
    return {"num_traces": num_traces, "observations": image_sum, "rows": row_sum, "row_bytes": row_bytes}


def observations_of(batch):
    return batch["observations"] if isinstance(batch, dict) else batch.observations["detector"]


def read(arguments):
    loader = LOADERS[arguments.loader].loader(arguments.folder, arguments.batch, arguments.num_workers)
    sums = checksums(loader)
    times = []
    for _ in range(arguments.passes):
        start = time.perf_counter()
        if drain(loader) != sums["num_traces"]:
            raise SystemExit("passes differ in their number of traces")
        times.append(time.perf_counter() - start)
    return {"sums": sums, "seconds": times}


def write(arguments):
    chosen = LOADERS[arguments.loader]
    chosen.write(arguments.folder)
    return {"version": f"{chosen.package} {version(chosen.package)}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["write", "read"])
    parser.add_argument("loader", choices=sorted(LOADERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--passes", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = write(arguments) if arguments.stage == "write" else read(arguments)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
