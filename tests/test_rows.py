"""Which rows a statistic reads: the same ones however the data comes in batches, and never padding."""

import math

import pytest
import torch

from delayer.observing.rows import Rows, chosen, positions, take

QUARTER = Rows("each", 0.25)


def kept(rows, ids, num_positions, mask=None, seed=0):
    """{(sample, position)} that are kept, positions counted from the first real one."""
    index = chosen(rows, torch.as_tensor(ids), num_positions, mask, seed)
    first = torch.zeros(len(ids)) if mask is None else mask.int().argmax(1)
    return {(int(ids[k // num_positions]), int(k % num_positions - first[k // num_positions])) for k in index.tolist()}


def test_a_share_is_the_same_under_any_batch_split():
    whole = kept(QUARTER, range(40), 17)
    for size in (1, 3, 16):
        parts = [kept(QUARTER, range(40)[k : k + size], 17) for k in range(0, 40, size)]
        assert set().union(*parts) == whole


def test_a_share_is_as_large_as_stated_and_falls_differently_for_each_sample_and_seed():
    ids, num = torch.arange(400), 400 * 197
    for share in (0.1, 0.25, 0.9):
        index = chosen(Rows("each", share), ids, 197, None, 0)
        assert abs(len(index) - share * num) < 5 * math.sqrt(share * (1 - share) * num)
    index = chosen(QUARTER, ids, 197, None, 0)
    by_position, by_sample = (index % 197).bincount(minlength=197), (index // 197).bincount(minlength=400)
    assert abs(by_position - 100).max() < 5 * math.sqrt(75)
    assert abs(by_sample - 197 / 4).max() < 5 * math.sqrt(197 * 3 / 16)
    for seed in (1, -1, 2**62):
        both = torch.isin(chosen(QUARTER, ids, 197, None, seed), index).sum()
        assert abs(both - num / 16) < 5 * math.sqrt(num / 16)


@pytest.mark.parametrize("side", ["left", "right"])
def test_more_padding_keeps_the_same_tokens(side):
    lengths = [5, 9, 1, 7]

    def mask(width):
        rows = [[1] * n + [0] * (width - n) for n in lengths]
        return torch.tensor([row[::-1] if side == "left" else row for row in rows])

    assert kept(QUARTER, range(4), 9, mask(9)) == kept(QUARTER, range(4), 14, mask(14))
    assert kept(Rows(), range(4), 9, mask(9)) == {(s, p) for s, n in enumerate(lengths) for p in range(n)}


def test_everything_needs_no_index():
    assert chosen(Rows(), torch.arange(3), 5, None, 0) is None


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_first_last_and_mean_read_real_tokens_only(side):
    hidden = torch.randn(4, 6, 3, dtype=torch.float64)
    mask = torch.ones(4, 6) if side != "none" else None
    real = [hidden[k] for k in range(4)]
    for k, length in enumerate((6, 2, 1, 4)):
        if side != "none":
            gone = slice(length, None) if side == "right" else slice(None, 6 - length)
            mask[k, gone], hidden[k, gone] = 0, torch.nan  # what some attentions leave there
            real[k] = hidden[k][mask[k].bool()]
    assert torch.equal(take(hidden, Rows("first"), mask, None), torch.stack([x[0] for x in real]))
    assert torch.equal(take(hidden, Rows("last"), mask, None), torch.stack([x[-1] for x in real]))
    torch.testing.assert_close(take(hidden, Rows("mean"), mask, None), torch.stack([x.mean(0) for x in real]))
    index = chosen(Rows(), torch.arange(4), 6, mask, 0)
    assert torch.equal(take(hidden, Rows(), mask, index), torch.cat(real))


def test_images_give_one_row_a_pixel():
    image = torch.randn(2, 5, 3, 4)
    by_pixel = image.permute(0, 2, 3, 1).reshape(24, 5)
    assert torch.equal(take(positions(image, 1), Rows(), None, None), by_pixel)
    index = chosen(QUARTER, torch.arange(2), 12, None, 0)
    assert torch.equal(take(positions(image, 1), QUARTER, None, index), by_pixel[index])
    torch.testing.assert_close(take(positions(image, 1), Rows("mean"), None, None), image.mean((2, 3)))
    assert positions(torch.randn(2, 5), -1).shape == (2, 1, 5)


@pytest.mark.parametrize("rows", [Rows(), QUARTER, Rows("mean"), Rows("first"), Rows("last")], ids=str)
def test_rows_are_copies(rows):
    hidden = torch.randn(3, 8, 2)
    for mask in (None, torch.ones(3, 8)):
        found = take(hidden, rows, mask, chosen(rows, torch.arange(3), 8, mask, 0) if rows.kind == "each" else None)
        before = found.clone()
        hidden.mul_(2)
        assert torch.equal(found, before)


def test_means_of_half_precision_are_taken_in_single():
    hidden = torch.full((1, 4096, 2), 1 + 2**-7, dtype=torch.bfloat16)
    hidden[:, ::2] = 1
    for mask in (None, torch.ones(1, 4096)):
        assert torch.equal(take(hidden, Rows("mean"), mask, None), torch.full((1, 2), 1 + 2**-8))


def test_policies_are_written_as_people_read_them():
    assert [str(r) for r in (Rows(), QUARTER, Rows("mean"))] == ["each", "each:0.25", "mean"]
    with pytest.raises(ValueError, match="Row policy 'all' is unknown; use each, mean, first or last"):
        Rows("all")
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], not 0"):
        Rows("each", 0)
