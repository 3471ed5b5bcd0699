"""Asks a serving model its golden inputs, as a caller would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from edge_runtime.bundle.manifest import Golden, Manifest
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.bundle.store import Store
from edge_runtime.core import (
    FinishReason,
    GenerateRequest,
    Kind,
    ModelHost,
    RequestClass,
    SamplingParams,
)
from edge_runtime.engine.golden import encoder_answer
from edge_runtime.errors import EngineError

_EXTRA_TOKENS = 8


class GoldenHost(ModelHost, Protocol):
    """The host, with the store its models come from."""

    store: Store


@dataclass(slots=True)
class GoldenAnswers:
    """A `watch.Golden` over a host."""

    host: GoldenHost

    async def __call__(self, name: str, digest: str) -> bool | None:
        """Whether every answer is right; None when another bundle serves by now.

        Raises `EdgeError` when the model could not be asked.
        """
        info = self.host.info(name)
        if info.bundle_digest != digest:
            return None
        directory = self.host.store.directory(digest)
        manifest = await asyncio.to_thread(load_manifest, directory)
        for golden in manifest.golden:
            right = await (
                self._generates(manifest, golden, digest)
                if manifest.kind is Kind.GENERATE
                else self._encodes(manifest, golden, digest)
            )
            if not right:
                return False
        return True

    async def _generates(self, manifest: Manifest, golden: Golden, digest: str) -> bool:
        codec = self.host.codec(manifest.name)
        expected = str(golden.answer)
        if manifest.chat_template is not None:
            prompt = codec.apply_chat_template([{"role": "user", "content": golden.input}])
        else:
            prompt = codec.encode(golden.input, add_special_tokens=True)
        room = self.host.info(manifest.name).context_tokens - len(prompt)
        wanted = len(codec.encode(expected, add_special_tokens=False)) + _EXTRA_TOKENS
        request = GenerateRequest(
            request_id="golden",
            model=manifest.name,
            prompt=tuple(prompt),
            params=SamplingParams(max_tokens=max(1, min(room, wanted)), temperature=0.0),
            request_class=RequestClass.BATCH,
            bundle_digest=digest,
        )
        text = ""
        async for event in self.host.generate(request):
            if event.finish_reason in (FinishReason.ERROR, FinishReason.CANCELLED):
                raise EngineError(event.error or "the golden input was not answered")
            text += event.text
        return text == expected

    async def _encodes(self, manifest: Manifest, golden: Golden, digest: str) -> bool:
        info, codec = self.host.info(manifest.name), self.host.codec(manifest.name)
        tokens = codec.encode(golden.input, add_special_tokens=True)[: info.context_tokens]
        rows = await self.host.encode(
            manifest.name, [tokens], request_class=RequestClass.BATCH, bundle_digest=digest
        )
        _, right = encoder_answer(manifest, golden, rows[0])
        return right
