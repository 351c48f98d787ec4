"""Under accelerate: PreferenceModel is one module around policy, reference and objective, whose forward is the step."""

import copy

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt import PreferenceBatch, zoo
from prefopt.data import EncodingConfig, PreferenceCollator, SourceRow, prepare
from prefopt.scoring import PreferenceModel

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS = [
    {"prompt": "The film was", "chosen": " good.", "rejected": " bad."},
    {"prompt": "The plot was", "chosen": " a joy from end to end.", "rejected": " dull."},
]

accelerator = Accelerator()
tokenizer = AutoTokenizer.from_pretrained(NAME)
policy = AutoModelForCausalLM.from_pretrained(NAME, dtype=torch.float32)
model = PreferenceModel(policy, copy.deepcopy(policy), zoo.sparsepo_token(), tokenizer=tokenizer)

rows = [SourceRow(f"row {number}", row) for number, row in enumerate(ROWS)]
data, report = prepare(rows, tokenizer, EncodingConfig(max_length=512), description="pairs")
print(*report.lines(), sep="\n")  # what was left out, cut or guessed
collator = PreferenceCollator(tokenizer.pad_token_id or tokenizer.eos_token_id)
loader = DataLoader(data, batch_size=2, shuffle=True, collate_fn=collator)
optimizer = torch.optim.AdamW(
    [
        {"params": policy.parameters(), "lr": 1e-5},
        {"params": model.objective.parameters(), "lr": 5e-3},  # the mask's
    ]
)

model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
losses = []
for _ in range(3):
    for batch in loader:
        output = model(PreferenceBatch.from_mapping(batch))
        accelerator.backward(output.loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())

if accelerator.is_main_process:
    trained = accelerator.unwrap_model(model)
    trained.policy.save_pretrained("runs/accelerate")  # a plain model
    trained.objective.save("runs/accelerate")  # the objective with its mask, beside it
    tokenizer.save_pretrained("runs/accelerate")
