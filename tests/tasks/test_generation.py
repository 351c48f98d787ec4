from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.data.quiet import quiet
from prefopt.sampling import Generation, sample_ids, sample_texts
from prefopt.tasks.generation import prompt_means, sequence_kl
from prefopt.tasks.models import word_tokenizer


def test_samples_of_a_prompt_are_averaged_first() -> None:
    assert prompt_means([1.0, 3.0, 0.0], [["a", "b"], ["c"]]) == [2, 0]


def tiny(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, initializer_range=0.5, **shape, **special)).eval()


def test_samples_do_not_depend_on_the_global_seed_and_end_at_the_end_of_text() -> None:
    tokenizer = word_tokenizer(["a b c d e f g h"], positions=256)
    end = tokenizer.eos_token_id
    model = tiny(0)
    model.config.vocab_size = len(tokenizer)
    samples = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        samples.append(sample_ids(model, tokenizer, [[3, 4, 5], [6]], Generation(samples=4, max_new_tokens=6), 5))
    assert samples[0] == samples[1]
    assert list(map(len, samples[0])) == [4, 4]
    assert all(1 <= len(ids) <= 6 and end not in ids[:-1] for group in samples[0] for ids in group)


def test_prompts_are_rendered_with_the_arguments_of_the_template() -> None:
    tokenizer = word_tokenizer(["a b c d e f g h"], positions=256)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ ' h' if calm else ' g' }}"
    model = tiny(0)
    model.config.vocab_size = len(tokenizer)
    prompt = [{"role": "user", "content": "a b"}]
    texts = []
    for generation in (Generation(temperature=0), Generation(temperature=0, chat_template_kwargs={"calm": True})):
        texts.append(sample_texts(model, tokenizer, [prompt], generation, seed=0))
    as_text = sample_texts(model, tokenizer, ["a b g", "a b h"], Generation(temperature=0), seed=0)
    assert [texts[0][0], texts[1][0]] == as_text
    assert "chat_template_kwargs" not in Generation().model_dump()


def test_sequence_kl_by_hand() -> None:
    policy, reference = tiny(0), tiny(1)
    prompts = [[3, 4], [5]]
    samples = [[[6, 7, 0], [8, 0], [9]], [[9, 9, 9, 2], [0], [3, 0]]]
    sums = sequence_kl(policy, reference, prompts, samples, batch_size=1)
    assert sums.shape == (2, 3)
    for prompt, group, values in zip(prompts, samples, sums, strict=True):
        for sample, value in zip(group, values, strict=True):
            ids = torch.tensor([[*prompt, *sample]])
            with torch.no_grad():
                p, q = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (policy, reference))
            by_hand = sum(float(p[t].exp() @ (p[t] - q[t])) for t in range(len(prompt) - 1, ids.shape[1] - 1))
            assert value.item() == pytest.approx(by_hand, rel=1e-4)
    torch.testing.assert_close(sums, sequence_kl(policy, reference, prompts, samples, batch_size=2))
    assert sequence_kl(policy, tiny(0), prompts, samples, batch_size=2).abs().max() < 1e-5


def test_quiet_leaves_things_as_they_were() -> None:
    from transformers import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
