"""Data sets on S3: after a failure of network or store, a retry gives the right images, or there is one clear line."""

import os

import fsspec
import numpy as np
import pytest
from safetensors.torch import load_file

from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.data.loader import build
from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.build import open_reader
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.data.remote.cache import RemoteDataset
from hdit_core.errors import DataError
from hdit_core.recipe.data import DataRecipe
from hdit_core.train.run import train
from tests.data.class_folders import SIZE, write_pictures
from tests.data.remote.faulty_proxy import answer, cut, hang_up, stall
from tests.forking import CONTEXT

SHARD_0 = "GET /bucket/faces/shard-000000"
SLOW_DOWN = answer(503, "SlowDown", "Please reduce your request rate.")
TIMEOUT = answer(400, "RequestTimeout", "Your socket connection to the server was not read from.")
EXPIRED = answer(403, "ExpiredToken", "The provided token has expired.")


def opened(tmp_path, s3, cache_bytes=10**9):
    return ImageReader(RemoteDataset(s3.address, tmp_path / "cache", cache_bytes), cache_bytes=0)


def same(reader, data_set, indices=range(23)):
    local = ImageReader(data_set)
    return all(np.array_equal(reader.read(index)[0], local.read(index)[0]) for index in indices)


def downloads(s3):
    return [line for line in s3.network.requests if line.startswith("GET") and "shard" in line]


def cached(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and "shard" in path.name)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_equal_those_of_the_local_set(s3, data_set, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reader = open_reader(DataRecipe(path=s3.address))
    plan = [range(start, start + 6) for start in range(0, 42, 6)]
    local = load_batches(ImageReader(data_set), plan, seed=1, workers=0)
    for ours, theirs in zip(load_batches(reader, plan, seed=1, workers=workers), local, strict=True):
        assert ours.images.equal(theirs.images)
    assert len(downloads(s3)) == 4


def test_a_run_trained_from_s3_has_the_weights_of_a_local_one(s3, tiny_data, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "default_cache", lambda: tmp_path / "cache")
    s3.files.rm("bucket/faces", recursive=True)
    s3.put(tiny_data)
    s3.network.fail("GET /bucket/faces/shard", hang_up, 2)
    weights = []
    for place in (str(tiny_data), s3.address):
        run = tmp_path / ("remote" if place == s3.address else "local")
        train(trained({"data.path": place, "data.workers": 0, "train.num_images": 16}), run)
        newest, _ = newest_checkpoint(run)
        weights.append(load_file(newest.folder / "ema.safetensors"))
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items()) and downloads(s3)


@pytest.mark.parametrize("fault", [cut, hang_up, SLOW_DOWN, TIMEOUT], ids=["cut", "hang up", "503", "timeout"])
@pytest.mark.parametrize("name", ["manifest.json", "index.npy", "shard-000000.tar"])
def test_a_request_that_fails_twice_succeeds_with_a_later_attempt(s3, data_set, tmp_path, notes, name, fault):
    s3.network.fail(f"GET /bucket/faces/{name}", fault, 2)
    assert same(opened(tmp_path, s3), data_set)
    retries = [note for note in notes if note.startswith(f"s3://bucket/faces/{name}: cannot be fetched (")]
    assert retries and all(note.endswith("; trying again in 0.01 s") for note in retries)


