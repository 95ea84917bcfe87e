"""Published weights are read exactly, from files written here byte by byte; hostile and mistaken files are refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from windtunnel.errors import InputError
from windtunnel.parts.learned import foreign
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.importing import (
    as_weights,
    from_celo,
    from_google,
    from_pylo,
    from_pylo_velo,
    learned_decays,
)
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.velo import VeLO
from windtunnel.parts.learned.weights import Weights
from windtunnel.scaling.rules.at_base import AtBase

pytest.importorskip("msgpack", reason="the importers of flax msgpack need the extra windtunnel[learned]")
SPLIT = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)


# files, from the specifications of msgpack, flax/serialization.py and safetensors


def packed(value: Any) -> bytes:
    """msgpack of maps, text, whole numbers and arrays (extension 1: shape, name of the type, bytes)."""
    if isinstance(value, dict):
        return b"\xde" + struct.pack(">H", len(value)) + b"".join(packed(k) + packed(v) for k, v in value.items())
    if isinstance(value, str):
        return b"\xd9" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"\xd2" + struct.pack(">i", value)
    return extension(1, value.shape, str(value.dtype), value.tobytes())


def extension(code: int, shape: tuple[int, ...], kind: str, raw: bytes) -> bytes:
    sizes = b"\xdc" + struct.pack(">H", len(shape)) + b"".join(b"\xcf" + struct.pack(">Q", n) for n in shape)
    inner = b"\x93" + sizes + packed(kind) + b"\xc6" + struct.pack(">I", len(raw)) + raw
    return b"\xc9" + struct.pack(">Ib", len(inner), code) + inner


def safetensors(arrays: dict[str, np.ndarray], **claimed: list[int]) -> bytes:
    header, body = {}, b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        shape = claimed.get(name, list(array.shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape) + 7 * len(shape)).standard_normal(shape).astype(np.float32)


def layers(inputs: int, hidden: int, outputs: int) -> dict[str, np.ndarray]:
    sizes = [inputs, hidden, hidden, outputs]
    weights = {f"w{i}": draw(sizes[i], sizes[i + 1]) for i in range(3)}
    return weights | {f"b{i}": draw(sizes[i + 1]) for i in range(3)}


def cut(first: np.ndarray) -> list[np.ndarray]:
    return np.split(first, np.cumsum(SPLIT)[:-1], axis=-2)


def google_tree(hidden: int = 8) -> dict[str, Any]:
    offsets = {
        "momentum_decays": np.array([0.1, 0.0, -0.1], np.float32),
        "rms_decays": np.array([0.05], np.float32),
        "adafactor_decays": np.array([0.3, 0.0, 0.0], np.float32),
    }
    return offsets | {"nn": {"~": layers(39, hidden, 2)}}


def banked_tree(members: int, state: int, inputs: int) -> dict[str, Any]:
    """The tree that Celo and VeLO share; published: (1, 64, 18) and (256, 512, 30)."""
    sizes = {"linear": (inputs, state), "linear_1": (inputs, state), "linear_2": (inputs, state)}
    sizes |= {"rnn/linear": (2 * state, 4 * state), "rnn_to_controls": (state, members), "step_size": (state, 1)}
    bank = {n: np.stack([a + i for i in range(members)]) for n, a in layers(30, 4, 3).items()}
    pieces = {f"w0__{i}": piece for i, piece in enumerate(cut(bank.pop("w0")))}
    return {
        "lstm_init_state": {"hidden": draw(1, state), "cell": draw(1, state)},
        "rnn_params": {name: {"w": draw(a, b), "b": draw(b)} for name, (a, b) in sizes.items()},
        "ff_mod_stack": {"~": bank | pieces},
    }


def pylo_arrays(hidden: int = 32) -> dict[str, np.ndarray]:
    plain = layers(39, hidden, 2)
    names = {"input": 0, "linear_0": 1, "output": 2}
    weights = {f"network.{name}.weight": plain[f"w{i}"].T for name, i in names.items()}
    return weights | {f"network.{name}.bias": plain[f"b{i}"] for name, i in names.items()}


def saved(folder: Path, data: bytes, name: str = "theta.state") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def same(found: torch.Tensor, array: np.ndarray) -> bool:
    return found.dtype == torch.float32 and found.shape == array.shape and bool((found.numpy() == array).all())


# what is read


@pytest.mark.parametrize("wrapped", [False, True])
def test_googles_small_fc_is_read_exactly_from_the_bare_tree_and_from_a_checkpoint(tmp_path, wrapped):
    tree = google_tree()
    data = packed({"params": tree, "gen_id": "a", "step": 7} if wrapped else tree)
    got = from_google(saved(tmp_path, data))
    assert got.tensors.keys() == tree["nn"]["~"].keys()
    assert all(same(got.tensors[name], array) for name, array in tree["nn"]["~"].items())
    assert got.facts == {
        "rule": "small_fc", "inputs": 39, "hidden": 8, "source": "google", "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    assert got.decays["momentum"][0] == pytest.approx(1 - 0.1 * np.exp(1.0), rel=1e-6)
    assert got.decays["factored"][0] == 0  # 1 - 0.1 exp(3) is below zero, and factored decays are held in [0, 1]


def test_an_npz_of_googles_tree_is_the_same_as_its_msgpack(tmp_path):
    tree = google_tree()
    flat = {f"nn/~/{name}": a for name, a in tree["nn"]["~"].items()} | {n: tree[n] for n in tree if n != "nn"}
    np.savez(tmp_path / "theta.npz", **flat)
    one, other = from_google(tmp_path / "theta.npz"), from_google(saved(tmp_path, packed(tree)))
    assert one.decays == other.decays
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in other.tensors)


def test_celo_is_read_exactly_and_has_the_37089_floats_that_were_published(tmp_path):
    tree = banked_tree(members=1, state=64, inputs=18)
    got = from_celo(saved(tmp_path, packed(tree)))
    assert sum(t.numel() for t in got.tensors.values()) == 37_089
    assert (got.facts["rule"], got.facts["members"], got.facts["hidden"]) == ("celo", 1, 4)
    assert same(got.tensors["bank.w0"], np.stack([layers(30, 4, 3)["w0"]]))
    assert same(got.tensors["lstm.w"], tree["rnn_params"]["rnn/linear"]["w"])
    assert same(got.tensors["start.cell"], tree["lstm_init_state"]["cell"])


def test_velo_from_google_and_from_pylos_two_files_is_the_same(tmp_path):
    tree = banked_tree(members=5, state=6, inputs=30)
    google = from_google(saved(tmp_path, packed(tree)))
    rnn = tree["rnn_params"]
    names = {"mix_layer1": "linear", "mix_layer2": "linear_1", "final_mix_layer": "linear_2"}
    names |= {"lstm.linear": "rnn/linear", "rnn_to_controls": "rnn_to_controls", "step_size": "step_size"}
    recurrent = {f"{new}.weight": rnn[old]["w"].T for new, old in names.items()}
    recurrent |= {f"{new}.bias": rnn[old]["b"] for new, old in names.items()}
    recurrent |= {f"lstm_init_state.{i}": tree["lstm_init_state"][n] for i, n in enumerate(("hidden", "cell"))}
    bank = {n: google.tensors[f"bank.{n}"].numpy() for n in ("w0", "b0", "w1", "b1", "w2", "b2")}
    stored = dict(zip(("input", "hidden", "output"), ("", ".0", ""), strict=True))
    mlp = {f"{n}_weights_{dot}": bank[f"w{i}"].swapaxes(-1, -2) for i, (n, dot) in enumerate(stored.items())}
    mlp |= {f"{n}_bias_{dot}": bank[f"b{i}"] for i, (n, dot) in enumerate(stored.items())}
    mlp |= {"input_weights": draw(4, 30), "hidden_bias.0": draw(4)}  # what was mixed last; a file holds it too
    paths = saved(tmp_path, safetensors(mlp), "mlp"), saved(tmp_path, safetensors(recurrent), "rnn")
    pylo = from_pylo_velo(*paths)
    assert pylo.tensors.keys() == google.tensors.keys()
    assert all(torch.equal(pylo.tensors[name], google.tensors[name]) for name in google.tensors)
    assert pylo.facts["members"] == google.facts["members"] == 5


def test_celo2_from_its_own_file_and_from_pylos_is_the_same(tmp_path):
    plain = layers(30, 8, 3)
    pieces = cut(plain["w0"])
    rest = {name: array for name, array in plain.items() if name != "w0"}
    own = {"ff_mod_stack": {"~": rest | {f"w0__{i}": piece for i, piece in enumerate(pieces)}}}
    pylo = {f"w0.{i}": piece for i, piece in enumerate(pieces)} | {"b0": plain["b0"]}
    pylo |= {f"dense_{kind}.{i}": plain[f"{kind}{i + 1}"] for kind in "wb" for i in range(2)}
    one, other = from_celo(saved(tmp_path, packed(own))), from_pylo(saved(tmp_path, safetensors(pylo), "model"))
    assert all(same(one.tensors[name], plain[name]) and same(other.tensors[name], plain[name]) for name in plain)
    assert one.facts["rule"] == other.facts["rule"] == "celo2"
    assert one.decays == other.decays and one.decays["rms"] == (0.95,)


def test_a_meta_mlp_of_pylo_is_turned_and_takes_the_decays_of_mulo_unless_others_are_given(tmp_path):
    path = saved(tmp_path, safetensors(pylo_arrays()))
    got = from_pylo(path)
    assert all(same(got.tensors[name], array) for name, array in layers(39, 32, 2).items())
    assert sum(t.numel() for t in got.tensors.values()) == 2_402  # facts 2.1
    published = (0.542, 0.958, 0.998), (0.99889,), (0.356, 0.9966, 0.9995)  # facts 2.1, in three to five digits
    for values, stated in zip(got.decays.values(), published, strict=True):
        assert values == pytest.approx(stated, abs=6e-4)
    none = {"momentum": [0] * 3, "rms": [0], "factored": [0] * 3}
    assert from_pylo(path, offsets=none).decays["rms"] == pytest.approx((0.999,))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrow_types_widen_to_the_same_numbers(tmp_path, kind):
    tree = google_tree()
    wide = np.array([0.5, -1.25, 3.0], np.float32)  # exact in eight bits
    half = wide.astype(np.float16) if kind == "float16" else (wide.view(np.uint32) >> 16).astype("<u2")
    whole = packed(tree)
    data = whole.replace(packed(tree["momentum_decays"]), extension(1, (3,), kind, half.tobytes()))
    assert len(data) < len(whole)
    assert from_google(saved(tmp_path, data)).decays == learned_decays(
        {"momentum": wide, "rms": tree["rms_decays"], "factored": tree["adafactor_decays"]}
    )


def test_imported_weights_become_those_of_the_part_and_come_back_from_its_file(tmp_path):
    got = from_pylo(saved(tmp_path, safetensors(pylo_arrays())))
    said = {"rule": "mup", "width": 1}
    made = as_weights(got, step_size=0.01, parametrization=said, horizon=1000, licence="as its publisher says")
    back = Weights.load(made.save(tmp_path / "mulo.safetensors"))
    assert back == made and back.card.decays == got.decays
    assert back.card.made["sha256"] == got.facts["sha256"] and back.card.features.square_axes == "io"
    assert SmallFC(weights=back).parametrization == AtBase(width=1)
    velo = from_google(saved(tmp_path, packed(banked_tree(members=2, state=3, inputs=30))))
    made = as_weights(velo, step_size=0.001, parametrization={"rule": "standard"}, horizon=200_000)
    assert VeLO(weights=Weights.load(made.save(tmp_path / "velo.safetensors"))).weights.hash == made.hash
    assert made.card.features == Features(clipped=True, times=())  # facts 2.3: no time, 30 inputs
    celo = from_celo(saved(tmp_path, packed(banked_tree(members=2, state=3, inputs=18))))
    with pytest.raises(InputError, match="no part for weights of celo"):
        as_weights(celo, step_size=1, parametrization=said, horizon=1000)


# what is refused


class Opened:
    """Pickled, it would touch a file when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/opened-by-a-pickle"),)


