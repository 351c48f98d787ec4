"""TRL's settings and losses beside ours, as `prefopt migrate` translates them."""

from __future__ import annotations

from typing import Any

from docs_site import formulas
from prefopt import zoo
from prefopt.training.migration import Note, Outcome, migrate
from prefopt.zoo.cards import equation_of

_WHERE = {"model_name_or_path": "gpt2", "dataset_name": "pairs.jsonl", "output_dir": "runs/dpo"}
_LOSS = {"loss_type": "ipo", "beta": 0.05, "ld_alpha": 0.5, "use_weighting": True, "label_smoothing": 0.1}
_SEVERAL = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
_SHAPED = {"loss_type": "sigmoid", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}
_ADAPTER = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_modules": ["q_proj"], "use_dora": True}
_ADAPTER |= {"lora_target_parameters": ["w"], "lora_modules_to_save": ["lm_head"], "lora_task_type": "CAUSAL_LM"}
_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
_OTHERS: dict[str, Any] = {
    "dataset_config": "helpful", "dataset_train_split": "train", "dataset_test_split": "test", "eval_strategy": "steps",
    "dataset_streaming": True, "model_revision": "main", "dtype": "bfloat16", "attn_implementation": "sdpa",
    "trust_remote_code": True, "model_init_kwargs": {"dtype": "bfloat16"}, "max_length": 512,
    "truncation_mode": "keep_end", "dataset_num_proc": 4, "pad_token": "<pad>", "pad_to_multiple_of": 8,
    "padding_free": True, "precompute_ref_log_probs": True, "precompute_ref_batch_size": 8, "disable_dropout": True,
    "router_aux_loss_coef": 0.001, "activation_offloading": True, "gradient_checkpointing": True, "bf16": True,
    "learning_rate": 1e-6, "logging_steps": 10, "ignore_bias_buffers": True, "load_in_8bit": True,
}  # fmt: skip
_SETTINGS: list[dict[str, Any]] = [
    _LOSS,
    _SEVERAL,
    _SHAPED,
    {"loss_type": "discopop", "discopop_tau": 0.05},
    {"sync_ref_model": True, "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 512},
    {"use_peft": True, "use_rslora": True, **_ADAPTER},
    {**_BITS, "bnb_4bit_quant_storage": "uint8"},
    _OTHERS,
]
"""Settings that can be given together, each with a value that `migrate` has to say something of."""
LOSSES = """sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop
sigmoid_norm""".split()
"""TRL's losses, but for `sft`, which is a regulariser here."""


def settings() -> str:
    """A table of TRL's settings: where each is in a run file, or what becomes of it."""
    rows: dict[str, tuple[str, str]] = {}
    for given in _SETTINGS:
        for note in migrate(_WHERE | given, method="dpo").notes:
            names = [
                name
                for name in given | _WHERE
                if name.removeprefix("dataset_") == note.setting.removeprefix("dataset_")
            ]
            for name in names:
                if name not in rows or note.outcome is not Outcome.CARRIED_OVER:
                    rows[name] = _cells(note)
    return "\n".join(
        ["| TRL | run file | |", "|---|---|---|", *(f"| `{name}` | {rows[name]} |" for name in sorted(rows))]
    )


def _cells(note: Note) -> str:
    if note.outcome is Outcome.CARRIED_OVER:
        return f"`{note.text.partition(' ')[0]}` | "
    return f"{'changed' if note.outcome is Outcome.CHANGED else 'none'} | {note.text}"


def losses() -> str:
    """A table of TRL's losses: the row of the zoo, and its equation."""
    lines = ["| `loss_type` | row | |", "|---|---|---|"]
    for loss in LOSSES:
        row = migrate({**_WHERE, "loss_type": loss}, method="dpo").run["objective"]["zoo"]
        lines.append(f"| `{loss}` | [`{row}`](zoo.md#{row}) | {formulas.inline(equation_of(zoo.ZOO[row]))} |")
    return "\n".join(lines)
