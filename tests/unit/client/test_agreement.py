"""A signature proves origin, not sense: what the parts of a version say is compared before it is worked with."""

from __future__ import annotations

import csv
import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import medgan
from medgan.client import agreement, export
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable, printable

SENTENCE = "does not fit its manifest"
COUNTING = pa.proxy_memory_pool(pa.default_memory_pool())
"""For as long as the process lives: what was decoded in it may be freed after a test, and with it gone that crashes."""


@pytest.fixture
def folder(template, tmp_path):
    """A version that a publisher signed with whatever the test makes of it: opening verifies no signature."""
    return shutil.copytree(template / "published" / "registry" / "chest-demo" / "1.0.0", tmp_path / "1.0.0")


def written(path, content):
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.head(7),
        lambda labels: labels.drop(columns="class"),
        lambda labels: labels.drop(columns="split"),
        lambda labels: labels.assign(**{"class": "cardiomegaly"}),
        lambda labels: labels.assign(**{"class": None}),
        lambda labels: labels.assign(split="../../../evil"),
        lambda labels: labels.assign(split=None),
        lambda labels: labels.assign(sex=[["F"]] * len(labels)),
        lambda labels: labels.assign(patient="Ann"),
    ],
    ids=["rows", "no class", "no split", "class", "null", "path", "null split", "nested", "patient"],
)
def test_a_table_that_does_not_fit_is_refused_in_a_sentence(folder, change):
    path = folder / "labels.parquet"
    labels = change(pd.read_parquet(path))
    path.chmod(0o644)
    labels.to_parquet(path, index=False)
    for read in (lambda it: it.labels, lambda it: it.class_index, lambda it: it.loader(batch=8), lambda it: it[0]):
        with pytest.raises(IntegrityError, match=SENTENCE):
            read(medgan.open_folder(folder, "train"))


def test_labels_that_grow_when_they_are_read_are_refused_before(folder):
    path = folder / "labels.parquet"
    labels = pa.Table.from_pandas(pd.read_parquet(path), preserve_index=False)
    long = pa.DictionaryArray.from_arrays(pa.array([0] * len(labels), pa.int32()), pa.array(["x" * 10**6]))
    path.chmod(0o644)
    pq.write_table(labels.append_column("z", long.cast(pa.string())), path, compression="zstd")
    assert path.stat().st_size < 20_000
    with pytest.raises(IntegrityError, match=SENTENCE):
        len(medgan.open_folder(folder))


def test_any_bytes_may_stand_in_a_table():
    labels = pd.DataFrame({"split": ["train"] * 400, "class": ["a", "b"] * 200, "sex": ["F", "M", None, "F"] * 100})
    sound = labels.to_parquet(index=False)
    read = [agreement._read(sound[:at] + b"\0" + sound[at + 1 :], rows=400, most=10**6) for at in range(300)]
    assert any(one is None for one in read)
    assert agreement._read(sound, rows=400, most=10**6).equals(labels)


