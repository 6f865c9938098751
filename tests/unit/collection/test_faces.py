from __future__ import annotations

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
