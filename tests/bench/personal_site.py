"""A site's model the whole way: another scanner's archive, `flows adapt`, the gate, a version, and it pulled.

`python -m tests.bench.personal_site --keep DIR`. Real radiographs (PneumoniaMNIST), split by image: a source archive of
2,900 trains the generator (`r3_dcgan_32`), a site of 1,130 others was acquired differently (`another_scanner`), and
1,000 more, seen by neither, say how far generated images lie from the site (Fréchet distance in an encoder that learned
from half of them). About 90 of the site's patients train; its other patients are the gate's strangers. Every step is
the command that a person would type. Then (`--part`): the gate on `fewer` strangers of the site, and on a `memoriser`:
the base trained on with all parameters of generator and critic and nothing that stops it. That must be refused.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.ndimage import gaussian_filter, zoom

from medgan import keys
from medgan.archive.phantom import build_demo_archive
from medgan.cohort import read
from medgan.gan import adapt
from medgan.gan.arithmetic import fixed
from medgan.gan.images import TrainingSet, to_stored
from medgan.gan.sample import open_generator
from medgan.personal.cases import to_unit
from medgan.privacy import attack, policy, stages
from medgan.privacy.views import to_view
from medgan.quality import features
from medgan.quality.distance import frechet
from medgan.records import AdaptRequest, GateTest, Night, SynthesisOutcome, TrainOutcome, Verdict
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders.cohort import radiographs

ROOT = Path(__file__).parents[2]
PARTS = ["base", "distance", "gate", "fewer", "memoriser"]
FULL = (0.0, 65535.0)
SOURCE, SITE = 2900, 1130
PARAMETERS = yaml.safe_load((ROOT / "deployments/sites/demo.yaml").read_text())
LABELS = [part for name in PARAMETERS["label_columns"] for part in ("--label", name)]
SPLIT = {"train_fraction": 0.09, "holdout_fraction": 0.455}


def another_scanner(pixels: np.ndarray) -> np.ndarray:
    """(N, 28, 28) uint8 from a narrower field of view, a softer detector and another tone curve."""
    near = np.stack([zoom(image[2:26, 2:26].astype(np.float64), 28 / 24, order=1) for image in pixels]) / 255
    soft = gaussian_filter(near, (0, 0.7, 0.7))
    return np.rint(255 * soft.clip(0, 1) ** 0.6).astype(np.uint8)


def people() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """All radiographs with their labels; rows of the source, of the site, and of those that neither sees."""
    pixels, labels = radiographs()
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels, labels, np.split(order, [SOURCE, SOURCE + SITE])


def archive(folder: Path, pixels: np.ndarray, labels: np.ndarray, seed: int) -> None:
    """`folder`/archive.zip: one DICOM study a person."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {f"{part}_images": pixels[:n] for part, n in (("train", None), ("val", 0), ("test", 0))}
    parts |= {f"{part}_labels": labels[:n, None] for part, n in (("train", None), ("val", 0), ("test", 0))}
    np.savez(folder / "radiographs.npz", **parts)
    build_demo_archive(folder, radiographs=folder / "radiographs.npz", seed=seed, vendor_files=False)


class Walk:
    """One workspace, and the commands that are typed in it; an outcome that stands is not made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self.zones = Zones.under(self.workspace)
        folder.mkdir(parents=True, exist_ok=True)
        key = self.workspace / "keys" / "pseudonym.key"
        if not key.exists():  # a fixed one: pseudonyms decide the split and all that is measured
            keys.create(key)
            key.write_text("5e" * keys.SECRET_BYTES)

    def parameters(self, name: str, **changes: object) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**PARAMETERS, **changes}))
        return path

    def run(self, name: str, *command: str, module: str = "flows") -> bytes:
        """Standard output of the command, kept as `name`.json where it succeeds; raises what it said otherwise."""
        kept = self.folder / f"{name}.json"
        if kept.exists():
            return kept.read_bytes()
        begun, before = time.monotonic(), os.times()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MEDGAN_"))}
        ended = subprocess.run(
            [sys.executable, "-m", module, *command], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        say(f"{name}: exit {ended.returncode}, {time.monotonic() - begun:.0f} s, {spent:.0f} CPU-s")
        if ended.returncode:
            say(ended.stderr.decode(errors="replace")[-1500:])
            return b""
        kept.write_bytes(ended.stdout)
        return ended.stdout


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def train_base(walk: Walk, kimg: float) -> TrainOutcome:
    pixels, labels, (source, *_) = people()
    if not (walk.folder / "source/archive.zip").exists():
        archive(walk.folder / "source", pixels[source], labels[source], seed=7)
    where = ("--workspace", str(walk.workspace))
    columns = [part for name in PARAMETERS["label_columns"] for part in ("--label", name)]
    walk.run(
        "source-ingest", "ingest", "--archive", str(walk.folder / "source"), "--collection", "main", *columns, *where
    )
    parameters = walk.parameters("source", training={"recipe": "r3_dcgan_32", "total_kimg": kimg})
    step = ("--from", str(walk.folder / "source-ingest.json"))
    return TrainOutcome.model_validate_json(walk.run("train", "train", *step, "--site", str(parameters), *where))


def adapted(walk: Walk, steps: int) -> TrainOutcome:
    pixels, labels, (_, site, _) = people()
    if not (walk.folder / "site/archive.zip").exists():
        archive(walk.folder / "site", another_scanner(pixels[site]), labels[site], seed=8)
    where = ("--workspace", str(walk.workspace))
    command = ("ingest", "--archive", str(walk.folder / "site"), "--collection", "north")
    walk.run("site-ingest", *command, *LABELS, *where)
    parameters = walk.parameters(
        "site", dataset="north", adaptation={"steps": steps}, recipe=PARAMETERS["recipe"] | SPLIT, spec={"images": 1024}
    )
    files = ("--from", str(walk.folder / "site-ingest.json"), "--base", str(walk.folder / "train.json"))
    return TrainOutcome.model_validate_json(walk.run("adapted", "adapt", *files, "--site", str(parameters), *where))


def told(tests: Sequence[GateTest], name: str, verdict: Verdict) -> None:
    for test in tests:
        word = "passed" if test.passed else "FAILED" if test.conclusive else "leans" if test.adverse else "open"
        say(f"  {test.test} {test.title:<84}{test.value:9.4f}{test.limit:9.4f}  {word}; {test.detail}")
    say(f"  {name}: {verdict.value}")


def released(walk: Walk) -> None:
    """Synthesis under both policies; then the version, and it pulled as somebody else would."""
    where = ("--workspace", str(walk.workspace), "--site", str(walk.folder / "site.yaml"))
    step = ("--from", str(walk.folder / "adapted.json"))
    for name in ("strict", "internal"):
        made = walk.run(f"made-{name}", "synthesize", *step, *where, "--policy", name)
        if made:
            privacy = SynthesisOutcome.model_validate_json(made).privacy
            told(privacy.tests, privacy.policy, privacy.verdict)
    night = Night(dataset="north", number=1, started="2026-11-29T00:00:00Z")
    (walk.folder / "night.json").write_bytes(night.canonical())
    step = (str(walk.folder / "night.json"), "--from", str(walk.folder / "made-internal.json"))
    if walk.run("release", "publish", *step, *where):
        trust = ("--trust", str(walk.zones.keys / "pipeline.pub"), "--to", str(walk.folder / "pulled"))
        pull = ("pull", "north", "--registry", str(walk.zones.registry_address), *trust)
        say(walk.run("pulled", *pull, module="medgan.cli").decode())


def judged(site: TrainOutcome, images: np.ndarray, zones: Zones, *, strangers: int | None = None) -> None:
    """The gate of `internal` on stored images, with all or some strangers in each holdout: what did not pass."""
    real = stages.real_images(read.load(site.cohort.cohort, zones=zones))[0][""]
    few = slice(0, strangers)
    real = replace(
        real,
        holdout_1=real.holdout_1[few],
        holdout_2=real.holdout_2[few],
        holdout_1_patients=real.holdout_1_patients[few],
        holdout_2_patients=real.holdout_2_patients[few],
    )
    people = min(len(real.holdout_1_patients), len(real.holdout_2_patients))
    limits = policy.load("internal")
    tests, _ = attack.assess(to_view(images, FULL), real, limits)
    verdict = attack.decide(tests, limits, holdout_patients=people, not_applicable=frozenset({"G3", "G7"}))
    say(f"{people} strangers in each holdout, {len(real.train_patients)} train patients")
    told([test for test in tests if not test.passed], limits.name, verdict)


def images_of(site: TrainOutcome, zones: Zones, count: int) -> np.ndarray:
    """(count, 32, 32) uint16: what the site's model makes of its train patients' classes."""
    drawn = np.random.default_rng(0).choice(read.load(site.cohort.cohort, zones=zones).split("train")[1], count)
    return open_generator(site.model, zones=zones).images(np.arange(count), drawn, seed=0)


class Memoriser(adapt._Run):
    """All parameters of both networks learn from the site as it is, unwarped, and nothing stops it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config = replace(self.config, augment_p=0.0)
        self.learning_d = [*self.critic.parameters()]
        rate = self.request.learning_rate
        learning = [*self.adapted.requires_grad_(requires_grad=True).parameters()]
        self.optimiser_g = torch.optim.Adam(learning, lr=rate, betas=(0.5, 0.99), fused=True)
        self.optimiser_d = torch.optim.Adam(self.learning_d, lr=rate, betas=(0.5, 0.99), fused=True)

    def look(self, rows: np.ndarray, held: np.ndarray) -> float:  # noqa: ARG002 - as `_Run.look`
        return 0.5


