"""The plan of a run on a cluster: counts as a real run has them, counted arithmetic, rounds of tasks, dollars."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from teddy_cloud import app, gpus
from teddy_ray import data, models
from teddy_ray.errors import UserError
from teddy_ray.pipeline import counts, estimate, flops, timing
from teddy_ray.pipeline.context import Context
from teddy_ray.pipeline.counts import Facts, Work
from teddy_ray.pipeline.stages import base, distill, evaluate, relabel
from teddy_ray.spec import DataSpec, Spec, resolve
from teddy_ray.store import labels

DIGITS = counts.KNOWN["digits"]


def spec(**overrides):
    return resolve("teddy", {}, {key.replace("__", "."): value for key, value in overrides.items()})


def works(given, facts=DIGITS, stage=None):
    return [work for work in counts.works(given, facts) if stage in (None, work.stage)]


@pytest.fixture
def plan(monkeypatch, capsys, tmp_path):
    """Runs ``teddy-cloud plan`` where there is no cluster; its JSON, or its exit code and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["teddy-cloud", "plan", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        out, err = capsys.readouterr()
        return json.loads(out) if not stop.value.code and "--json" in arguments else (stop.value.code or 0, out + err)

    return call


# Counts.


def test_the_known_datasets_are_as_said():
    loaded = data.load(DataSpec(source="digits"))
    assert Facts(len(loaded.class_names), len(loaded.train.labels), len(loaded.test.labels), 8) == DIGITS
    assert loaded.train.images.shape[2:] == (8, 8)


def test_counts_rest_on_the_numbers_that_the_stages_use():
    assert counts.SCORED_IMAGES == base.TRAIN_ACCURACY_IMAGES
    assert counts.CLASS_MEAN_IMAGES == distill.CLASS_MEAN_IMAGES
    assert counts.CURVE_POINTS == evaluate.CURVE_POINTS
    assert (counts.LABEL_BATCH, counts.LABEL_ROWS_A_TASK, counts.LABEL_IMAGES_A_TASK) == (
        relabel.BATCH, relabel.ROWS_A_SHARD, relabel.IMAGES_A_SHARD,
    )  # fmt: skip


@pytest.mark.parametrize(("ipc", "views"), [(1, 100), (10, None), (600, 3), (600, 20)])
def test_relabel_has_as_many_tasks_and_batches_as_the_stage_makes(ipc, views):
    given = spec(distill__ipc=ipc, relabel__views=views, evaluate__controls=[])

    record = SimpleNamespace(stage="base", digest="a", files={}, meta={"images": 10 * ipc, "name": "distilled"})
    context = Context(given, None, lambda _: None)
    context.real = SimpleNamespace(classes=10)
    made = relabel.tasks(context, record, record, [record] * 10)
    (work,) = works(given, stage="relabel")
    assert work.tasks == len(made)
    rows = [(last - first) * (v2 - v1) for first, last, v1, v2 in (task.inputs["rows"] for task in made)]
    assert sum(rows) == counts.counts(given, 10)["label_rows"]
    batches = sum(-(-count // relabel.BATCH) for count in rows) * counts.models(given, "both")
    assert work.steps * work.tasks == pytest.approx(batches, rel=0.25)


@pytest.mark.parametrize(
    ("classes", "epochs", "settings", "views"),
    [
        (10, 100, {}, 40),  # a budget of 400 logits an image …
        (3, 100, {}, 100),  # … never more views than epochs …
        (200, 100, {}, 10),  # … and ten at least
        (1000, 5, {}, 5),
        (10, 100, {"relabel__store": False}, 100),  # which cost nothing to keep
        (200, 100, {"relabel__views": 300}, 300),
        (200, 100, {"relabel__views": 3, "relabel__store": False}, 3),
    ],
)
def test_so_many_views_are_labelled(classes, epochs, settings, views):
    given = spec(evaluate__epochs=epochs, **settings)
    assert counts.label_views(given, classes) == views


@pytest.mark.parametrize("classes", [100, 200, 1000])
def test_labels_of_many_classes_are_forty_times_smaller_than_float16_for_every_epoch(classes):
    given = spec(distill__ipc=10)
    everything = given.evaluate.epochs * 10 * classes * classes * 2
    assert everything / counts.counts(given, classes)["label_bytes"] >= 40


LABELS = {"digits": (10, 2, 3.0), "many classes": (200, 3, 8.0)}
"""Logits as labellers give them: how many classes, how far they scatter, how far the likeliest stand out."""


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("packing", [{"bits": 16}, {"bits": 8}, {"bits": 4}, {"bits": 8, "top_k": 5}], ids=str)
def test_the_bytes_of_labels_are_foretold(kind, packing):
    classes, scatter, peak = LABELS[kind]
    given = spec(distill__ipc=1, relabel__views=100, **{f"relabel__{key}": value for key, value in packing.items()})
    rows, dice = classes * 101, torch.Generator().manual_seed(0)
    logits = scatter * torch.randn(rows, classes, generator=dice)
    logits.scatter_add_(
        1, torch.randint(classes, (rows, 2), generator=dice), peak * torch.rand(rows, 2, generator=dice)
    )
    numbers = torch.arange(rows)
    views = labels.Views(seed=0, crop_scale=0.5, flip=True, mix="cutmix", images=classes)
    file = labels.to_parquet(numbers % classes, numbers // classes, logits, views=views, **packing)
    assert counts.counts(given, classes)["label_bytes"] == pytest.approx(len(file), rel=0.05)


def test_labels_that_are_not_stored_take_no_bytes_and_every_students_time():
    given = spec(relabel__store=False, distill__ipc=10, evaluate__regimes=["views", "fixed", "hard"])
    made = counts.counts(given, 10)
    assert (made["label_rows"], made["label_bytes"]) == (0, 0)
    assert {work.batch for work in works(given, stage="relabel")} == {counts.LABEL_BATCH}  # the coreset is chosen
    asked = [work for work in works(given, stage="evaluate") if work.step == "look"]
    # 5 seeds of 3 sets; 100 epochs of 2 batches of 50 for views, and the whole images once for fixed: by 11 models
    assert [(work.tasks, work.batch, work.steps) for work in asked[1:]] == [(15, 50, 2200), (15, 250, 11)]
    stored = spec(distill__ipc=10, evaluate__regimes=["views", "fixed", "hard"])
    assert len(works(stored, stage="evaluate")) == 2


def test_a_stage_that_has_nothing_to_do_has_no_work():
    given = spec(distill__init="real", distill__iterations=0)
    assert not works(given, stage="distill")
    assert not works(given, stage="pool")
    handed_in = spec(base__checkpoint="x", pool__kind="post")
    assert not works(handed_in, stage="base")
    assert {work.tasks for work in works(handed_in, stage="pool")} == {10}


def test_steps_of_matching_are_units_times_iterations_times_models():
    given = spec(distill__ipc=100, distill__iterations=7, distill__models_per_step=3)
    (work,) = [work for work in works(given, stage="distill") if work.step == "match"]
    assert (work.tasks, work.batch, work.steps) == (20, 50, 21)


def test_students_of_every_architecture_are_counted():
    given = spec(
        evaluate__students=["convnet", "resnet18"], evaluate__seeds=2, evaluate__regimes=["hard"], distill__ipc=10
    )
    trained = [(work.arch, work.tasks, work.steps) for work in works(given, stage="evaluate") if work.step == "train"]
    assert trained == [("convnet", 6, 200), ("resnet18", 6, 200)]
    assert counts.counts(given, 10)["students"] == 12


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({}, Facts(10, 50_000, 10_000, 32)),
        ({"classes": 3}, Facts(3, 15_000, 3_000, 32)),
        ({"classes": ("cat", "dog"), "per_class": 100}, Facts(2, 200, 2_000, 32)),
        ({"size": 16, "per_class": 10**6}, Facts(10, 50_000, 10_000, 16)),
    ],
)
def test_facts_of_a_part_of_a_known_dataset(part, expected):
    assert counts.known(DataSpec(source="cifar10", **part)) == expected
    assert counts.known(DataSpec(source="s3://b/x")) is None


# Seconds.


def test_tasks_go_in_rounds_so_units_cap_what_workers_can_do():
    todo = [Work("distill", "match", "convnet", 50, steps=100, tasks=20)]
    cost = {("match", "convnet", 50): 0.5}
    for slots, rounds in ((1, 20), (8, 3), (16, 2), (20, 1), (1000, 1)):
        assert counts.seconds(todo, cost, slots)["distill"] == {"busy": 1000.0, "wall": 50.0 * rounds}


def test_replicas_of_the_base_work_side_by_side():
    todo = [Work("base", "train", "convnet", 32, steps=10, processes=4)]
    assert counts.seconds(todo, {("train", "convnet", 32): 1.0}, 16)["base"] == {"busy": 40.0, "wall": 10.0}


@pytest.mark.parametrize("arch", ["convnet", "resnet18"])
def test_arithmetic_is_what_torch_counts_on_real_tensors(arch):
    model = models.build(arch, 10, 32)
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(images)
    with FlopCounterMode(display=False) as training:
        model(images).sum().backward()
    assert 4 * flops.flops("look", arch, classes=10, size=32) == forward.get_total_flops()
    assert 4 * flops.flops("train", arch, classes=10, size=32) == pytest.approx(training.get_total_flops(), rel=0.01)


def test_steps_are_timed_for_every_kind_of_work():
    given = estimate.on_cpu(spec(pool__kind="post"))
    todo = works(given)
    found = timing.step_seconds(given, todo, DIGITS)
    assert set(found) == {(work.step, work.arch, work.batch) for work in todo}
    assert {key[0] for key in found} == {"train", "match", "look"}
    assert all(0 < seconds < 30 for seconds in found.values())


def test_a_gpus_speed_is_by_its_label_or_an_assumption_that_is_said():
    known = gpus.speed_of("NVIDIA-H100-80GB-HBM3")
    assert (known.name, known.known) == ("H100", True)
    labels = ("NVIDIA-L40S", "NVIDIA-L4", "Tesla-T4", "NVIDIA-A10G", "NVIDIA-A100-SXM4-40GB")
    assert [gpus.speed_of(label).name for label in labels] == ["L40S", "L4", "T4", "A10G", "A100"]
    assert "H100" in known.told
    assert "no known GPU type" in gpus.speed_of("").told
    assert known.seconds(known.flops_per_second) == 1.0
    assert known.seconds(1.0) == gpus.LEAST_STEP_SECONDS


# The command.


def test_a_plan_without_a_cluster_says_all_and_creates_nothing(plan, tmp_path):
    told = plan("--ipc", "100", "--gpus", "16", "--gpu-type", "A100", "--price-gpu-hour", "2.5", "--json")
    assert (told["makes"]["images"], told["makes"]["units"], told["makes"]["members"]) == (1000, 20, 10)
    assert list(told["stages"]) == ["base", "distill", "relabel", "evaluate"]
    assert told["held_hours"] == pytest.approx(16 * told["wall_seconds"] / 3600)
    assert told["busy_hours"] <= told["held_hours"]
    assert told["dollars"] == pytest.approx(told["held_hours"] * 2.5, abs=0.01)
    assert "assumed" in told["notes"][0]
    assert "no kubeconfig" in told["notes"][-1]
    assert not list(tmp_path.iterdir())
    code, text = plan("--ipc", "100", "--gpus", "16")
    assert code == 0
    for words in ("1,000 images of 10 classes, in 20 units", "GPU-hours", "distill", "no price is known"):
        assert words in text


def test_more_gpus_take_less_time_until_units_run_out(plan):
    wall = [plan("--ipc", "10", "--gpus", str(n), "--json")["stages"]["distill"]["wall_seconds"] for n in (1, 2, 16)]
    assert wall[0] == pytest.approx(2 * wall[1])
    assert wall[1] == wall[2]


def test_a_plan_for_cpus_is_timed_here(plan):
    told = plan("--ipc", "1", "--workers", "2", "--price-cpu-hour", "0.04", "--json")
    assert "timed just now" in told["notes"][0]
    assert (told["gpus"], told["workers"]) == (0, 2)
    assert told["dollars"] == pytest.approx(told["held_hours"] * 4 * 0.04, abs=0.01)


def test_unseen_data_is_planned_by_what_is_said_of_it(plan):
    data_of = ("--data", "s3://b/imagenet", "--gpus", "8", "--ipc", "10")
    told = plan(*data_of, "--classes", "1000", "--train-images", "1281167", "--set", "data.size=64", "--json")
    assert told["data"] == {"classes": 1000, "train": 1_281_167, "test": 0, "size": 64}
    assert plan(*data_of)[0] == 2
    assert "--train-images" in plan(*data_of)[1]
    assert "--classes N" in plan(*data_of, "--train-images", "10")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "how many GPUs"),
        (("--gpus", "1", "--ipc", "200"), "needs as many real images"),
        (("--gpus", "1", "--gpus-per-node", "0"), "--gpus-per-node 0"),
        (("--gpus", "1", "--namespace", "x"), "kubeconfig"),
    ],
)
def test_what_cannot_be_planned_is_refused(plan, arguments, words):
    code, text = plan(*arguments)
    assert code == 2
    assert words in text


