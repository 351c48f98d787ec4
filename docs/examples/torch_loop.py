"""The objective as a loss in plain torch: log-probabilities of your own make a TokenBatch, and that its loss."""

import copy

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt import Objective, TokenBatch, zoo

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PAIRS = [  # prompt, chosen, rejected
    ("The film was", " good.", " bad."),
    ("The plot was", " a joy from end to end.", " dull."),
]

tokenizer = AutoTokenizer.from_pretrained(NAME)
policy = AutoModelForCausalLM.from_pretrained(NAME, dtype=torch.float32).eval()
reference = copy.deepcopy(policy).requires_grad_(False)
shape = {"num_layers": policy.config.num_hidden_layers, "hidden_size": policy.config.hidden_size}
objective = Objective(zoo.tdpo2(beta=0.1, alpha=0.5), **shape)


def token_batch(pairs: list[tuple[str, str, str]]) -> TokenBatch:
    """What both models say of each response token, by rows: all chosen responses, then all rejected ones."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _, _ in pairs] * 2
    responses = [tokenizer(pair[side])["input_ids"] + [tokenizer.eos_token_id] for side in (1, 2) for pair in pairs]
    rows = [torch.tensor(prompt + response) for prompt, response in zip(prompts, responses, strict=True)]
    ids = pad_sequence(rows, batch_first=True)
    attention = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    starts, lengths = (torch.tensor([len(part) for part in parts])[:, None] for parts in (prompts, responses))
    steps = torch.arange(int(lengths.max()))
    mask = steps < lengths
    places = torch.where(mask, starts + steps, 1)  # of the response's tokens; each is predicted one position before
    token_ids = ids.gather(1, places)

    def log_softmax(model: torch.nn.Module) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=attention).logits.float()
        return logits.log_softmax(-1).take_along_dim((places - 1)[..., None], dim=1)

    log_p = log_softmax(policy)
    with torch.no_grad():
        log_q = log_softmax(reference)
    return TokenBatch(
        logps=log_p.gather(-1, token_ids[..., None]).squeeze(-1),
        ref_logps=log_q.gather(-1, token_ids[..., None]).squeeze(-1),
        mask=mask,
        token_ids=token_ids,
        divergence=objective.config.divergence.measure(log_p, log_q),  # for objectives that have one
    )


optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5)
losses = []
for _ in range(3):
    output = objective(token_batch(PAIRS))
    output.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(output.loss.item())
print(losses, output.metrics["rewards/margins"].value)