def test_a_stalled_connection_is_abandoned_and_reopened(s3, data_set, tmp_path, monkeypatch):
    limits = {"config_kwargs": {"read_timeout": 0.5, "retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", limits)
    s3.network.fail(SHARD_0, stall, 1)
    assert same(opened(tmp_path, s3), data_set, [0])


@pytest.mark.parametrize("fault", [cut, hang_up, SLOW_DOWN], ids=["cut", "hang up", "503"])
def test_an_unavailable_store_ends_a_run_so_that_it_can_be_resumed(s3, data_set, tmp_path, fault):
    reader = opened(tmp_path, s3)
    s3.network.fail(SHARD_0, fault, 99)
    with pytest.raises(
        StorageUnavailable,
        match=r"^s3://bucket/faces/shard-000000.tar: cannot be fetched \(\w+: .+\), tried 4 times; check the network, "
        "then run the same command to resume$",
    ) as end:
        reader.read(0)
    assert end.value.exit_code == 75 and cached(tmp_path) == []
    s3.network.recover()
    assert same(reader, data_set)


def assert_refused(s3, tmp_path, fault, problem):
    """Assert that reading an image fails with this problem if every request for its shard has this fault."""
    reader = opened(tmp_path, s3)
    s3.network.fail(SHARD_0, fault, 99)
    with pytest.raises(DataError, match=rf"^s3://bucket/faces/shard-000000.tar: {problem}$"):
        reader.read(0)
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (EXPIRED, "ExpiredToken: The provided token has expired."),
        (answer(403, "AccessDenied", "Access Denied"), "AccessDenied: Access Denied"),
        (answer(400, "InvalidToken", "The token is malformed."), "InvalidToken: .*malformed."),
    ],
    ids=["expired", "denied", "invalid"],
)
def test_refused_credentials_are_named_after_a_second_attempt(s3, tmp_path, notes, fault, reason):
    assert_refused(
        s3,
        tmp_path,
        fault,
        rf"the store refuses access \({reason}\); check or renew the credentials and permissions, then run the same "
        "command",
    )
    assert len(downloads(s3)) == 2 and not notes


@pytest.mark.parametrize("status", [400, 403])
def test_a_refusal_without_a_body_is_recognized(s3, tmp_path, status):
    s3.network.fail("HEAD /bucket/faces/manifest.json", answer(status, "", ""), 99)
    with pytest.raises(DataError, match=rf"manifest.json: the store refuses access \({status}: .*renew the cred"):
        opened(tmp_path, s3)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (answer(400, "InvalidRequest", "The request is not valid."), "InvalidRequest: .*not valid"),
        (answer(301, "PermanentRedirect", "Use another endpoint."), "PermanentRedirect: .*another endpoint"),
        (answer(405, "MethodNotAllowed", "Not allowed here."), "MethodNotAllowed: .*allowed here"),
        (answer(501, "NotImplemented", "A header is unknown."), "NotImplemented: .*unknown"),
    ],
    ids=["400", "301", "405", "501"],
)
def test_a_permanent_error_response_is_not_retried(s3, tmp_path, notes, fault, reason):
    problem = rf"cannot be requested \({reason}.*\); check the address and the configuration of the store"
    assert_refused(s3, tmp_path, fault, problem)
    assert not notes  # botocore itself follows 301 once


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"AWS_ENDPOINT_URL": "no address"}, "ValueError: Invalid endpoint: no address"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound: .*nobody.* could not be found"),
        ({"AWS_CONFIG_FILE": "{tmp}"}, "ConfigParseError: Unable to parse config file"),
    ],
    ids=["endpoint", "profile", "file"],
)
def test_a_wrong_configuration_is_named_at_once(s3, tmp_path, monkeypatch, notes, change, reason):
    (tmp_path / "config").write_text("[default\nno configuration")
    for name, value in change.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path / "config"))
    s3.network.recover()
    with pytest.raises(DataError, match=rf"^s3://bucket/faces/manifest.json: .*\({reason}.*\); check") as end:
        opened(tmp_path, s3)
    assert "\n" not in str(end.value) and not notes


def test_a_bucket_that_cannot_exist_is_named_at_once(s3, tmp_path, notes):
    with pytest.raises(DataError, match=r"^s3://No_Bucket!/faces/manifest.json: .*; check the address"):
        ImageReader(RemoteDataset("s3://No_Bucket!/faces", tmp_path / "cache", 10**9))
    assert not notes


def test_credentials_renewed_in_their_file_are_taken_by_the_next_attempt(s3, data_set, tmp_path, monkeypatch):
    keys = tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    sent = []

    def expire(request, content):
        sent.append("new" in request.headers["Authorization"])
        keys.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = not-a-secret\n")
        EXPIRED(request, content)

    keys.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = not-a-secret\n")
    s3.network.fail(SHARD_0, expire, 1)
    assert same(opened(tmp_path, s3), data_set, [0]) and sent == [False]