@pytest.mark.parametrize("read", [from_celo, from_google, from_pylo])
def test_a_pickle_is_refused_whoever_reads_it_and_whichever_wrote_it(tmp_path, read):
    for protocol in range(2, 6):
        with pytest.raises(InputError, match=r"pickle .*safetensors"):
            read(saved(tmp_path, pickle.dumps(Opened(), protocol)))
    torch.save({"w": torch.ones(2)}, tmp_path / "celo2_weights.pt")
    with pytest.raises(InputError, match=r"pickle .*weights_only=True"):
        read(tmp_path / "celo2_weights.pt")
    with pytest.raises(InputError, match="intact"):
        read(saved(tmp_path, pickle.dumps(Opened(), 0)))  # text, which neither format is
    assert not Path("/tmp/opened-by-a-pickle").exists()


def test_an_npz_with_a_pickled_array_is_refused(tmp_path):
    np.savez(tmp_path / "theta.npz", momentum_decays=np.array([Opened()], dtype=object))
    with pytest.raises(InputError, match="not of numbers"):
        from_google(tmp_path / "theta.npz")


def test_every_truncation_of_a_file_is_refused(tmp_path):
    whole, tensors = packed(google_tree(hidden=2)), safetensors(pylo_arrays(hidden=2))
    for data, read in ((whole, from_google), (tensors, from_pylo)):
        for length in [*range(0, 40), *range(40, len(data), 37)]:
            with pytest.raises(InputError):
                read(saved(tmp_path, data[:length]))
        with pytest.raises(InputError):
            read(saved(tmp_path, data + b"\x00"))


