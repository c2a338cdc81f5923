"""The peers that other tests and benchmarks drive: they answer, and do what is said of them.

Needs no sensor and no privilege, only `make peers`.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.peers.drive import CLIENTS, DriveError, drive, serve
from support.peers.environments import missing
from support.peers.model_api import HOSTS, KINDS, MODEL_CLIENTS, drive_models, model_api
from support.peers.servers import ALL, server

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

NEW = "2026-07-28"
BOTH_ERAS = ("py2", "ts2")


def through_all_clients(one, folder, **more):
    """client → truths, each client in a process of its own, all at once."""

    def of(client):
        home = folder / client
        home.mkdir()
        return drive(one, client, folder=home, calls=2 * len(one.acts), concurrency=4, **more)

    with ThreadPoolExecutor() as pool:
        return dict(zip(CLIENTS, pool.map(of, CLIENTS), strict=True))


def assert_done(one, found):
    for client, truths in found.items():
        assert [truth for truth in truths if not truth.ok] == []
        assert len({truth.rpc_id for truth in truths} - {""}) == len(truths)
        assert all(truth.begin < truth.end for truth in truths)
        assert (truths[0].protocol == NEW) == (one.new and client in BOTH_ERAS)
        written = {file.path: truth for truth in truths for file in truth.files}
        for path, truth in written.items():
            with open(path) as file:
                assert file.read() == truth.token


# One of each program: how a worker runs its tools changes nothing for a client.
EACH = [one for one in ALL if not one.name.endswith(("-sync", "-thread"))]


@pytest.mark.parametrize("one", EACH, ids=lambda one: one.name)
def test_answers_every_client_over_stdio(one, tmp_path):
    assert_done(one, through_all_clients(one, tmp_path))


HTTP = [
    (server(name), how)
    for name in ("worker-py1-async", "worker-py2-async", "worker-ts1", "worker-ts2", "everything")
    for how in server(name).transports
    if how != "stdio"
]


@pytest.mark.parametrize(
    ("one", "transport"), HTTP, ids=lambda value: getattr(value, "name", value)
)
def test_answers_every_client_over_http(one, transport, tmp_path):
    with serve(one, tmp_path, transport) as served:
        assert_done(one, through_all_clients(one, tmp_path, url=served.url))


@pytest.mark.parametrize("era", ["old", "new"])
@pytest.mark.parametrize("client", BOTH_ERAS)
def test_speaks_the_era_that_is_asked_for(client, era, tmp_path):
    truths = drive(server("worker-py2-async"), client, folder=tmp_path, calls=9, era=era)
    assert (truths[0].protocol == NEW) == (era == "new")


@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("name", ["worker-py1-thread", "worker-py2-async", "worker-ts2"])
def test_a_worker_tells_which_processes_it_started(name, concurrency, tmp_path):
    acts = {"calls": concurrency * 2, "tools": ("run", "chain")}
    truths = drive(server(name), folder=tmp_path, concurrency=concurrency, **acts)
    assert all(truth.ok and len(truth.pids) == len(truth.processes) for truth in truths)
    pids = [pid for truth in truths for pid in truth.pids]
    assert len(pids) == len(set(pids)) == 3 * concurrency


def test_a_command_may_stand_between(tmp_path):
    via = ["/usr/bin/env", "BETWEEN=1"]
    assert all(t.ok for t in drive(server("worker-ts1"), folder=tmp_path, calls=9, via=via))


def test_a_server_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DriveError, match="py1 ended with"):
        drive(server("worker-ts1"), folder=tmp_path, calls=1, via=["/bin/false"])


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with model_api(tmp_path_factory.mktemp("api")) as started:
        yield started


STYLES = [(client, "sync") for client in MODEL_CLIENTS] + [
    (client, "async") for client in ("openai", "azure", "anthropic", "bedrock")
]


@pytest.mark.parametrize(("client", "style"), STYLES)
def test_a_model_client_gets_what_the_server_gave(client, style, api):
    kinds = [name for name, act in KINDS.items() if client in act.clients]
    truths = drive_models(api, client, calls=len(kinds), concurrency=4, style=style)
    assert {truth.kind for truth in truths} == set(kinds)
    for truth in truths:
        act = KINDS[truth.kind]
        assert truth.agreed, truth
        assert truth.status == act.status
        assert truth.streamed == (act.stream and act.status == 200)
        assert bool(truth.offered) == act.tools
        assert bool(truth.chosen) == (act.tools and act.status == 200)


@pytest.mark.parametrize("client", MODEL_CLIENTS)
def test_a_model_client_calls_by_the_vendor_s_name(client, api):
    truths = drive_models(api, client, calls=8, concurrency=8, kinds=["chat"], host=HOSTS[client])
    assert {(truth.host, truth.name) for truth in truths} == {(HOSTS[client], HOSTS[client])}


def test_a_model_client_that_does_not_trust_the_server_gets_nothing(api, tmp_path):
    with model_api(tmp_path) as other, pytest.raises(DriveError):
        drive_models(api._replace(ca=other.ca), "plain", calls=1, kinds=["chat"])


def test_without_tls_there_is_no_name(tmp_path):
    with model_api(tmp_path, tls=False) as plain:
        (truth,) = drive_models(plain, "plain", calls=1, kinds=["ollama"])
    assert (truth.provider, truth.name, truth.key) == ("ollama", "", "")
