"""Errors of the runtime name the group that has a graph, and so the command that exports it."""

import re

import pytest

from eyeshine.bundle import Bundle
from eyeshine.errors import SignalError
from eyeshine.signals import SIGNALS, group_of
from eyeshine_export.graph.ops import PLAIN
from eyeshine_export.graph.weights import text_weights, vision_weights
from eyeshine_export.groups import GROUPS, Parts
from eyeshine_export.write import ExportOptions, export_bundle
from tiny import arrays, tiny_source


@pytest.fixture(scope="module")
def built():
    """Every graph of every group."""
    source = tiny_source()
    config, shown, state = source.config, source.normalisation, arrays(source)
    parts = Parts(
        config,
        vision_weights(state, config.vision, config.embed_dim, shown.mean, shown.std),
        text_weights(state, config.text, config.embed_dim),
        PLAIN,
        3,
    )
    return {name: group.build(parts) for name, group in GROUPS.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_the_runtime_knows_the_group_of_every_graph(built, group):
    assert {name: group_of(name) for name in built[group]} == dict.fromkeys(built[group], group)


@pytest.mark.parametrize("group", GROUPS)
def test_signals_name_the_group_that_yields_them(built, group):
    """What no other group yields or takes is that group's own."""
    elsewhere = {
        value.name
        for name, graphs in built.items()
        for graph in graphs.values()
        for value in (*graph.model.graph.inputs, *graph.model.graph.outputs)
        if name != group
    }
    for graph in built[group].values():
        for value in graph.model.graph.outputs:
            if value.name not in elsewhere and group != "plain":
                assert SIGNALS[value.name].group == group, value.name


def test_a_graph_that_is_not_there_names_its_group(tmp_path):
    export_bundle(tiny_source(), tmp_path / "plain", ExportOptions())
    opened = Bundle.open(tmp_path / "plain")
    for graph, wanted in (
        ("tail_2", " --signals hidden"), ("text_tail_1", " --signals hidden"), ("chefer", " --signals relevance"),
        ("gates", " --signals gates"), ("patch_features", " --signals surgery"), ("deep", " --layers K"),
        ("fourier", " --signals GROUP"),
    ):  # fmt: skip
        with pytest.raises(SignalError, match=f"no graph '{graph}'.*{re.escape(f'MODEL{wanted} --out FOLDER')}"):
            opened.graph(graph)
    assert group_of("fourier") == ""
    for signals, blocks, cure in (
        ({"gradient"}, 1, "or: eyeshine export MODEL --signals sizes --out FOLDER"),
        ({"single_head_gradient"}, 1, "or: eyeshine export MODEL --signals sizes --out FOLDER"),
        ({"gradient"}, 4, "resize images to the model's own size"),  # no graph of any size explains more
        ({"legrad"}, 1, "resize images to the model's own size"),
    ):
        with pytest.raises(SignalError, match=f"{cure}$"):
            opened.cheapest(frozenset(signals), blocks, any_size=True)