def test_a_file_with_bytes_changed_is_read_or_refused_and_nothing_else(tmp_path):
    generator = np.random.default_rng(3)
    for data, read in ((packed(google_tree(2)), from_google), (safetensors(pylo_arrays(2)), from_pylo)):
        outcomes = set()
        for _ in range(300):
            changed = bytearray(data)
            for at in generator.integers(0, len(data), 2):
                changed[at] = generator.integers(0, 256)
            try:
                outcomes.add(read(saved(tmp_path, bytes(changed))).facts["rule"])
            except InputError:
                outcomes.add("refused")
        assert outcomes == {"small_fc", "refused"}


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (extension(2, (3,), "float32", bytes(12)), "extension type 2"),
        (extension(77, (3,), "float32", bytes(12)), "extension type 77"),
        (extension(1, (2**40, 2**40), "float32", bytes(12)), "said to be of shape .1099511627776"),
        (extension(1, (3,), "float32", bytes(11)), "in 11 bytes"),
        (extension(1, (3,), "float64", bytes(24)), "array of float64"),
        (extension(1, (3,), "object", bytes(24)), "array of object"),
        (b"\xc9" + struct.pack(">Ib", 1, 1) + b"\x07", "not .shape, type, bytes."),
        (b"\xc9" + struct.pack(">Ib", 2**31, 1), "no intact flax msgpack"),
        (b"\xdd" + struct.pack(">I", 2**31), "no intact flax msgpack"),
        (b"\x91" * 5000, "no intact flax msgpack"),
        (b"\x93\x01\x02\x03", "is a list, where arrays belong"),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(tmp_path, broken, why):
    data = packed(google_tree()).replace(packed(google_tree()["momentum_decays"]), broken)
    with pytest.raises(InputError, match=why):
        from_google(saved(tmp_path, data))


