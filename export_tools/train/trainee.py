"""The decoder as it is trained: a standard Llama, run by a forward pass made for short rows.

Nothing here changes what the checkpoint is. The pass reads the parameters of the transformers
modules, fuses their products where that saves time, and hands out two things inference has no use
for: the states of a middle layer and the attention of one head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from export_tools.train.recipe import AugmentConfig


class Pass(NamedTuple):
    """What one pass gives; [rows, length, ...]."""

    last: Tensor
    """Final hidden states, normed."""
    middle: Tensor
    """Hidden states after the tag layer."""
    pointer: Tensor
    """Attention scores of head 0 of the pointer layer before the softmax, masked."""
    table: Tensor
    """Embeddings of all tokens [vocabulary, hidden]; the head too."""


class Trainee(nn.Module):
    """The decoder with its training-only parts.

    The embedding table is not a parameter here: it is put together from one row for each pair of
    twins and one row for the space, and written into the decoder by `settle`.
    """

    def __init__(
        self,
        llama: LlamaConfig,
        config: AugmentConfig,
        twins: Sequence[tuple[int, bool]],
        tags: int,
    ) -> None:
        super().__init__()
        self.decoder = LlamaForCausalLM(llama)
        self.decoder.model.embed_tokens.weight.requires_grad_(False)
        self.pieces = nn.Parameter(0.02 * torch.randn(len(twins), llama.hidden_size))
        self.space = nn.Parameter(0.02 * torch.randn(llama.hidden_size))
        self.tagger = nn.Linear(llama.hidden_size, tags)
        self.tag_layer = min(config.tag_layer, llama.num_hidden_layers)
        self.pointer_layer = min(config.pointer_layer, llama.num_hidden_layers)
        self.rate = config.dropout
        self.register_buffer("base", torch.tensor([b for b, _ in twins]), persistent=False)
        spaced = torch.tensor([[float(t)] for _, t in twins])
        self.register_buffer("spaced", spaced, persistent=False)

    def table(self) -> Tensor:
        """Embeddings of all tokens [vocabulary, hidden]."""
        return self.pieces[self.base] + self.spaced * self.space

    @torch.no_grad()
    def settle(self) -> None:
        """Write the table into the decoder, which from then on is an ordinary one."""
        self.decoder.model.embed_tokens.weight.copy_(self.table())

    def forward(self, ids: Tensor) -> Pass:
        """Run ids [rows, length].

        Rows are padded on the right, so the causal mask alone keeps padding out.
        """
        table = self.table()
        body = self.decoder.model
        states = functional.dropout(functional.embedding(ids, table), self.rate, self.training)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        cos, sin = body.rotary_emb(states, places)
        later = torch.full((ids.shape[1],) * 2, float("-inf"), device=ids.device).triu(1)
        middle = pointer = states
        for number, layer in enumerate(body.layers, 1):
            states, scores = self._layer(layer, states, cos[:, None], sin[:, None], later)
            if number == self.tag_layer:
                middle = states
            if number == self.pointer_layer:
                pointer = scores[:, 0]
        return Pass(_rms(states, body.norm), middle, pointer, table)

    def _layer(
        self, layer: nn.Module, states: Tensor, cos: Tensor, sin: Tensor, later: Tensor
    ) -> tuple[Tensor, Tensor]:
        attention, mlp = layer.self_attn, layer.mlp
        size = attention.head_dim
        joined = [m.weight for m in (attention.q_proj, attention.k_proj, attention.v_proj)]
        mixed = functional.linear(_rms(states, layer.input_layernorm), torch.cat(joined))
        rows, length, width = mixed.shape
        heads = mixed.view(rows, length, width // size, size).transpose(1, 2)
        groups = attention.num_key_value_groups
        shared = heads.shape[1] // (groups + 2)
        query, key, value = heads.split([shared * groups, shared, shared], dim=1)
        if groups > 1:
            key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        cos, sin = cos.to(query.dtype), sin.to(query.dtype)
        query = _rotate(query, cos, sin) * size**-0.5
        scores = query @ _rotate(key, cos, sin).transpose(-1, -2) + later.to(query.dtype)
        mixed = scores.softmax(-1).to(value.dtype) @ value
        mixed = mixed.transpose(1, 2).reshape(rows, length, -1)
        states = states + attention.o_proj(mixed)
        joined = [mlp.gate_proj.weight, mlp.up_proj.weight]
        wide = functional.linear(_rms(states, layer.post_attention_layernorm), torch.cat(joined))
        gate, up = wide.chunk(2, dim=-1)
        out = mlp.down_proj(functional.silu(gate) * up)
        return states + functional.dropout(out, self.rate, self.training), scores


def _rms(states: Tensor, norm: nn.Module) -> Tensor:
    return functional.rms_norm(states, (states.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin
