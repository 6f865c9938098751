"""A cleared cohort to a published version."""

from __future__ import annotations

from medgan.privacy import gate
from medgan.records import (
    ClearedCohort,
    Night,
    PrivacyReport,
    QualityReport,
    Release,
    ReleaseRequest,
    ReleaseTerms,
    SyntheticCohort,
)
from medgan.release import publish, retract, sign
from tasks import page, runtime


@runtime.step("clear cohort", retries=0)
def clear_cohort(synthetic: SyntheticCohort, quality: QualityReport, privacy: PrivacyReport) -> ClearedCohort:
    """Re-read the evidence from the store and clear the cohort, or refuse."""
    cleared = gate.clear(synthetic, quality, privacy, zones=runtime.zones())
    runtime.log("cleared", synthetic=synthetic.synthetic, policy=cleared.policy)
    return cleared


@runtime.step("publish version")
def publish_version(cleared: ClearedCohort, terms: ReleaseTerms, night: Night) -> Release:
    """Publish the next version: files, manifest, signature, and the index last."""
    zones = runtime.zones()
    sign.ensure_key(zones)
    request = ReleaseRequest(
        name=night.dataset,
        created=night.started,
        night=night.number,
        **terms.model_dump(exclude={"schema_version"}),
    )
    release = publish.publish(cleared, request, zones=zones)
    runtime.log("published", name=release.name, version=release.version, images=release.images, pending=release.pending)
    page.link(
        key="catalogue",
        address=zones.catalogue,
        description=f"{release.name}@{release.version} in the catalogue",
    )
    return release


@runtime.step("renew index")
def renew_index() -> bool:
    """Sign the registry's index again where that is due; tells whether it was."""
    renewed = retract.renew_when_due(zones=runtime.zones())
    if renewed is not None:
        runtime.log("renewed", index=renewed.counter, valid_until=renewed.expires)
    return renewed is not None
