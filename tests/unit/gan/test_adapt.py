"""Two percent of the parameters bring a model to a site; what is of single patients can be published by no way."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medgan.cohort import read
from medgan.collection import durable
from medgan.errors import Conflict, InvalidRequest, PrivacyRefused
from medgan.gan import adapt, recipes, site
from medgan.gan.adapt import Adapted
from medgan.gan.fit import fit
from medgan.gan.generator import build
from medgan.gan.sample import WEIGHTS, Sampler
from medgan.gan.train import RECORD
from medgan.records import CohortSpec, TrainedModel
from medgan.records.adapter import AdaptRequest
from medgan.release import evidence
from medgan.settings import Zones
from medgan.synthesis.generate import generate
from tests.builders import release as published
from tests.builders.cohort import pneumonia_cohort
from tests.builders.model import brief_model
from tests.unit.gan.builders import small_config, small_set


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    fit(small_set(), small_config(), folder)
    return folder


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    zones = Zones.under(tmp_path_factory.mktemp("adapt"))
    cohort = pneumonia_cohort(zones, images=160)
    return zones, cohort, brief_model(cohort, zones)


def dark_site(images=40):
    """The same radiographs from a scanner that gives a third of the signal."""
    whole = small_set(images)
    return replace(whole, pixels=(whole.pixels // 3).astype(np.uint16))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [("xray_32_cpu", {}), ("r3_residual_32", {}), ("xray_32_cpu", {"sketch": 0, "sketch_weight": 0.0})],
)
def test_the_adapter_is_a_few_percent_and_merges_into_an_ordinary_generator(recipe, changes):
    config = replace(recipes.build(recipe), **changes)
    generator = build(config, 2).eval()
    generator.learn(small_set())
    adapted = Adapted(generator, 8).eval()
    z, c = torch.randn(4, config.latent_dim), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        assert torch.equal(adapted(z, c), generator(z, c)), "an untrained adapter is nothing"
        for parameter in adapted.learned().values():
            parameter.add_(0.1 * torch.randn_like(parameter))
        made, merged = adapted(z, c), adapted.merged()(z, c)
    assert not torch.allclose(made, generator(z, c), atol=1e-3)
    assert torch.allclose(made, merged, atol=2e-5)
    assert adapted.share() < 0.035
    assert adapted.merged().state_dict().keys() == generator.state_dict().keys()


def test_it_moves_towards_the_site_and_the_base_forgets_nothing(base):
    before = (base / WEIGHTS).read_bytes()
    target = dark_site()
    outcome = adapt.adapt(base, target, AdaptRequest(steps=60, learning_rate=1e-2), patients=np.arange(40))
    z, c = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2
    generator = adapt.open_base(base)[1]
    with torch.inference_mode():
        old, new = (float(network(z, c).mean()) for network in (generator, outcome.network))
    wanted = float(target.batch(np.arange(40))[0].mean())
    assert abs(new - wanted) < 0.6 * abs(old - wanted)
    assert (base / WEIGHTS).read_bytes() == before


def test_an_adapter_on_disk_makes_the_same_images(base, tmp_path):
    outcome = adapt.adapt(base, dark_site(), AdaptRequest(steps=8), patients=np.arange(40))
    adapt.save_adapter(tmp_path / "adapter.safetensors", outcome.network)
    loaded = adapt.load_adapter(tmp_path / "adapter.safetensors", adapt.open_base(base)[1], 8)
    again = adapt.adapt(base, dark_site(), AdaptRequest(steps=8), patients=np.arange(40))
    assert all(torch.equal(a, b) for a, b in zip(outcome.network.parameters(), again.network.parameters(), strict=True))
    z, c = torch.randn(4, 64), torch.zeros(4, dtype=torch.int64)
    with torch.inference_mode():
        assert torch.equal(loaded(z, c), outcome.network(z, c))
    assert (tmp_path / "adapter.safetensors").stat().st_size < 0.2 * (base / WEIGHTS).stat().st_size


def test_a_site_of_other_images_or_classes_is_refused(base):
    small = replace(small_set(), pixels=small_set().pixels[:, :28, :28])
    with pytest.raises(InvalidRequest, match="28"):
        adapt.adapt(base, small, AdaptRequest(steps=1), patients=np.arange(96))
    foreign = replace(small_set(), classes=("normal", "fracture"))
    with pytest.raises(InvalidRequest, match="does not know"):
        adapt.adapt(base, foreign, AdaptRequest(steps=1), patients=np.arange(96))


def test_a_site_model_is_synthesised_from_like_any_other(house):
    zones, cohort, model = house
    made = site.adapt_to_site(model, cohort, AdaptRequest(steps=4), zones=zones)
    assert made.cohort == cohort.cohort.cohort
    assert site.adapt_to_site(model, cohort, AdaptRequest(steps=4), zones=zones) == made
    folder = zones.pseudonymised / "models" / made.model
    (folder / RECORD).unlink()
    (folder / ".generator.safetensors.7.partial").write_bytes(b"weights of a killed run")
    with durable.locked(folder.parent / ".locks" / folder.name), pytest.raises(Conflict):
        site.adapt_to_site(model, cohort, AdaptRequest(steps=4), zones=zones)
    assert (
        site.adapt_to_site(model, cohort, AdaptRequest(steps=4), zones=zones).generator_sha256 == made.generator_sha256
    )
    assert not list(folder.glob(".*"))
    sampler = Sampler(zones.pseudonymised / "models" / made.model, sha256=made.generator_sha256)
    assert sampler.images(np.arange(4), np.zeros(4, np.int64), seed=0).shape == (4, 32, 32)


def few(cohort, patients=19):
    """The same cohort, with a record that counts fewer train patients."""
    counts = cohort.cohort.patients | {"train": patients}
    return cohort.model_copy(update={"cohort": cohort.cohort.model_copy(update={"patients": counts})})


def test_fewer_than_twenty_patients_are_no_site(house):
    zones, cohort, model = house
    with pytest.raises(PrivacyRefused, match="19 train patients are persons"):
        site.adapt_to_site(model, few(cohort), AdaptRequest(steps=2), zones=zones)


@pytest.fixture(scope="module")
def personal(house):
    zones, cohort, model = house
    return site.adapt_to_patients(model, cohort, AdaptRequest(steps=2), zones=zones)


def test_a_killed_adapter_to_patients_is_made_again_and_leaves_nothing_of_them(house, personal):
    zones, cohort, model = house
    folder = site.patient_folder(personal.adapter, zones=zones)
    (folder / site.RECORD).unlink(missing_ok=True)
    (folder / ".adapter.safetensors.7.partial").write_bytes(b"weights of a killed run")
    with durable.locked(folder.parent / ".locks" / folder.name), pytest.raises(Conflict):
        site.adapt_to_patients(model, cohort, AdaptRequest(steps=2), zones=zones)
    assert site.adapt_to_patients(model, cohort, AdaptRequest(steps=2), zones=zones) == personal
    assert not list(folder.glob(".*"))


def test_a_patient_adapter_is_no_model_by_its_type(personal):
    with pytest.raises(ValidationError):
        TrainedModel.model_validate(personal.model_dump(mode="json"))


def test_the_store_refuses_a_patient_adapter_under_any_name(house, personal):
    zones, _, model = house
    as_it_is = model.model_copy(update={"model": personal.adapter})
    with pytest.raises(PrivacyRefused, match="single patients"):
        generate(as_it_is, CohortSpec(images=16), zones=zones, workers=1)
    disguised = model.model_copy(update={"model": "mo-" + "d" * 32})
    shutil.copytree(
        site.patient_folder(personal.adapter, zones=zones), zones.pseudonymised / "models" / disguised.model
    )
    shutil.copy(
        zones.pseudonymised / "models" / model.model / WEIGHTS,
        zones.pseudonymised / "models" / disguised.model / WEIGHTS,
    )
    with pytest.raises(PrivacyRefused, match="single patients"):
        generate(disguised, CohortSpec(images=16), zones=zones, workers=1)
    (zones.pseudonymised / "models" / disguised.model / "config.json").unlink()  # what is not known leaves no zone
    with pytest.raises(PrivacyRefused, match="single patients"):
        generate(disguised, CohortSpec(images=16), zones=zones, workers=1)


def test_publishing_refuses_what_a_patient_adapter_made_though_it_was_cleared(house, personal, tmp_path):
    zones = house[0]
    here = replace(zones, synthetic=tmp_path / "synthetic")
    built = published.synthetic_cohort(here, count=32)
    record = evidence._record(built.folder / "synthetic.json", evidence.SyntheticCohort, PrivacyRefused)
    (built.folder / "synthetic.json").write_bytes(record.model_copy(update={"model": personal.adapter}).canonical())
    with pytest.raises(PrivacyRefused, match="single patients"):
        evidence.collect(built.cleared, zones=here)


def test_the_cohort_on_disk_decides_how_many_patients_there_are(house):
    zones, cohort, model = house
    assert read.load(cohort.cohort, zones=zones).split("train")[2]["patient_key"].nunique() >= 20
    with pytest.raises(Exception, match="not the one in the store"):
        site.adapt_to_patients(model, few(cohort, 3), AdaptRequest(steps=3), zones=zones)