def memorised(base: TrainOutcome, site: TrainOutcome, zones: Zones, *, steps: int, count: int) -> np.ndarray:
    """(count, 32, 32) uint16 of the base trained on with everything on the site's train split."""
    sampler, generator, critic = adapt.open_base(zones.pseudonymised / "models" / base.model.model)
    loaded = read.load(site.cohort.cohort, zones=zones)
    pixels, index, _ = loaded.split("train")
    images = TrainingSet(pixels=pixels, class_index=index, classes=loaded.classes, lo=FULL[0], hi=FULL[1])
    request = AdaptRequest(steps=steps)
    with fixed(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        run = Memoriser(sampler=sampler, base=generator, critic=critic, site=images, source=None, request=request)
        made = run.play(np.zeros(len(pixels), bool), None).network
        rng = np.random.default_rng(0)
        c = run.conditions(rng.choice(index, count))
        z = torch.from_numpy(rng.standard_normal((count, sampler.config.latent_dim), dtype=np.float32))
        with torch.inference_mode():
            return to_stored(made(z, c)[:, 0].numpy(), *FULL)


def distances(walk: Walk, base: TrainOutcome, site: TrainOutcome) -> None:
    """Fréchet to the site and to the source, of both generators."""
    pixels, labels, (*_, others) = people()
    target = labels[others]
    half = len(others) // 2
    for name, images in (("site", another_scanner(pixels[others])), ("source", pixels[others])):
        real = to_unit(images, 32)
        encoder = features.train(real[:half], target[:half], 2)
        beside = encoder(real[half:])
        floor = frechet(encoder(real[:half]), beside)
        found = []
        for one in (base, site):
            made = open_generator(one.model, zones=walk.zones).images(np.arange(1000), target[:1000], seed=0)
            found.append(frechet(encoder(to_unit(made, 32)), beside))
        say(
            f"Fréchet to the {name}: base {found[0]:.2f}, adapted {found[1]:.2f} "
            f"({100 * (found[1] / found[0] - 1):+.0f} %), real images {floor:.2f}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.personal_site", description=__doc__)
    parser.add_argument("--keep", type=Path, required=True, help="folder; what stands in it is not made again")
    parser.add_argument("--kimg", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--memoriser-steps", type=int, default=5000)
    parser.add_argument("--strangers", type=int, nargs="*", default=[25, 50, 150])
    parser.add_argument("--part", choices=PARTS, nargs="*", default=PARTS)
    given = parser.parse_args(arguments)
    say(machine())
    walk = Walk(given.keep)
    base = train_base(walk, given.kimg)
    say(f"base: {base.cohort.cohort.patients}, {base.model.kimg:g} kimg, {base.model.seconds:.0f} s")
    if given.part == ["base"]:
        return 0
    site = adapted(walk, given.steps)
    say(f"site: {site.cohort.cohort.patients}, {site.model.kimg * 62.5:.0f} steps, {site.model.seconds:.0f} s")
    if "distance" in given.part:
        distances(walk, base, site)
    if "gate" in given.part:
        released(walk)
    if "fewer" in given.part:
        for strangers in given.strangers:
            judged(site, images_of(site, walk.zones, 1024), walk.zones, strangers=strangers)
    if "memoriser" in given.part:
        kept = walk.folder / f"memoriser-{given.memoriser_steps}.npy"
        if not kept.exists():
            begun = time.process_time()
            np.save(kept, memorised(base, site, walk.zones, steps=given.memoriser_steps, count=1024))
            say(f"a memoriser, all parameters: {time.process_time() - begun:.0f} CPU-s")
        say(f"a memoriser, {given.memoriser_steps} steps:")
        judged(site, np.load(kept), walk.zones)
        say("the same beside the source alone, of whom it learned nothing: what a gate without stages would see")
        judged(base, np.load(kept), walk.zones)
    return 0


if __name__ == "__main__":
    sys.exit(main())
