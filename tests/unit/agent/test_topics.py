"""Topics: what they look like, and which are refused."""

from __future__ import annotations

import zlib

import pytest

from edge_runtime.agent.protocol import (
    MAX_BYTES,
    SHARDS,
    UP,
    Channel,
    box_filters,
    parse_topic,
    principal_of,
    quality,
    shard_filters,
    shard_of,
    split_principal,
    topic,
)
from edge_runtime.errors import BundleError

BOX = "acme~box-1"


def test_a_topic_names_shard_principal_and_channel() -> None:
    shard = zlib.crc32(BOX.encode()) % 64
    assert topic(BOX, Channel.WANT) == f"fl/1/{shard}/acme~box-1/want"
    assert topic(BOX, Channel.TELEMETRY, "serve") == f"fl/1/{shard}/acme~box-1/t/serve"


@pytest.mark.parametrize("channel", Channel)
def test_what_is_written_is_read_back(channel: Channel) -> None:
    stream = "serve" if channel is Channel.TELEMETRY else None
    parsed = parse_topic(topic(BOX, channel, stream))
    assert (parsed.principal, parsed.channel, parsed.stream) == (BOX, channel, stream)
    assert channel in MAX_BYTES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fl/1",
        f"fl/2/{shard_of(BOX)}/{BOX}/want",
        f"fl/1/{(shard_of(BOX) + 1) % SHARDS}/{BOX}/want",
        f"fl/1/0{shard_of(BOX)}/{BOX}/want",
        f"fl/1/{shard_of(BOX)}/{BOX}/wants",
        f"fl/1/{shard_of(BOX)}/{BOX}/want/x",
        f"fl/1/{shard_of(BOX)}/{BOX}/t",
        f"fl/1/{shard_of(BOX)}/{BOX}/t/",
        f"fl/1/{shard_of(BOX)}/{BOX}/t/a/b",
        f"fl/1/{shard_of(BOX)}/{BOX}/t/Serve",
        f"fl/1/{shard_of('acme')}/acme/want",
        f"fl/1/{shard_of('a~b~c')}/a~b~c/want",
        f"fl/1/{shard_of('+~+')}/+~+/want",
        f"fl/1/{shard_of('#')}/#/want",
        f"fl/1/{shard_of('a~$x')}/a~$x/want",
        f"fl/1/0/{'a' * 300}~b/want",
    ],
)
def test_other_topics_are_refused(text: str) -> None:
    with pytest.raises(BundleError):
        parse_topic(text)


def test_principals_are_joined_and_split() -> None:
    assert principal_of("acme", "box-1") == BOX
    assert split_principal(BOX) == ("acme", "box-1")
    for tenant, box in (("", "b"), ("a", ""), ("A", "b"), ("a~b", "c"), ("a/b", "c"), ("a", "-b")):
        with pytest.raises(BundleError):
            principal_of(tenant, box)


def test_a_box_subscribes_to_its_own_topics_only() -> None:
    filters = box_filters(BOX)
    assert [name for name, _ in filters] == [topic(BOX, c) for c in ("want", "do", "ack")]
    assert not any("+" in name or "#" in name for name, _ in filters)
    assert dict(filters)[topic(BOX, Channel.ACK)] == quality(Channel.ACK) == 0


def test_a_shard_hears_all_that_its_boxes_send_and_nothing_that_goes_down() -> None:
    levels = {text.split("/", 4)[4].split("/")[0] for text in shard_filters(7)}
    assert levels == set(UP)
    assert all(text.startswith("fl/1/7/+/") for text in shard_filters(7))
