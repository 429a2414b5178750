"""Weights between our networks and those of transformers that must give the same numbers."""

import torch
from torch import nn

from genrec_cli.nn.transformer import Transformer


@torch.no_grad()
def copy_bert(ours: Transformer, theirs: nn.Module) -> None:
    """Give ``transformers.BertModel`` the positions, blocks and norms of a post-norm Transformer."""
    theirs.embeddings.position_embeddings.weight.copy_(ours.position.weight)
    theirs.embeddings.LayerNorm.load_state_dict(ours.norm.state_dict())
    for block, twin in zip(ours.blocks, theirs.encoder.layer, strict=True):
        heads = twin.attention.self
        for name in ("weight", "bias"):
            parts = getattr(block.attention.qkv, name).chunk(3)
            for head, part in zip((heads.query, heads.key, heads.value), parts, strict=True):
                getattr(head, name).copy_(part)
        pairs = [(twin.attention.output.dense, block.attention.output), (twin.intermediate.dense, block.mlp[0])]
        pairs += [(twin.attention.output.LayerNorm, block.norm_attention), (twin.output.dense, block.mlp[2])]
        for other, own in [*pairs, (twin.output.LayerNorm, block.norm_mlp)]:
            other.load_state_dict(own.state_dict())


@torch.no_grad()
def copy_encoder(ours: Transformer, theirs: nn.TransformerEncoder) -> None:
    """Give ``torch.nn.TransformerEncoder`` the blocks of a Transformer, and its output norm if it is pre-norm."""
    for block, twin in zip(ours.blocks, theirs.layers, strict=True):
        twin.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        twin.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        pairs = [(twin.self_attn.out_proj, block.attention.output), (twin.linear1, block.mlp[0])]
        pairs += [(twin.linear2, block.mlp[2]), (twin.norm1, block.norm_attention), (twin.norm2, block.norm_mlp)]
        for other, own in pairs + ([] if ours.post else [(theirs.norm, ours.norm)]):
            other.load_state_dict(own.state_dict())
