"""Data in two styles, and forwards that tell norms which sample is of which."""

import torch
from tests.studies.tiny import task

from normsmith import surgery
from normsmith.layers import BatchNorm1d
from normsmith.studies.styles import BRIGHTER, CONTRAST, styles_standardised, two_styles


def test_half_of_the_samples_of_every_split_have_the_second_style():
    styled = two_styles(task)
    plain = task.train.tensors[0]
    for split in ("train", "validation", "test"):
        (inputs, targets), (mixed, styles, same) = task.dataset(split).tensors, styled.dataset(split).tensors
        assert torch.equal(same, targets)
        assert styles.sum() == len(styles) // 2
        assert torch.equal(mixed[styles == 0], inputs[styles == 0])
        second = plain.mean() + CONTRAST * (inputs - plain.mean()) + BRIGHTER * plain.std()
        torch.testing.assert_close(mixed[styles == 1], second[styles == 1])
    again = two_styles(task)
    assert torch.equal(again.train.tensors[1], styled.train.tensors[1])


def test_norms_with_domains_are_told_and_others_are_not():
    styled = two_styles(task)
    x, styles, target = styled.train[:32]
    plain = torch.nn.Sequential(BatchNorm1d(6, affine=False))
    output, same = styled.forward(plain, (x, styles, target))
    assert same is target
    model = surgery.convert(plain, "domain", domains=2).apply()
    each, _ = styled.forward(model, (x, styles, target))
    assert not torch.allclose(each, output)
    for number in range(2):
        torch.testing.assert_close(each[styles == number].mean(0), torch.zeros(6), rtol=0, atol=1e-5)


def test_each_style_can_be_standardised_by_its_own_training_samples():
    styled = two_styles(task)
    told = styles_standardised(styled)
    for number in range(2):
        x = told.train.tensors[0][told.train.tensors[1] == number]
        torch.testing.assert_close(
            torch.stack([x.mean(), x.std()]), torch.tensor([0.0, 1.0]), rtol=0, atol=1e-5
        )
    x, styles, _ = styled.test[:]
    first = styled.train.tensors[0][styled.train.tensors[1] == 0]
    torch.testing.assert_close(told.test[:][0][styles == 0], ((x - first.mean()) / first.std())[styles == 0])
