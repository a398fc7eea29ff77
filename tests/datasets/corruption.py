"""Ways to damage a dataset on disk: one function each, named, and the same at every run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offdyn_envs.datasets.store.folders import read_dataset, save
from offdyn_envs.datasets.store.spec import Arrays

HDF5, METADATA = Path("data/main_data.hdf5"), Path("data/metadata.json")
ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations", "infos/qpos", "infos/qvel")
FLAT = tuple(
    f"flat/{key}.npy" for key in ("observations", "actions", "rewards", "terminations", "qpos", "lengths", "seeds")
)


@dataclass(frozen=True)
class Fault:
    """One way to damage a dataset.

    Attributes:
        name: For the test's id.
        damage: Called with the folder of the dataset.
        flat: The damage is in the flat arrays: loading uses them, `verify` tests them.
    """

    name: str
    damage: Callable[[Path], None]
    flat: bool = False


def flip(file: Path, seed: int, first: int | None = None) -> Callable[[Path], None]:
    """Turn over one bit of a file, or of its first bytes; in JSON one that changes what is read."""

    def damage(folder: Path) -> None:
        rng, before = random.Random(seed), (folder / file).read_bytes()
        while True:
            content = bytearray(before)
            content[rng.randrange(min(len(content), first or len(content)))] ^= 1 << rng.randrange(8)
            if file.suffix != ".json" or parsed(bytes(content)) != parsed(before):
                break
        (folder / file).write_bytes(content)

    return damage


def parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def overwrite(file: Path, seed: int) -> Callable[[Path], None]:
    """Overwrite a block: with zeros, ones, or noise."""

    def damage(folder: Path) -> None:
        rng, content = random.Random(seed), bytearray((folder / file).read_bytes())
        size = rng.choice((16, 64, 512))
        block = (bytes(size), b"\xff" * size, rng.randbytes(size))[seed % 3]
        begin = rng.randrange(len(content) - size)
        content[begin : begin + size] = (
            bytes(255 - byte for byte in block) if content[begin:][:size] == block else block
        )
        (folder / file).write_bytes(content)

    return damage


def truncate(file: Path, seed: int) -> Callable[[Path], None]:
    """Keep the beginning of a file."""

    def damage(folder: Path) -> None:
        content = (folder / file).read_bytes()
        end = random.Random(seed).randrange(len(content) - 1)  # The last byte of JSON is but a new line.
        (folder / file).write_bytes(content[:end])

    return damage


def write(file: Path, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


def edit_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        metadata = json.loads((folder / METADATA).read_text())
        change(metadata)
        (folder / METADATA).write_text(json.dumps(metadata))

    return damage


def edit_hdf5(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with h5py.File(folder / HDF5, "a") as file:
            change(file)

    return damage


def put(key: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """Change one array of the last episode."""

    def edit(file: h5py.File) -> None:
        group = file[f"episode_{len(file) - 1}"]
        value = change(group[key][()])
        del group[key]
        if isinstance(value, dict):
            group.create_dataset(key, **value)
        elif value is not None:
            group[key] = value

    return edit_hdf5(edit)


def last(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.reshape(-1)[-1] = value
    return changed


OF_ANY: dict[str, Callable[[np.ndarray], Any]] = {
    "missing": lambda a: None,
    "int64": lambda a: a.astype(np.int64),
    "big-endian": lambda a: a.astype(np.float32 if a.dtype == bool else a.dtype).astype(">f4"),
    "float16": lambda a: a.astype(np.float16),
    "shorter": lambda a: a[:-1],
    "longer": lambda a: np.concatenate([a, a[-1:]]),
    "empty": lambda a: a[:0],
    "another axis": lambda a: a[..., None],
    "scalar": lambda a: a.reshape(-1)[0],
    "no shape": lambda a: h5py.Empty(a.dtype),
    "huge": lambda a: {"shape": (10**12, *a.shape[1:]), "dtype": a.dtype, "chunks": (1, *a.shape[1:])},
}
OF_NUMBERS: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": lambda a: last(a, np.nan),
    "infinite": lambda a: last(a, np.inf),
    "changed": lambda a: last(a, 0.015625),
    "other precision": lambda a: a.astype(np.float64 if a.dtype == np.float32 else np.float32),
}
OF_COLUMNS: dict[str, Callable[[np.ndarray], Any]] = {
    "wider": lambda a: np.concatenate([a, a[:, :1]], axis=1),
    "narrower": lambda a: a[:, :-1],
    "transposed": lambda a: a.T,
}


def malformed_arrays() -> Iterator[Fault]:
    for key in ARRAYS:
        flags = key in ("terminations", "truncations")
        kinds = OF_ANY | ({} if flags else OF_NUMBERS) | ({} if flags or key == "rewards" else OF_COLUMNS)
        yield from (Fault(f"{key} {kind}", put(key, change)) for kind, change in kinds.items())
        if flags:
            yield Fault(f"{key} turned over", put(key, lambda a: ~a))


def rename(old: str, new: str) -> Callable[[h5py.File], None]:
    return lambda file: file.move(old, new)


def swap(file: h5py.File) -> None:
    for old, new in (("episode_0", "x"), ("episode_1", "episode_0"), ("x", "episode_1")):
        file.move(old, new)


def malformed_episodes() -> Iterator[Fault]:
    edits: dict[str, Callable[[h5py.File], object]] = {
        "first episode missing": lambda file: file.pop("episode_0"),
        "last episode missing": lambda file: file.pop(f"episode_{len(file) - 1}"),
        "one episode more": lambda file: file.copy("episode_0", f"episode_{len(file)}"),
        "something else inside": lambda file: file.create_group("notes"),
        "episode renamed": rename("episode_1", "episode_one"),
        "episodes swapped": swap,
        "episode is an array": lambda file: (file.pop("episode_1"), file.create_dataset("episode_1", data=[1.0])),
        "link to nowhere": lambda file: (file.pop("episode_1"), file.__setitem__("episode_1", h5py.SoftLink("/none"))),
        "seed missing": lambda file: file["episode_1"].attrs.pop("seed"),
        "seed another": lambda file: file["episode_1"].attrs.modify("seed", np.int64(3)),
        "seed a fraction": lambda file: file["episode_1"].attrs.__setitem__("seed", 0.5),
        "seed a list": lambda file: file["episode_1"].attrs.__setitem__("seed", [1, 2]),
        "seed a text": lambda file: file["episode_1"].attrs.__setitem__("seed", "one"),
        "simulator states missing": lambda file: file["episode_1"].pop("infos"),
    }
    yield from (Fault(name, edit_hdf5(edit)) for name, edit in edits.items())


TOP_KEYS = (
    *("dataset_id", "data_format", "minari_version", "total_steps", "total_episodes", "env_spec", "eval_env_spec"),
    *("observation_space", "action_space", "algorithm_name", "author", "description", "requirements", "offdyn"),
)
JSON_TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "binary": b"\x00\xff\xfe\x80" * 20,
    "deep": b"[" * 100_000,
    "open": b'{"offdyn": {',
    "long number": b'{"offdyn": ' + b"9" * 5000 + b"}",
    "format of tomorrow": b'{"offdyn": {"format": 2}}',
    "format NaN": b'{"offdyn": {"format": NaN}}',
}


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda metadata: metadata.pop(key)


def malformed_metadata() -> Iterator[Fault]:
    yield from (Fault(f"metadata {name}", write(METADATA, text)) for name, text in JSON_TEXTS.items())
    yield from (Fault(f"metadata without {key}", edit_json(without(key))) for key in TOP_KEYS)
    edits: dict[str, Callable[[dict[str, Any]], object]] = {
        "of fewer episodes": lambda m: m["offdyn"].update(episodes=1),
        "of no episodes": lambda m: m["offdyn"].update(episodes=0),
        "of as many episodes as rows": lambda m: m["offdyn"].update(episodes=500),
        "of another size": lambda m: m["offdyn"].update(rows=5000),
        "of another robot": lambda m: m["offdyn"].update(robot="ant"),
        "of another gravity": lambda m: m["offdyn"].update(shifts=[{"kind": "gravity", "scale": 0.25}]),
        "of another profile": lambda m: m["offdyn"].update(profile="odrl"),
        "of another seed": lambda m: m["offdyn"].update(seed=1),
        "of another model": lambda m: m["offdyn"].update(model_sha256="0" * 64),
        "of another file": lambda m: m["offdyn"]["files"]["main_data.hdf5"].update(sha256="0" * 64),
        "without a file": lambda m: m["offdyn"].update(files={}),
        "with another command": lambda m: m["offdyn"].update(rebuild="rm -rf /"),
        "with another licence": lambda m: m["offdyn"].update(licence="none"),
        "with better returns": lambda m: m["offdyn"]["returns"].update(mean=4000.0),
        "with one more key": lambda m: m.update(note="checked"),
        "without its checksum": lambda m: m["offdyn"].pop("metadata_sha256"),
    }
    yield from (Fault(f"metadata {name}", edit_json(edit)) for name, edit in edits.items())


def flat_file(name: str, damage: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        damage(folder / name)

    return run


def damaged_flat() -> Iterator[Fault]:
    for seed in range(28):
        name = FLAT[seed % len(FLAT)]
        yield Fault(f"{name} bit {seed}", flip(Path(name), seed), flat=True)
        if seed % 2:
            yield Fault(f"{name} header bit {seed}", flip(Path(name), seed, first=128), flat=True)
    for seed, name in enumerate(FLAT):
        yield Fault(f"{name} truncated", truncate(Path(name), seed), flat=True)
    damages: dict[str, Callable[[Path], object]] = {
        "missing": Path.unlink,
        "a folder": lambda path: (path.unlink(), path.mkdir()),
        "of other numbers": lambda path: np.save(path, np.load(path) + np.float32(0.5)),
        "in double precision": lambda path: np.save(path, np.load(path).astype(np.float64)),
        "in Fortran order": lambda path: np.save(path, np.asfortranarray(np.ones((500, 17), np.float32))),
        "of objects": lambda path: np.save(path, np.array([None]), allow_pickle=True),
        "with more behind": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    }
    yield from (
        Fault(f"flat observations {name}", flat_file(FLAT[0], damage), flat=True) for name, damage in damages.items()
    )
    for name, text in JSON_TEXTS.items():
        yield Fault(f"flat source {name}", write(Path("flat/source.json"), text), flat=True)


def forge(change: Callable[[Arrays, dict[str, Any]], Arrays]) -> Callable[[Path], None]:
    """Write other data with checksums that belong to them."""

    def damage(folder: Path) -> None:
        data = read_dataset(folder)
        metadata = json.loads(json.dumps(dict(data.metadata)))
        arrays = change(data.arrays, metadata["offdyn"])
        root = folder.parents[3] / "forged"
        root.mkdir()
        path = save(arrays, metadata, root, flat=False, quiet=True)
        shutil.rmtree(folder)
        path.rename(folder)

    return damage


def forgeries() -> Iterator[Fault]:
    def with_shifts(arrays: Arrays, card: dict[str, Any]) -> Arrays:
        card["shifts"] = [{"kind": "friction", "scale": 2.0}]
        return arrays

    def fallen(arrays: Arrays, card: dict[str, Any]) -> Arrays:
        return replace(arrays, terminations=arrays.truncations, truncations=arrays.terminations)

    changes: dict[str, Callable[[Arrays, dict[str, Any]], Arrays]] = {
        "rewards": lambda a, card: replace(a, rewards=a.rewards + np.float32(0.5)),
        "actions": lambda a, card: replace(a, actions=-a.actions),
        "positions": lambda a, card: replace(a, qpos=a.qpos + 0.01),
        "velocities": lambda a, card: replace(a, qvel=a.qvel * 1.01),
        "observations": lambda a, card: replace(
            a, observations=a.observations * 2, next_observations=a.next_observations * 2
        ),
        "ends": fallen,
        "shifts": with_shifts,
    }
    yield from (Fault(f"forged {name}", forge(change)) for name, change in changes.items())


def bits() -> Iterator[Fault]:
    yield from (Fault(f"HDF5 bit {seed}", flip(HDF5, seed)) for seed in range(60))
    yield from (Fault(f"HDF5 block {seed}", overwrite(HDF5, seed)) for seed in range(24))
    yield from (Fault(f"HDF5 truncated {seed}", truncate(HDF5, seed)) for seed in range(16))
    yield from (Fault(f"metadata bit {seed}", flip(METADATA, seed)) for seed in range(40))
    yield from (Fault(f"metadata truncated {seed}", truncate(METADATA, seed)) for seed in range(8))


FAULTS = [
    *bits(),
    *malformed_arrays(),
    *malformed_episodes(),
    *malformed_metadata(),
    *damaged_flat(),
    *forgeries(),
]
