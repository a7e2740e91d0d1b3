"""Weights from tags, files, URLs and the hub: what is refused, in one line each; cards; fresh heads."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import os
import pickle
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ghostnet
from ghostnet.data import Preprocessing
from ghostnet.download import DownloadError
from ghostnet.models import cards, model_info, remote, to_layout, weight_cards
from ghostnet.models.paddle_pickle import read_pdparams


@pytest.fixture(scope="module")
def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return ghostnet.create_model("ghostnet_050", num_classes=4).eval()


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "ghostnet_050.pth"
    torch.save(to_layout(small, "timm"), path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GHOSTNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(checkpoint):
    """A real HTTP server of the folder that holds the checkpoint."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(checkpoint.parent))

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    own = second.state_dict()
    return all(torch.equal(value, own[key]) for key, value in first.state_dict().items())


def test_another_width_is_named(checkpoint):
    with pytest.raises(
        ghostnet.InputError, match=r"holds weights of 'ghostnet_050', not of 'ghostnet_100'; create"
    ):
        ghostnet.create_model("ghostnet_100", num_classes=4, weights=checkpoint)
    with pytest.raises(
        ghostnet.InputError, match=r"fits another width or form: stem.0.weight is \(8, 3, 3, 3\) there"
    ):
        ghostnet.create_model("ghostnet_050", width_mult=0.7, num_classes=4, weights=checkpoint)


def test_another_number_of_classes_needs_to_be_asked_for(checkpoint, small):
    with pytest.raises(
        ghostnet.InputError, match=r"for 4 classes and the network has 9; give num_classes=4, or new_"
    ):
        ghostnet.create_model("ghostnet_050", num_classes=9, weights=checkpoint)
    torch.manual_seed(3)
    tuned = ghostnet.create_model("ghostnet_050", num_classes=9, weights=checkpoint, new_head=True)
    assert tuned.classifier.weight.shape == (9, 1280)
    own = tuned.state_dict()
    assert all(
        torch.equal(v, own[k]) for k, v in small.state_dict().items() if not k.startswith("classifier")
    )
    fresh = ghostnet.create_model("ghostnet_050", num_classes=4, weights=checkpoint, new_head=True)
    assert not torch.equal(
        fresh.classifier.weight, small.classifier.weight
    )  # the same count: fresh when asked
    with pytest.raises(ghostnet.InputError, match=r"`new_head` needs `weights`"):
        ghostnet.create_model("ghostnet_050", new_head=True)


def test_our_own_file_of_another_network(small, tmp_path):
    ghostnet.save(small, tmp_path / "own.safetensors")
    with pytest.raises(ghostnet.InputError, match=r"holds weights of 'ghostnet_050', not of 'ghostnet_130'"):
        ghostnet.create_model("ghostnet_130", weights=tmp_path / "own.safetensors")


def test_our_own_file_tells_its_form(tmp_path):
    paper = ghostnet.create_model("ghostnet_050", rounding="paper", num_classes=2)
    ghostnet.save(paper, tmp_path / "own.safetensors")
    torch.save(paper.state_dict(), tmp_path / "own.pth")
    for path in sorted(tmp_path.iterdir()):
        assert same(paper, ghostnet.create_model("ghostnet_050", num_classes=2, weights=path))


