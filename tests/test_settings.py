from pathlib import Path

import pytest
from pydantic import ValidationError

from inpaint.errors import StartFailed
from inpaint.settings import Settings, load


def test_settings_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("INPAINT_PORT", "9000")
    monkeypatch.setenv("INPAINT_DATA", "elsewhere")
    monkeypatch.setenv("REDIS_URL", "redis://queue:6379/3")
    settings = load()
    assert settings.port == 9000
    assert settings.blob_folder == Path("elsewhere/blobs")
    assert settings.redis == "redis://queue:6379/3"


def test_the_command_line_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("INPAINT_PORT", "9000")
    assert load({"port": 9001}).port == 9001


def test_without_a_server_url_redis_is_looked_for_on_this_machine():
    settings = load()
    assert settings.redis_url is None
    assert settings.redis == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("text", "names"),
    [("telea", ("telea",)), (" telea , navier-stokes,", ("telea", "navier-stokes")), ("", None)],
)
def test_models_are_names_divided_by_commas(monkeypatch, text, names):
    monkeypatch.setenv("INPAINT_MODELS", text)
    assert load().models == names


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("INPAINT_PORT", "many", "INPAINT_PORT: Input should be a valid integer"),
        ("INPAINT_PORT", "70000", "INPAINT_PORT: Input should be less than or equal to 65535"),
        ("INPAINT_DEVICE", "tpu", "INPAINT_DEVICE: Input should be 'auto', 'cpu' or 'cuda'"),
        ("REDIS_URL", "localhost:6379", "REDIS_URL: Value error, it must begin with redis://"),
        ("INPAINT_WAIT_SECONDS", "90", "wait_seconds is more than max_wait_seconds"),
        ("INPAINT_LEASE_SECONDS", "inf", "INPAINT_LEASE_SECONDS: Input should be less than"),
        ("INPAINT_QUEUE_BYTES", "10", "queue_bytes is less than two files of max_file_bytes"),
        ("INPAINT_MIN_SIDE", "20000", "min_side is more than max_side"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_its_name(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartFailed) as refused:
        load()
    assert said in refused.value.detail


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
