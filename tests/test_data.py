"""What is promised of data plans: the order, the split, the fingerprint, the cache, the errors."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import windtunnel.parts.data as data
from windtunnel.errors import InputError
from windtunnel.parts.data import corpus, order, shards
from windtunnel.parts.data.text import Text
from windtunnel.recipe import DataPlan


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WINDTUNNEL_CACHE", str(folder))
    shards.forget()
    return folder


def words(number: int, length: int = 60) -> str:
    """A text that no other number gives."""
    return " ".join(f"w{number}x{i}" for i in range(length))


def write(folder, count=60, length=60, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:04}.txt").write_text(words(number, length))
    return folder


def plan(folder, **options) -> Text:
    return data.text(folder, **{"context": 16, "validation": 0.2} | options)


def stream(some: DataPlan, steps: int, size: int, seed: int = 0, first: int = 0) -> np.ndarray:
    return np.concatenate([some.batch(seed=seed, step=s, size=size)[0] for s in range(first, steps)])


def examples(pairs) -> np.ndarray:
    return np.concatenate([inputs for inputs, _ in pairs])


def documents(some: Text, side: str) -> set[bytes]:
    """The texts of a side, as the tokens on disk have them."""
    return set(bytes(some.shards().tokens(side).astype(np.uint8)).split(b"\0")) - {b""}


# the order


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_order_is_a_permutation_in_every_pass(count):
    for number in range(3):
        passed = order.permuted(np.arange(count), count, key=(7, number))
        assert sorted(passed) == list(range(count))


def test_another_seed_and_another_pass_give_another_order():
    orders = {tuple(order.permuted(np.arange(500), 500, key=key)) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert len(orders) == 4


@pytest.mark.parametrize("count", [5, 7])
def test_every_example_is_as_likely_at_every_place(count):
    seeds = 4000
    table = np.zeros((count, count))
    for seed in range(seeds):
        table[np.arange(count), order.permuted(np.arange(count), count, key=(seed, 0))] += 1
    expected = seeds / count
    chi_squared = ((table - expected) ** 2 / expected).sum()
    assert chi_squared < (count - 1) ** 2 + 5 * np.sqrt(2 * (count - 1) ** 2)  # 5 standard deviations


def test_neighbours_in_the_corpus_are_not_neighbours_in_the_stream():
    passed = order.permuted(np.arange(4096), 4096, key=(3, 0))
    correlation = np.corrcoef(passed[:-1], passed[1:])[0, 1]
    assert abs(correlation) < 0.08  # 5 / sqrt(4096)


@pytest.mark.parametrize("count", [7, 64, order.BLOCK - 1, order.BLOCK, order.BLOCK + 1, 3 * order.BLOCK])
@pytest.mark.parametrize("size", [7, order.BLOCK, 2 * order.BLOCK + 5])
def test_a_batch_over_blocks_and_passes_is_what_is_computed_place_by_place(count, size):
    drawn = np.concatenate([order.draw(count, seed=2, step=step, size=size) for step in range(4)])
    passes, places = np.divmod(np.arange(4 * size, dtype=np.uint64), np.uint64(count))
    wanted = [order.permuted(places[passes == n], count, key=(2, int(n))) for n in np.unique(passes)]
    assert np.array_equal(drawn, np.concatenate(wanted))


def test_what_is_drawn_is_the_callers_own():
    order.draw(100, seed=0, step=0, size=10)[:] = 0
    assert len(set(order.draw(100, seed=0, step=0, size=10).tolist())) == 10


def test_order_needs_memory_of_the_batch_only():
    drawn = order.draw(10**12, seed=0, step=10**6, size=64)
    assert len(set(drawn)) == 64 and drawn.max() > 10**11


def test_a_pass_shows_every_example_once_and_the_next_pass_again(tmp_path):
    some = plan(write(tmp_path), repeat=True)
    count = some.shape().train_tokens // 16
    seen = [tuple(example) for example in stream(some, 2 * count // 7 + 1, 7)]
    assert len(set(seen[:count])) == count
    assert set(seen[:count]) == set(seen[count : 2 * count])
    assert seen[:count] != seen[count : 2 * count]


def test_another_batch_size_reads_the_same_stream(tmp_path):
    some = plan(write(tmp_path))
    assert np.array_equal(stream(some, 12, 2), stream(some, 3, 8))


def test_a_resumed_run_sees_what_it_would_have_seen(tmp_path):
    some = plan(write(tmp_path), repeat=True)
    whole = stream(some, 40, 8)
    resumed = stream(pickle.loads(pickle.dumps(some)), 40, 8, first=17)
    assert np.array_equal(whole[17 * 8 :], resumed)


def test_base_and_idea_see_the_same_data(tmp_path):
    base, idea = plan(write(tmp_path / "a")), plan(write(tmp_path / "b"))
    assert np.array_equal(stream(base, 5, 8, seed=3), stream(idea, 5, 8, seed=3))
    assert not np.array_equal(stream(base, 5, 8, seed=3), stream(base, 5, 8, seed=4))


# windows and the split


def test_targets_are_the_inputs_shifted_by_one_and_windows_do_not_overlap(tmp_path):
    some = plan(write(tmp_path))
    tokens = some.shards().tokens("train")
    count = some.shape().train_tokens // 16
    inputs, targets = some.batch(seed=0, step=0, size=count)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    rebuilt = {bytes(np.append(i, t[-1]).astype(np.uint8)) for i, t in zip(inputs, targets, strict=True)}
    assert rebuilt == {bytes(tokens[k * 17 : (k + 1) * 17].astype(np.uint8)) for k in range(count)}


def test_validation_text_never_appears_in_training(tmp_path):
    some = plan(write(tmp_path), repeat=True)
    assert not documents(some, "train") & documents(some, "validation")
    count = some.shape().train_tokens // 16
    trained = bytes(stream(some, 1, 2 * count).astype(np.uint8).ravel())
    held = examples(some.held_out(size=8, tokens=10**9))
    spaced = [bytes(row.astype(np.uint8)) for row in held]
    whole_words = {word for row in spaced for word in row.replace(b"\0", b" ").split(b" ")[1:-1]}
    assert whole_words and not [word for word in whole_words if b" " + word + b" " in trained]


def test_identical_documents_are_kept_once(tmp_path):
    write(tmp_path / "once")
    write(tmp_path / "twice")
    for path in list((tmp_path / "twice").iterdir()):
        path.with_name("copy_" + path.name).write_text(path.read_text())
    once, twice = plan(tmp_path / "once").shards(), plan(tmp_path / "twice").shards()
    assert twice.train_documents + twice.validation_documents == once.train_documents + once.validation_documents == 60


def test_a_document_stays_on_its_side_when_files_are_added(tmp_path):
    before = {side: documents(plan(write(tmp_path)), side) for side in ("train", "validation")}
    shards.forget()
    write(tmp_path, count=60, first=100)
    for side, texts in before.items():
        assert texts < documents(plan(tmp_path), side)


def test_held_out_is_the_same_every_time_and_bounded(tmp_path):
    some = plan(write(tmp_path, count=200))
    first, second = (examples(some.held_out(size=5, tokens=330)) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(first) == 330 // 16
    assert len(examples(some.held_out(size=5, tokens=1))) == 1
    everything = examples(some.held_out(size=7, tokens=10**9))
    assert len(everything) == some.shards().validation_tokens // 17


def test_held_out_is_spread_over_the_validation_documents(tmp_path):
    some = plan(write(tmp_path, count=200))
    everything = [tuple(e) for e in examples(some.held_out(size=64, tokens=10**9))]
    few = [everything.index(tuple(e)) for e in examples(some.held_out(size=64, tokens=160))]
    assert len(few) == 10 and np.ptp(np.diff(few)) <= 1 and few[-1] > 0.9 * len(everything)


@pytest.mark.parametrize("available,wanted", [(1, 1), (10, 3), (10, 10), (7, 100), (1000, 0)])
def test_spread_picks_distinct_places_in_range(available, wanted):
    places = order.spread(available, wanted)
    assert len(set(places)) == len(places) == max(1, min(available, wanted))
    assert places.min() >= 0 and places.max() < available


def test_one_large_file_is_cut_into_documents_that_join_to_it():
    paragraphs = "\n\n".join(words(n, 40) + "\n" + words(n, 3) for n in range(400))
    lines = "\n".join(words(n, 12) for n in range(4000))
    for text in (paragraphs, lines, "\n\n" + lines, "x" * 50_000, "a\r\n\r\nb", "\n"):
        documents = list(corpus.cut(text))
        assert "".join(documents) == text
        assert all(len(document) <= 4096 + 12288 for document in documents)
        assert all(len(document) >= 4096 for document in documents[:-1])


def test_a_lone_file_can_be_split_by_document(tmp_path):
    (tmp_path / "all.txt").write_text("\n\n".join(words(n) for n in range(500)))
    found = plan(tmp_path / "all.txt").shards()
    assert found.validation_documents > 2 and found.train_documents > 20


def test_real_text_makes_enough_documents(shared_data):
    folder = shared_data("text")
    for name in ("tinyshakespeare.en.txt", "wikitext2_valid_test.en.txt"):
        some = data.text(folder / name)
        assert some.shards().validation_documents >= 10
        assert 0.02 < some.shards().validation_tokens / some.shards().train_tokens < 0.10


def test_the_standard_library_is_there_without_any_file():
    some = data.stdlib()
    assert some.shape().train_tokens > 2_000_000
    assert some == data.text()
    inputs, _ = some.batch(seed=0, step=0, size=64)
    assert b"self" in bytes(inputs.astype(np.uint8).ravel())


# the fingerprint and sending a plan to a worker


def test_fingerprint_survives_a_move_and_notices_one_byte(tmp_path):
    before = plan(write(tmp_path / "here")).fingerprint()
    os.rename(tmp_path / "here", tmp_path / "there")
    assert plan(tmp_path / "there").fingerprint() == before
    file = tmp_path / "there" / "0003.txt"
    file.write_bytes(file.read_bytes().replace(b"w3x7", b"w3x8", 1))
    shards.forget()
    assert plan(tmp_path / "there").fingerprint() != before


def test_fingerprint_says_how_the_text_is_cut_and_not_where_it_is_kept(tmp_path):
    folder = write(tmp_path / "text")
    some = plan(folder)
    assert plan(folder, repeat=True, cache=tmp_path / "elsewhere").fingerprint() == some.fingerprint()
    others = {plan(folder, context=17).fingerprint(), plan(folder, validation=0.25).fingerprint()}
    assert len(others | {some.fingerprint()}) == 3


def test_a_plan_is_cheap_to_send_and_a_worker_reads_the_same(tmp_path):
    some = plan(write(tmp_path))
    some.batch(seed=0, step=0, size=4)
    sent = pickle.dumps(some)
    assert len(sent) < 2000 and hash(pickle.loads(sent)) == hash(some)
    program = (
        "import pickle, sys; p = pickle.load(sys.stdin.buffer);"
        "print(p.fingerprint(), p.batch(seed=5, step=3, size=4)[0].sum())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], input=sent, capture_output=True, check=True
    ).stdout.decode()
    assert answer.split() == [some.fingerprint(), str(some.batch(seed=5, step=3, size=4)[0].sum())]


# the cache


def test_cached_tokens_are_reused(tmp_path, monkeypatch):
    folder = write(tmp_path)
    before = stream(plan(folder), 3, 8)
    shards.forget()
    monkeypatch.setattr(shards, "_build", None)  # would raise if called
    assert np.array_equal(stream(plan(folder), 3, 8), before)


@pytest.mark.parametrize("file", ["train.bin", "validation.bin", "shards.json"])
def test_a_damaged_shard_is_noticed_and_rebuilt(tmp_path, caplog, file):
    some = plan(write(tmp_path))
    before = stream(some, 3, 8)
    folder = Path(some.shards().folder)
    with open(folder / file, "r+b") as held:
        held.seek(11)
        held.write(b"\xff\xff")
    shards.forget()
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(stream(some, 3, 8), before)
    assert "damaged" in caplog.text and file in caplog.text
    shards.forget()
    caplog.clear()
    assert np.array_equal(stream(some, 3, 8), before) and not caplog.text


def test_an_interrupted_build_is_built_again(tmp_path):
    some = plan(write(tmp_path))
    before = stream(some, 3, 8)
    os.unlink(os.path.join(some.shards().folder, "shards.json"))
    shards.forget()
    assert np.array_equal(stream(some, 3, 8), before)


def test_two_processes_may_build_the_same_cache(tmp_path):
    some = plan(write(tmp_path, count=300))
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).batch(seed=0, step=0, size=8)[0].sum())"
    both = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        process.stdin.write(pickle.dumps(some))
        process.stdin.close()
    answers = {process.stdout.read() for process in both}
    assert [process.wait() for process in both] == [0, 0] and len(answers) == 1
    for process in both:
        process.stdout.close()
    assert not [name for name in os.listdir(some.shards().folder) if name.startswith(".building")]


# lengths and mistakes


def test_too_short_a_corpus_names_the_passes_it_would_take(tmp_path):
    some = plan(write(tmp_path))
    unique = some.shape().train_tokens
    data.check_length(some, unique)
    with pytest.raises(InputError, match=rf"needs 3.2 passes over the {unique:,} there are.*repeat=True"):
        data.check_length(some, 3.2 * unique)
    data.check_length(plan(tmp_path, repeat=True), 3.2 * unique)
    assert data.required_passes(some, 2 * unique) == 2


def test_a_plan_that_may_not_repeat_ends_with_the_step_that_straddles_its_end(tmp_path):
    some = plan(write(tmp_path))
    count = some.shape().train_tokens // 16
    last = (count - 1) // 8
    some.batch(seed=0, step=last, size=8)
    with pytest.raises(InputError, match="repeat=True"):
        some.batch(seed=0, step=last + 1, size=8)


def test_a_pattern_without_files_is_named(tmp_path):
    with pytest.raises(InputError, match=r"No file matches .*missing.*\.txt.*glob"):
        data.text(tmp_path / "missing" / "*.txt").shape()
    with pytest.raises(InputError, match="No file matches"):
        data.text(tmp_path).shape()
    with pytest.raises(InputError, match="at least one file"):
        data.text([])


@pytest.mark.parametrize("content,said", [(b"text\0more", "NUL byte"), (b"caf\xe9 au lait", r"0xe9 at 3.*iconv")])
def test_a_binary_file_is_named(tmp_path, content, said):
    (write(tmp_path) / "odd.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"odd\.txt is not .*{said}"):
        plan(tmp_path).shape()


def test_blank_files_are_an_empty_corpus(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(InputError, match="no text"):
        data.text(tmp_path).fingerprint()


def test_a_corpus_of_less_than_a_few_windows_is_refused(tmp_path):
    write(tmp_path, count=40, length=2)
    with pytest.raises(InputError, match=r"too short.*context=512"):
        plan(tmp_path, context=512).shape()


def test_no_validation_document_is_said(tmp_path):
    with pytest.raises(InputError, match=r"None of the 3 documents.*raise validation"):
        plan(write(tmp_path, count=3), validation=1e-9).shape()


@pytest.mark.parametrize("wrong", [{"context": 0}, {"context": 1.5}, {"validation": 0.0}, {"validation": 1}])
def test_impossible_options_are_refused_at_once(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        plan(tmp_path, **wrong)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="WINDTUNNEL_CACHE"):
        plan(write(tmp_path / "text"), cache=tmp_path / "file").shape()


def test_a_file_and_a_glob_that_name_the_same_text_are_read_once(tmp_path):
    folder = write(tmp_path)
    several = plan([folder / "0001.txt", str(folder / "*.txt")])
    assert several.fingerprint() == plan(folder).fingerprint()


# digits


def test_digits_are_split_evenly_over_the_classes():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    some = data.digits()
    shape = some.shape()
    assert (shape.classes, shape.tokens_per_example, shape.example_shape) == (10, 1, (1, 8, 8))
    held = [
        (bytes(x), int(y[0])) for xs, ys in some.held_out(size=50, tokens=10**6) for x, y in zip(xs, ys, strict=True)
    ]
    images, labels = some.batch(seed=0, step=0, size=shape.train_tokens)
    assert len(held) + shape.train_tokens == 1797
    assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1 and images.shape[1:] == (1, 8, 8)
    assert labels.dtype == np.int64 and labels.shape == (shape.train_tokens, 1)
    assert not {image for image, _ in held} & {bytes(image) for image in images}
    assert np.ptp(np.bincount([label for _, label in held])) <= 2
    assert some.repeat and some.fingerprint() == data.digits(repeat=False).fingerprint()


def test_digits_repeat_with_a_new_order():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    count = data.digits().shape().train_tokens
    first, second = (data.digits().batch(seed=0, step=step, size=count)[1] for step in (0, 1))
    assert not np.array_equal(first, second) and np.array_equal(np.sort(first, 0), np.sort(second, 0))
    with pytest.raises(InputError, match="repeat=True"):
        data.digits(repeat=False).batch(seed=0, step=1, size=count)


# Hugging Face


def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"datasets.*pip install 'windtunnel\[hf\]'"):
        data.huggingface("anything")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"tokenizers.*pip install 'windtunnel\[hf\]'"):
        data.train_bpe(tmp_path, path=tmp_path / "t.json")


def rows(count=60):
    return {"text": [words(n) for n in range(count)], "id": list(range(count))}


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("datasets", reason="needs the extra hf: pip install 'windtunnel[hf]'")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    return library


@pytest.fixture
def tokenizers():
    return pytest.importorskip("tokenizers", reason="needs the extra hf: pip install 'windtunnel[hf]'")


def test_a_saved_dataset_is_the_same_data_as_its_texts_in_files(tmp_path, datasets):
    datasets.Dataset.from_dict(rows()).save_to_disk(tmp_path / "saved")
    some = data.huggingface(tmp_path / "saved", context=16, validation=0.2)
    assert some.fingerprint() == plan(write(tmp_path / "files")).fingerprint()
    fewer = data.huggingface(tmp_path / "saved", context=16, validation=0.2, documents=50)
    assert fewer.shards().train_documents + fewer.shards().validation_documents == 50


@pytest.mark.parametrize("streaming", [False, True])
def test_json_lines_are_read_and_streamed(tmp_path, datasets, streaming):
    lines = "\n".join(json.dumps({"body": words(n)}) for n in range(60))
    (tmp_path / "rows.jsonl").write_text(lines)
    some = data.huggingface(
        tmp_path / "rows.jsonl", text_field="body", streaming=streaming, documents=60, context=16, validation=0.2
    )
    assert some.fingerprint() == plan(write(tmp_path / "files")).fingerprint()


def test_a_hub_dataset_is_fetched_once(tmp_path, datasets, monkeypatch):
    fetched = []

    def load_dataset(*asked, **how):
        fetched.append((asked, how["split"], how["revision"]))
        return datasets.Dataset.from_dict(rows())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    some = data.huggingface("someone/texts", name="en", revision="abc", context=16, validation=0.2)
    before = some.fingerprint()
    shards.forget()
    assert some.fingerprint() == before
    assert fetched == [(("someone/texts", "en"), "train", "abc")]


def test_mistakes_about_a_dataset_are_named(tmp_path, datasets):
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows())}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match=r"'body'; its fields are text, id.*text_field"):
        data.huggingface(tmp_path / "saved", text_field="body").shape()
    with pytest.raises(InputError, match="test"):
        data.huggingface(tmp_path / "saved", split="test").shape()
    with pytest.raises(InputError, match=r"nobody/nothing.*cannot be read"):
        data.huggingface("nobody/nothing").shape()
    with pytest.raises(InputError, match="documents="):
        data.huggingface("nobody/nothing", streaming=True)


def test_a_trained_tokenizer_gives_shorter_data_and_another_fingerprint(tmp_path, tokenizers):
    folder = write(tmp_path / "files", count=120)
    tokenizer = data.train_bpe(folder, vocabulary=400, path=tmp_path / "bpe.json", validation=0.2)
    some = plan(folder, tokenizer=tokenizer)
    assert some == plan(folder, tokenizer=tmp_path / "bpe.json")
    assert some.shape().classes <= 400
    assert some.fingerprint() != plan(folder).fingerprint()
    assert some.shape().train_tokens < 0.7 * plan(folder).shape().train_tokens
    ids = some.shards().tokens("train")
    assert (ids == tokenizer.separator).sum() == some.shards().train_documents
    assert tokenizer.separator not in tokenizer.encode("a <|endoftext|> b")


def test_training_a_tokenizer_twice_gives_the_same_file(tmp_path, tokenizers):
    texts = [words(n) for n in range(80)]
    for name in ("one.json", "two.json"):
        data.train_bpe(documents=texts, vocabulary=350, path=tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_tokenizer_is_not_trained_on_held_out_documents(tmp_path, tokenizers):
    texts = [words(n) for n in range(80)]
    trained = [text for digest, text in corpus.unique(texts) if not corpus.held_out(digest, 0.3)]
    for name, seen, share in (("all.json", texts, 0.3), ("rest.json", trained, 1e-9)):
        data.train_bpe(documents=seen, validation=share, vocabulary=350, path=tmp_path / name)
    assert len(trained) < 80 and (tmp_path / "all.json").read_bytes() == (tmp_path / "rest.json").read_bytes()


def test_mistakes_about_a_tokenizer_are_named(tmp_path, tokenizers):
    folder = write(tmp_path / "files")
    with pytest.raises(InputError, match="no tokenizer file"):
        plan(folder, tokenizer="nowhere.json").shape()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        plan(folder, tokenizer=tmp_path / "bad.json").shape()
    made = data.train_bpe(folder, vocabulary=300, path=tmp_path / "bpe.json")
    with pytest.raises(InputError, match=r"no token '</s>'.*<\|endoftext\|>"):
        plan(folder, tokenizer=data.TokenizerFile(made.path, end="</s>")).shape()
    with pytest.raises(InputError, match="at least 257"):
        data.train_bpe(folder, vocabulary=100, path=tmp_path / "small.json")
