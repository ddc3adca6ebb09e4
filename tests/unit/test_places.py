"""Where commands look for runs: flags, the config file, a folder, the cluster; and the config file's own rules."""

import pytest

from teddy_cloud import config, stores
from teddy_cloud.cluster.access import NoClusterError
from teddy_ray.errors import UserError

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: c, user: u, namespace: team}}
- {name: there, context: {cluster: c, user: u}}
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {token: t}}]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder to stand in, with a kubeconfig."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path


@pytest.fixture
def configured(home, monkeypatch):
    def write(text: str) -> None:
        (home / "config.toml").write_text(text)
        monkeypatch.setenv("TEDDY_CLOUD_CONFIG", str(home / "config.toml"))

    return write


def found(store=None, endpoint_url=None, context=None, namespace=None) -> tuple:
    place = stores.find(store, endpoint_url, context, namespace)
    cluster = (place.cluster.access.context, place.cluster.namespace) if place.cluster else None
    return cluster, place.given_store


def test_a_store_that_is_typed_is_all_there_is(home, configured):
    configured('namespace = "ml"')
    (home / "teddy-store").mkdir()
    assert found("s3://b") == (None, "s3://b")


def test_a_context_or_namespace_that_is_typed_means_the_cluster(home):
    (home / "teddy-store").mkdir()
    assert found(namespace="ml") == (("here", "ml"), None)
    assert found(context="there") == (("there", "default"), None)
    assert found("s3://b", namespace="ml") == (("here", "ml"), "s3://b")


def test_then_the_config_file_counts(home, configured):
    (home / "teddy-store").mkdir()
    configured('store = "s3://b"\nendpoint_url = "http://s"')
    assert found() == (None, "s3://b")
    assert stores.find(None, None, None, None).endpoint_url == "http://s"
    assert stores.find(None, "http://t", None, None).endpoint_url == "http://t"
    configured('namespace = "ml"')
    assert found() == (("here", "ml"), None)
    configured('namespace = "ml"\ncontext = "there"\nstore = "s3://b"')
    assert found() == (("there", "ml"), "s3://b")


def test_then_a_folder_then_the_current_context(home):
    assert found() == (("here", "team"), None)
    (home / "teddy-store").mkdir()
    assert found() == (None, None)
    assert stores.find(None, None, None, None).store_name == "teddy-store"


def test_without_a_kubeconfig_there_is_the_folder_alone(home, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(home / "none"))
    assert found() == (None, None)
    with pytest.raises(NoClusterError, match="there is no kubeconfig at"):
        found(namespace="ml")


@pytest.mark.parametrize(("context", "words"), [("her", "did you mean 'here'"), ("production", "it has here, there")])
@pytest.mark.usefixtures("home")
def test_an_unknown_context_is_refused_with_those_there_are(context, words):
    with pytest.raises(UserError, match=words):
        found(context=context)


@pytest.mark.parametrize("text", ["", "- a\n", "{", "contexts: 5\n", "current-context: x\n"])
def test_a_kubeconfig_that_is_none_is_refused_in_a_sentence(home, text):
    (home / "kubeconfig").write_text(text)
    with pytest.raises(UserError, match="kubeconfig"):
        found(namespace="ml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('namspace = "ml"', "unknown setting 'namspace': did you mean 'namespace'"),
        ('color = "red"', "there are context, namespace, store, endpoint_url"),
        ("namespace = 5", "a text in quotes"),
        ('store = ""', "a text in quotes"),
        ("namespace", "is not TOML"),
    ],
)
def test_a_config_file_that_cannot_be_meant_is_refused(configured, text, words):
    configured(text)
    with pytest.raises(UserError, match=words):
        config.load()


def test_a_config_file_that_is_named_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TEDDY_CLOUD_CONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="which is not there"):
        config.load()
    monkeypatch.delenv("TEDDY_CLOUD_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.load() == config.Config()