def test_a_folder_in_s3_is_counted_by_its_names(monkeypatch):
    names = [f"train/{c}/{i}.png" for c in "ab" for i in range(40)] + [f"val/a/{i}.png" for i in range(7)]
    names += [f"test/{i}.png" for i in range(3)]

    monkeypatch.setattr("teddy_ray.store.mirror.files", lambda *_: [SimpleNamespace(name=name) for name in names])
    of = {"source": "folder:s3://b/x", "size": 32}
    assert estimate.facts_of(DataSpec(**of), None) == Facts(2, 80, 7, 32)
    assert estimate.facts_of(DataSpec(**of, per_class=10), None) == Facts(2, 20, 7, 32)
    with pytest.raises(UserError, match=r"data\.size=PIXELS"):
        estimate.facts_of(DataSpec(source="folder:s3://b/x"), None)
    names[:] = [f"{c}/{i}.png" for c in "abc" for i in range(10)]
    assert estimate.facts_of(DataSpec(**of), None) == Facts(3, 24, 6, 32)


def test_a_namespaces_settings_are_in_the_spec_before_the_users_own():
    from teddy_cloud.asked import resolve as asked

    namespace = {"distill.ipc": 3, "distill.iterations": 5, "seed": 9}
    found = asked(None, None, {"distill.ipc": 7}, ["seed=1"], namespace=namespace)
    assert (found.distill.ipc, found.distill.iterations, found.seed) == (7, 5, 1)
    assert asked(None, None, {}, [], namespace={"recipe": "sre2l"}).recipe == "sre2l"
    assert asked("random", None, {}, [], namespace={"recipe": "sre2l"}).recipe == "random"
    with pytest.raises(UserError, match=r"'distill\.ipcs'.*namespace's own settings are distill\.ipcs"):
        asked(None, None, {}, [], namespace={"distill.ipcs": 3})
    assert isinstance(found, Spec)
