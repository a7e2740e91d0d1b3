"""`ghostnet models --table 7`: all 19 rows, the exact count of each, and every stated reason checked."""

from __future__ import annotations

import json

import pytest
from torch import nn

import ghostnet
from ghostnet import cli
from ghostnet.cli.table7 import table7_rows
from ghostnet.models.searched_networks import _FBNET_B, BlockStyle, _searched
from ghostnet.models.table7_networks import TABLE7
from ghostnet.paper import agrees

# row: counted params, counted MACs, status
GOLDEN = {
    "ShuffleNetV1 0.5x (g=8)": (1_011_448, 40_469_760, "agrees"),
    "MobileNetV2 0.35x": (1_677_128, 59_285_808, "agrees"),
    "ShuffleNetV2 0.5x": (1_366_792, 40_476_448, "differs"),
    "MobileNetV3 Small 0.75x": (2_408_720, 43_765_936, "agrees"),
    "MobileNetV1 0.5x": (1_331_592, 149_497_088, "differs"),
    "MobileNetV2 0.6x": (2_217_000, 150_958_928, "differs"),
    "ShuffleNetV1 1.0x (g=3)": (1_865_728, 137_460_672, "differs"),
    "ShuffleNetV2 1.0x": (2_279_760, 145_814_296, "agrees"),
    "MobileNetV3 Large 0.75x": (3_993_528, 154_560_624, "agrees"),
    "MobileNetV2 1.0x": (3_504_872, 300_774_272, "agrees"),
    "ShuffleNetV2 1.5x": (3_507_720, 298_970_656, "agrees"),
    "FE-Net 1.0x": (3_535_232, 299_676_320, "differs"),
    "FBNet-B": (4_813_048, 296_614_728, "differs"),
    "ProxylessNAS": (4_080_512, 320_427_584, "agrees"),
    "MnasNet-A1": (3_887_038, 311_579_072, "agrees"),
    "MobileNetV3 Large 1.0x": (5_483_032, 216_589_760, "differs"),
}
SIZE = (3, 224, 224)


@pytest.fixture(scope="module")
def rows():
    return table7_rows()


def counts(name, **args):
    found = ghostnet.profile(ghostnet.create_model(name, **args), SIZE)
    assert found.uncounted == []
    return found.params, found.macs


def test_every_row_is_counted_exactly(rows):
    assert len(rows) == 19
    assert [row["row"] for row in rows] == list(TABLE7)
    peers = {row["row"]: (row["params"], row["macs"], row["status"]) for row in rows if row["row"] in GOLDEN}
    assert peers == GOLDEN
    rest = [row for row in rows if row["row"] not in GOLDEN]
    assert [row["name"] for row in rest] == ["ghostnet_050", "ghostnet_100", "ghostnet_130"]
    for row in rest:
        built = row["name"] in ghostnet.list_models()
        assert row["status"] == ("agrees" if built else "not built")


def test_rows_that_differ_and_only_they_have_a_reason(rows):
    for row in rows:
        assert bool(TABLE7[row["row"]].reason) == (row["status"] == "differs"), row["row"]
        assert row["reason"] == TABLE7[row["row"]].reason
        if row["params"] is not None:
            assert row["params_difference_m"] == pytest.approx(
                row["params"] / 1e6 - row["params_m"], abs=6e-4
            )
            assert row["macs_difference_m"] == pytest.approx(row["macs"] / 1e6 - row["macs_m"], abs=6e-4)


def test_where_a_row_differs(rows):
    differing = {
        row["row"]: (agrees(row["params"], row["params_m"], 1), agrees(row["macs"], row["macs_m"], 0))
        for row in rows
        if row["status"] == "differs"
    }
    only_macs = {name: (True, False) for name, golden in GOLDEN.items() if golden[2] == "differs"}
    assert differing == {**only_macs, "FE-Net 1.0x": (False, False), "FBNet-B": (False, False)}


def test_pooling_explains_three_rows(rows):
    macs = {row["row"]: row["macs"] for row in rows}
    stem_pooling = 9 * 24 * 56 * 56
    assert agrees(macs["ShuffleNetV2 0.5x"] + stem_pooling, 41, 0)
    assert agrees(macs["ShuffleNetV1 1.0x (g=3)"] + stem_pooling, 138, 0)
    assert agrees(macs["MobileNetV1 0.5x"] + 512 * 7 * 7, 150, 0)


def test_fe_net_agrees_at_its_other_width():
    params, macs = counts("fenet_100", width_mult=1.375)
    assert agrees(params, 5.9, 1)
    assert agrees(macs, 563, 0)
    params, macs = counts("fenet_100", head_channels=1536)
    assert agrees(params, 3.7, 1)
    assert agrees(macs, 301, 0)


def test_no_known_fbnet_b_and_no_divisor_of_mobilenet_v2_gives_the_row():
    later = tuple((6, *row[1:]) if index == 10 else row for index, row in enumerate(_FBNET_B))
    assert later[10] == (6, 5, 64, 1)
    found = []
    for blocks in (_FBNET_B, later):
        for always_expand in (True, False):
            style = BlockStyle(nn.ReLU, 1e-5, always_expand)
            found.append(ghostnet.profile(_searched(blocks, 16, 1984, style, 1000), SIZE).params)
    assert [round(params / 1e6, 2) for params in found] == [4.81, 4.75, 4.86, 4.80]
    by_divisor = {divisor: counts("mobilenetv2_060", divisor=divisor)[1] for divisor in (1, 4, 8)}
    assert {divisor: round(macs / 1e6, 2) for divisor, macs in by_divisor.items()} == {
        1: 121.18,
        4: 132.03,
        8: 150.96,
    }


def test_text_and_json(rows, capsys):
    assert cli.run(["models", "--table", "7"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[2].split()[-1] == "agrees"
    assert len(lines) == 2 + 19 + 2 + sum(row["status"] == "differs" for row in rows)
    assert "mobilenetv3_small_075(head_channels=1280)" in text
    assert cli.run(["models", "--table", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--table", "5"), "--table (=5) must be 7"),
        (("--table", "seven"), "'seven' is not an integer"),
        (("mobile*", "--table", "7"), "--table takes no pattern (=mobile*)"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert cli.run(["models", *arguments]) == 2
    assert message in capsys.readouterr().err
