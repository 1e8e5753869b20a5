"""`superbatch evaluate --labelled`: a model that learned colours by name, and everything that cannot be evaluated."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.cli import main
from schemas import manifest as manifests
from schemas import records, shards
from tests.conftest import write_folder
from tests.trainer.test_classification import features, regularised_least_squares
from trainer import classification, evaluate
from trainer.decode import decode_image
from trainer.model import Source

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}


def coloured(name: str, seed: int, blend: float = 0) -> bytes:
    """A noisy picture of one colour, up to `blend` of it another; never the same twice."""
    rng = np.random.default_rng(seed)
    noise, share = rng.integers(-30, 31, (32, 32, 3)), blend * rng.random()
    colour = (1 - share) * np.array(COLOURS[name]) + share * np.array(COLOURS[sorted(COLOURS)[rng.integers(3)]])
    output = io.BytesIO()
    Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(output, "PNG")
    return output.getvalue()


def corpus(root: Path, name: str, pairs: list[tuple[bytes, str]]) -> Path:
    """Ingests generated pairs."""
    source = write_folder(root / f"{name}-raw", pairs)
    arguments = ["ingest", f"--source=folder:{source}", f"--name={name}", f"--output={root / name}", "--shards=1"]
    assert main(arguments) == 0
    return root / name


def labelled(root: Path, name: str, first_seed: int, **images: int) -> Path:
    """A corpus of so many images of each colour, whose texts are the colours' names; some are hard to tell."""
    names = [colour for colour, count in images.items() for _ in range(count)]
    return corpus(root, name, [(coloured(n, first_seed + i, blend=0.9), n) for i, n in enumerate(names)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Labelled corpora, a captioned one, and a model that was trained a little on captions of colours."""
    root = tmp_path_factory.mktemp("colours")
    templates = classification.TEMPLATES
    captions = [(coloured(name, i), templates[i % 7].format(name)) for i, name in enumerate(sorted(COLOURS) * 16)]
    corpus(root, "captions", captions)
    labelled(root, "test", 1000, blue=6, green=7, red=8)
    labelled(root, "train", 2000, blue=9, green=5, red=6)
    train = ["train", f"--corpus={root / 'captions'}", f"--workdir={root / 'model'}", "--resolution=32"]
    train += ["--steps=30", "--batch_size=16", "--block_size=8", "--warmup_steps=5"]
    assert main(train) == 0
    return root


def evaluated(capsys, *arguments: str) -> dict[str, float]:
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["evaluate", *arguments]) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def embedded(made: Path, name: str) -> tuple[list[str], np.ndarray]:
    """The texts of a corpus and its images' embeddings, one row after the other."""
    model = Source(str(made / "model")).load()
    reader = shards.open_dataset(str(made / name), manifests.read(str(made / name)))
    examples = [records.decode_example(record) for record in reader.read(range(len(reader)))]
    images = np.stack([decode_image(example.image, 32) for example in examples])
    return [e.text for e in examples], model.embed_images(images).astype(np.float64)


def test_figures_are_those_of_loops_over_the_same_embeddings(made, capsys):
    figures = evaluated(
        capsys, f"--checkpoint={made / 'model'}", f"--labelled={made / 'test'}", f"--shots_from={made / 'train'}",
        "--shots=2",
    )  # fmt: skip
    assert list(figures) == ["zero_shot_accuracy", "classes", "labelled_images", "linear_2_shot_accuracy"]
    assert (figures["classes"], figures["labelled_images"]) == (3, 21)

    model = Source(str(made / "model")).load()
    names, images = embedded(made, "test")
    prompts = {}
    for name in COLOURS:
        texts = model.embed_texts(model.tokenizer([t.replace("{}", name) for t in classification.TEMPLATES]))
        mean = np.mean([text / np.linalg.norm(text) for text in texts.astype(np.float64)], axis=0)
        prompts[name] = mean / np.linalg.norm(mean)
    similar = [{name: image @ prompt for name, prompt in prompts.items()} for image in images]
    right = [max(found, key=found.__getitem__) == name for found, name in zip(similar, names, strict=True)]
    assert figures["zero_shot_accuracy"] == pytest.approx(np.mean(right))
    assert figures["zero_shot_accuracy"] > 0.8  # 30 steps teach a model three colours

    train_names, train_images = embedded(made, "train")
    labels = np.array([sorted(COLOURS).index(name) for name in train_names])
    accuracies = []
    for seed in range(3):
        drawn = classification.draw(labels, 2, seed)
        weights = regularised_least_squares(train_images[drawn], labels[drawn], 3)
        predicted = (features(images, train_images[drawn]) @ weights).argmax(axis=1)
        accuracies.append(np.mean([sorted(COLOURS)[p] == name for p, name in zip(predicted, names, strict=True)]))
    assert figures["linear_2_shot_accuracy"] == pytest.approx(np.mean(accuracies))
    assert 0.5 < figures["linear_2_shot_accuracy"] < 1  # so that another draw gives another figure


def test_training_measures_it_on_the_way(made, tmp_path, capsys):
    train = ["train", f"--corpus={made / 'captions'}", f"--workdir={tmp_path / 'w'}", "--resolution=32", "--steps=2"]
    train += ["--batch_size=16", "--block_size=8", "--warmup_steps=1", "--evaluate_every=1"]
    assert main([*train, f"--evaluation_labelled={made / 'test'}"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "w/metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "evaluation/zero_shot_accuracy" in line]
    assert [line["step"] for line in measured] == [1, 2]
    figures = evaluated(capsys, f"--checkpoint={tmp_path / 'w'}", f"--labelled={made / 'test'}")
    assert {f"evaluation/{name}": value for name, value in figures.items()} | {"step": 2} == measured[-1]


def test_wrong_labels_are_wrong(made, tmp_path, capsys):
    """Each colour under the next one's name: the same model is almost never right."""
    names = sorted(COLOURS)
    pairs = [(coloured(names[i % 3], 3000 + i), names[(i + 1) % 3]) for i in range(12)]
    figures = evaluated(
        capsys, f"--checkpoint={made / 'model'}", f"--labelled={corpus(tmp_path, 'turned', pairs)}",
        f"--shots_from={made / 'train'}", "--shots=5",
    )  # fmt: skip
    assert figures["zero_shot_accuracy"] < 0.1
    assert figures["linear_5_shot_accuracy"] < 0.1


def test_more_images_and_prompts_than_a_batch_change_nothing(made, capsys, monkeypatch):
    arguments = [
        f"--checkpoint={made / 'model'}", f"--labelled={made / 'test'}", f"--shots_from={made / 'train'}", "--shots=3",
    ]  # fmt: skip
    whole = evaluated(capsys, *arguments)
    monkeypatch.setattr(evaluate, "_BATCH", 8)
    assert evaluated(capsys, *arguments) == whole


def test_the_line_names_both_corpora(made, capsys):
    capsys.readouterr()
    arguments = [f"--checkpoint={made / 'model'}", f"--corpus={made / 'captions'}", f"--labelled={made / 'test'}"]
    assert main(["evaluate", *arguments]) == 0
    line = capsys.readouterr().out
    assert re.fullmatch(
        rf"{made}/model on {made}/captions and {made}/test: images 48, texts 48, (\w+_recall_at_\d+ [\d.]+, )+"
        r"zero_shot_accuracy [\d.]+, classes 3, labelled_images 21\n",
        line,
    )


def test_templates_are_read_from_a_file(made, tmp_path, capsys):
    """One that says the same of every class helps nobody."""
    arguments = [f"--checkpoint={made / 'model'}", f"--labelled={made / 'test'}"]
    file = tmp_path / "templates.txt"
    long = "word " * 40  # beyond the text tower's length, so that the name is cut off
    file.write_text(f"{long}{{}}\n")
    assert evaluated(capsys, *arguments, f"--templates={file}")["zero_shot_accuracy"] < 0.5
    file.write_text("\n  a photo of the large {}.  \n\nart of the {}.\n")
    assert evaluated(capsys, *arguments, f"--templates={file}")["zero_shot_accuracy"] > 0.8


def test_a_rerun_does_nothing_until_an_input_changes(made, tmp_path, capsys):
    output, templates = tmp_path / "figures.json", tmp_path / "templates.txt"
    templates.write_text("a photo of the large {}.\n")
    base = [f"--checkpoint={made / 'model'}", f"--output={output}"]
    labelled_test, shots = f"--labelled={made / 'test'}", f"--shots_from={made / 'train'}"
    other = labelled(tmp_path, "other", 4000, blue=4, green=4, red=4)
    calls = [
        [f"--corpus={made / 'captions'}"],
        [f"--corpus={made / 'test'}"],
        [f"--corpus={made / 'test'}", labelled_test],
        [labelled_test],
        [labelled_test, shots, "--shots=2"],
        [labelled_test, shots, "--shots=3"],
        [labelled_test, f"--shots_from={other}", "--shots=3"],
        [f"--labelled={other}", shots, "--shots=3"],
        [f"--labelled={other}"],
        [f"--labelled={other}", f"--templates={templates}"],
        [f"--labelled={other}", f"--templates={templates}"],  # and the file has changed
    ]
    for number, call in enumerate(calls):  # each differs from the one before it in one input
        if number == len(calls) - 1:
            templates.write_text("art of the {}.\n")
        capsys.readouterr()
        assert main(["evaluate", *base, *call, "--json"]) == 0
        first = capsys.readouterr()
        assert "nothing to do" not in first.err, call
        assert json.loads(output.read_text())["figures"] == json.loads(first.out)
        assert main(["evaluate", *base, *call, "--json"]) == 0
        second = capsys.readouterr()
        assert "nothing to do" in second.err, call
        assert second.out == first.out


def test_figures_of_an_earlier_release_are_current(made, tmp_path):
    """They named the model and the corpus only."""
    output = tmp_path / "figures.json"
    config = evaluate.EvaluateConfig(checkpoint=str(made / "model"), corpus=str(made / "captions"), output=str(output))
    fingerprints = {
        name: manifests.read(str(made / p)).fingerprint for name, p in (("model", "model"), ("corpus", "captions"))
    }
    output.write_text(json.dumps(fingerprints | {"figures": {"images": 1}}))
    assert evaluate.is_current(config)
    output.write_text(json.dumps(fingerprints | {"model": "another", "figures": {"images": 1}}))
    assert not evaluate.is_current(config)
    for content in ("not JSON", "[1]", "{}"):
        output.write_text(content)
        assert not evaluate.is_current(config)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to evaluate on: give --corpus for retrieval, --labelled for classification, or both"),
        (["--corpus=c", "--shots_from=s"], "shots_from is 's'; it needs --labelled"),
        (["--corpus=c", "--templates=t"], "templates is 't'; it needs --labelled"),
        (["--labelled=l", "--shots=0"], "shots is 0; it must be at least 1"),
        (["--labelled=/nowhere"], "/nowhere is not a complete corpus"),
        (["--labelled={test}", "--templates=/nowhere.txt"], "templates /nowhere.txt cannot be read"),
        (["--labelled={test}", "--shots_from={test}"], "21 of the 21 images of {test} are in {test} too, such as"),
        (
            ["--labelled={test}", "--shots_from={train}"],
            "{train}: class 'green' has 5 distinct images and shots is 10: give --shots=5 or less",
        ),
        (["--labelled={captions}", "--shots_from={train}"], "{train} has no image of 'a bad photo of the"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_told_in_one_line(made, capsys, flags, words):
    paths = {name: made / name for name in ("test", "train", "captions")}
    line = failure(capsys, f"--checkpoint={made / 'model'}", *(flag.format(**paths) for flag in flags))
    assert words.format(**paths) in line


def test_corpora_of_one_class_or_two_labels_an_image_are_refused(made, tmp_path, capsys):
    one = labelled(tmp_path, "one", 0, red=3)
    assert f"{one} has one class, 'red'" in failure(capsys, f"--checkpoint={made / 'model'}", f"--labelled={one}")
    both = corpus(tmp_path, "both", [(coloured("red", 1), "red"), (coloured("red", 1), "blue")])
    line = failure(capsys, f"--checkpoint={made / 'model'}", f"--labelled={both}")
    assert f"{both}: 1 of 1 images have more than one class, such as " in line


def test_a_template_file_without_places_is_refused(made, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("a {}.\na photo\n")
    flags = [f"--checkpoint={made / 'model'}", f"--labelled={made / 'test'}", f"--templates={tmp_path / 't.txt'}"]
    assert "t.txt: template 2 is 'a photo'; it must have {} for the class's name" in failure(capsys, *flags)