def test_a_part_is_missing(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    del state["blocks.6.3.se.conv_reduce.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(
        ghostnet.InputError, match=r"lacks blocks.9.squeeze_excite.reduce.bias, which the network has"
    ):
        ghostnet.create_model("ghostnet_050", num_classes=4, weights=tmp_path / "part.pth")


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("ending", [".pth", ".pdparams", ".npz"])
def test_files_that_hold_code_are_refused_and_run_nothing(ending, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"evil{ending}"
    if ending == ".pth":
        torch.save({"conv_stem.weight": _Evil()}, path)
    elif ending == ".pdparams":
        path.write_bytes(pickle.dumps({"conv1._conv.weight": _Evil()}))
    else:
        np.savez(path, a=np.array([_Evil()], dtype=object))
    with pytest.raises(ghostnet.InputError, match=r"evil.* cannot be read as .*(holds code)"):
        ghostnet.create_model("ghostnet_050", weights=path)
    assert not (tmp_path / "ran").exists()
    if ending == ".pdparams":
        pickle.loads(path.read_bytes())  # the file is really harmful: without the guard it makes the folder
        assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("ending", [".pth", ".pdparams", ".npz", ".safetensors"])
def test_damaged_and_missing_files(ending, tmp_path):
    path = tmp_path / f"cut{ending}"
    with pytest.raises(ghostnet.InputError, match=r"(there is no checkpoint|no file) .*cut"):
        ghostnet.create_model("ghostnet_050", weights=path)
    path.write_bytes(b"\x80\x04\x95not weights" if ending != ".safetensors" else b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ghostnet.InputError, match=r"cut.*(cannot be read|is not a whole safetensors file)"):
        ghostnet.create_model("ghostnet_050", weights=path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pdparams_of_each_protocol_and_of_pairs(protocol, tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": ("linear_0.w_0", np.ones(2, dtype=">f4")),
    }
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({**arrays, "Structured@@": {"a": "b"}}, protocol))
    found = read_pdparams(tmp_path / "x.pdparams")
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"holds a list, not a dictionary"),
        ({}, r"holds no dictionary of numeric arrays"),
        ({"a": "text"}, r"holds no dictionary of numeric arrays"),
        ({"a": np.array(["text"])}, r"holds no dictionary of numeric arrays"),
    ],
)
def test_pdparams_that_hold_something_else(content, message, tmp_path):
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content))
    with pytest.raises(ghostnet.InputError, match=message):
        read_pdparams(tmp_path / "x.pdparams")


def test_a_pickled_array_cannot_ask_for_memory(tmp_path):
    _reconstruct = np.zeros(1).__reduce__()[0]  # its module has another name in NumPy 1

    class Huge:
        def __reduce__(self):
            return _reconstruct, (np.ndarray, (1 << 60,), b"b")

    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"a": Huge()}))
    assert read_pdparams(tmp_path / "x.pdparams")["a"].numel() == 0


def test_a_network_kept_in_an_attribute_of_a_lightning_module(checkpoint, small, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    wrapped = {f"model._orig_mod.{name}": value for name, value in state.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "last.ckpt")
    assert same(small, ghostnet.create_model("ghostnet_050", num_classes=4, weights=tmp_path / "last.ckpt"))


@pytest.mark.parametrize("key", ["model_state_dict", "net", "network", "weights"])
def test_where_training_scripts_keep_the_weights(key, checkpoint, small, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, key: wrapped, "optimizer": {"state": {}}}, tmp_path / "last.pth")
    assert same(small, ghostnet.create_model("ghostnet_050", num_classes=4, weights=tmp_path / "last.pth"))


def test_what_a_file_holds_is_told_where_it_is_no_weights(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    torch.save({"epoch": 3, "ours": state}, tmp_path / "last.pth")
    with pytest.raises(ghostnet.InputError, match=r"holds no state dictionary .* it holds 'epoch', 'ours'$"):
        ghostnet.create_model("ghostnet_050", num_classes=4, weights=tmp_path / "last.pth")


@pytest.mark.parametrize("script", [False, True])
def test_a_whole_network_is_told_how_to_be_saved(script, tmp_path, recwarn):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    path = tmp_path / "whole.pth"
    if script:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 8, 8)), path)
    else:
        torch.save(network, path)
    with pytest.raises(
        ghostnet.InputError, match=r"holds code \(a whole network, say: save model.state_dict\(\) inst"
    ):
        ghostnet.create_model("ghostnet_050", num_classes=4, weights=path)
    assert not recwarn.list


