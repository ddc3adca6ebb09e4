"""The spec: how it is resolved, what it refuses and in which words, what its digest heeds, and the recipes' sources."""

import json
import re
import tomllib
from importlib.resources import files

import pytest

from teddy_ray import recipes
from teddy_ray.errors import UserError
from teddy_ray.spec import Spec, digest, field_names, parse_override, resolve, validate

RECIPES = ["random", "sre2l", "teddy", "teddy-post", "teddy-prior"]


def refusal(values):
    with pytest.raises(UserError) as caught:
        validate(values)
    return str(caught.value)


def nested(key, value):
    """``{"distill": {"lr": 1}}`` for ``distill.lr``."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


# --- Layers ---


def test_overrides_go_before_the_file_and_the_file_before_the_recipe(monkeypatch):
    recipe = {"distill": {"ipc": 2, "lr": 0.2, "iterations": 200}, "base": {"epochs": 7}}
    monkeypatch.setattr(recipes, "load", lambda _: recipe)
    file = {"distill": {"ipc": 3, "lr": 0.3}, "seed": 3}
    spec = resolve("teddy", file, {"distill.ipc": 4, "compute.workers": 5})
    assert (spec.distill.ipc, spec.distill.lr, spec.distill.iterations) == (4, 0.3, 200)
    assert (spec.seed, spec.base.epochs, spec.compute.workers) == (3, 7, 5)
    assert spec.distill.optimizer == Spec().distill.optimizer
    assert recipe["distill"]["ipc"] == 2  # what was handed in is left alone
    assert file == {"distill": {"ipc": 3, "lr": 0.3}, "seed": 3}


def test_a_list_is_replaced_and_not_extended():
    spec = resolve("teddy", {"evaluate": {"students": ["convnet", "resnet18"]}}, {"evaluate.students": ["resnet50"]})
    assert spec.evaluate.students == ("resnet50",)


def test_a_whole_part_may_be_overridden():
    spec = resolve("teddy", {"distill": {"ipc": 3}}, {"distill": {"lr": 0.5}})
    assert (spec.distill.ipc, spec.distill.lr) == (3, 0.5)


@pytest.mark.parametrize("name", ["sre2", "teddy_prior", ""])
def test_an_unknown_recipe_is_refused_with_all_names(name):
    with pytest.raises(UserError, match=f"unknown recipe '{name}'.*{', '.join(RECIPES)}"):
        resolve(name, {}, {})


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"did you mean 'sre2l'\?"):
        resolve("sre2", {}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distill.iterations=500", ("distill.iterations", 500)),
        ("distill.lr=0.1", ("distill.lr", 0.1)),
        ("distill.lr=1e-3", ("distill.lr", 0.001)),
        ("distill.shared_crop=true", ("distill.shared_crop", True)),
        ("pool.kind=prior", ("pool.kind", "prior")),
        ("pool.kind='prior'", ("pool.kind", "prior")),
        ('pool.kind="prior"', ("pool.kind", "prior")),
        ("distill.betas=[0.5, 0.9]", ("distill.betas", [0.5, 0.9])),
        ("data.classes=['cat', 'dog']", ("data.classes", ["cat", "dog"])),
        (" distill.lr = 2 ", ("distill.lr", 2)),
        ("data.source=folder:/data/a=b c", ("data.source", "folder:/data/a=b c")),
        ("data.source=", ("data.source", "")),
        ("distill.shared_crop=True", ("distill.shared_crop", "True")),  # not TOML: a word, which the spec then refuses
    ],
)
def test_an_override_is_toml_or_a_bare_word(text, expected):
    key, value = parse_override(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["distill.lr", "=3", "", "  =3"])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(UserError, match="expected KEY=VALUE, such as"):
        parse_override(text)


# --- The digest and JSON ---


def test_json_keeps_the_spec_and_its_digest():
    spec = resolve(
        "sre2l",
        {"data": {"classes": ["3", "8"], "size": 16}, "distill": {"betas": [0.1, 0.2], "lr": 1 / 3}},
        {"evaluate.students": ["convnet", "resnet18"], "seed": 7},
    )
    again = Spec.from_json(spec.to_json())
    assert again == spec
    assert again.digest == spec.digest
    assert re.fullmatch("[0-9a-f]{64}", spec.digest)
    assert Spec.from_json(spec.to_json().encode()) == spec


def other_value(field, value):
    """Another value that the field may have."""
    special = {
        "data.classes": 3,
        "data.per_class": 5,
        "data.size": 16,
        "data.flip": True,
        "base.arch": "resnet18",
        "base.checkpoint": "base.safetensors",
        "pool.kind": "post",
        "pool.epochs": [1, 2],
        "pool.accuracy_band": [0.1, 0.2],
        "distill.betas": [0.1, 0.2],
        "relabel.views": 5,
        "relabel.top_k": 5,
        "relabel.bits": 8,
        "evaluate.students": ["resnet18"],
        "evaluate.regimes": ["hard"],
        "evaluate.controls": [],
        "compute.precision": "float32",
        "compute.compile": "always",
        "compute.convolutions": "winograd",
        "compute.executor": "inline",
    }
    words = {"sgd": "adamw", "adamw": "sgd", "adam": "sgd", "pool": "base", "patches": "real", "logits": "probs"}
    words |= {"cutmix": "none", "auto": "cpu", "digits": "cifar10", "teddy": "sre2l"}
    if field in special:
        return special[field]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 0.5 + 0.1 if isinstance(value, float) else words[value]


@pytest.mark.parametrize("field", list(field_names(Spec)))
def test_the_digest_heeds_what_can_change_the_result_and_nothing_else(field):
    value = Spec().model_dump(mode="json")
    for name in field.split("."):
        value = value[name]
    start = {"pool": {"kind": "post"}} if field == "base.checkpoint" else {}  # which no prior pool goes with
    before, spec = validate(start), validate(start | nested(field, other_value(field, value)))
    assert spec != before
    heedless = field in ("compute.workers", "compute.executor", "distill.checkpoint_seconds")
    assert (spec.digest == before.digest) == heedless


def test_a_digest_is_of_values_and_their_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest("ab", "c"), digest("a", "bc"), digest(["ab", "c"]), digest("abc"), digest("c", "ab")}) == 5
    assert digest(1) != digest("1")
    # sha256sum's own answer for ["teddy",1,null]; every artifact's address would change with it.
    assert digest("teddy", 1, None) == "6998cbc043e3510d2d29c307d7122ebaaf15161eaf2108da2ff14cdcfcdffbfc"
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))


def test_a_spec_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Spec().distill.lr = 3.0


# --- Refusals ---


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        # a wrong type
        ("distill.ipc", "1", 'distill.ipc = "1": should be a whole number'),
        ("distill.ipc", 1.5, "distill.ipc = 1.5: should be a whole number"),
        ("distill.ipc", True, "distill.ipc = true: should be a whole number"),
        ("distill.ipc", None, "distill.ipc = null: should be a whole number"),
        ("distill.lr", "fast", 'distill.lr = "fast": should be a number'),
        ("distill.lr", {"x": 1}, 'distill.lr = {"x": 1}: should be a number'),
        ("distill", 3, "distill = 3: should be a table of settings"),
        ("data.flip", "yes", 'data.flip = "yes": should be true or false'),
        ("data.source", 3, "data.source = 3: should be a string"),
        ("pool.epochs", 5, "pool.epochs = 5: should be a list"),
        ("evaluate.students", "convnet", 'evaluate.students = "convnet": should be a list'),
        ("data.classes", "cat", 'data.classes = "cat": should be a whole number, or should be a list'),
        ("data.classes", ["cat", 2], "data.classes = 2: should be a string"),
        # a value out of range
        ("distill.lr", 0, "distill.lr = 0: should be greater than 0"),
        ("distill.lr", float("nan"), "distill.lr = NaN: should be a finite number"),
        ("distill.lr", float("inf"), "distill.lr = Infinity: should be a finite number"),
        ("distill.ipc", 0, "distill.ipc = 0: should be greater than or equal to 1"),
        ("seed", 2**31, "seed = 2147483648: should be less than 2147483648"),
        ("data.size", 4, "data.size = 4: should be greater than or equal to 8"),
        ("data.source", "", 'data.source = "": should have at least 1 character'),
        ("data.classes", 0, "data.classes = 0: should be greater than or equal to 1, or should be a list"),
        ("pool.epochs", [3, 0], "pool.epochs = 0: should be greater than or equal to 1"),
        ("pool.accuracy_band", [0.1, 2], "pool.accuracy_band = 2: should be less than or equal to 1"),
        ("distill.betas", [0.5, 1.0], "distill.betas = 1.0: should be less than 1"),
        # too few or too many
        ("distill.betas", [0.1], "distill.betas = [0.1]: should have 2 values"),
        ("distill.betas", [], "distill.betas = []: should have 2 values"),
        ("distill.betas", [0.1, 0.2, 0.3], "distill.betas = [0.1, 0.2, 0.3]: should have at most 2 values"),
        ("evaluate.students", [], "evaluate.students = []: should have at least 1 value"),
        # an unknown choice
        ("pool.kind", "Prior", "pool.kind = \"Prior\": should be 'none', 'prior' or 'post'"),
        ("evaluate.regimes", ["views", "x"], "evaluate.regimes = \"x\": should be 'views', 'fixed' or 'hard'"),
    ],
)
def test_a_value_is_refused_in_one_sentence(key, value, expected):
    assert refusal(nested(key, value)) == expected


def test_an_unknown_choice_is_told_all_of_them():
    message = refusal({"base": {"arch": "resnet19"}})
    assert message.startswith('base.arch = "resnet19": should be ')
    assert all(f"'{arch}'" in message for arch in ("convnet", "resnet18", "efficientnet_b0"))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("distill.itertions", " (did you mean 'distill.iterations'?)"),
        ("iterations", " (did you mean 'distill.iterations'?)"),
        ("distil", " (did you mean 'distill'?)"),
        ("distil.iterations", " (did you mean 'distill'?)"),  # the part is what is unknown
        ("evaluate.temprature", " (did you mean 'evaluate.temperature'?)"),
        ("zzz", ""),
    ],
)
def test_an_unknown_setting_gets_the_nearest_name(key, hint):
    unknown = key.partition(".")[0] if key.startswith("distil.") else key
    expected = f"unknown setting '{unknown}'{hint}; `teddy-cloud run --dry-run` lists every setting"
    assert refusal(nested(key, 1)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", "the spec = [1]: should be a table of settings"),
        ("null", "the spec = null: should be a table of settings"),
        ("{", "the spec is not JSON: "),
        ('{"seed": NaN}', "seed = NaN: should be a whole number"),
        ('{"sead": 1}', "unknown setting 'sead' (did you mean 'seed'?)"),
    ],
)
def test_what_is_no_spec_is_refused(text, expected):
    with pytest.raises(UserError) as caught:
        Spec.from_json(text)
    assert str(caught.value).startswith(expected)


NO_POOL = {"kind": "none", "size": 0}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (
            {"pool": NO_POOL, "relabel": {"labellers": "base"}},
            ["distill.match = 'pool'", "pool.kind", "distill.match=base"],
        ),
        (
            {"pool": NO_POOL, "distill": {"match": "base"}, "relabel": {"labellers": "both"}},
            ["relabel.labellers = 'both'", "pool.kind is 'none'", "relabel.labellers=base"],
        ),
        ({"pool": {"size": 0}}, ["pool.size = 0", "pool.kind = 'prior'", "at least 1"]),
        ({"pool": {"kind": "post", "size": 0}}, ["pool.size = 0", "pool.kind = 'post'", "at least 1"]),
        ({"base": {"checkpoint": "base.pt"}}, ["pool.kind = 'prior'", "base.checkpoint", "pool.kind=post"]),
        (
            {"base": {"epochs": 5}, "pool": {"epochs": [2, 6]}},
            ["pool.epochs", "epoch 6", "base.epochs is 5", "1 to 5"],
        ),
        ({"base": {"epochs": 4}, "pool": {"size": 5}}, ["pool.size = 5", "base.epochs = 4", "lower", "raise"]),
        ({"pool": {"accuracy_band": [0.9, 0.3]}}, ["pool.accuracy_band = [0.9, 0.3]", "below"]),
        ({"pool": {"accuracy_band": [0.5, 0.5]}}, ["pool.accuracy_band = [0.5, 0.5]", "below"]),
        (
            {"distill": {"models_per_step": 6}, "pool": {"size": 5}},
            ["distill.models_per_step = 6", "5 model(s)", "raise pool.size"],
        ),
        (
            {"distill": {"models_per_step": 3}, "pool": {"epochs": [1, 2]}},
            ["distill.models_per_step = 3", "2 model(s)", "lower"],
        ),
        (
            {"distill": {"models_per_step": 2, "match": "base"}},
            ["distill.models_per_step = 2", "1 model(s)", "distill.match = 'base'"],
        ),
        ({"distill": {"models_per_step": 7, "match": "both"}}, ["distill.models_per_step = 7", "6 model(s)"]),
        (
            {"distill": {"iterations": 0, "init": "noise"}},
            ["distill.iterations = 0", "distill.init = 'noise'", "distill.init=real"],
        ),
        (
            {"relabel": {"store": False, "top_k": 5}},
            ["relabel.top_k = 5", "relabel.store is false", "leave relabel.top_k out", "relabel.store=true"],
        ),
        ({"base": {"warmup_epochs": 21.0}}, ["base.warmup_epochs = 21.0", "base.epochs = 20"]),
        ({"evaluate": {"students": ["convnet", "convnet"]}}, ["evaluate.students", "['convnet', 'convnet']", "twice"]),
        ({"evaluate": {"regimes": ["hard", "hard"]}}, ["evaluate.regimes", "['hard', 'hard']", "twice"]),
    ],
)
def test_a_contradiction_is_refused_by_name(values, names):
    message = refusal(values)
    assert all(name in message for name in names), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "values",
    [
        {"pool": NO_POOL, "distill": {"match": "base"}, "relabel": {"labellers": "base"}},
        {"pool": {"kind": "post"}, "base": {"checkpoint": "base.pt"}},
        {"pool": {"kind": "post", "size": 30}},  # more members than epochs: they are not checkpoints
        {"base": {"epochs": 5}, "pool": {"epochs": [1, 5], "size": 30}},
        {"base": {"epochs": 5, "warmup_epochs": 5.0}},
        {"distill": {"models_per_step": 6, "match": "both"}},
        {"distill": {"models_per_step": 5}},
        {"distill": {"iterations": 0, "init": "real"}},
        {"distill": {"lr": 1}},  # a whole number is a number
        {"relabel": {"store": False, "views": 5}},
        {"relabel": {"store": False, "bits": 4}},  # a recipe's bits stand by for labels that are stored
        {"relabel": {"top_k": 10**6, "bits": 4}},  # more than there are classes: all
        {"data": {"classes": 3}},
        {"data": {"classes": ["cat", "dog"]}},
    ],
)
def test_what_is_possible_is_not_refused(values):
    assert validate(values).digest


# --- Recipes ---


def text_of(name):
    return files(recipes).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_the_recipes_are_these():
    assert recipes.names() == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves(name):
    spec = resolve(name, {}, {})
    assert spec.recipe == name
    assert Spec.from_json(spec.to_json()) == spec
    assert resolve(name, {}, {"distill.ipc": 10, "seed": 1}).distill.ipc == 10
    assert "ipc" not in recipes.load(name).get("distill", {})  # the budget is the user's, whatever the recipe


SOURCE = re.compile(
    r"\b(ours|paper|Teddy|SRe2L|RDED|RD3|Qin et al|CDA|EDC|LPLD|FADRM|CIM|G-VBSM|WMDD|CV-DD|DELT|arXiv)\b"
)
VALUE = re.compile(r"^\s*([\w.]+)\s*=")


def unsourced(text):
    """Keys that say neither on their own line nor in a comment on the line above where their value is from."""
    lines = text.splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        key = VALUE.match(line)
        # No value in a recipe holds a "#", so what follows one is a comment.
        comment = line.partition("#")[2] + (above.partition("#")[2] if above.lstrip().startswith("#") else "")
        if key and not SOURCE.search(comment):
            yield key[1]


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_in_a_recipe_has_a_source(name):
    text = text_of(name)
    found = [key[1] for line in text.splitlines() if (key := VALUE.match(line))]
    settings = [setting.rpartition(".")[2] for setting in flat(tomllib.loads(text))]
    assert sorted(found) == sorted(settings)  # one value a line, so that the scan sees them all
    assert list(unsourced(text)) == []


def test_a_value_without_a_source_is_found():
    text = '[pool]\n# ours\nsize = 5\nkind = "post"\nlr = 1 # like this\n\n# paper: Eq. 7\n\nratio = 2\nx = 1 # SRe2L\n'
    assert list(unsourced(text)) == ["kind", "lr", "ratio"]


def test_settings_are_documented_as_plain_json():
    """Every default is what JSON can hold, and comes back."""
    values = json.loads(Spec().to_json())
    assert sorted(flat(values)) == sorted(field_names(Spec))
    assert validate(values) == Spec()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base.replicas": 3}, ("base.batch_size = 128", "base.replicas = 3")),
        ({"base.batch_size": 2, "base.replicas": 2}, ("base.batch_size = 2", "two")),
        ({"pool.epochs": [3, 3]}, ("pool.epochs", "twice")),
        ({"pool.epochs": []}, ("pool.epochs", "at least 1")),
        ({"evaluate.controls": ["random", "random"]}, ("evaluate.controls", "twice")),
        ({"evaluate.batch_size": 2}, ("evaluate.batch_size = 2", "3")),
    ],
)
def test_what_would_fail_late_is_refused_early(settings, words):
    with pytest.raises(UserError) as refusal:
        resolve("teddy", {}, settings)
    assert all(word in str(refusal.value) for word in words)
