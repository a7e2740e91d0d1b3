"""The plan of a table: order, state, time, resumption; and every row of every table has its recipe."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ghostnet
from ghostnet import InputError, cli, data
from ghostnet.download import DownloadError
from ghostnet.models import remote
from ghostnet.recipes import list_recipes, load_recipe, load_variant, make_plan
from ghostnet.recipes.demo import _finished_or_run
from ghostnet.recipes.plan import cached_step_seconds, known_step_seconds, network_of, run_plan
from ghostnet.report import EXHIBITS, exhibit


@pytest.fixture
def small_cifar10(monkeypatch):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (256, 32, 32, 3), dtype=np.uint8), np.arange(256) % 10
    dataset = data.Cifar10(images, labels, images[:20], labels[:20])
    monkeypatch.setattr(data, "load_cifar10", lambda *_args, **_kwargs: dataset)


@pytest.mark.parametrize("content", ['{"a": 1.0', "[]", '{"a": null}'])
def test_damaged_notes_and_records_are_named(content, tmp_path):
    place = tmp_path / "step_seconds.json"
    place.write_text(content)
    for read in (known_step_seconds, partial(cached_step_seconds, load_recipe("resnet56"))):
        with pytest.raises(InputError, match=r"step_seconds.json holds no measured seconds; delete it"):
            read(place)
    (tmp_path / "demo_dense_init-seed0.json").write_text(content)
    with pytest.raises(
        InputError, match=r"seed0.json is no whole record of a run; run the demo again with --force"
    ):
        _finished_or_run(load_recipe("demo_dense_init"), tmp_path, None, progress=False, force=False)


def test_every_row_has_a_recipe_and_every_recipe_of_the_tables_a_row():
    rows = [(key, row) for key in EXHIBITS for row in exhibit(key).rows if row.recipe]
    assert len(rows) == 77
    for key, row in rows:
        recipe = load_variant(row.recipe, row.variant)
        assert (recipe.name, recipe.exhibit) == (row.name, exhibit(key).folder)
    known = {name for name in list_recipes() if load_variant(name).exhibit in ("cifar10", "cifar10_short")}
    assert {row.recipe for _, row in rows} == known


def test_what_another_run_needs_comes_first(tmp_path):
    done = tmp_path / "cifar10" / "vgg16_long-seed1.json"
    done.parent.mkdir()
    done.write_text("{}")
    entries = [("ghost_vgg16_distilled", ""), ("vgg16", "long"), ("vgg16", "")]
    planned = make_plan(entries, tmp_path, seeds=2)
    assert [(run.recipe.name, run.recipe.seed, run.done) for run in planned] == [
        ("vgg16_long", 0, False),
        ("ghost_vgg16_distilled", 0, False),
        ("vgg16", 0, False),
        ("vgg16_long", 1, True),
        ("ghost_vgg16_distilled", 1, False),
        ("vgg16", 1, False),
    ]
    assert [run.steps for run in planned[:3]] == [156_000, 156_000, 63_960]
    assert not any(run.recipe.compile for run in planned)
    assert all(run.recipe.compile for run in make_plan(entries, tmp_path, compiled=True))
    with pytest.raises(InputError, match=r"`seeds` \(=0\) must be an integer >= 1"):
        make_plan(entries, tmp_path, seeds=0)


def test_sparsity_counts_in_the_steps(tmp_path):
    planned = make_plan([("short_resnet20_sss", ""), ("short_resnet20_l1", "")], tmp_path)
    assert [run.steps for run in planned] == [1950, 1950]


def test_networks_of_the_short_table_have_equal_macs():
    names = ("short_ghost_resnet20", "short_ghost_resnet20_converted", "short_resnet20_channel")
    macs = [ghostnet.profile(network_of(load_variant(name))[0], (3, 32, 32)).macs for name in names]
    assert max(macs) / min(macs) < 1.01


@pytest.mark.parametrize("name", ["resnet56", "ghost_resnet56_d1", "ghost_vgg16_s5_d3"])
def test_counts_in_the_repository_are_those_of_the_networks(name):
    record = json.loads((Path(__file__).parents[2] / "results" / "cifar10" / "counts.json").read_text())
    counted = ghostnet.profile(network_of(load_variant(name))[0], (3, 32, 32))
    assert record["metrics"]["counts"][name] == {"params": counted.params, "macs": counted.macs}


def test_steps_are_timed_once(tmp_path):
    recipe = load_variant("short_ghost_resnet20", "distilled").model_copy(update={"batch_size": 2})
    first = cached_step_seconds(recipe, tmp_path / "times.json")
    assert 0 < first == cached_step_seconds(recipe, tmp_path / "times.json")
    assert list(json.loads((tmp_path / "times.json").read_text()).values()) == [first]


@pytest.mark.usefixtures("small_cifar10")
def test_reproduce_runs_what_is_missing_and_prints_the_table(tmp_path, capsys):
    dense = tmp_path / "dense.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20"), dense)
    arguments = ["reproduce", "short", "--only", "short_resnet20_l1", "--dense", str(dense), "--json"]
    arguments += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert cli.run([*arguments, "--show"]) == 0
    assert all(row["n"] == 0 for row in json.loads(capsys.readouterr().out))
    assert cli.run(arguments) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["n"]]
    written = json.loads((tmp_path / "results" / row["records"]["0"]).read_text())
    assert row["top1"] == written["metrics"]["top1"]
    assert written["recipe"]["weights"] == str(dense)
    assert written["metrics"]["steps"] == 10
    before = (tmp_path / "results" / row["records"]["0"]).stat().st_mtime_ns
    assert cli.run(arguments) == 0
    assert (tmp_path / "results" / row["records"]["0"]).stat().st_mtime_ns == before
    capsys.readouterr()
    assert cli.run([*arguments, "--list"]) == 0
    assert [run["state"] for run in json.loads(capsys.readouterr().out)] == ["done"]


@pytest.mark.usefixtures("small_cifar10")
def test_published_weights_are_looked_at_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GHOSTNET_CACHE", str(tmp_path))
    (card,) = ghostnet.models.weight_cards("resnet20")
    monkeypatch.setattr(remote, "download", refuse_download)
    folders = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    rows = ["--only", "short_ghost_resnet20*"]  # the first of them start from nothing
    assert cli.run(["reproduce", "short", *rows, *folders]) != 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"fetch {card.source} by hand" in error
    assert not (tmp_path / "runs").exists()


def refuse_download(url, *_args, **_more):
    raise DownloadError(f"no way to {url}")


@pytest.mark.usefixtures("small_cifar10")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "unknown exhibit 'table9'; did you mean"),
        (["table3", "--only", "vgg61"], "unknown row 'vgg61'"),
        (["short", "--only", "short_resnet20_l1", "--dense", "nowhere.th"], "nowhere.th"),
        (["table3", "--seeds", "0"], "`seeds` (=0)"),
    ],
)
def test_reproduce_refuses_in_one_line(arguments, message, tmp_path, capsys):
    folders = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert cli.run(["reproduce", *arguments, *folders]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_result_of_another_recipe_is_not_taken_for_the_plans(tmp_path):
    (run,) = make_plan([("resnet56", "")], tmp_path / "results")
    own = tmp_path / run.result.name
    for content, message in (
        ({"recipe": load_recipe("resnet56", ["epochs=1"]).model_dump()}, r"a run with epochs = 1\.0, not"),
        ({}, "is no result of a run"),
    ):
        own.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            run_plan([run], tmp_path)
        assert not run.result.exists()
    other_place = {**run.recipe.model_dump(), "workers": 3, "weights": f"elsewhere/{run.recipe.weights}"}
    own.write_text(json.dumps({"recipe": other_place}))
    run_plan([run], tmp_path)
    assert run.result.read_text() == own.read_text()
