"""The report: honest sentences, safe text, one self-contained page, the same bytes every time."""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser

import pytest
import torch
import yaml
from PIL import Image

from teddy_ray import report
from teddy_ray.method import views
from teddy_ray.report import plots, tables, text
from teddy_ray.report.sheet import contact_sheet, shrink
from teddy_ray.spec import Spec, resolve
from teddy_ray.store import images as image_files
from teddy_ray.store import labels as label_files

HOSTILE = "<script>alert(1)</script>"
BROKEN = 'a|b `code`\n# not a heading\n---\nkey: "value" [x](y) *z*'


def score(name, regime, accuracy, spread, *, student="convnet", seeds=2, steps=300, seconds=45.0):
    runs = [accuracy] * (1 if spread is None else seeds)
    return {
        "set": name,
        "student": student,
        "regime": regime,
        "accuracy": accuracy,
        "spread": spread,
        "runs": runs,
        "steps": steps,
        "construction_seconds": seconds,
        "random": None,
        "random_spread": None,
    }


SCORES = [
    score("distilled", "views", 84.1, 0.4),
    score("random", "views", 70.2, 1.0, seconds=0.0),
    score("coreset", "views", 81.0, 0.5),
    score("distilled", "hard", 61.0, 0.4),
    score("random", "hard", 60.2, 0.7, seconds=0.0),
    score("coreset", "hard", 66.0, 0.3),
    score("full", "hard", 98.2, None, steps=200, seconds=0.0),
]


def results_of(*, classes=("zero", "one"), ipc=2, scores=SCORES, source="digits", members=2, units=2):
    spec = json.loads(Spec().to_json())
    spec["distill"]["ipc"], spec["data"]["source"], spec["evaluate"]["mirror_repeats"] = ipc, source, True
    points = [
        {"iteration": i, "loss": 9.0 / (i + 1), "statistics": 8.0 / (i + 1), "class": 1.0 / (i + 1)} for i in range(5)
    ]
    curve = [{"epoch": e, "loss": 2.0 / e, "accuracy": 20.0 * e} for e in range(1, 5)]
    students = [
        {"set": s["set"], "student": s["student"], "regime": s["regime"], "seed": 0, "accuracy": 80.0, "seconds": 1.0}
        for s in scores
    ]
    return {
        "run": f"{source}-ipc{ipc}",
        "folder": f"out/runs/{source}",
        "created": "2026-01-02T03:04:05+00:00",
        "spec": spec,
        "spec_digest": "3f" * 32,
        "digests": {"images": "a1" * 32, "labels": "b2" * 32},
        "dataset": {
            "source": source,
            "class_names": list(classes),
            "train_images": 1347,
            "test_images": 450,
            "image_size": 8,
            "skipped": 0,
        },
        "environment": {
            "device": "cpu",
            "precision": "float32",
            "executor": "inline",
            "workers": 1,
            "python": "3.11",
            "torch": "2",
            "torchvision": "0",
            "ray": None,
            "teddy_cloud": "0.1.0",
        },
        "seconds": {"data": 0.1, "base": 12.0, "distill": 30.0, "report": 0.0},
        "reused": {"stages": ["base"], "units": ["c0000-s0000"][:units]},
        "base": {"arch": "convnet", "parameters": 310000, "accuracy": 98.2, "curve": curve},
        "label_views": 40,
        "members": [
            {"name": f"prior-epoch-{m:04d}", "kind": "prior", "accuracy": 50.0 + m, "parameters": 9, "seconds": 1.0}
            for m in range(members)
        ],
        "units": [{"name": f"c{u:04d}-s0000", "images": 2, "seconds": 1.0, "trace": points} for u in range(units)],
        "scores": scores,
        "rank": [{"student": "convnet", "hlr": 37.2, "ior": {"views": 13.9, "hard": -0.04}}],
        "students": [{**student, "curve": curve} for student in students],
    }


def without_curves(results):
    """Drawings take most of the time, and many tests look elsewhere."""
    for item in [results["base"], *results["students"]]:
        item["curve"] = []
    for unit in results["units"]:
        unit["trace"] = []
    return results


def images_of(results, *, size=8):
    count = len(results["dataset"]["class_names"]) * results["spec"]["distill"]["ipc"]
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files():
    results = results_of()
    return report.render(results, images_of(results))


