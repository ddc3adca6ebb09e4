"""Bringing a run here: in the middle of a file, verified, in place at once, and never twice."""

import threading
from dataclasses import dataclass, field

import pytest

from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline import manifest
from teddy_ray.pipeline.pull import pull
from teddy_ray.store import FolderStore, download

IMAGES = "dataset/data/train.parquet"
LABELS = "labels/labels.parquet"
FILES = {IMAGES: bytes(range(256)) * 40, LABELS: b"labels" * 999, "pool/base.safetensors": b"w", "report/empty.md": b""}


@dataclass(frozen=True)
class Counting(FolderStore):
    """A folder that counts what is asked of it, hands out little at a time, and may break off or be cut."""

    asked: list = field(default_factory=list, hash=False, compare=False)
    most: int = 1000
    breaks_after: int = 10**9

    def get_range(self, key, start, length):
        if len(self.asked) >= self.breaks_after:
            raise WorldError("the network is gone")
        self.asked.append((key, start))
        return super().get_range(key, start, min(length, self.most))


@pytest.fixture
def store(made_up):
    made_up.finished("a", files=FILES)
    return Counting(made_up.store.root)


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_everything_comes_and_the_second_time_nothing(store, tmp_path):
    out = tmp_path / "out"
    first = pull(store, "a", out)
    assert content(out).items() >= FILES.items()
    assert set(content(out)) == {*FILES, "results.json", "manifest.json"}
    assert sorted(first.fetched) == sorted({*FILES, "results.json"})
    assert first.transferred == sum(map(len, FILES.values())) + store.head("runs/a/results.json").size
    store.asked.clear()
    second = pull(store, "a", out)
    assert (second.fetched, second.transferred, store.asked) == ([], 0, [])


def test_a_part_may_be_asked_for_and_the_rest_later(store, tmp_path):
    assert pull(store, "a", tmp_path, only=["images"]).fetched == [IMAGES]
    assert sorted(pull(store, "a", tmp_path, only=["images", "labels"]).fetched) == [LABELS]
    assert "pool/base.safetensors" in pull(store, "a", tmp_path).fetched
    assert content(tmp_path).items() >= FILES.items()


def test_a_broken_pull_goes_on_in_the_middle_of_a_file(store, tmp_path):
    with pytest.raises(WorldError, match="the network is gone"):
        pull(Counting(store.root, breaks_after=8), "a", tmp_path, only=["images"])
    assert IMAGES not in content(tmp_path)
    (part,) = tmp_path.rglob("train.parquet.*.part")
    assert part.read_bytes() == FILES[IMAGES][:8000]
    pulled = pull(store, "a", tmp_path, only=["images"])
    assert store.asked[0] == (f"runs/a/{IMAGES}", 8000)
    assert pulled.transferred == len(FILES[IMAGES]) - 8000
    assert content(tmp_path)[IMAGES] == FILES[IMAGES]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("planted", [b"wrong" * 100, b"x" * 20_000])
def test_a_part_of_other_bytes_is_thrown_away(store, tmp_path, planted):
    digest = manifest.load(store, "a").files[IMAGES].sha256
    part = tmp_path / f"{IMAGES}.{digest[:16]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(planted)
    pull(store, "a", tmp_path, only=["images"])
    assert content(tmp_path)[IMAGES] == FILES[IMAGES]
    assert not part.exists()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_the_store_is_named_and_the_rest_is_here(store, made_up, tmp_path):
    record = made_up.artifact("labels", "a" * 64, x=FILES[LABELS])
    made_up.finished("a", files=FILES, artifacts=[record])
    flip(store.root / "runs/a" / LABELS)
    with pytest.raises(WorldError) as error:
        pull(store, "a", tmp_path)
    assert f"{LABELS} is not what the run wrote" in str(error.value)
    assert record in str(error.value)  # whose artifact it is a copy of
    assert IMAGES not in str(error.value)
    there = content(tmp_path)
    assert there[IMAGES] == FILES[IMAGES]
    assert LABELS not in there
    assert "manifest.json" not in there


def test_a_file_that_was_cut_is_named(store, tmp_path):
    path = store.root / "runs/a" / LABELS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WorldError, match=LABELS):
        pull(store, "a", tmp_path)


def test_what_changed_here_is_found_and_replaced(store, tmp_path):
    pull(store, "a", tmp_path)
    (tmp_path / LABELS).write_bytes(b"shorter")
    assert pull(store, "a", tmp_path).replaced == [LABELS]
    flip(tmp_path / LABELS)
    assert pull(store, "a", tmp_path).fetched == []  # an earlier pull's word is taken for the bytes
    assert pull(store, "a", tmp_path, verify=True).replaced == [LABELS]
    assert content(tmp_path)[LABELS] == FILES[LABELS]


def test_a_run_that_was_published_anew_is_fetched_anew(store, made_up, tmp_path):
    pull(store, "a", tmp_path)
    other = bytes(reversed(FILES[LABELS]))
    made_up.finished("a", files={**FILES, LABELS: other})
    assert pull(store, "a", tmp_path).fetched == [LABELS]
    assert content(tmp_path)[LABELS] == other


def test_files_that_no_pull_has_verified_are_read(store, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / LABELS).write_bytes(FILES[LABELS])
    (tmp_path / "dataset/data").mkdir(parents=True)
    (tmp_path / IMAGES).write_bytes(b"0" * len(FILES[IMAGES]))
    pulled = pull(store, "a", tmp_path, only=["images", "labels"])
    assert (pulled.kept, pulled.replaced) == ([LABELS], [IMAGES])


def test_two_runs_do_not_mix_in_a_folder(store, made_up, tmp_path):
    made_up.finished("b")
    with pytest.raises(WorldError, match="gone"):
        pull(Counting(store.root, breaks_after=0), "a", tmp_path)
    with pytest.raises(UserError, match="holds the run a: pull b into another folder"):
        pull(store, "b", tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.part"])
def test_a_folder_with_somebodys_manifest_is_left_alone(store, tmp_path, name):
    (tmp_path / name).write_bytes(b'{"name": "a web site"}')
    with pytest.raises(UserError, match=r"is not a run's manifest .*another folder"):
        pull(store, "a", tmp_path)


def test_an_unfinished_run_cannot_be_pulled(made_up, tmp_path):
    made_up.spec("a")
    with pytest.raises(UserError, match="the run a is not finished"):
        pull(made_up.store, "a", tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_is_no_folder_is_the_users_error(store, tmp_path, place):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file"):
        pull(store, "a", tmp_path / place)


def test_progress_goes_up_to_every_files_size(store, tmp_path):
    told = {}
    lock = threading.Lock()

    def tell(name, here, size):
        with lock:
            assert here >= told.get(name, (0, 0))[0]
            told[name] = here, size

    out = tmp_path / "out"
    pull(store, "a", out, told=tell)
    pulled = {name: (len(data), len(data)) for name, data in content(out).items() if name != "manifest.json"}
    assert told == pulled


def test_two_downloads_of_a_file_at_once_do_no_harm(store, tmp_path):
    file = manifest.load(store, "a").files[IMAGES]
    failures = []

    def fetch():
        try:
            download.download(store, file, tmp_path / "x")
        except WorldError as error:
            failures.append(error)  # the other has taken the part away, whole

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) < 4
    assert (tmp_path / "x").read_bytes() == FILES[IMAGES]
