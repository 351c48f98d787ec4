import pytest
import torch
from torch.utils.data import DataLoader

from prefopt.data import EncodingConfig, PreferenceCollator, prepare, rows_of
from prefopt.tokens import PreferenceBatch


@pytest.fixture
def dataset(plain):
    fields = [{"prompt": "p" * n, "chosen": "a" * n, "rejected": "b" * (4 - n)} for n in (1, 2, 3)]
    return prepare(rows_of(fields, name="pairs"), plain, EncodingConfig(max_length=5), description="pairs")[0]


def test_rows_to_batch(dataset):
    batch = PreferenceBatch.from_mapping(PreferenceCollator(pad_token_id=7)([dataset[2], dataset[0]]))
    assert batch.pairs == 2
    assert batch.rows.tolist() == [2, 0]
    assert batch.prompt_mask.sum(-1).tolist() == [1, 1]
    assert batch.chosen_mask.sum(-1).tolist() == [4, 2]
    assert batch.rejected_mask.sum(-1).tolist() == [2, 4]
    assert batch.chosen_ids[1, 2:].tolist() == [7, 7]
    assert batch.rejected_ids[1].tolist() == dataset[0]["rejected_ids"]


def test_truncation_flags(plain):
    fields = [{"prompt": "p", "chosen": "a", "rejected": "b" * 9}, {"prompt": "p", "chosen": "a" * 9, "rejected": "b"}]
    dataset, _ = prepare(rows_of(fields, name="pairs"), plain, EncodingConfig(max_length=5), description="pairs")
    batch = PreferenceCollator(pad_token_id=0)(list(dataset))
    assert batch["chosen_truncated"].tolist() == [False, True]
    assert batch["rejected_truncated"].tolist() == [True, False]


def test_in_a_data_loader(dataset):
    loader = DataLoader(dataset, batch_size=2, collate_fn=PreferenceCollator(pad_token_id=0))
    rows = torch.cat([batch["rows"] for batch in loader])
    assert rows.tolist() == [0, 1, 2]


def test_no_rows():
    with pytest.raises(ValueError, match="at least one"):
        PreferenceCollator(pad_token_id=0)([])