def test_a_safetensors_shape_that_does_not_fit_its_bytes_is_refused(tmp_path):
    claims: dict[str, Any] = {"network.input.bias": [2**40, 2**40]}
    with pytest.raises(InputError, match="no intact safetensors"):
        from_pylo(saved(tmp_path, safetensors(pylo_arrays(), **claims)))


def test_names_that_are_missing_or_unknown_and_shapes_that_do_not_fit_are_named(tmp_path):
    arrays = pylo_arrays()
    fewer = {name: a for name, a in arrays.items() if name != "network.output.bias"}
    more = arrays | {"network.linear_1.weight": draw(32, 32)}
    wrong = arrays | {"network.output.weight": draw(2, 31)}
    for given, why in (
        (fewer, r"lacks network\.output\.bias"),
        (more, r"also holds network\.linear_1\.weight"),
        (wrong, r"network\.output\.weight is of shape \(2, 31\), where \(2, H\) belongs with .*H = 32"),
    ):
        with pytest.raises(InputError, match=why):
            from_pylo(saved(tmp_path, safetensors(given)))


def test_weights_of_another_rule_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="lacks ff_mod_stack"):
        from_celo(saved(tmp_path, packed(google_tree())))
    with pytest.raises(InputError, match=r"leave offsets out|lacks"):
        from_pylo(saved(tmp_path, safetensors({"b0": draw(8)})), offsets={"momentum": [0, 0, 0]})


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    arrays = pylo_arrays()
    arrays["network.input.bias"][3] = np.nan
    with pytest.raises(InputError, match=r"network\.input\.bias holds numbers that are not finite"):
        from_pylo(saved(tmp_path, safetensors(arrays)))


def test_another_hash_than_the_one_asked_for_is_refused_and_the_right_one_is_not(tmp_path):
    data = safetensors(pylo_arrays())
    path, right = saved(tmp_path, data), hashlib.sha256(data).hexdigest()
    assert from_pylo(path, sha256=right.upper()).facts["sha256"] == right
    with pytest.raises(InputError, match=f"has SHA-256 {right}, and {'0' * 64} was asked for"):
        from_pylo(path, sha256="0" * 64)


def test_a_file_that_is_too_large_or_not_there_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    path = saved(tmp_path, safetensors(pylo_arrays()))
    monkeypatch.setattr(foreign, "FILE_BYTES", 1000)
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        from_pylo(path)
    with pytest.raises(InputError, match="cannot be read"):
        from_pylo(tmp_path / "nowhere")


def test_the_two_files_of_velo_must_be_of_one_model(tmp_path):
    with pytest.raises(InputError, match=r"also holds|lacks"):
        from_pylo_velo(saved(tmp_path, safetensors(pylo_arrays()), "a"), saved(tmp_path, safetensors({}), "b"))
