"""The published form is the paper's, ours picks the same in a fraction of its memory, and the page is true."""

import jax
import numpy as np
import pytest

from benchmarks import selection
from tests.trainer import published
from trainer.selection import SelectionConfig


@pytest.mark.parametrize("filter_ratio", [0.5, 0.8, 0.9])
def test_every_form_draws_what_the_oracle_draws(filter_ratio):
    arguments = selection.inputs(300, 32)
    config = SelectionConfig(filter_ratio=filter_ratio, chunks=7)
    expected, _, _, gap = published.select(*arguments, config)
    assert gap > 1e-5  # so that rounding cannot have decided
    for form in ("published", "ours"):
        np.testing.assert_array_equal(selection.compiled(form, arguments, config)(), expected)


def test_ours_needs_a_twentieth_of_the_published_forms_memory():
    arguments, config = selection.inputs(4096, 32), SelectionConfig()
    temporaries = {}
    for form in ("published", "ours"):
        memory = selection.FORMS[form].lower(*arguments, config=config).compile().memory_analysis()
        temporaries[form] = memory.temp_size_in_bytes
    assert temporaries["published"] >= 4 * 4096**2
    assert 20 * temporaries["ours"] <= temporaries["published"]


def test_memory_is_measured_in_a_process_of_its_own():
    assert selection.peak_bytes("published", 2048, 32, 0.8) > 4 * 2048**2


def test_the_bare_products_are_as_many_as_ours_needs():
    arguments, config = selection.inputs(512, 32), SelectionConfig(filter_ratio=0.5, chunks=8)
    program = jax.jit(lambda *a: selection.products(*a, config=config)).lower(*arguments).compile()
    assert program.as_text().count(" dot(") == 4  # a chunk's rows and columns, for two models, in a loop over chunks


def test_the_fitted_exponent_is_the_slope_of_the_logarithms():
    rows = [{"candidates": size, "seconds": 3e-9 * size**1.5} for size in (1000, 2000, 5000)]
    assert selection.fitted_exponent(rows) == pytest.approx(1.5)
