"""How counts, shapes and layers are written."""

import pytest

from plusx import families, layers
from plusx.notation import box, count, depth, share, words
from plusx.svg import printable


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 K"),
        (9_994, "9.99 K"),
        (9_996, "10.0 K"),
        (99_960, "100 K"),
        (999_400, "999 K"),
        (999_600, "1.00 M"),
        (25_557_032, "25.6 M"),
        (4_089_184_256, "4.09 G"),
        (3 * 10**15, "3000 T"),
    ],
)
def test_counts_have_three_digits_and_a_unit(number: int, text: str) -> None:
    assert count(number) == text


def test_shares() -> None:
    assert [share(1, 3), share(0, 0), share(2, 2)] == ["33.3 %", "0.0 %", "100.0 %"]


@pytest.mark.parametrize(
    ("layer", "short", "long"),
    [
        (layers.Conv(64, 128, 3, 2), "3×3, 128, /2", "3×3 conv, 64 → 128, stride 2, norm, relu"),
        (layers.Conv(8, 8, 3, 1, 2, 4, "norm act conv"), "3×3, 8", "norm, relu, 3×3 conv, 8 → 8, 4 groups, dilation 2"),
        (layers.AvgPool(64), "avg pool, /2", "2×2 avg pool, stride 2"),
        (layers.Pad(16, 32, 2), "pad to 32, /2", "zeros at the end, 16 → 32, stride 2"),
        (layers.Pad(16, 16, 2), "subsample, /2", "subsample, stride 2"),
        (layers.Gate(64, 8), "SE, 8", "squeeze-excitation, 64 → 8 → 64"),
        (layers.Linear(512, 10), "fc, 10", "fc, 512 → 10"),
    ],
)
def test_layers_in_short_and_in_words(layer: layers.Layer, short: str, long: str) -> None:
    assert (box(layer), words(layer)) == (short, long)


@pytest.mark.parametrize(
    ("name", "deep"),
    [
        ("resnet18", 18),
        ("resnet152", 152),
        ("resnetv2_50", 50),
        ("cifar_resnet1202", 1202),
        ("cifar_preact1001", 1001),
    ],
)
def test_depth_counts_as_the_papers_do(name: str, deep: int) -> None:
    assert depth(layers.network(families.design(name))) == deep


def test_names_become_one_visible_line() -> None:
    assert printable('a\x1b[31m\nb 残差 <&">') == 'a\ufffd[31m\ufffdb 残差 <&">'