def test_training_options_beside_the_weights(checkpoint, small, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    torch.save(
        {"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}, tmp_path / "run.pth.tar"
    )
    assert same(small, ghostnet.create_model("ghostnet_050", num_classes=4, weights=tmp_path / "run.pth.tar"))


def test_a_url_is_fetched_once_checked_and_cached(server, cache, checkpoint, small):
    url = f"{server}/{checkpoint.name}"
    loaded = ghostnet.create_model("ghostnet_050", num_classes=4, weights=url)
    assert same(small, loaded)
    [stored] = [path for path in cache.iterdir() if path.suffix == ".pth"]
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert same(small, ghostnet.create_model("ghostnet_050", num_classes=4, weights=f"{url}#sha256={digest}"))

    stored.write_bytes(
        stored.read_bytes()[:-1] + b"!"
    )  # rot in the cache is noticed though nobody stated a digest
    with pytest.raises(
        ghostnet.InputError, match=r"does not have the SHA-256 .*; it is damaged or another file"
    ):
        ghostnet.create_model("ghostnet_050", num_classes=4, weights=url)


def test_a_url_with_another_digest(server, cache, checkpoint):
    url = f"{server}/{checkpoint.name}#sha256={'0' * 64}"
    with pytest.raises(
        DownloadError, match=r"neither time has the SHA-256 0000.*; fetch http.* by hand and put it at"
    ):
        ghostnet.create_model("ghostnet_050", weights=url)
    assert list(cache.glob("*.pth")) == []


def test_a_page_instead_of_weights_is_not_kept(server, cache, checkpoint, small):
    page = checkpoint.with_name("behind_a_log_in.pth")
    page.write_text("<html>sign in</html>")
    url = f"{server}/{page.name}"
    with pytest.raises(
        DownloadError, match=r"sent what is of no use and was thrown away: .* cannot be read"
    ) as e:
        ghostnet.create_model("ghostnet_050", num_classes=4, weights=url)
    assert "\n" not in str(e.value)
    assert list(cache.iterdir()) == []
    with pytest.raises(DownloadError, match=r"sent what is of no use and was thrown away"):
        ghostnet.models.create_from_library("timm:resnet18", url)
    with pytest.raises(DownloadError, match=r"thrown away: .* is not the published file"):
        remote.fetch_weights(url, git_blob="1" * 40, progress=False)
    assert list(cache.iterdir()) == []
    page.write_bytes(checkpoint.read_bytes())  # logged in
    assert same(small, ghostnet.create_model("ghostnet_050", num_classes=4, weights=url))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.safetensors", "https://example.org/x.safetensors"])
def test_an_address_is_no_network(address):
    with pytest.raises(ghostnet.InputError, match="an address is no name of a network; give the name, and"):
        ghostnet.load(address)


def test_the_git_identity_is_checked(server, cache, checkpoint):
    content = checkpoint.read_bytes()
    name = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    url = f"{server}/{checkpoint.name}"
    path = remote.fetch_weights(url, git_blob=name, progress=False)
    assert path.parent == cache
    with pytest.raises(ghostnet.InputError, match=r"is not the published file \(git object 1111"):
        remote.fetch_weights(url, git_blob="1" * 40)


def test_offline_names_the_file_and_its_place_and_takes_it_from_there(cache, checkpoint, small):
    url = "http://127.0.0.1:9/ghostnet.pth"  # the discard port: nothing listens
    with pytest.raises(
        DownloadError, match=r"cannot fetch .*; fetch http://127.0.0.1:9/ghostnet.pth by hand and"
    ) as e:
        ghostnet.create_model("ghostnet_050", weights=url)
    assert "\n" not in str(e.value)
    place = Path(str(e.value).split(" put it at ")[1])
    assert place.parent == cache
    place.write_bytes(checkpoint.read_bytes())
    assert same(small, ghostnet.create_model("ghostnet_050", num_classes=4, weights=url))


@pytest.fixture
def hub_offline(monkeypatch, tmp_path, cache):
    """The real hub client, told to stay offline, with a cache of its own."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert not cache.exists()
    return tmp_path / "hub"


def test_the_hub_offline_names_the_file_and_its_place(hub_offline, small):
    with pytest.raises(
        DownloadError, match=r"model.safetensors of timm/ghostnet_050.x from the hub: .* by hand"
    ) as e:
        ghostnet.create_model("ghostnet_050", weights="hf:timm/ghostnet_050.x")
    assert "\n" not in str(e.value)
    place = Path(str(e.value).split(" put it at ")[1])
    place.parent.mkdir(parents=True)
    save_file(to_layout(small, "timm"), place)
    loaded = ghostnet.create_model("ghostnet_050", num_classes=4, weights="hf-hub:timm/ghostnet_050.x")
    assert same(small, loaded)
    assert not hub_offline.exists()


def test_the_hubs_own_cache_is_used_and_checked(hub_offline, tmp_path):
    state = to_layout(ghostnet.create_model("ghostnet_100", num_classes=4), "timm")
    save_file(state, tmp_path / "m")
    digest = hashlib.sha256((tmp_path / "m").read_bytes()).hexdigest()
    repository = hub_offline / "models--timm--ghostnet_100.in1k"
    for folder in ("blobs", "refs", "snapshots/" + "a" * 40):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs" / digest).write_bytes((tmp_path / "m").read_bytes())
    (repository / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to(repository / "blobs" / digest)
    for given in ("in1k", "ghostnet_100.in1k", "hf:timm/ghostnet_100.in1k"):
        loaded = ghostnet.create_model("ghostnet_100", num_classes=4, weights=given)
        assert torch.equal(loaded.classifier.weight, state["classifier.weight"])
    by_tag = ghostnet.create_model("ghostnet_100", num_classes=4, weights="in1k")
    assert by_tag.ghostnet_info["interpolation"] == "bicubic"
    assert by_tag.ghostnet_info["mean"] == [0.485, 0.456, 0.406]
    assert (by_tag.ghostnet_info["image_size"], by_tag.ghostnet_info["crop_fraction"]) == (224, 0.875)
    tuned = ghostnet.create_model("ghostnet_100", num_classes=9, weights="in1k", new_head=True)
    assert "weights" not in tuned.ghostnet_info
    assert tuned.ghostnet_info["std"] == [0.229, 0.224, 0.225]
    assert set(tuned.ghostnet_info) == set(Preprocessing().to_dict())  # names that others read

    with (repository / "blobs" / digest).open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"!")
    with pytest.raises(ghostnet.InputError, match=r"does not have the SHA-256"):
        ghostnet.create_model("ghostnet_100", num_classes=4, weights="in1k")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:ghostnet", r"'hf:ghostnet' must be hf:owner/name or hf:owner/name:file"),
        ("http://127.0.0.1:9/x.pth#md5=1", r"what follows # must be sha256=<64 hexadecimal digits>"),
        ("http://127.0.0.1:9/", r"names no file; give the address of the weights themselves"),
        ("http://[::1/x.pth", r"'http://\[::1/x.pth' is no address: Invalid IPv6 URL"),
        ("http://a b/x.pth", r"'http://a b/x.pth' is no address: URL can't contain control characters"),
        (f"http://{'a' * 100}/x.pth", r"x.pth' is no address: .*label.* too long"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_malformed_sources(source, message):
    with pytest.raises(ghostnet.InputError, match=message):
        ghostnet.create_model("ghostnet_050", weights=source)


def test_unknown_tags_list_near_matches():
    with pytest.raises(
        ghostnet.InputError, match=r"unknown weights of 'ghostnet_100' 'in1'; did you mean 'in1k'"
    ):
        ghostnet.create_model("ghostnet_100", weights="in1")
    with pytest.raises(ghostnet.InputError, match=r"model 'ghostnet_110' has no packaged weights"):
        ghostnet.create_model("ghostnet_110", weights="in1k")


def test_cards_are_complete_and_name_registered_models():
    assert len(cards.CARDS) == 20
    assert len({(card.model, card.tag) for card in cards.CARDS}) == len(cards.CARDS)
    for card in cards.CARDS:
        assert card.tag in model_info(card.model).published
        assert remote.is_remote(card.source)
        assert card.licence in ("Apache-2.0", "MIT", "BSD-2-Clause")
        assert 60 < card.claimed_top1 < (card.claimed_top5 or 100) < 100.1
        assert (card.measured_top1 is not None) == (card.tag == "akamaster")  # ImageNet cannot be had here
    assert {card.model for card in cards.CARDS} < set(ghostnet.list_models())
    assert weight_cards("ghostnet_110") == ()


def test_claimed_figures_are_near_the_papers():
    from ghostnet import paper

    for card in cards.CARDS:
        if card.model.startswith("ghostnet_") and card.tag != "paddle_ssld":
            width = f"{int(card.model[-3:]) / 100}x"
            row = next(line for line in paper.table(7) if line["model"] == f"GhostNet {width}")
            assert abs(card.claimed_top1 - row["top1"]) < 0.8
            assert abs(card.claimed_top5 - row["top5"]) < 0.5


def test_what_a_card_says_of_images_is_read_as_that():
    default = Preprocessing(7, 0.5, "bicubic", (0.0,) * 3, (1.0,) * 3)
    for card in cards.CARDS:
        said = Preprocessing.from_info(card.info(), default)
        assert (said.size, said.crop_fraction, said.interpolation, said.mean, said.std) == (
            *(card.input_size[1], card.crop, card.interpolation, card.mean, card.std),
        )
    assert {card.crop for card in cards.CARDS} == {0.875, 1.0}
