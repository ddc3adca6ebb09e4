"""The store in a real S3 server: who wins, what is wrong, whose copy it is; one sentence and an exit code each."""

import hashlib
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.fs
import pytest

from teddy_cloud import app
from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline import garbage
from teddy_ray.store import arrow, bucket, cache, open_store, records, s3_client, tensors
from teddy_ray.store.probe import main as probe
from teddy_ray.store.probe import refuse_unsafe

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
WEIGHTS = b"weights" * 1000


def flip_a_bit(server, uri, key):
    """Of an object, from outside."""
    where = {"Bucket": server.bucket, "Key": f"{uri.rpartition('/')[2]}/{key}"}
    data = bytearray(server.client().get_object(**where)["Body"].read())
    data[len(data) // 2] ^= 1
    server.client().put_object(**where, Body=bytes(data))


def python(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)


# --- races

PROCESSES, THREADS = 4, 8
WRITERS = """
import sys, threading, time
from teddy_ray.store import open_store, records

store, process, begin = open_store(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
store.head("warm")

def write(thread):
    mine = b"%d-%d" % (process, thread)
    time.sleep(max(0, begin - time.time()))
    won = store.put_if_absent("key", mine)
    record = records.commit(store, "base", "0f", {"own": mine * 1000, "common": b"common"}, {"by": mine.decode()})
    own = records.read(store, record.files["own"])
    lines[thread] = f"{int(won)} {store.get('key').decode()} {record.meta['by']} {own[:len(own) // 1000].decode()}"

lines = [""] * int(sys.argv[4])
threads = [threading.Thread(target=write, args=(number,)) for number in range(len(lines))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("\\n".join(lines))
"""


def test_of_32_writers_one_wins_and_all_see_its_content(s3_uri):
    begin = time.time() + 3
    writers = [python(WRITERS, s3_uri, str(rank), str(begin), str(THREADS)) for rank in range(PROCESSES)]
    seen = [line.split() for writer in writers for line in writer.communicate(timeout=60)[0].splitlines()]
    assert len(seen) == PROCESSES * THREADS
    assert [won for won, *_ in seen].count("1") == 1
    ((key, recorded, own),) = {tuple(rest) for _, *rest in seen}
    assert own == recorded
    assert f"{key}" in {f"{process}-{thread}" for process in range(PROCESSES) for thread in range(THREADS)}
    store = open_store(s3_uri)
    record = records.find(store, "base", "0f")
    left = {entry.key for entry in store.list("artifacts/")} - {"artifacts/base/0f/record.json"}
    assert left == {file.key for file in record.files.values()}  # no loser's file


def test_equal_bytes_of_two_writers_are_still_one_winner(s3_uri):
    store = open_store(s3_uri)
    assert [store.put_if_absent("a", b"same") for _ in range(3)] == [True, False, False]


# --- integrity


@pytest.mark.parametrize("take", [records.read, records.path])
@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_a_flipped_bit_is_found_by_name(s3_server, s3_uri, another_machine, take, size):
    store = open_store(s3_uri)
    file = records.commit(store, "base", "0f", {"weights": os.urandom(size)}, {}).files["weights"]
    flip_a_bit(s3_server, s3_uri, file.key)
    assert len(take(store, file)) == size if take is records.read else take(store, file)  # from here, where it is right
    another_machine()
    with pytest.raises(WorldError, match=rf"{s3_uri}/{file.key} has changed .*remove artifacts/base/0f/record\.json"):
        take(store, file)
    assert not list(cache.folder().rglob(file.sha256))


def test_a_cut_or_longer_object_is_found_by_name(s3_uri, another_machine):
    store = open_store(s3_uri)
    file = records.commit(store, "base", "0f", {"weights": WEIGHTS}, {}).files["weights"]
    another_machine()
    for other in (WEIGHTS[:-1], WEIGHTS + b"s", b""):
        store.put_bytes(file.key, other)
        for take in (records.read, records.path):
            with pytest.raises(WorldError, match="has changed"):
                take(store, file)


def test_a_planted_pickle_is_refused_and_never_run(s3_uri, tmp_path):
    class Planted:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    store = open_store(s3_uri)
    record = records.commit(store, "base", "0f", {"weights.safetensors": pickle.dumps(Planted())}, {})
    with pytest.raises(WorldError, match="is damaged or not safetensors"):
        tensors.open_mapped(records.path(store, record.files["weights.safetensors"]))
    assert not (tmp_path / "run").exists()


# --- the cache


def test_a_file_is_fetched_once_by_all_processes(s3_uri, s3_through, another_machine):
    code = (
        "import sys; from teddy_ray.store import open_store, records; store = open_store(sys.argv[1]);"
        "record = records.find(store, 'base', '0f'); print(records.path(store, record.files['weights']))"
    )
    store = open_store(s3_uri)
    file = records.commit(store, "base", "0f", {"weights": os.urandom(3 * MIB)}, {}).files["weights"]
    another_machine()
    with s3_through() as proxy:
        fetched = []
        proxy.answers = lambda request: fetched.append(request) if request.path.endswith("-weights") else None
        paths = {process.communicate()[0] for process in [python(code, s3_uri) for _ in range(4)]}
        assert paths == {f"{records.path(store, file)}\n"}
        assert len(fetched) == 1
        assert len(records.read(store, file)) == 3 * MIB
        assert len(fetched) == 1


def test_what_was_made_here_is_not_fetched(s3_uri, s3_through, tmp_path):
    (tmp_path / "file").write_bytes(WEIGHTS)
    store = open_store(s3_uri)
    files = records.commit(store, "base", "0f", {"weights": WEIGHTS, "file": tmp_path / "file"}, {}).files
    with s3_through() as proxy:
        assert {records.read(store, file) for file in files.values()} == {WEIGHTS}
        assert proxy.requests.total() == 0


def test_a_wrong_copy_is_thrown_away_and_fetched_again(s3_uri):
    store = open_store(s3_uri)
    file = records.commit(store, "base", "0f", {"weights": WEIGHTS}, {}).files["weights"]
    copy = records.path(store, file)
    copy.write_bytes(b"W" + WEIGHTS[1:])
    os.utime(copy, (0, 0))
    assert records.path(store, file).read_bytes() == WEIGHTS


def test_the_cache_cannot_be_written(s3_uri, s3_settings, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = open_store(s3_uri)
    file = records.commit(store, "base", "0f", {"weights": WEIGHTS}, {}).files["weights"]
    s3_settings(TEDDY_CACHE=str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="is a file where a folder must be"):
        records.path(store, file)


# --- large files, processes, copies


def test_an_interrupted_upload_is_taken_back(s3_server, s3_uri, monkeypatch):
    monkeypatch.setattr(bucket, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * MIB)
    part, parts = bucket._part, iter(range(2))

    def interrupted(*where):
        if next(parts, None) is None:
            raise KeyboardInterrupt
        return part(*where)

    monkeypatch.setattr(bucket, "_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_store(s3_uri).put_bytes("large", bytes(20 * MIB))
    prefix = s3_uri.rpartition("/")[2]
    found = s3_server.client().list_multipart_uploads(Bucket=s3_server.bucket, Prefix=prefix)
    assert found.get("Uploads", []) == []
    assert open_store(s3_uri).head("large") is None


def test_a_large_file_comes_back_byte_for_byte(s3_uri, another_machine, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(cache, "BLOCK", MIB)
    store = open_store(s3_uri)
    for size in (5 * MIB, 10 * MIB, 10 * MIB + 1):
        data = os.urandom(size)
        (tmp_path / "large").write_bytes(data)
        file = records.commit(store, "base", f"{size:x}", {"large": tmp_path / "large"}, {}).files["large"]
        another_machine()
        assert hashlib.sha256(records.path(store, file).read_bytes()).hexdigest() == file.sha256
        store.copy(file.key, "copied")
        assert store.get("copied") == data


def test_what_is_too_large_to_copy_at_once_is_copied_in_parts(s3_uri, s3_through):
    store = open_store(s3_uri)
    store.put_bytes("a", b"1")
    with s3_through() as proxy:
        first = iter([(400, "InvalidRequest")])
        proxy.answers = lambda request: next(first, None) if request.has("x-amz-copy-source") else None
        store.copy("a", "b")
        assert store.get("b") == b"1"
        assert next(first, None) is None


def test_a_forked_process_has_a_client_of_its_own(s3_uri):
    store = open_store(s3_uri)
    store.put_bytes("a", b"1")
    ours = s3_client.connection().client
    child = os.fork()
    if child == 0:
        same = s3_client.connection().client is ours
        os._exit(0 if store.get("a") == b"1" and not same else 1)
    assert store.get("a") == b"1"
    assert os.waitpid(child, 0)[1] == 0


# --- what is lent to other libraries


def listed(server, uri):
    """Everything below an address, be it a key of ours or not."""
    answer = server.client().list_objects_v2(Bucket=server.bucket, Prefix=uri.rpartition("/")[2])
    return [item["Key"] for item in answer.get("Contents", [])]


def test_pyarrow_writes_where_boto3_does_and_nothing_stays(s3_server, s3_uri):
    with arrow.lent(open_store(s3_uri), "ray-train/a/b") as (files, path):
        files.create_dir(f"{path}/train")
        with files.open_output_stream(f"{path}/train/.marker") as stream:
            stream.write(b"1")
        assert [key.partition("/")[2] for key in listed(s3_server, s3_uri)] == ["ray-train/a/b/train/.marker"]
    assert listed(s3_server, s3_uri) == []


def test_pyarrow_writes_often_and_much_without_a_failure(s3_uri):
    """With the checksums that Amazon's library adds by itself, one in fifty failed, of large ones one in four."""
    with arrow.lent(open_store(s3_uri), "ray-train/a/b") as (files, path):
        for number in range(200):
            with files.open_output_stream(f"{path}/{number}") as stream:
                stream.write(b"1")
        for number in range(10):
            with files.open_output_stream(f"{path}/large-{number}") as stream:
                stream.write(bytes(11 * MIB))
        assert open_store(s3_uri).head("ray-train/a/b/large-9").size == 11 * MIB


def test_no_key_is_in_what_travels_to_another_process(s3_uri):
    with arrow.lent(open_store(s3_uri), "ray-train/a/b") as (files, path):
        travelling = pickle.dumps(files)
        assert b"teddy-secret" not in travelling
        assert b"teddy-secret" in pickle.dumps(pyarrow.fs.S3FileSystem(secret_key="teddy-secret", access_key="a"))
        with pickle.loads(travelling).open_output_stream(f"{path}/a") as stream:
            stream.write(b"1")
        assert open_store(s3_uri).get("ray-train/a/b/a") == b"1"


def test_pyarrow_is_set_up_by_a_profile_too(s3_server, s3_uri, s3_settings, tmp_path):
    access, secret = s3_server.keys
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id={access}\naws_secret_access_key={secret}\n")
    (tmp_path / "config").write_text(f"[profile mine]\nendpoint_url={s3_server.endpoint}\nregion=us-east-1\n")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION")
    s3_settings(
        **dict.fromkeys(names),
        AWS_PROFILE="mine",
        AWS_CONFIG_FILE=str(tmp_path / "config"),
        AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "credentials"),
    )
    with arrow.lent(open_store(s3_uri), "ray-train/a/b") as (files, path):
        with files.open_output_stream(f"{path}/a") as stream:
            stream.write(b"1")
        assert open_store(s3_uri).get("ray-train/a/b/a") == b"1"


@pytest.mark.parametrize(("method", "frozen"), [("env", True), ("assume-role-with-web-identity", False)])
@pytest.mark.usefixtures("s3_uri")
def test_a_pods_role_is_left_to_pyarrow_which_renews_it(monkeypatch, method, frozen):
    session = s3_client.connection().session
    found = session.get_credentials()
    monkeypatch.setattr(found, "method", method)
    monkeypatch.setattr(session, "get_credentials", lambda: found)
    assert ("secret_key" in arrow.settings()) == frozen


def test_what_a_killed_trainer_leaves_is_for_gc(s3_server, s3_uri):
    store = open_store(s3_uri)
    store.put_bytes("ray-train/a/b/.marker", b"1")
    assert garbage.find(store, older_than=3600.0).all == []
    found = garbage.find(store, older_than=-60.0)
    assert [left.key for left in found.leftovers] == ["ray-train/a/b/.marker"]
    garbage.remove(store, found)
    assert listed(s3_server, s3_uri) == []


# --- the probe


def test_a_server_that_honours_conditions_is_taken_for_four_requests(s3_uri, s3_through):
    with s3_through() as proxy:
        assert refuse_unsafe(open_store(s3_uri), allow_unsafe=False) is None
        assert proxy.requests.total() <= 4
    assert list(open_store(s3_uri).list("")) == []


def test_a_server_that_ignores_conditions_is_refused(s3_uri, s3_through):
    with s3_through() as proxy:
        proxy.answers = lambda request: (200, "etag") if request.has("if-none-match") else None
        store = open_store(s3_uri)
        with pytest.raises(UserError, match=r"ignores the condition .*--allow-unsafe-store"):
            refuse_unsafe(store, allow_unsafe=False)
        assert "may name files" in refuse_unsafe(store, allow_unsafe=True)


def test_a_folder_needs_no_probe(tmp_path):
    assert refuse_unsafe(open_store(str(tmp_path / "store")), allow_unsafe=False) is None
    assert not (tmp_path / "store").exists()


def test_the_probe_as_a_command_says_in_a_sentence_what_it_found(s3_uri, capsys, tmp_path):
    assert probe([s3_uri]) == 0
    assert f"{s3_uri} takes writes" in capsys.readouterr().out
    assert not list(open_store(s3_uri).list("probe/"))
    for arguments, said in (
        (["s3://teddy-no-such-bucket/runs"], "there is no bucket teddy-no-such-bucket"),
        ([str(tmp_path)], "is a folder"),
        ([], "give one store"),
    ):
        assert probe(arguments) == 2
        assert said in capsys.readouterr().err


# --- what is wrong, in a sentence


@pytest.fixture
def teddy_cloud(monkeypatch, capfd):
    """Runs the command in this process: exit code, the line about the error, seconds."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["teddy-cloud", *arguments])
        started = time.monotonic()
        with pytest.raises(SystemExit) as stopped:
            app.main()
        out, err = capfd.readouterr()
        assert out == ""
        return stopped.value.code, err, time.monotonic() - started

    return run


def assert_told(done, code, sentence):
    """One line, without a key in it, soon."""
    assert (done[0], done[1].count("\n")) == (code, 1), done
    assert re.fullmatch(f"error: .*{sentence}.*\n", done[1]), done[1]
    assert not re.search("teddy-secret|AKIA|wrong-secret", done[1])
    assert done[2] < 10


SETTINGS = {
    "no credentials": ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, 2, "no AWS credentials for s3://"),
    "half of them": ({"AWS_SECRET_ACCESS_KEY": None}, 2, "missing: AWS_SECRET_ACCESS_KEY; mend"),
    "no such profile": ({"AWS_PROFILE": "no-such"}, 2, r"no-such.*mend the AWS settings"),
    "malformed endpoint": ({"AWS_ENDPOINT_URL_S3": "127.0.0.1:7070"}, 2, r"127\.0\.0\.1:7070.*mend the AWS settings"),
    "no host": ({"AWS_ENDPOINT_URL_S3": "http://"}, 2, r"http://.*mend the AWS settings"),
    "another language": ({"AWS_ENDPOINT_URL_S3": "ftp://host"}, 2, r"ftp://host.*mend the AWS settings"),
    "unknown host": ({"AWS_ENDPOINT_URL_S3": "http://s3.invalid"}, 1, r"http://s3\.invalid cannot be reached"),
    "refused": ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, 1, r"127\.0\.0\.1:9 cannot be reached \(Connection ref"),
}


@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_wrong_settings_are_told(teddy_cloud, s3_uri, s3_settings, case):
    variables, code, sentence = case
    s3_settings(**variables)
    assert_told(teddy_cloud("run", "--store", s3_uri), code, sentence)


def test_the_endpoint_may_be_an_option(teddy_cloud, s3_uri, s3_settings):
    s3_settings(AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    done = teddy_cloud("run", "--store", s3_uri, "--endpoint-url", "http://127.0.0.1:10")
    assert_told(done, 1, r"127\.0\.0\.1:10 cannot be reached")


def test_a_wrong_bucket_is_told(teddy_cloud, s3_uri):  # noqa: ARG001 - which sets the environment
    assert_told(
        teddy_cloud("run", "--store", "s3://no-such-bucket-a1/b"), 2, "there is no bucket no-such-bucket-a1 at "
    )
    assert_told(teddy_cloud("run", "--store", "s3://No_Bucket"), 2, "s3://No_Bucket is no address in S3")


def test_wrong_keys_are_told(teddy_cloud, s3_server, s3_uri, s3_settings):
    if s3_server.folder is None:
        pytest.skip(f"{s3_server.name} may not look at keys")
    s3_settings(AWS_SECRET_ACCESS_KEY="wrong-secret")
    assert_told(teddy_cloud("run", "--store", s3_uri), 2, r"does not take .* credentials .*\(SignatureDoesNotMatch\)")
    with pytest.raises(UserError, match="SignatureDoesNotMatch"):
        open_store(s3_uri).head("a")  # whose answer has no words of its own
    s3_settings(AWS_ACCESS_KEY_ID="AKIANOBODY")
    assert_told(teddy_cloud("run", "--store", s3_uri), 2, r"does not take .* credentials .*\(InvalidAccessKeyId\)")


def test_no_permission_is_told(teddy_cloud, s3_server, s3_uri, s3_settings):
    if s3_server.folder is None:
        pytest.skip(f"a second user cannot be made on {s3_server.name}")
    program = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "teddy-cluster" / "versitygw"
    admin = [program, "admin", "-a", s3_server.keys[0], "-s", s3_server.keys[1], "-er", s3_server.endpoint]
    made = [*admin, "create-user", "-a", "guest", "-s", "guest-secret", "-r", "user"]
    subprocess.run(made, check=True, capture_output=True)
    s3_settings(AWS_ACCESS_KEY_ID="guest", AWS_SECRET_ACCESS_KEY="guest-secret")
    assert_told(teddy_cloud("run", "--store", s3_uri), 2, r"no right to use s3://.*\(AccessDenied\)")


ANSWERS = {
    "expired token": ((400, "ExpiredToken"), 2, r"does not take .* credentials .*\(ExpiredToken\): renew"),
    "no permission": ((403, "AccessDenied"), 2, "no right to use s3://.*s3:PutObject"),
    "another region": ((301, "PermanentRedirect"), 2, "another region .*AWS_REGION"),
    "conditions not known": ((501, "NotImplemented"), 2, "refuses .*NotImplemented"),
    "no S3 server": ((405, "MethodNotAllowed"), 2, "refuses .*is it an S3 server"),
    "no space": ((507, "XMinioStorageFull"), 1, "no space left for s3://.*finished is kept"),
    "clocks": ((403, "RequestTimeTooSkewed"), 1, "clock"),
    "out of order": ((500, "InternalError"), 1, r"failed \(InternalError\).*finished is kept"),
}


@pytest.mark.parametrize("case", ANSWERS.values(), ids=ANSWERS)
def test_what_the_server_says_is_told(teddy_cloud, s3_uri, s3_through, case):
    answer, code, sentence = case
    with s3_through() as proxy:
        s3_client.connection().answered = False
        proxy.answers = lambda request: answer if request.method != "HEAD" else None
        assert_told(teddy_cloud("run", "--store", s3_uri), code, sentence)