class Outline(HTMLParser):
    """Tags, their attributes, and the text outside of style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "img", "path", "use", "input", "br", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def sentence(regime, **accuracies):
    scores = [score(name, regime, *value) for name, value in accuracies.items()]
    [verdict] = tables.verdicts(results_of(scores=scores))
    return verdict


def test_a_clear_lead_is_said_to_beat_and_is_the_only_bold_row():
    best = [(row.regime, row.set) for row in tables.rows(results_of()) if row.best]
    assert best == [("views", "distilled"), ("hard", "coreset")]
    verdict = sentence("views", distilled=(84.1, 0.4), random=(70.2, 1.0))
    assert verdict == "convnet, views: distilled beats random by 13.9 points (spreads together 1.4)."


def test_a_loss_is_said_plainly():
    assert "distilled loses to coreset by 5.0 points" in sentence("hard", distilled=(61, 0.4), coreset=(66, 0.3))


def test_a_lead_within_the_spreads_is_level_and_has_no_winner():
    results = results_of(scores=[score("distilled", "hard", 61.0, 0.4), score("random", "hard", 60.2, 0.7)])
    [group] = tables.groups(results)
    assert group.winner == "No clear winner."
    assert "is level with random (0.8 points ahead, spreads together 1.1)" in group.verdict
    assert not any(row.best for row in group.rows)


def test_the_winner_must_be_ahead_of_every_rival_not_of_the_runner_up_alone():
    scores = [
        score("distilled", "views", 80, 0.1),
        score("random", "views", 75, 9.0),
        score("coreset", "views", 78, 0.1),
    ]
    assert not any(row.best for row in tables.rows(results_of(scores=scores)))


def test_one_seed_decides_nothing():
    scores = [score("distilled", "views", 90.0, None), score("random", "views", 10.0, None)]
    [group] = tables.groups(results_of(scores=scores))
    assert group.verdict == "distilled is 80.0 points ahead of random in one seed."
    assert "No clear winner" in group.winner
    assert [row.score for row in group.rows] == ["90.0 (n=1)", "10.0 (n=1)"]
    assert not any(row.best for row in group.rows)


def test_full_closes_every_regime_and_never_wins():
    for group in tables.groups(results_of()):
        assert [row.set for row in group.rows] == ["distilled", "random", "coreset", "full"]
        assert not group.rows[-1].best


def test_without_controls_nothing_is_claimed():
    results = results_of(scores=[score("distilled", "views", 84.1, 0.4)])
    assert tables.verdicts(results) == ["convnet, views: distilled has no control to be compared with."]
    assert "no control" in tables.summary(results, "convnet")
    assert not tables.rows(results)[0].best


def test_the_summary_names_every_regime_once_per_control_with_its_sign():
    said = tables.summary(results_of(), "convnet")
    assert said == (
        "With convnet students, distilled is ahead of random with views (+13.9 points); level with random with hard"
        " (+0.8); ahead of coreset with views (+3.1); behind coreset with hard (−5.0)."
    )


def test_rank_says_what_was_not_run_and_a_rounded_zero_has_no_sign():
    results = results_of()
    results["rank"][0]["hlr"] = None
    header, rows = tables.rank_table(results)
    assert header == ["Student", "HLR", "IOR, views", "IOR, hard"]
    assert rows == [["convnet", "not run", "+13.9", "0.0"]]


def test_the_same_rows_stand_in_markdown_and_on_the_page(files):
    page = " ".join("".join(Outline(files["index.html"].decode()).text).split())
    markdown = files["scores.md"].decode()
    for row in tables.rows(results_of()):
        assert f"{row.accuracy}{row.spread}" in page
        assert (f"**{row.accuracy}** {row.spread}" if row.best else row.score) in markdown
    for group in tables.groups(results_of()):
        assert group.verdict[1:] in page
        assert group.verdict in markdown


def test_rendering_twice_gives_the_same_bytes(files):
    results = results_of()
    assert report.render(results, images_of(results)) == files


def test_a_machines_matplotlib_settings_do_not_reach_the_page(files):
    import matplotlib as mpl

    results = results_of()
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.grid": False}):
        assert report.render(results, images_of(results)) == files


def test_results_json_is_the_results(files):
    assert json.loads(files["results.json"]) == results_of()


def test_the_page_fetches_nothing_and_runs_nothing(files):
    page = files["index.html"].decode()
    outline = Outline(page)
    assert outline.open == []
    assert not {"script", "link", "iframe", "object", "embed"} & set(outline.tags)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#\w+\)", "", page)
    sources = [value for name, value in outline.attributes if name in ("src", "href", "xlink:href")]
    assert sources
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in sources)


def test_the_pages_drawings_take_their_colours_from_the_css(files):
    page = files["index.html"].decode()
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 2 + 3 + 2
    assert not re.findall(r"(?:stroke|fill): ?#\w+", " ".join(re.sub("<defs>.*?</defs>", "", d) for d in drawings))


@pytest.mark.parametrize("name", [HOSTILE, BROKEN, "\udcff folder \x07", '"quoted" & <b>'])
def test_names_that_users_choose_are_only_text(name):
    results = without_curves(results_of(classes=(name, "other"), source=f"folder:{name}"))
    results["spec"]["recipe"] = results["folder"] = name
    files = report.render(results, images_of(results))
    page = Outline(files["index.html"].decode())
    usual = without_curves(results_of())
    plain = Outline(report.render(usual, images_of(usual))["index.html"].decode())
    assert page.tags == plain.tags
    assert [key for key, _ in page.attributes] == [key for key, _ in plain.attributes]
    for file in ("README.md", "scores.md"):
        body = files[file].decode()
        assert "<script" not in body
        assert "<b>" not in body
        headings = re.findall(r"^#+ .*$", re.sub("```.*?```", "", body, flags=re.DOTALL), flags=re.MULTILINE)
        assert not any(heading.startswith("# not a heading") for heading in headings)
        widths = {
            row.count("|") - row.count("\\|") for row in re.findall(r"^\| (?:Recipe|Run) .*$", body, re.MULTILINE)
        }
        assert widths <= {3}


def front_matter(card):
    before, matter, _ = card.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(matter)


@pytest.mark.parametrize("source", ["digits", HOSTILE, BROKEN, "\x7f\x85\u2028 tab\t\ud800", "null", "😀: - {x}"])
def test_the_card_opens_with_yaml_that_the_hub_reads(source):
    results = without_curves(results_of(source=source))
    matter = front_matter(report.render(results, images_of(results))["README.md"].decode())
    assert matter["task_categories"] == ["image-classification"]
    assert matter["size_categories"] == ["n<1K"]
    assert matter["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert matter["pretty_name"] == text.printable(f"{source}, 2 images per class (distilled, teddy)")


def test_markdown_text_has_no_marks_left():
    assert text.markdown(BROKEN) == r'a\|b \`code\` # not a heading --- key: "value" \[x\](y) \*z\*'
    assert text.markdown("# x") == r"\# x"
    assert text.markdown(text.Markdown("**x**")) == "**x**"


def test_the_card_and_the_page_show_images_of_the_class_they_name():
    results = without_curves(results_of(classes=("black", "grey", "white"), ipc=2))
    images = torch.tensor([0, 120, 255] * 2, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 8, 8)
    page = report.render(results, images)["index.html"].decode()
    found = re.findall(r'src="data:image/png;base64,([^"]+)" width="(\d+)" alt="synthetic images of class (\w+)"', page)
    assert [name for _, _, name in found] == ["black", "grey", "white"]
    for (source, width, _), level in zip(found, (0, 120, 255), strict=True):
        sheet = Image.open(io.BytesIO(base64.b64decode(source)))
        assert sheet.size == (int(width), 48) == (98, 48)
        assert {colour for _, colour in sheet.getcolors()} == {(level, level, level, 255), (0, 0, 0, 0)}


@pytest.mark.parametrize(("classes", "ipc", "size", "shown"), [(1000, 1, 128, 200), (60, 10, 64, 20), (2, 150, 16, 2)])
def test_large_sets_do_not_blow_up_the_page(classes, ipc, size, shown):
    results = without_curves(results_of(classes=[f"class {k}" for k in range(classes)], ipc=ipc, members=300))
    page = report.render(results, images_of(results, size=size))["index.html"]
    assert len(page) < 5_000_000
    sheets = [Image.open(io.BytesIO(base64.b64decode(s))) for s in re.findall(r"base64,([^\"]+)", page.decode())]
    assert len(sheets) == shown
    assert all(sheet.width <= 10 * 98 for sheet in sheets)
    assert page.count(b"prior-epoch-") == 40
    assert b"And 260 more in results.json" in page


def test_many_units_and_long_traces_are_thinned():
    trace = [{"iteration": i, "loss": 9.0, "statistics": 8.0 + i, "class": 1.0} for i in range(5000)]
    results = results_of(units=100)
    for unit in results["units"]:
        unit["trace"] = trace
    assert sum(len(panel.svg) for panel in plots.distill_panels(results)) < 300_000


def test_a_handed_in_base_without_pool_or_iterations_has_a_page_too():
    results = without_curves(results_of(members=0, units=0))
    files = report.render(results, images_of(results))
    assert b"Handed in as a checkpoint" in files["index.html"]
    assert "| Pool | none |" in files["README.md"].decode()


def test_the_spec_as_toml_is_the_spec():
    nasty = {"data.source": 'folder:a "b"\\c\n\x7f', "data.classes": ["é|", "x"], "pool.accuracy_band": [0.2, 0.8]}
    values = json.loads(resolve("teddy", {}, nasty).to_json())
    read = tomllib.loads(text.toml(values))
    expected = copy.deepcopy(values)
    for part in expected.values():
        if isinstance(part, dict):
            for key in [key for key, value in part.items() if value is None]:
                del part[key]
    assert read == expected


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.42, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds, said):
    assert text.duration(seconds) == said


def test_a_contact_sheet_enlarges_whole_pixels_and_keeps_clear_gaps():
    images = torch.randint(0, 256, (5, 3, 20, 20), dtype=torch.uint8)
    sheet = Image.open(io.BytesIO(contact_sheet(images, columns=3, gap=4)))
    assert sheet.size == (3 * 60 + 2 * 4, 2 * 60 + 4)
    pixels = torch.tensor(list(sheet.tobytes()), dtype=torch.uint8).view(sheet.height, sheet.width, 4)
    for index in range(5):
        top, left = index // 3 * 64, index % 3 * 64
        tile = pixels[top : top + 60, left : left + 60]
        assert torch.equal(tile[::3, ::3, :3], images[index].permute(1, 2, 0))
        assert torch.equal(tile[2::3, 2::3, :3], images[index].permute(1, 2, 0))
    assert int((pixels[..., 3] == 255).sum()) == 5 * 60 * 60


def test_large_images_shrink_in_proportion_and_small_ones_are_left_alone():
    images = torch.full((1, 3, 100, 200), 7, dtype=torch.uint8)
    assert torch.equal(shrink(images, side=50), torch.full((1, 3, 25, 50), 7, dtype=torch.uint8))
    assert shrink(images, side=200) is images


def test_the_terminal_can_import_the_tables_without_heavy_libraries():
    code = "import sys, teddy_ray.report.tables; print({'torch', 'matplotlib', 'jinja2', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_cards_code_makes_the_very_views_that_were_labelled(tmp_path, files):
    count, numbers, side = 4, 3, 8
    pictures = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    image, view = torch.arange(count).repeat(numbers), torch.arange(numbers).repeat_interleave(count)

    def geometry(images, number):
        return views.draw(3, images, number, crop_scale=0.3, flip=True, cutmix=True, images=count)

    own = geometry(image, view)
    logits = torch.randn(count * numbers, 5).to(torch.float16)
    drawn = label_files.Views(seed=3, crop_scale=0.3, flip=True, mix="cutmix", images=count)
    for name, data in (
        ("labels/labels-00000-of-00001.parquet", label_files.to_parquet(image, view, logits, views=drawn)),
        (
            "dataset/data/train-00000-of-00001.parquet",
            image_files.to_parquet(pictures, torch.arange(count) % 2, ["a", "b"]),
        ),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(data)
    blocks = re.findall(r"```python\n(.*?)```", html.unescape(files["README.md"].decode()), flags=re.DOTALL)
    names = {}
    exec(blocks[1].replace("PATH_OF_THE_RUN", str(tmp_path)), names)  # the card is ours
    for number in range(2 * numbers):
        torch.manual_seed(number)
        (shown, answers), *more = names["epoch"](number, batch_size=3)
        assert len(more) == 1
        torch.manual_seed(number)
        seen = torch.randperm(count)[:3]
        chosen = (1 + number % (numbers - 1)) * count + seen
        partner = geometry(own[chosen].partner, view[chosen])
        levels = pictures.float() / 255
        expected, _ = views.render(levels[seen], levels[own[chosen].partner], own[chosen], partner)
        assert torch.equal(answers, logits[chosen].float())
        mirrored = number // (numbers - 1) % 2 == 1
        assert torch.equal(shown, expected.flip(3) if mirrored else expected)
    assert float(names["loss"](answers, answers)) == pytest.approx(0, abs=1e-5)


def test_students_of_another_architecture_than_the_bases_stand_beside_its_full_data_score():
    scores = [*SCORES[:-1], score("full", "hard", 98.2, None, student="resnet18")]
    results = results_of(scores=scores)
    assert tables.students(results) == ["convnet"]
    assert [row.accuracy for row in tables.rows(results) if row.set == "full"] == ["98.2", "98.2"]
    assert b"98.2" in report.render(results, images_of(results))["index.html"]
