"""Frozen border types. This package imports nothing else of ours."""

from medgan.records.adapter import AdaptRequest, PatientAdapter
from medgan.records.archive import ArchiveRef, ScanReport, StudyKey
from medgan.records.base import Handle, Name, Record, Sha256, canonical_json, sha256_hex
from medgan.records.cohort import CohortRecipe, CohortSnapshot, ValidatedCohort
from medgan.records.collection import CollectionSnapshot, IngestPlan, IngestReport
from medgan.records.decision import Choice, Decision, Refusal, Retention, ShippedPolicy, TrainAt
from medgan.records.erasure import Erasure
from medgan.records.model import Outliner, PrivacyBudget, PrivacyTarget, TrainedModel, TrainRequest
from medgan.records.night import IngestOutcome, Night, NightReport, SynthesisOutcome, TrainOutcome
from medgan.records.personal import ArmScore, Gain, LocalCases, Matching, PersonalReport, PersonalRequest
from medgan.records.release import (
    Envelope,
    EnvelopeSignature,
    Index,
    IndexDataset,
    IndexVersion,
    Manifest,
    ManifestFile,
    Release,
    ReleaseEvidence,
    ReleaseRequest,
    ReleaseStatus,
    ReleaseTerms,
)
from medgan.records.report import (
    ClearedCohort,
    GateTest,
    Measure,
    PrivacyReport,
    QualityReport,
    SyntheticCohortRef,
    Verdict,
)
from medgan.records.restoration import RestorationReport, RestorerModel, RestorerRequest
from medgan.records.study import QuarantineReason, QuarantineRecord
from medgan.records.synthetic import CohortSpec, Fidelity, SyntheticCohort, Target

__all__ = [
    "AdaptRequest",
    "ArchiveRef",
    "ArmScore",
    "Choice",
    "ClearedCohort",
    "CohortRecipe",
    "CohortSnapshot",
    "CohortSpec",
    "CollectionSnapshot",
    "Decision",
    "Envelope",
    "EnvelopeSignature",
    "Erasure",
    "Fidelity",
    "Gain",
    "GateTest",
    "Handle",
    "Index",
    "IndexDataset",
    "IndexVersion",
    "IngestOutcome",
    "IngestPlan",
    "IngestReport",
    "LocalCases",
    "Manifest",
    "ManifestFile",
    "Matching",
    "Measure",
    "Name",
    "Night",
    "NightReport",
    "Outliner",
    "PatientAdapter",
    "PersonalReport",
    "PersonalRequest",
    "PrivacyBudget",
    "PrivacyReport",
    "PrivacyTarget",
    "QualityReport",
    "QuarantineReason",
    "QuarantineRecord",
    "Record",
    "Refusal",
    "Release",
    "ReleaseEvidence",
    "ReleaseRequest",
    "ReleaseStatus",
    "ReleaseTerms",
    "RestorationReport",
    "RestorerModel",
    "RestorerRequest",
    "Retention",
    "ScanReport",
    "Sha256",
    "ShippedPolicy",
    "StudyKey",
    "SynthesisOutcome",
    "SyntheticCohort",
    "SyntheticCohortRef",
    "Target",
    "TrainAt",
    "TrainOutcome",
    "TrainRequest",
    "TrainedModel",
    "ValidatedCohort",
    "Verdict",
    "canonical_json",
    "sha256_hex",
]
