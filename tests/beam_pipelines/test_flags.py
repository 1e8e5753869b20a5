"""Switches with a value, as templates pass them, mean what the same switches without one mean."""

from dataclasses import dataclass

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, WorkerOptions

from beam_pipelines import flags, job
from beam_pipelines.publish import PublishConfig
from infra import cli
from schemas import errors
from trainer import config as configs

CONFIG = PublishConfig(dataset="d", destination="o")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Of a job with a switch."""

    output: str = ""
    two_words: bool = True


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("--two_words=true", "--two_words"),
        ("--two_words=False", "--no_two_words"),
        ("--two-words=false", "--no_two_words"),
        ("--no_two_words=true", "--no_two_words"),
        ("--no-two-words=FALSE", "--two_words"),
        ("--two_words", "--two_words"),
        ("--output=true", "--output=true"),
        ("--unknown=true", "--unknown=true"),
    ],
)
def test_a_switch_of_ours_takes_a_value(given, spelled):
    assert flags.spell_out([given], flags.of_config(Config)) == [spelled]


@pytest.mark.parametrize(
    ("given", "public"),
    [
        (["--no_use_public_ips=true"], False),
        (["--no_use_public_ips=false"], True),
        (["--use_public_ips=false"], False),
        (["--use_public_ips=true"], True),
        (["--no_use_public_ips"], False),
        (["--use_public_ips", "--use_public_ips=false"], False),
        ([], None),
    ],
)
def test_a_switch_of_beam_with_an_opposite_takes_a_value(given, public):
    assert job.parse_options(given, CONFIG).view_as(WorkerOptions).use_public_ips is public


def test_a_switch_of_beam_without_an_opposite_takes_a_value():
    options = job.parse_options(["--dry_run=True", "--no_auth=true", "--update=false"], CONFIG)
    cloud = options.view_as(GoogleCloudOptions)
    assert (cloud.no_auth, cloud.update) == (True, False)
    undone = job.parse_options(["--no_auth", "--no_auth=false"], CONFIG)
    assert undone.view_as(GoogleCloudOptions).no_auth is False
    assert not job.parse_options(["--save_main_session=true"], CONFIG).view_as(SetupOptions).save_main_session


@pytest.mark.parametrize("value", ["", "yes", "1"])
def test_a_switch_has_no_other_values(value):
    with pytest.raises(errors.ConfigError, match=r"no_auth is .*; it is a switch: --no_auth=true or --no_auth=false"):
        job.parse_options([f"--no_auth={value}"], CONFIG)


def test_every_command_takes_both_spellings(miniature, capsys):
    """Of a command that Beam has no part in as well."""
    verify = ["verify", str(miniature / "corpora/seed"), "--shallow=true"]
    for spelled in (["--json"], ["--json=true"], ["--json=false", "--json"]):
        assert cli.main([*verify, *spelled]) == 0
        assert capsys.readouterr().out.startswith('{"ok": true')
    assert cli.main([*verify, "--json=perhaps"]) == 1
    assert "json is 'perhaps'; it is a switch" in capsys.readouterr().err
    switches = flags.of_config(configs.DistillConfig)
    assert flags.spell_out(["--joint=false", "--flexi=true"], switches) == ["--no_joint", "--flexi"]