def test_a_missing_object_and_a_missing_bucket_are_named_at_once(s3, tmp_path):
    s3.files.rm("bucket/faces/shard-000000.tar")
    with pytest.raises(DataError, match=r"shard-000000.tar: not found \(FileNotFoundError: .*upload the data"):
        opened(tmp_path, s3).read(0)
    with pytest.raises(DataError, match=r"^s3://none/faces/manifest.json: not found"):
        ImageReader(RemoteDataset("s3://none/faces", tmp_path / "cache", 10**9))


@pytest.mark.parametrize("change", ["truncated", "longer", "flipped"])
def test_an_object_changed_in_the_store_is_refused_and_not_cached(s3, data_set, tmp_path, change):
    content = bytearray((data_set / "shard-000000.tar").read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"truncated": content[:-4000], "longer": bytes(content) + bytes(512), "flipped": content}[change]
    s3.files.pipe("bucket/faces/shard-000000.tar", bytes(changed))
    with pytest.raises(
        DataError, match=r"^s3://bucket/faces/shard-000000.tar: (its|has) .*, 3 times; upload the data set again$"
    ):
        opened(tmp_path, s3).read(0)
    assert cached(tmp_path) == []


def test_an_object_that_changes_while_it_is_read_is_read_again(s3, data_set, tmp_path):
    right = (data_set / "shard-000000.tar").read_bytes()
    s3.files.pipe("bucket/faces/shard-000000.tar", bytes(len(right)))

    def change(request, content):  # between HEAD, with the ETag of the zeros, and GET
        s3.files.pipe("bucket/faces/shard-000000.tar", right)
        answer(412, "PreconditionFailed", "At least one of the preconditions did not hold")(request, content)

    s3.network.fail(SHARD_0, change, 1)
    assert same(opened(tmp_path, s3), data_set, [0, 1])


def test_a_new_set_at_the_same_address_is_not_mixed_with_the_first(s3, data_set, tmp_path):
    reader = opened(tmp_path, s3)
    assert same(reader, data_set, [0])
    pictures = write_pictures(tmp_path / "other")
    next(iter(sorted(pictures.rglob("0*.png")))).unlink()
    prepare_data(PrepareSettings(source=str(pictures), out=tmp_path / "set2", size=SIZE, shard_size=7))
    s3.put(tmp_path / "set2")
    assert same(reader, data_set, [1])
    with pytest.raises(DataError, match=r"shard-000003.tar: .*the manifest.*upload the data set again"):
        reader.read(22)
    assert same(opened(tmp_path, s3), tmp_path / "set2", range(22))


def read_all(environment, address, cache, data_set, results):
    """Read the whole set in a process of its own, and report whether it is right."""
    os.environ.update(environment)
    reader = ImageReader(RemoteDataset(address, cache, 10**9), cache_bytes=0)
    results.put(same(reader, data_set))


def test_two_processes_with_one_cache_fetch_each_shard_once(s3, data_set, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    results = CONTEXT.Queue()
    shared = (environment, s3.address, tmp_path / "cache", data_set, results)
    processes = [CONTEXT.Process(target=read_all, args=shared) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=100) for _ in processes] == [True, True]
    for process in processes:
        process.join()
    assert len(downloads(s3)) == 4


def test_two_readers_share_a_cache_too_small_for_both(s3, data_set, tmp_path):
    largest = max(path.stat().st_size for path in data_set.glob("*.tar"))
    one, other = opened(tmp_path, s3, largest), opened(tmp_path, s3, largest)
    for first, second in [(0, 22), (8, 1), (22, 14)]:
        assert same(one, data_set, [first]) and same(other, data_set, [second])
        assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize("name", ["shard-000000.tar", "index.npy"])
def test_a_copy_that_was_damaged_in_the_cache_is_fetched_again(s3, data_set, tmp_path, name):
    assert same(opened(tmp_path, s3), data_set, [0])
    [path] = (tmp_path / "cache").rglob(name)
    content = bytearray(path.read_bytes())
    for place in range(600, len(content), 40):
        content[place] ^= 255
    path.write_bytes(content)
    assert same(opened(tmp_path, s3), data_set, range(7))
