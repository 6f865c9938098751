"""Folders and archives of every kind give the same scan; hostile ones are refused as a whole."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numcodecs
import pytest

from medgan.archive import container, instance, limits, phantom, scan, sources
from medgan.errors import BadInstance, InvalidRequest, StoreUnavailable, UnusableArchive
from medgan.settings import Zones
from tests.unit.archive.builders import KEYRING, closed, scan_path, sound, write_files

FILES = {
    "a/Doe^Jane/IM1.dcm": sound(patient=1),
    "a/Doe^Jane/IM2.dcm": sound(patient=1, study=2),
    "b/noext": sound(patient=2),
    "labels.csv": b"PatientID,finding\nX-1,normal\n",
}


def _zip(files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def _tar(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return out.getvalue()


CONTAINERS = {
    "stored.zip": lambda: _zip(FILES, method=zipfile.ZIP_STORED),
    "deflated.zip": lambda: _zip(FILES),
    "plain.tar": lambda: _tar(FILES),
    "packed.tar.gz": lambda: gzip.compress(_tar(FILES), mtime=0),
    "packed.tar.bz2": lambda: bz2.compress(_tar(FILES)),
    "packed.tar.xz": lambda: lzma.compress(_tar(FILES)),
    "packed.tar.zst": lambda: bytes(numcodecs.Zstd(3).encode(_tar(FILES))),
    "nested.zip": lambda: _zip({"in/inner.zip": _zip(FILES)}),
    "nested-stored.zip": lambda: _zip({"in/inner.zip": _zip(FILES)}, method=zipfile.ZIP_STORED),
    "tar-in.zip": lambda: _zip({"in/inner.tar.gz": gzip.compress(_tar(FILES), mtime=0)}),
    "zip-in.tar": lambda: _tar({"in/inner.zip": _zip(FILES)}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_what_its_folder_gives(name: str, tmp_path: Path, zones: Zones) -> None:
    plain, found_plain = scan_path(write_files(tmp_path / "folder", FILES), zones)
    packed = write_files(tmp_path / "in", {name: CONTAINERS[name]()}) / name
    sources.preflight(packed)
    report, found = scan_path(packed, zones)
    assert (report.instances, report.studies, report.label_rows, report.tables) == (3, 3, 1, 1)
    assert report.model_dump(exclude={"source", "scan_id"}) == plain.model_dump(exclude={"source", "scan_id"})
    assert [study.key for study in found.studies] == [study.key for study in found_plain.studies]
    read = {instance.read(one, zones=zones, keyring=KEYRING) for study in found.studies for one in study.instances}
    assert read == {content for name, content in FILES.items() if name != "labels.csv"}


def test_archives_in_a_folder_are_looked_through(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"x/one.zip": _zip(FILES), "loose.dcm": sound(patient=5)})
    report, _ = scan_path(source, zones)
    assert (report.instances, report.rejected) == (4, {})


def _link(target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def _hard_link() -> tarfile.TarInfo:
    member = tarfile.TarInfo("hard")
    member.type, member.linkname = tarfile.LNKTYPE, "/etc/passwd"
    return member


def _device() -> tarfile.TarInfo:
    member = tarfile.TarInfo("device")
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    return member


def _zip_with_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.dcm", sound())
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return out.getvalue()


def _overlapping() -> bytes:
    """Two directory entries for the same bytes, as in a bomb that no ratio of members shows."""
    whole = bytearray(_zip({"a.dcm": sound(), "b.dcm": sound(patient=2)}))
    second = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)
    struct.pack_into("<L", whole, second + 42, 0)
    return bytes(whole)


def _encrypted() -> bytes:
    whole = bytearray(_zip({"a.dcm": sound()}))
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 8] |= 1
    return bytes(whole)


def _crowd() -> bytes:
    """An end record that announces a million members."""
    whole = bytearray(_zip({"a.dcm": sound()}))
    end = whole.rindex(b"PK\x05\x06")
    struct.pack_into("<L", whole, end + 12, 46_000_000)
    return bytes(whole)


def _before_its_begin() -> bytes:
    """A directory that is said to stand later than it does, so that its first member lies before the file."""
    whole = bytearray(_zip({"a.dcm": sound()}))
    place = whole.rindex(b"PK\x05\x06") + 16
    struct.pack_into("<L", whole, place, struct.unpack_from("<L", whole, place)[0] + 1)
    return bytes(whole)


def _lying_size() -> bytes:
    """A member that inflates to more than its header says."""
    whole = bytearray(_zip({"a.dcm": sound(), "z.dcm": bytes(4096)}))
    second = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)
    struct.pack_into("<L", whole, second + 24, 100)
    return bytes(whole)


def _member_of_size(size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """A member, or a header of the next one, that says to be of `size` bytes."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member