def test_no_more_of_a_table_is_decoded_than_may_be_whatever_size_it_states():
    size = 4_000_000
    columns = {f"x{number}": ["0" * size, "1"] for number in range(6)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", use_dictionary=False, write_statistics=False)
    data = sink.getvalue().to_pybytes()
    stated = varint(pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).total_byte_size)
    before, _, after = data.rpartition(stated)
    data = before + bytes([0x84, *[0x80] * (len(stated) - 2), 0]) + after  # two bytes, in as many
    usual = pa.default_memory_pool()
    pa.set_memory_pool(COUNTING)
    try:
        assert agreement._read(data, rows=2, most=size // 2) is None
    finally:
        pa.set_memory_pool(usual)
    assert size < COUNTING.max_memory() < 5 * size  # one column and its pages


def varint(number):
    """As Thrift writes a positive number."""
    number, written = number << 1, []
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def test_what_a_table_says_of_pandas_is_not_believed(folder):
    path = folder / "labels.parquet"
    labels = pa.Table.from_pandas(pd.read_parquet(path), preserve_index=False)
    path.chmod(0o644)
    said = {"index_columns": ["nowhere", 5], "columns": [{"name": 1}], "column_indexes": 7}
    pq.write_table(labels.replace_schema_metadata({b"pandas": json.dumps(said).encode()}), path)
    assert len(medgan.open_folder(folder).labels) == len(labels)


def test_a_disk_that_does_not_give_a_part_is_nothing_to_tell_a_publisher(folder):
    for part in ("labels.parquet", "images.zarr/images/zarr.json"):
        (folder / part).unlink()
        (folder / part).symlink_to("/proc/self/mem")  # reading fails with EIO
    opened = medgan.open_folder(folder)
    with pytest.raises(StoreUnavailable):
        _ = opened.labels
    with pytest.raises(StoreUnavailable):
        _ = opened.attrs


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more PAR1"])
def test_what_is_no_table_is_refused_in_a_sentence(folder, content):
    written(folder / "labels.parquet", content)
    with pytest.raises(IntegrityError, match=SENTENCE):
        len(medgan.open_folder(folder))


def described(folder, change):
    """Change the array's description, where it stands alone and in the group's."""
    path, group = folder / "images.zarr" / "images" / "zarr.json", folder / "images.zarr" / "zarr.json"
    said, above = json.loads(path.read_bytes()), json.loads(group.read_bytes())
    change(said)
    above["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {"images": said}}
    written(path, json.dumps(said).encode())
    written(group, json.dumps(above).encode())


def sides(said):
    """Images that no machine can hold, in files of a few hundred kB."""
    said["shape"][1:] = said["chunk_grid"]["configuration"]["chunk_shape"][1:] = [10**6, 10**6]
    said["codecs"][0]["configuration"]["chunk_shape"][1:] = [10**6, 10**6]


def unsharded(said):
    """The same in a layout that only zarr-python reads."""
    sides(said)
    said["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}]


def wide(said):
    """Small images in a chunk that no machine can hold."""
    said["chunk_grid"]["configuration"]["chunk_shape"][1:] = [10**6, 10**6]
    said["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}]


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["shape"].__setitem__(0, 10**12),
        lambda said: said["shape"].__setitem__(0, 7),
        unsharded,
        lambda said: said.update(fill_value="NaN"),
        lambda said: said.update(codecs=[{"name": "rm"}]),
        sides,
        wide,
    ],
    ids=["more", "fewer", "unsharded bomb", "fill", "codec", "bomb", "chunk"],
)
def test_an_array_that_does_not_fit_is_refused_before_memory_is_taken(folder, change):
    described(folder, change)
    for read in (lambda it: it.images, lambda it: it[0]):
        with pytest.raises(IntegrityError, match=SENTENCE):
            read(medgan.open_folder(folder))
    with pytest.raises((IntegrityError, InvalidRequest)):  # what it cannot read directly it may be
        medgan.open_folder(folder).loader(batch=8)


def test_deep_json_is_malformed_and_no_crash(folder):
    written(folder / "images.zarr" / "images" / "zarr.json", b"[" * 100_000)
    with pytest.raises(IntegrityError):
        _ = medgan.open_folder(folder).images


@pytest.mark.parametrize(
    "said",
    [
        {"intensity_range": [5, 5]},
        {"intensity_range": [float("nan"), 1]},
        {"intensity_range": "<script>"},
        {"intensity_range": [[1], [2]]},
        {"intensity_range": {"low": 0, "high": 1}},
        {"intensity_range": [0, 10**400]},
        {"intensity_range": [-1e308, 1e308]},
        {"rescale_slope": float("inf")},
        {"rescale_slope": 1e300},
        {"rescale_intercept": "0"},
        {"spacing_mm": "ab"},
        {"spacing_mm": [1e300, 1e300]},
        {"spacing_mm": [1.0, -1.0]},
        {"spacing_mm": [1.0] * 50},
    ],
    ids=str,
)
def test_intensities_and_distances_that_cannot_be_computed_with_are_refused(folder, said):
    described(folder, lambda about: about["attributes"].update(said))
    with pytest.raises(IntegrityError, match=SENTENCE):
        _ = medgan.open_folder(folder).attrs


def test_words_that_a_spreadsheet_would_run_are_led_by_a_quote(folder, tmp_path):
    path = folder / "labels.parquet"
    labels = pd.read_parquet(path).assign(sex="=cmd|' /C calc'!A0", file_name="../elsewhere", grade=-3)
    path.chmod(0o644)
    labels.to_parquet(path, index=False)
    export.write_labels(medgan.open_folder(folder), tmp_path / "labels.csv", file_name=["a.png"] * len(labels))
    row = next(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    assert (row["sex"], row["file_name"], row["grade"]) == ("'=cmd|' /C calc'!A0", "a.png", "-3")


def test_blanks_of_an_honest_title_are_shown_and_what_steers_a_terminal_is_not():
    title = "10\N{NO-BREAK SPACE}mm, 5\N{NARROW NO-BREAK SPACE}mm, soft\N{SOFT HYPHEN}hyphen"
    assert printable(title) == title
    assert printable("\x1b[2J\x9b\u202e") == "\ufffd[2J\ufffd\ufffd"
