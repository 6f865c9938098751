"""What withdrawal and approval promise: files never change, clients learn at once, numbers are never reused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from medgan.client import pull as pulls
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import ReleaseStatus
from medgan.release import publish, retract, sign
from tests.builders import release as build

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SPEC = "chest-demo@1.0.0"


def pull(published, spec=SPEC, trust=None):
    return pulls.pull(spec, registry=str(published.zones.registry), trust=trust or published.key, now=NOW)


def pending(zones):
    """A second data set that waits for its approver."""
    built = build.synthetic_cohort(zones, start=1500)
    return publish.publish(built.cleared, build.request("chest-two", approval=True), zones=zones)


def test_withdrawn_version_is_refused_by_every_client_with_its_reason(published):
    pull(published)
    retract.withdraw(SPEC, "labels were swapped", zones=published.zones, now=NOW)
    with pytest.raises(IntegrityError, match="labels were swapped"):
        pull(published)
    with pytest.raises(InvalidRequest, match="no version in channel latest"):
        pull(published, "chest-demo")
    status = (published.zones.registry / "status.js").read_text()
    assert "labels were swapped" in status


def test_withdrawing_twice_keeps_the_first_reason_and_writes_nothing(published):
    first = retract.withdraw(SPEC, "labels were swapped", zones=published.zones, now=NOW)
    before = (published.zones.registry / "index.json.dsse").read_bytes()
    assert retract.withdraw(SPEC, "another", zones=published.zones) == first
    assert (published.zones.registry / "index.json.dsse").read_bytes() == before


def test_number_of_an_erased_version_is_never_used_again(published):
    retract.withdraw(SPEC, "a copy of a training image", zones=published.zones, erase=True, now=NOW)
    assert not published.folder.exists()
    again = publish.publish(published.built.cleared, build.request(night=2), zones=published.zones)
    assert again.version == "2.0.0"


def test_withdrawal_needs_a_reason_and_an_exact_version(published):
    with pytest.raises(InvalidRequest, match="reason"):
        retract.withdraw(SPEC, "  ", zones=published.zones)
    with pytest.raises(InvalidRequest, match="no such version"):
        retract.withdraw("chest-demo", "x", zones=published.zones)


def test_version_that_waits_for_approval_is_refused_until_both_have_signed(published, tmp_path):
    zones = published.zones
    release = pending(zones)
    spec = f"chest-two@{release.version}"
    with pytest.raises(IntegrityError, match="waits for its approver"):
        pull(published, spec)
    with pytest.raises(InvalidRequest, match="no version in channel"):
        pull(published, "chest-two")
    public = sign.create_key(tmp_path / "approver.key")
    approved = retract.approve(spec, key=tmp_path / "approver.key", zones=zones, now=NOW)
    assert approved.status is ReleaseStatus.ACTIVE
    with pytest.raises(IntegrityError, match="due 2 signatures"):
        pull(published, "chest-two")
    stranger = sign.create_key(tmp_path / "stranger.key")
    wrong = tmp_path / "wrong.pub"
    wrong.write_bytes(published.key.read_bytes() + stranger.read_bytes())
    pins = tmp_path / "home" / "trust"
    for pin in pins.iterdir():
        pin.unlink()
    with pytest.raises(IntegrityError, match="1 of the 2 signatures"):
        pull(published, "chest-two", wrong)
    for pin in pins.iterdir():
        pin.unlink()
    both = tmp_path / "both.pub"
    both.write_bytes(published.key.read_bytes() + public.read_bytes())
    assert pull(published, "chest-two", both).is_dir()


def test_approval_changes_no_file_but_the_envelope(published, tmp_path):
    before = {path: path.read_bytes() for path in published.folder.rglob("*") if path.is_file()}
    sign.create_key(tmp_path / "approver.key")
    retract.approve(SPEC, key=tmp_path / "approver.key", zones=published.zones, now=NOW)
    changed = {path.name for path, body in before.items() if path.read_bytes() != body}
    assert changed == {"manifest.dsse"}


def test_pipeline_cannot_approve_its_own_version(published):
    with pytest.raises(InvalidRequest, match="key of their own"):
        retract.approve(SPEC, key=published.zones.signing_key, zones=published.zones)


def test_tampered_version_is_not_approved(published, tmp_path):
    sign.create_key(tmp_path / "approver.key")
    labels = published.folder / "labels.parquet"
    labels.chmod(0o644)
    labels.write_bytes(labels.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        retract.approve(SPEC, key=tmp_path / "approver.key", zones=published.zones)
