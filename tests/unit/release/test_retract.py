"""What withdrawal and approval promise: files never change, clients learn at once, numbers are never reused."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

import medgan
from medgan.client import pull as pulls
from medgan.errors import IntegrityError, InvalidRequest
from medgan.privacy import policy as policies
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


@pytest.mark.parametrize("policy", ["strict", "dp", "internal"])
def test_policy_says_whether_an_approver_must_sign(zones, policy):
    """As the report that was cleared states it; the terms of a data set may ask for more, not for less."""
    said = policies.load(policy).model_dump(mode="json")
    built = build.synthetic_cohort(zones, count=40, policy=said)
    release = publish.publish(built.cleared, build.request(approval=False), zones=zones)
    entry = json.loads((zones.registry / "index.json").read_bytes())["datasets"][0]
    due = {"pending": 2, "active": 1}
    assert entry["versions"][0]["signatures"] == due[entry["versions"][0]["status"]]
    assert entry["versions"][0]["status"] == ("active" if policy == "internal" else "pending")
    assert release.pending == (policy != "internal")


def second(published):
    """A second version of the first data set."""
    other = build.synthetic_cohort(published.zones, start=1500, count=40)
    return publish.publish(
        other.cleared, build.request(night=2, created="2026-11-20T23:00:00Z"), zones=published.zones
    ).version


def test_promoted_version_stays_the_stable_one_until_another_is_promoted(published):
    zones, stable = published.zones, "chest-demo@stable"
    retract.promote(SPEC, "stable", zones=zones, now=NOW)
    before = (zones.registry / "index.json.dsse").read_bytes()
    retract.promote(SPEC, "stable", zones=zones)
    assert (zones.registry / "index.json.dsse").read_bytes() == before
    newer = second(published)
    assert (pull(published, stable).name, pull(published, "chest-demo").name) == ("1.0.0", newer)
    retract.promote(f"chest-demo@{newer}", "stable", zones=zones, now=NOW)
    assert len(medgan.load(stable, registry=str(zones.registry), now=NOW)) == 40
    retract.promote(SPEC, "stable", zones=zones, now=NOW)  # people may go back
    assert pull(published, stable).name == "1.0.0"
    assert '"stable": "1.0.0"' in (zones.registry / "status.js").read_text()


def test_channel_whose_version_is_withdrawn_says_why_and_does_not_move(published):
    retract.promote(SPEC, "stable", zones=published.zones, now=NOW)
    newer = second(published)
    retract.withdraw(SPEC, "labels were swapped", zones=published.zones, now=NOW)
    with pytest.raises(IntegrityError, match="labels were swapped"):
        pull(published, "chest-demo@stable")
    assert pull(published, "chest-demo").name == newer


def test_only_a_version_in_force_is_promoted_and_never_to_latest(published):
    zones = published.zones
    with pytest.raises(InvalidRequest, match="moves by itself"):
        retract.promote(SPEC, "latest", zones=zones)
    with pytest.raises(InvalidRequest, match="small letters"):
        retract.promote(SPEC, "1.0", zones=zones)
    with pytest.raises(InvalidRequest, match="pending is not promoted"):
        retract.promote(f"chest-two@{pending(zones).version}", "stable", zones=zones)
    retract.withdraw(SPEC, "labels were swapped", zones=zones, now=NOW)
    with pytest.raises(InvalidRequest, match="withdrawn is not promoted"):
        retract.promote(SPEC, "stable", zones=zones)
    with pytest.raises(InvalidRequest, match="no such version"):
        retract.promote("chest-demo@1", "stable", zones=zones)


def test_index_that_rests_is_renewed_when_half_of_its_time_is_over(published):
    zones, registry = published.zones, published.zones.registry
    before = (registry / "index.json.dsse").read_bytes()
    assert retract.renew_when_due(zones=zones, now=NOW) is None
    assert (registry / "index.json.dsse").read_bytes() == before
    table = retract.renew_when_due(zones=zones, now=datetime(2026, 12, 6, tzinfo=UTC))
    assert (table.counter, table.expires) == (2, "2027-01-05T00:00:00Z")
    late = datetime(2027, 1, 4, tzinfo=UTC)
    assert pulls.pull(SPEC, registry=str(registry), trust=published.key, now=late).is_dir()


def test_there_is_nothing_to_renew_where_nothing_is_published(zones):
    assert retract.renew_when_due(zones=zones) is None


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