def _sparse_cut_short() -> bytes:
    """What is left of a half-copied `tar -S`: its map goes on in a block that is not there."""
    header = bytearray(_member_of_size(512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    return bytes(header)


def _far_away() -> bytes:
    """A zip whose one member is said to lie 2^63 bytes further on."""
    whole = bytearray(_zip({"a.dcm": sound()}))
    entry, end = whole.index(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
    struct.pack_into("<L", whole, entry + 42, 0xFFFFFFFF)
    struct.pack_into("<H", whole, entry + 30, 12)
    place = entry + 46 + len("a.dcm")
    whole[place:place] = struct.pack("<2HQ", 1, 8, 1 << 63)
    struct.pack_into("<L", whole, end + 12 + 12, end + 12 - entry)
    return bytes(whole)


GOOD = {"a.dcm": sound()}
HOSTILE = {
    "a zip that climbs": lambda: _zip({**GOOD, "../../x.dcm": sound()}),
    "a zip that climbs with backslashes": lambda: _zip({**GOOD, "..\\..\\x.dcm": sound()}),
    "a zip with an absolute name": lambda: _zip({**GOOD, "/etc/x.dcm": sound()}),
    "a zip with a drive": lambda: _zip({**GOOD, "C:/x.dcm": sound()}),
    "a zip with a link": _zip_with_link,
    "a zip bomb of 1,000 to 1": lambda: _zip({**GOOD, **{f"{n}.dcm": bytes(8 << 20) for n in range(10)}}),
    "a zip whose members overlap": _overlapping,
    "an encrypted zip": _encrypted,
    "a zip packed with lzma": lambda: _zip(GOOD, method=zipfile.ZIP_LZMA),
    "a zip of a million members": _crowd,
    "a zip whose member lies before its begin": _before_its_begin,
    "a zip with a member of no name": lambda: _zip({**GOOD, "": b"x"}),
    "a zip whose member lies behind its end": _far_away,
    "a tar with a member of less than nothing": lambda: _tar(GOOD, _member_of_size(-512)),
    "a tar whose name takes megabytes": lambda: _tar(GOOD, _member_of_size(3 << 20, tarfile.XHDTYPE)) + bytes(4 << 20),
    "a tar of names of names": lambda: _member_of_size(0, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) * 600,
    "half a sparse tar": _sparse_cut_short,
    "zips nested three deep": lambda: _zip({"1.zip": _zip({"2.zip": _zip(GOOD)})}),
    "a bomb inside a zip": lambda: _zip({**GOOD, "b.zip": _zip({"x": bytes(80 << 20)})}),
    "a tar with a link": lambda: _tar(GOOD, _link("/etc")),
    "a tar with a climbing link": lambda: _tar(GOOD, _link("../..")),
    "a tar with a hard link": lambda: _tar(GOOD, _hard_link()),
    "a tar with a device": lambda: _tar(GOOD, _device()),
    "a tar with an absolute name": lambda: _tar({**GOOD, "/etc/x": b"x"}),
    "a tar that climbs": lambda: _tar({**GOOD, "a/../../x": b"x"}),
    "a gzip bomb": lambda: gzip.compress(_tar({"a.dcm": bytes(80 << 20)}), mtime=0),
    "a zip that ends early": lambda: _zip(FILES)[:-30],
    "a zip without its first member": lambda: b"PK\x03\x04" + _zip(FILES)[4000:],
    "half a zip": lambda: _zip(FILES)[:2000],
    "half a tar": lambda: _tar(FILES)[:3000],
    "half a gzip": lambda: gzip.compress(_tar(FILES), mtime=0)[:1500],
    "half a zst": lambda: bytes(numcodecs.Zstd(3).encode(_tar(FILES)))[:900],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_or_broken_archive_is_refused_as_a_whole(what: str, tmp_path: Path, zones: Zones) -> None:
    path = write_files(tmp_path / "in", {"DOE_JANE.zip": HOSTILE[what]()}) / "DOE_JANE.zip"
    with pytest.raises(UnusableArchive) as refused:
        scan_path(path, zones)
    assert "DOE" not in str(refused.value)
    assert "DOE" not in repr(refused.value.__cause__)
    assert not (zones.identified / "intake").exists()
    assert not (zones.identified / "quarantine").exists()
    assert not list(tmp_path.parent.glob("x.dcm"))


@pytest.mark.parametrize("what", ["a zip that climbs", "half a zip", "a zip bomb of 1,000 to 1", "half a gzip"])
def test_a_hostile_archive_among_good_files_is_quarantined_alone(what: str, tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"bad.zip": HOSTILE[what](), "good.dcm": sound(patient=4)})
    report, _ = scan_path(source, zones)
    assert (report.instances, report.rejected) == (1, {"BAD_ARCHIVE": 1})


def test_a_file_that_the_disk_does_not_give_is_refused_and_tried_again() -> None:
    memory = Path("/proc/self/mem")  # a regular file whose first byte gives EIO
    (leaf,) = container.leaves_of(memory, spool=None, alone=False)
    assert leaf.refusal == "CHANGED_WHILE_READ"
    with pytest.raises(BadInstance) as refused:
        container.read_extent(container.Extent(str(memory), 0, 10, 0, 10))
    assert refused.value.reason == "CHANGED_WHILE_READ"


def test_what_the_disk_gave_too_late_is_read_by_the_next_scan(tmp_path: Path, zones: Zones, monkeypatch) -> None:
    packed = gzip.compress(_tar(FILES), mtime=0)
    source = write_files(tmp_path / "in", {"a.dcm": sound(patient=4), "b.dcm": sound(patient=5), "c.tgz": packed})
    whole, late = container.read_extent, True

    def read(extent: container.Extent, **options: str) -> bytes:
        if late and (extent.path.endswith("a.dcm") or (extent.offset > 2000 and extent.method == 0)):
            raise BadInstance("CHANGED_WHILE_READ")
        return whole(extent, **options)

    monkeypatch.setattr(container, "read_extent", read)
    report, found = scan_path(source, zones)
    assert report.rejected["CHANGED_WHILE_READ"] > 1
    late = False
    for study in found.studies:  # what was unpacked for it is still there
        for locator in study.instances:
            assert instance.read(locator, zones=zones, keyring=KEYRING)
    report, _ = scan_path(source, zones)
    assert (report.instances, report.rejected) == (5, {})


def test_a_member_packed_larger_than_an_instance_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_INSTANCE_BYTES", 1000)
    path = write_files(tmp_path, {"x": bytes(2000)}) / "x"
    with pytest.raises(BadInstance, match="TOO_LARGE"):
        container.read_extent(container.Extent(str(path), 0, 2000, 8, 10))


def test_a_folder_that_goes_while_others_are_listed_is_no_reason_to_stop(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.dcm": b"1", "b/c.dcm": b"2", "d/e.dcm": b"3"})
    found = container.files(source)
    assert next(found).name == "a.dcm"
    shutil.rmtree(source / "b")
    assert [path.name for path in found] == ["e.dcm"]


@pytest.mark.parametrize("fault", [PermissionError(), OSError(errno.ENAMETOOLONG, "File name too long")])
def test_a_folder_that_cannot_be_listed_is_quarantined_and_the_rest_is_read(
    fault: OSError, tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_files(tmp_path / "source", {**FILES, "lost+found/hidden": sound(patient=3)})
    (whole, _) = scan_path(source, zones)
    closed(source / "lost+found", monkeypatch, fault)
    report, found = scan_path(source, zones)
    assert (report.instances, report.rejected) == (whole.instances - 1, {"UNREADABLE_FOLDER": 1})
    assert len(found.received) == whole.instances
    monkeypatch.undo()
    assert scan_path(source, zones)[0].scan_id == whole.scan_id


def test_a_folder_that_the_system_lets_nobody_list_is_given_like_a_file() -> None:
    """With real permissions, which root has to lay down to feel."""
    mine = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        source = write_files(Path(name), {"one": b"1", "lost+found/hidden": b"2"})
        source.chmod(0o755)
        (source / "lost+found").chmod(0o700 if mine == 0 else 0)
        try:
            os.seteuid(65534 if mine == 0 else mine)
            given = [path.name for path in container.files(source)]
        finally:
            os.seteuid(mine)
            (source / "lost+found").chmod(0o700)
    assert given == ["one", "lost+found"]


@pytest.mark.parametrize("folder", ["", "a"])
def test_a_source_of_which_nothing_can_be_listed_is_refused(
    folder: str, tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_files(tmp_path / "source", {"a/hidden": sound()})
    closed(source / folder, monkeypatch)
    with pytest.raises(UnusableArchive, match="permissions"):
        scan_path(source, zones)


@pytest.mark.parametrize("folder", ["", "a", "a/Doe^Jane"])
@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_a_mount_that_fails_is_no_small_archive(
    folder: str, fault: int, tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is scanned, and the error can be tried again; its message holds no path."""
    source = write_files(tmp_path / "source", FILES)
    closed(source / folder, monkeypatch, OSError(fault, "fault", str(source)))
    with pytest.raises(StoreUnavailable, match=r"^a folder of the source did not answer: [^/]*$"):
        scan_path(source, zones)
    assert not (zones.identified / "intake").exists()


def test_a_member_that_lies_about_its_size_is_quarantined(tmp_path: Path, zones: Zones) -> None:
    path = write_files(tmp_path / "in", {"a.zip": _lying_size()}) / "a.zip"
    report, _ = scan_path(path, zones)
    assert (report.instances, report.rejected) == (1, {"BAD_ARCHIVE": 1})


@pytest.mark.parametrize(
    ("what", "files"),
    [
        ("missing", None),
        ("empty folder", {}),
        ("folder of empty folders", {}),
        ("folder without DICOM", {"notes.txt": b"hello", "labels.csv": b"PatientID,x\n1,2\n"}),
        ("empty zip", {"a.zip": _zip({})}),
        ("zip without DICOM", {"a.zip": _zip({"x.txt": b"hello"})}),
        ("broken zip", {"a.zip": _zip(FILES)[:-30]}),
        ("text", {"a.zip": b"not a zip at all"}),
    ],
)
def test_preflight_refuses_in_one_sentence_and_writes_nothing(
    what: str, files: dict[str, bytes] | None, tmp_path: Path
) -> None:
    path = tmp_path / "Doe_Jane"
    if files is not None:
        path.mkdir()
        write_files(path, files)
    if "of empty" in what:
        (path / "inner").mkdir()
    if files is not None and set(files) == {"a.zip"}:
        path /= "a.zip"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnusableArchive) as refused:
        sources.preflight(path)
    assert refused.value.exit_status == 2
    assert "Doe" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_preflight_finds_the_one_instance_among_other_files(tmp_path: Path) -> None:
    others = {f"{number}.txt": b"x" * 300 for number in range(20)}
    sources.preflight(write_files(tmp_path / "in", {**others, "z.dcm": sound()}))
    sources.preflight(write_files(tmp_path / "one", {"z.dcm": sound()}) / "z.dcm")


def test_a_scan_does_not_depend_on_names_or_order(tmp_path: Path, zones: Zones) -> None:
    renamed = {f"z{number}": content for number, content in enumerate(reversed(FILES.values()))}
    renamed = {"l.csv" if content.startswith(b"Pat") else name: content for name, content in renamed.items()}
    source = write_files(tmp_path / "in", FILES)
    one, found = scan_path(source, zones)
    for path in sorted(source.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    other, again = scan_path(write_files(source, renamed), zones)
    assert one == other
    assert found == again


def test_copies_are_counted_and_taken_once(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"a.dcm": sound(), "b/a.dcm": sound(), "c.dcm": sound(patient=2)})
    report, found = scan_path(source, zones)
    assert (report.instances, report.duplicates, report.files) == (2, 1, 3)
    assert len(found.received) == 2


def test_a_registered_source_hides_its_place_and_keeps_its_name(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "Doe_Jane", {"a.dcm": sound()})
    ref = sources.register(source, zones=zones, keyring=KEYRING)
    assert sources.register(source, zones=zones, keyring=KEYRING) == ref
    named = sources.register(source, zones=zones, keyring=KEYRING, name="ward-3")
    assert named.source == "ward-3"
    stored = b"".join(path.read_bytes() for path in zones.identified.rglob("*") if path.is_file())
    assert b"Doe" not in stored
    assert all(path.stat().st_mode & 0o077 == 0 for path in zones.identified.rglob("*") if path.is_file())
    with pytest.raises(InvalidRequest):
        sources.register(tmp_path, zones=zones, keyring=KEYRING, name="ward-3")
    with pytest.raises(InvalidRequest):
        sources.register(source, zones=zones, keyring=KEYRING, name="../ward")
    with pytest.raises(InvalidRequest):
        sources.locate("unknown", zones=zones, keyring=KEYRING)


def test_the_sealed_index_shows_nothing(tmp_path: Path, zones: Zones) -> None:
    report, found = scan_path(write_files(tmp_path / "Doe_Jane", FILES), zones)
    everything = b"".join(path.read_bytes() for path in zones.identified.rglob("*") if path.is_file())
    seen = everything.decode("latin-1") + repr(found.studies) + report.model_dump_json()
    for needle in (*phantom.needles_of(1), *phantom.needles_of(2), "Doe", "IM1", "X-1"):
        assert needle not in seen


def test_progress_is_told_and_ends_complete(tmp_path: Path, zones: Zones) -> None:
    files = {f"{number}.dcm": sound(patient=number) for number in range(205)}
    ref = sources.register(write_files(tmp_path / "in", files), zones=zones, keyring=KEYRING)
    told: list[tuple[int, int]] = []
    scan.scan(ref, zones=zones, keyring=KEYRING, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(100, 0), (200, 0), (205, 205)]


def test_more_files_than_the_cap_are_refused(tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MEMBERS", 3)
    with pytest.raises(UnusableArchive, match="more than 3"):
        scan_path(write_files(tmp_path / "in", {f"{n}.dcm": sound() for n in range(5)}), zones)
    with pytest.raises(UnusableArchive, match="more than 3"):
        scan_path(write_files(tmp_path / "t", {"a.tar": _tar({str(n): b"x" for n in range(5)})}) / "a.tar", zones)


def test_a_second_scan_reads_only_what_changed(tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_files(tmp_path / "in", {**FILES, "z/inner.zip": _zip({"x.zip": _zip({"i.dcm": sound(patient=8)})})})
    first, found = scan_path(source, zones)
    read: list[str] = []
    whole = container.read_extent

    def noted(extent: container.Extent, **options: str) -> bytes:
        read.append(extent.path)
        return whole(extent, **options)

    monkeypatch.setattr(container, "read_extent", noted)
    again, found_again = scan_path(source, zones)
    assert (again, found_again) == (first, found)
    assert read == []
    (source / "b" / "noext").write_bytes(sound(patient=3))
    write_files(source, {"new.dcm": sound(patient=6)})
    (source / "a" / "Doe^Jane" / "IM2.dcm").unlink()
    changed, _ = scan_path(source, zones)
    assert sorted(Path(path).name for path in read) == ["new.dcm", "noext"]
    assert (changed.instances, changed.files) == (4, 5)
    assert changed.scan_id != first.scan_id


def test_the_spool_keeps_what_is_needed_and_nothing_else(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"a.zip": _zip({"i.zip": _zip(GOOD)}), "b.dcm": sound(patient=2)})
    _, found = scan_path(source, zones)
    spooled = [path for path in (zones.identified / "spool").rglob("*") if path.is_file()]
    assert len(spooled) == 1
    spooled[0].unlink()  # lost: the next scan unpacks it again
    _, found = scan_path(source, zones)
    for study in found.studies:
        for locator in study.instances:
            assert instance.read(locator, zones=zones, keyring=KEYRING)
    (source / "a.zip").unlink()
    scan_path(source, zones)
    assert not [path for path in (zones.identified / "spool").rglob("*") if path.is_file()]


def test_a_refused_archive_leaves_nothing_unpacked(tmp_path: Path, zones: Zones) -> None:
    hostile = _zip({"1.zip": _zip(GOOD), "2.zip": _zip({"3.zip": _zip(GOOD)})})
    with pytest.raises(UnusableArchive):
        scan_path(write_files(tmp_path / "in", {"a.zip": hostile}) / "a.zip", zones)
    assert not [path for path in zones.identified.rglob("*") if path.is_file() and path.parent.name != "sources"]


def test_links_of_one_name_are_counted_one_by_one(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"a/x": sound(), "b/y": b"text " * 100})
    (source / "a" / "link").symlink_to("x")
    (source / "b" / "link").symlink_to("y")
    report, found = scan_path(source, zones)
    assert report.rejected == {"NOT_DICOM": 1, "NOT_REGULAR_FILE": 2}
    assert len(found.received) == 4
