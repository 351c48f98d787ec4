"""Tiny configurations of every causal language model of the installed transformers."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

SIZES = {
    "vocab_size": 64,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_dim", "embedding_size"), 32),
    "word_embed_proj_dim": 32,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "dff"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), 128),
    "head_dim": 8,
    "rotary_dim": 4,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "moe_ffn_hidden_size"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim", "qk_rope_head_dim"), 8),
    "qk_head_dim": 16,
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("mamba_num_heads", "mamba_head_dim", "ssm_state_size"), 8),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Fields of configurations, where they are."""

MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16}
GEMMA3N = {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
}
GEMMA4 = {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
ROPES = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")}

MLA = {"num_key_value_heads": 4}
NO_PARTS = {"gemma4": ("vision_config", "audio_config"), "gemma4_unified": ("vision_config", "audio_config")}

CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), MLA
    ),
    **dict.fromkeys(("minicpm3", "youtu"), MLA),
    "bamba": MAMBA,
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        **{part: {"hidden_size_global": 32} for part in ("encoder_config", "decoder_config")},
    },
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "longcat_flash": MLA | {"ffn_hidden_size": 48, "zero_expert_num": 2, "expert_ffn_hidden_size": 16, "moe_topk": 2},
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 64,
        "shape_embed_dim": 8,
        "shape_vocab_size": 64,
    },
    "xlm": {"emb_dim": 32},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "use_mamba_kernels": False,
    },
    "cohere_compass_text": {"rope_parameters": ROPES},
    "dbrx": {"attn_config": {"kv_n_heads": 2}, "ffn_config": {"ffn_hidden_size": 48, "hidden_size": 32}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note": {
        "text_config": MLA,
        "vision_config": {"per_layer_config": {}, "adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_out_dim": 32, "adapter_input_size": 32},
    },
    "dots3_note_text": MLA,
    "gemma3n": {"text_config": GEMMA3N},
    "gemma3n_text": GEMMA3N,
    "gemma4": {"text_config": GEMMA4},
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": GEMMA4,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": MAMBA,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""Of single architectures."""


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """A configuration of two layers, whose vision and audio parts are tiny as well."""
    config = _tiny(CONFIG_MAPPING[model_type], {**CHANGES.get(model_type, {}), **changes})
    config._experts_implementation = "eager"  # others take no float64
    return config


def _tiny(kind: type[PreTrainedConfig], changes: dict[str, Any]) -> PreTrainedConfig:
    fields = set(kind.__dataclass_fields__)
    values = {name: value for name, value in SIZES.items() if name in fields and name not in changes}
    parts = {name: part for name, part in kind.sub_configs.items() if name not in NO_PARTS.get(kind.model_type, ())}
    usual = kind() if any(part is AutoConfig for part in parts.values()) else None
    for name, part in parts.items():
        part = type(getattr(usual, name)) if part is AutoConfig else part
        values[name] = _tiny(part, changes.get(name, {})).to_dict()
    return kind(**{**changes, **values})
