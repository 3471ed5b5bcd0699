"""Publishing to a control host without a publisher's key: what it takes, what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets
from typer.testing import CliRunner

from fleet.cli import app
from fleet.publish.keys import public_key
from fleet.publish.push import push
from fleet.publish.uploads import Uploads
from tests.support.pushing import MAX_BLOB, TwoMachines, two_machines

ABSENT = "f" * 64


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[TwoMachines]:
    async with two_machines(tmp_path) as made:
        yield made


def visible(machines: TwoMachines) -> int | None:
    """The version of `model-tiny` that boxes are told of."""
    snapshot = machines.host.read("snapshot", Snapshot)
    assert snapshot is not None
    meta = snapshot.signed.meta.get("model-tiny.json")
    return None if meta is None else meta.version


async def audited(machines: TwoMachines) -> list[tuple[str, str, Any]]:
    _, answer = await machines.api.ask("GET", "/v1/audit")
    return [(one["action"], one["object"], one["detail"]) for one in answer["items"]]


async def test_what_was_signed_elsewhere_is_pushed_and_seen(machines: TwoMachines) -> None:
    first = machines.bundle(1)
    settings = machines.publisher.sealed_settings({"alpha": 0.1})
    machines.publisher.settings("default", settings)
    assert not first.live  # the machine that publishes has no online key
    done = await push(machines.here, machines.url, machines.api.secrets["publisher"])
    assert [(one.role, one.targets, one.live) for one in done] == [
        ("model-tiny", 1, True), ("settings", 1, True),
    ]  # fmt: skip
    assert done[0].blobs > 1
    assert visible(machines) == 1
    assert machines.host.blobs.read(first.digest, 1 << 20)
    assert await push(machines.here, machines.url, machines.api.secrets["publisher"]) == []
    machines.bundle(2)
    (again,) = await push(machines.here, machines.url, machines.api.secrets["publisher"])
    assert (again.version, again.targets, visible(machines)) == (2, 1, 2)
    actions = [action for action, _, _ in await audited(machines)]
    assert actions.count("publish.role") == 3
    assert actions.count("publish.blob") >= 5
    assert not list((machines.root / "host" / "uploads").iterdir())


async def test_the_command_says_what_it_sent(machines: TwoMachines) -> None:
    machines.bundle(1)
    token = machines.root / "token"
    token.write_text(machines.api.secrets["publisher"] + "\n")
    words = ["push", "--repo", str(machines.here.root_path), "--to", machines.url,
             "--token-file", str(token)]  # fmt: skip
    first = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert first.exit_code == 0, first.output
    assert "model-tiny: version 1, 1 new" in first.output
    assert "boxes can see it" in first.output
    again = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert "everything is there already" in again.output
    token.write_text(machines.api.secrets["viewer"] + "\n")
    machines.bundle(2)
    refused = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert refused.exit_code == 1
    assert "forbidden" in refused.output


async def test_only_publishers_publish(machines: TwoMachines) -> None:
    machines.bundle(1)
    for role in ("viewer", "operator", None):
        assert (await machines.put(ABSENT, b"x", role=role))[0] in (401, 403)
        place, data = "/v1/publish/roles/model-tiny", machines.metadata()
        assert (await machines.api.ask("POST", place, role=role, data=data))[0] in (401, 403)
    assert machines.host.newest("model-tiny") == 0


async def test_a_blob_must_be_what_was_said(machines: TwoMachines) -> None:
    data = b"x" * 1000
    digest = hashlib.sha256(data).hexdigest()
    too_large = b"x" * (MAX_BLOB + 1)
    cases = {
        "other_digest": await machines.put(ABSENT, data),
        "too_large": await machines.put(hashlib.sha256(too_large).hexdigest(), too_large),
        "refused_document": await machines.put("..%2f..%2fetc%2fpasswd", data),
        "length_required": await machines.put(digest, _chunked(data)),  # type: ignore[arg-type]
    }
    for code, (status, answer) in cases.items():
        assert (status >= 400, answer["error"]["code"]) == (True, code)
    assert (await machines.put("A" * 64, data))[0] == 400
    full = Uploads(machines.host, MAX_BLOB, min_free_bytes=1 << 60)
    machines.api.services.uploads, kept = full, machines.api.services.uploads
    status, answer = await machines.put(digest, data)
    assert (status, answer["error"]["code"]) == (507, "no_room")
    machines.api.services.uploads = kept
    assert not (machines.host.root_path / "blobs" / "sha256").exists() or not list(
        (machines.host.root_path / "blobs" / "sha256").iterdir()
    )
    assert await machines.put(digest, data) == (200, {"digest": digest, "new_bytes": 1000})
    assert await machines.put(digest, data) == (200, {"digest": digest, "new_bytes": 0})
    refused = [detail["code"] for action, _, detail in await audited(machines)
               if action == "publish.refused"]  # fmt: skip
    assert sorted(refused) == sorted([*cases, "refused_document", "no_room"])


async def _chunked(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_sender_that_stops_in_the_middle_leaves_nothing(machines: TwoMachines) -> None:
    uploads = Uploads(machines.host, MAX_BLOB, 0, stall_s=0.05)
    data = b"x" * 100

    async def stops() -> AsyncIterator[bytes]:
        yield data[:50]
        await asyncio.Event().wait()

    async def some(count: int) -> AsyncIterator[bytes]:
        yield data[:count]

    digest = hashlib.sha256(data).hexdigest()
    for chunks, code in ((stops(), "stalled"), (some(50), "other_size")):
        with pytest.raises(Exception, match=r"nothing came|others came") as error:
            await uploads.take(digest, 100, chunks)
        assert error.value.code == code  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="others came"):
        await uploads.take(hashlib.sha256(b"y").hexdigest(), 10, some(50))
    assert not list((machines.host.root_path / "uploads").iterdir())
    assert await uploads.take(digest, 100, some(100)) == 100


def signed(machines: TwoMachines, change: Callable[[Targets], None], key: Any = None) -> bytes:
    """The newest metadata here, changed and signed again, by the publisher or by `key`."""
    metadata: Metadata[Targets] = Metadata.from_bytes(machines.metadata())
    change(metadata.signed)
    metadata.signatures.clear()
    delegations = machines.here.targets().signed.delegations
    assert delegations is not None
    assert delegations.roles is not None
    signers = machines.ring.signers(delegations.roles["model-tiny"].keyids)
    if key is not None:
        signers = [CryptoSigner(key, public_key(key.public_key()))]
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


async def refusal(machines: TwoMachines, data: bytes, role: str = "model-tiny") -> tuple[int, str]:
    before = machines.host.newest(role)
    status, answer = await machines.api.ask(
        "POST", f"/v1/publish/roles/{role}", role="publisher", data=data
    )
    assert status >= 400, answer
    assert machines.host.newest(role) == before
    action, thing, detail = (await audited(machines))[0]
    code = answer["error"]["code"]
    assert (action, thing, detail["code"]) == ("publish.refused", f"role/{role}", code)
    return status, code


async def test_unsigned_and_mis_signed_metadata_is_refused(machines: TwoMachines) -> None:
    machines.bundle(1)
    await machines.put_all()
    stranger = Ed25519PrivateKey.generate()
    unsigned = json.loads(machines.metadata()) | {"signatures": []}
    altered = json.loads(machines.metadata())
    altered["signed"]["targets"] = {}
    for data in (
        json.dumps(unsigned).encode(),
        json.dumps(altered).encode(),
        signed(machines, lambda _: None, stranger),
    ):
        assert await refusal(machines, data) == (403, "unsigned")
    assert (await refusal(machines, b"{}"))[1] == "refused_document"
    assert (await refusal(machines, b"no json"))[1] == "refused_document"
    top = machines.here.targets().to_bytes()
    assert (await refusal(machines, top))[1] == "delegates"
    assert (await refusal(machines, machines.metadata(), "settings"))[1] in (
        "unsigned", "refused_document", "foreign_target",
    )  # fmt: skip
    assert visible(machines) is None
    # A token alone signs nothing, and a signature alone needs no more than the right token.
    assert (await machines.post())[0] == 200
    assert visible(machines) == 1


async def test_roles_nobody_delegated_are_refused(machines: TwoMachines) -> None:
    machines.bundle(1)
    for role in ("orders", "targets", "root", "snapshot", "model-other", "..%2froot"):
        status, answer = await machines.api.ask(
            "POST", f"/v1/publish/roles/{role}", role="publisher", data=machines.metadata()
        )
        assert (status, answer["error"]["code"]) == (404, "unknown_role"), role


async def test_an_oversized_document_is_refused(machines: TwoMachines) -> None:
    machines.bundle(1)
    status, answer = await machines.api.ask(
        "POST", "/v1/publish/roles/model-tiny", role="publisher",
        data=machines.metadata() + b" " * (1 << 18),
    )  # fmt: skip
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert machines.host.newest("model-tiny") == 0


async def test_names_need_their_bytes_first(machines: TwoMachines) -> None:
    machines.bundle(1)
    assert await refusal(machines, machines.metadata()) == (409, "no_blob")
    await machines.put_all()
    (victim, *_) = [
        path for path in (machines.host.root_path / "blobs" / "sha256").iterdir()
        if path.read_bytes().startswith(b"w")
    ]  # fmt: skip
    victim.write_bytes(b"short")
    assert (await refusal(machines, machines.metadata()))[1] == "refused_document"


async def test_what_is_published_stays_and_versions_rise(machines: TwoMachines) -> None:
    first = machines.bundle(1)
    await machines.put_all()
    status, answer = await machines.post()
    assert (status, answer["targets"], answer["live"]) == (200, [first.target], True)
    assert (await machines.post())[1]["targets"] == []  # again: nothing changes
    machines.bundle(2)
    await machines.put_all()

    def without(targets: Targets) -> None:
        del targets.targets[first.target]

    def facts(**changes: int) -> Callable[[Targets], None]:
        def change(targets: Targets) -> None:
            (new,) = set(targets.targets) - {first.target}
            targets.targets[new].unrecognized_fields["custom"].update(changes)

        return change

    def expired(targets: Targets) -> None:
        targets.expires = (datetime.now(UTC) - timedelta(days=1)).replace(microsecond=0)

    def escape(targets: Targets) -> None:
        data = b"{}"
        for path in ("bundles/../x/y.json", "settings/default/a.json"):
            targets.targets[path] = TargetFile.from_data(path, data, ["sha256"])

    def many(targets: Targets) -> None:
        for number in range(65):
            path = f"bundles/tiny/{number:064x}.json"
            targets.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])

    cases = [
        (without, "changes_published"),
        (facts(release=1), "refused_document"),
        (facts(release_floor=3), "release"),
        (expired, "expired"),
        (escape, "foreign_target"),
        (many, "too_many_targets"),
    ]
    for change, code in cases:
        assert (await refusal(machines, signed(machines, change)))[1] == code

    def older(targets: Targets) -> None:
        targets.version = 1

    assert (await refusal(machines, signed(machines, older)))[1] == "old_version"
    assert (await machines.post())[1]["version"] == 2


async def test_settings_must_be_sealed_by_who_may(machines: TwoMachines) -> None:
    """Metadata signed right around an envelope that a stranger sealed."""
    machines.publisher.settings("default", machines.publisher.sealed_settings({"alpha": 0.1}))
    metadata = machines.here.delegated("settings")
    assert metadata is not None
    (path,) = metadata.signed.targets
    envelope = machines.here.blobs.read(path.rpartition("/")[2].removesuffix(".json"), 1 << 20)
    document = json.loads(envelope)
    document["signatures"][0]["sig"] = document["signatures"][0]["sig"][::-1]
    forged = json.dumps(document).encode()
    digest = hashlib.sha256(forged).hexdigest()
    target = f"settings/default/{digest}.json"
    entry = TargetFile.from_data(target, forged, ["sha256"])
    entry.unrecognized_fields["custom"] = {"release": 1, "release_floor": 1}
    metadata.signed.targets = {target: entry}
    metadata.signatures.clear()
    for signer in machines.ring.signers(machines.ring.keys):
        metadata.sign(signer, append=True)
    assert (await machines.put(digest, forged))[0] == 200
    assert (await refusal(machines, metadata.to_bytes(), "settings"))[1] == "refused_document"
