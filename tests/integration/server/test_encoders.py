"""POST /v1/embeddings and /v1/classify."""

from __future__ import annotations

import base64

import aiohttp
import numpy as np
import pytest

from edge_runtime.server.fake_host import CLS, SEP, FakeHost

EMBED = "/v1/embeddings"
CLASSIFY = "/v1/classify"


@pytest.mark.parametrize(
    ("value", "count"),
    [("hi", 1), (["hi", "yo", ""], 3), ([1, 2, 3], 1), ([[1], [2, 3]], 2)],
)
async def test_every_form_of_input(
    client: aiohttp.ClientSession, value: object, count: int
) -> None:
    async with client.post(EMBED, json={"model": "bytes-embed", "input": value}) as response:
        answer = await response.json()
        assert response.status == 200, answer
    assert answer["object"] == "list"
    assert [entry["index"] for entry in answer["data"]] == list(range(count))
    assert all(len(entry["embedding"]) == 8 for entry in answer["data"])
    assert response.headers["x-edge-answered-by"] == "bytes-embed@1.0"


async def test_base64_is_the_same_vector_as_float(client: aiohttp.ClientSession) -> None:
    body = {"model": "bytes-embed", "input": "hello"}
    async with client.post(EMBED, json=body) as response:
        floats = (await response.json())["data"][0]["embedding"]
    async with client.post(EMBED, json={**body, "encoding_format": "base64"}) as response:
        text = (await response.json())["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(text), dtype="<f4")
    assert np.array_equal(decoded, np.asarray(floats, dtype=np.float32))


async def test_usage_counts_special_tokens(client: aiohttp.ClientSession) -> None:
    body = {"model": "bytes-embed", "input": ["ab", "c"]}
    async with client.post(EMBED, json=body) as response:
        usage = (await response.json())["usage"]
    assert usage == {"prompt_tokens": 7, "total_tokens": 7}


async def test_long_lists_are_taken_up_to_the_bound(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    body = {"model": "bytes-embed", "input": ["x"] * 2048}
    async with client.post(EMBED, json=body) as response:
        assert response.status == 200
        assert len((await response.json())["data"]) == 2048
    async with client.post(EMBED, json={**body, "input": ["x"] * 2049}) as response:
        assert response.status == 400
        message = (await response.json())["error"]["message"]
    assert "2049" in message
    assert "2048" in message
    assert len(host.encoded) == 1


async def test_too_long_is_refused_with_both_numbers(client: aiohttp.ClientSession) -> None:
    body = {"model": "bytes-embed", "input": ["ok", "x" * 40]}
    async with client.post(EMBED, json=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["code"] == "context_length_exceeded"
    assert "input 1 has 42 tokens" in error["message"]
    assert "32" in error["message"]


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        ({"truncate": True}, 32),
        ({"truncate_prompt_tokens": -1}, 32),
        ({"truncate_prompt_tokens": 10}, 10),
    ],
)
async def test_truncation_by_request_keeps_the_special_tokens(
    client: aiohttp.ClientSession, host: FakeHost, extra: dict[str, object], kept: int
) -> None:
    body = {"model": "bytes-embed", "input": "y" * 40, **extra}
    async with client.post(EMBED, json=body) as response:
        assert response.status == 200
        assert (await response.json())["usage"]["prompt_tokens"] == kept
    assert host.encoded[0][0] == (CLS, *[ord("y")] * (kept - 2), SEP)


async def test_token_arrays_are_cut_at_the_end(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    body = {"model": "bytes-embed", "input": list(range(40)), "truncate": True}
    async with client.post(EMBED, json=body) as response:
        assert response.status == 200
    assert host.encoded[0][0] == tuple(range(32))


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [262]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [1, "a"]}, "input.0"),
        ({"input": [1.5]}, "input.0"),
        ({"dimensions": 4}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"truncate_prompt_tokens": 33}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
)
async def test_bad_embedding_requests_are_400_and_name_the_field(
    client: aiohttp.ClientSession, extra: dict[str, object], param: str
) -> None:
    body = {"model": "bytes-embed", "input": "x", **extra}
    async with client.post(EMBED, json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == param


async def test_own_dimensions_are_fine(client: aiohttp.ClientSession) -> None:
    body = {"model": "bytes-embed", "input": "x", "dimensions": 8}
    async with client.post(EMBED, json=body) as response:
        assert response.status == 200


async def test_classify_ranks_labels_for_each_input(client: aiohttp.ClientSession) -> None:
    body = {"model": "letter-class", "input": ["apple", "pear"], "top_k": 2}
    async with client.post(CLASSIFY, json=body) as response:
        answer = await response.json()
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    first, second = answer["data"]
    assert first["label"] == "vowel"
    assert second["label"] == "consonant"
    assert [one["score"] for one in first["labels"]] == sorted(
        (one["score"] for one in first["labels"]), reverse=True
    )
    assert first["labels"][0] == {"label": first["label"], "score": first["score"]}
    assert len(first["labels"]) == 2
    assert answer["usage"]["prompt_tokens"] == 13


async def test_all_scores_sum_to_one(client: aiohttp.ClientSession) -> None:
    body = {"model": "letter-class", "input": "apple", "top_k": 99}
    async with client.post(CLASSIFY, json=body) as response:
        labels = (await response.json())["data"][0]["labels"]
    assert len(labels) == 3
    assert sum(one["score"] for one in labels) == pytest.approx(1.0)
