"""`meter-mw check`, as it is called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meter_mw.cli import main
from meter_mw.cli.words import store_in_words

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "tests" / "policies"
ENVIRON = {
    "METER_KEY_SECRET": "canary-secret-0123456789",
    "CANARY": "canary",
    "HOOK_SECRET": "canary-hook",
    "STRIPE_KEY": "sk_test_canary",
    "METER_POLICY": None,
    "METER_STORE": None,
}

KEYS = {
    "ACME_KEY": "canary-acme",
    "OTHER_KEY": "canary-other",
    "FIVE": "5",
    "TRUE": "true",
    "EMPTY": "",
}


def check(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["check", *words], env={**ENVIRON, **environ})


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])  # which the command adds to


def test_problems_go_to_standard_error_and_the_status_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(POLICIES / "bad")
    result = check("several.yaml")
    assert result.exit_code == 1
    assert result.stderr == Path("several.txt").read_text()
    assert result.stdout == ""


def test_good_policy_is_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = check("meter.yaml.example")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.replace(f"{ROOT}/", "") == (POLICIES / "example_summary.txt").read_text()


def test_everything_that_a_policy_can_decide_is_summed_up() -> None:
    result = check(str(POLICIES / "good" / "whole.yaml"), **KEYS)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.replace(f"{POLICIES}/", "") == (POLICIES / "whole_summary.txt").read_text()


def test_limits_are_not_marked_one_by_one_where_the_whole_policy_is_in_shadow(tmp_path: Path) -> None:
    text = "version: 1\nservice: shop\nmode: shadow\nplans: {default: {limits: [{rate: 1/second}]}}\n"
    (tmp_path / "meter.yaml").write_text(text)
    stdout = check(str(tmp_path / "meter.yaml")).stdout
    assert "    requests-per-second: 1 requests per second, 1 at once\n" in stdout


def test_registered_keys_are_said_alone_or_beside_a_resolver(tmp_path: Path) -> None:
    def keys(source: str) -> str:
        text = f"version: 1\nservice: shop\nstore: redis://localhost\nkeys: {source}\n"
        (tmp_path / "meter.yaml").write_text(text)
        return next(
            line
            for line in check(str(tmp_path / "meter.yaml")).stdout.splitlines()
            if line.startswith("keys")
        )

    assert keys("{redis: true}").startswith("keys      registered in the store; others are rejected;")
    both = keys('{redis: true, resolver: "os.path:basename"}')
    assert both.startswith("keys      asked of the resolver and registered in the store; others")


@pytest.mark.parametrize("path", sorted((POLICIES / "good").glob("*.yaml")), ids=lambda path: path.stem)
def test_summary_shows_no_secret(path: Path) -> None:
    result = check(str(path), **KEYS)
    assert result.exit_code == 0
    assert "canary" not in result.output
    assert "token=x" not in result.output


def test_policy_is_meter_yaml_unless_the_environment_says_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meter.yaml").write_text("version: 1\nservice: here\n")
    (tmp_path / "other.yaml").write_text("version: 1\nservice: there\n")
    assert "service   here\n" in check().stdout
    assert "service   there\n" in check(METER_POLICY="other.yaml").stdout
    assert "service   here\n" in check("meter.yaml", METER_POLICY="other.yaml").stdout


@pytest.mark.parametrize("said", [None, ""])
def test_no_policy_at_all_is_said_clearly(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as none, for the middleware too; the complaint names it."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check"], env={**ENVIRON, "METER_POLICY": said})
    assert result.exit_code == 1
    assert (
        result.stderr == "METER_POLICY is not set, or empty, and there is no meter.yaml here; name a file\n"
    )


def test_resolver_is_found_beside_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resolver_of_the_app.py").write_text("def resolve(key): ...")
    (tmp_path / "meter.yaml").write_text(
        "version: 1\nservice: here\nkeys: {resolver: resolver_of_the_app:resolve}\n"
    )
    result = check()
    assert result.exit_code == 0
    assert "keys      asked of the resolver" in result.stdout


def test_long_summaries_are_cut_short(tmp_path: Path) -> None:
    routes = "".join(f"  - {{path: /{number}}}\n" for number in range(60))
    (tmp_path / "meter.yaml").write_text(f"version: 1\nservice: shop\nmode: shadow\nroutes:\n{routes}")
    stdout = check(str(tmp_path / "meter.yaml")).stdout
    assert "  any method /49\n  and 10 more routes\n" in stdout
    assert "mode      shadow (decides and records, refuses nobody)\n" in stdout


def test_stores_are_shown_without_user_and_query() -> None:
    assert store_in_words("redis://u:p@host:6379/0?password=p") == "redis://host:6379/0"
    assert store_in_words("memory://") == "memory://"
    assert store_in_words("redis+unix:///run/redis.sock") == "redis+unix:///run/redis.sock"


def test_version_is_said() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("meter-mw, version ")


@pytest.mark.parametrize("query", ["foo=bar", "ssl_ca_certs=/nowhere.pem"])
def test_a_store_that_no_connection_understands_is_a_problem(query: str, tmp_path: Path) -> None:
    policy = tmp_path / "meter.yaml"
    policy.write_text(f"version: 1\nservice: shop\nstore: 'rediss://localhost/0?{query}'\n")
    result = check(str(policy))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{policy}: store: ")


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        (
            'sinks: [{sql: "postgresql://a@db/usage"}, {sql: "postgresql://b@db/usage"}]',
            "events.sinks[1]: events go there already, by events.sinks[0]; each would arrive twice",
        ),
        (
            'sinks: [{http: "https://a.example/x"}, {http: "https://a.example:443/x"}]',
            "events.sinks[1]: events go there already, by events.sinks[0]; each would arrive twice",
        ),
        (
            'sinks: [{lago: "https://lago.example", secret: "${HOOK_SECRET}", meters: {tokns: t}}]',
            "events.sinks[0]: meters: events have no tokns; expected one of requests,",
        ),
        (
            'seal: {private_key: "${HOOK_SECRET}"}',
            "events.seal: the private key of the seals is no PEM without a passphrase",
        ),
    ],
)
def test_what_would_keep_the_app_from_starting_is_told(tmp_path: Path, events: str, complaint: str) -> None:
    """A policy that is called good here is one that a meter takes."""
    path = tmp_path / "meter.yaml"
    path.write_text(f"version: 1\nservice: shop\nevents:\n  {events}\n")
    result = check(str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert complaint in result.stderr
    assert "canary" not in result.stderr
