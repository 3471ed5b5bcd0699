"""A smoke run of both recipes on a few real rows: the loss falls and the checkpoint is usable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from export_tools.distill.command import DistillRequest, distill
from export_tools.train import RecipeError, train
from export_tools.train.assistant_format import END, answer_parts
from export_tools.train.loop import STATE_FILE, Tick
from tests.support.captures import asked, captured

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default::DeprecationWarning")]


@pytest.fixture(scope="module")
def assistant(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> tuple[Path, list[float], list[Tick]]:
    out = tmp_path_factory.mktemp("assistant")
    ticks: list[Tick] = []
    result = train(
        repository / "models/assistant/recipe.toml",
        repository / "tests/data",
        out,
        smoke=True,
        device="cpu",
        progress=ticks.append,
    )
    return out, result.epoch_losses, ticks


def test_the_loss_falls_and_progress_reaches_the_end(
    assistant: tuple[Path, list[float], list[Tick]],
) -> None:
    _, losses, ticks = assistant
    assert losses[-1] < 0.9 * losses[0]
    assert ticks[-1].done == 1.0
    assert [tick.done for tick in ticks] == sorted(tick.done for tick in ticks)
    assert sum(bool(tick.metrics) for tick in ticks) == 3


def test_the_checkpoint_loads_and_its_tokenizer_round_trips(
    assistant: tuple[Path, list[float], list[Tick]],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _, _ = assistant
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = ' add  "Clem Burke" to Cita Romántica \\ 楽園 '
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert tokenizer.convert_ids_to_tokens(model.config.eos_token_id) == END


def test_the_chat_template_gives_the_prompt_that_was_trained(
    assistant: tuple[Path, list[float], list[Tick]],
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assistant[0])
    messages = [{"role": "user", "content": " play jazz\n"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|> play jazz\n<|again|> play jazz\n<|assistant|>"
    answer = "".join(answer_parts("PlayMusic", [("artist", "jazz")]))
    assert len(tokenizer(answer)["input_ids"]) == len(tokenizer("jazz")["input_ids"]) + 3


def test_system_messages_are_refused_and_not_ignored(
    assistant: tuple[Path, list[float], list[Tick]],
) -> None:
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assistant[0])
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "play"}]
    with pytest.raises(TemplateError, match="send the utterance alone"):
        tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_report_names_the_figures(assistant: tuple[Path, list[float], list[Tick]]) -> None:
    report = json.loads((assistant[0] / "train_report.json").read_text(encoding="utf-8"))
    assert report["epochs"] == 3
    assert report["heldout"]["examples"] == report["rows"]["heldout"] > 0
    assert 0 <= report["heldout"]["mean_slot_f1"] <= 1


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(
    assistant: tuple[Path, list[float], list[Tick]], repository: Path, tmp_path: Path
) -> None:
    out, losses, _ = assistant
    recipe = repository / "models/assistant/recipe.toml"
    ticks: list[Tick] = []
    again = train(
        recipe, repository / "tests/data", out, smoke=True, device="cpu", progress=ticks.append
    )
    assert again.epoch_losses == losses
    assert ticks == []
    changed = tmp_path / "recipe.toml"
    changed.write_text(recipe.read_text("utf-8").replace("seed = 7", "seed = 8"), "utf-8")
    with pytest.raises(RecipeError, match="other settings"):
        train(changed, repository / "tests/data", out, smoke=True, device="cpu")


def test_a_stopped_run_ends_like_one_that_was_not_stopped(
    assistant: tuple[Path, list[float], list[Tick]], repository: Path, tmp_path: Path
) -> None:
    _, losses, _ = assistant

    def stop(tick: Tick) -> None:
        if tick.epoch == 1 and tick.done > 0.5:
            raise KeyboardInterrupt

    call = (repository / "models/assistant/recipe.toml", repository / "tests/data", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(*call, smoke=True, device="cpu", progress=stop)
    assert (tmp_path / STATE_FILE).exists()
    result = train(*call, smoke=True, device="cpu")
    assert result.epoch_losses == pytest.approx(losses, rel=1e-3)


def _tiny_encoder(out: Path, texts: list[str]) -> Path:
    """A random BERT of two layers with a word-piece tokenizer, in place of the real weights."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = BertWordPieceTokenizer()
    words.train_from_iterator(texts, vocab_size=600, show_progress=False)
    BertTokenizerFast(tokenizer_object=words._tokenizer).save_pretrained(out)
    config = BertConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    BertModel(config).save_pretrained(out)
    return out


def test_the_classifier_learns_its_labels_and_loads(repository: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    rows = (repository / "tests/data/clinc150/train.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(row)["text"] for row in rows]
    torch.manual_seed(0)
    base = _tiny_encoder(tmp_path / "base", texts)
    result = train(
        repository / "models/intent-clinc150/recipe.toml",
        repository / "tests/data",
        tmp_path / "out",
        smoke=True,
        device="cpu",
        base=base,
    )
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    labels = {json.loads(row)["intent"] for row in rows}
    assert set(model.config.id2label.values()) == labels
    assert model.config.num_labels == 10


def test_a_doubtful_label_is_shared_with_the_others() -> None:
    import torch

    from export_tools.train.classifier import soft_targets

    rows = soft_targets(torch.tensor([2, 0]), torch.tensor([1.0, 0.7]), 4)
    assert torch.allclose(rows, torch.tensor([[0, 0, 1, 0], [0.7, 0.1, 0.1, 0.1]]))


def test_a_student_learns_from_what_was_captured(repository: Path, tmp_path: Path) -> None:
    rows = [
        json.loads(row)
        for row in (repository / "tests/data/clinc150/train.jsonl").read_text("utf-8").splitlines()
    ]
    exchanges = [asked(row["text"], row["intent"]) for row in rows]
    for one in exchanges[::2]:  # half of them say how sure they were
        choice = one["answer"]["choices"][0]
        choice["logprobs"] = {"content": [{"token": "x", "logprob": -0.1}]}
    folder, key = captured(tmp_path, exchanges)
    student = tmp_path / "student"
    distill(DistillRequest((folder,), (key,), student))
    base = _tiny_encoder(tmp_path / "base", [row["text"] for row in rows])
    recipe, out = student / "recipe.toml", tmp_path / "checkpoint"
    result = train(recipe, student / "data", out, smoke=True, device="cpu", base=base)
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    report = json.loads((out / "train_report.json").read_text("utf-8"))
    told = json.loads((student / "report.json").read_text("utf-8"))
    assert report["rows"] == {name: told["rows"][name] for name in ("train", "dev", "heldout")}
    assert report["heldout"]["examples"] > 0
