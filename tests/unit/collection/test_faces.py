from __future__ import annotations

from medgan.archive import phantom
from medgan.collection import read
from tests.unit.deid import heads


def test_no_face_reaches_the_collection_and_a_head_without_a_brain_is_quarantined(run, zones, tmp_path):
    heads.need_head()
    head, _ = heads.head(4)
    archive = tmp_path / "archive"
    archive.mkdir()
    alone = heads.write_series(head[:1], 4, SeriesInstanceUID="1.2.3.4.5.6.7.8", FrameOfReferenceUID="1.2.3.4.5.6.7.9")
    for number, data in enumerate((*heads.write_series(head, 4), *alone)):
        (archive / f"{number}.dcm").write_bytes(data)
    report = run(archive, profile="basic+clean-recognizable-visual-features")
    assert (report.stored, report.quarantined) == (len(head), {"FACE": 1})
    table = read.table(report.snapshot, zones=zones)
    stored = list(read.frames(report.snapshot, table, zones=zones))
    left = sum(int(image.sum()) for image in stored) / int(head.sum())
    assert 0.8 < left < 0.99  # a face is some percent of what a head shows
    again = run(archive, profile="basic+clean-recognizable-visual-features")
    assert (again.stored, again.known) == (0, len(head))


PROFILE = "basic+clean-recognizable-visual-features"


def test_a_face_that_was_refused_is_tried_again_when_the_rest_of_its_study_arrives_and_not_before(
    run, tmp_path, staged
):
    heads.need_head()
    head, _ = heads.head(4)
    files = heads.write_series(head, 4)
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "0.dcm").write_bytes(files[0])
    first, second = run(archive, profile=PROFILE), run(archive, profile=PROFILE)
    assert first.quarantined == second.quarantined == {"FACE": 1}
    for number, data in enumerate(files[1:], start=1):
        (archive / f"{number}.dcm").write_bytes(data)
    third = run(archive, profile=PROFILE)
    assert (third.stored, third.quarantined) == (len(files), {})
    assert staged == [1, 0, len(files)]


def test_what_else_is_new_in_the_archive_does_not_bring_a_refused_face_back(run, tmp_path, staged):
    heads.need_head()
    head, _ = heads.head(4)
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "0.dcm").write_bytes(heads.write_series(head[:1], 4)[0])
    run(archive, profile=PROFILE)
    (archive / "other.dcm").write_bytes(phantom.phantom_study(patient=7)[0])
    again = run(archive, profile=PROFILE)
    assert (again.stored, again.quarantined) == (1, {"FACE": 1})
    assert staged == [1, 1]
