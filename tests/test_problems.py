import re

import pytest

from inpaint import errors
from inpaint.errors import InpaintError
from service import problems

COMMANDS_ONLY = {"bad-checkpoint", "bad-recipe", "bad-data", "start-failed"}


def documented():
    """The codes of the tree in errors.py with the status that stands beside each."""
    rows = re.findall(r"[├└]─ (\w+) +([a-z-]+) +(?:(\d+)|\()", errors.__doc__)
    return {code: int(status) for _, code, status in rows if status}


def test_every_error_has_the_status_that_its_tree_says():
    assert documented() == problems.STATUSES
    kinds = [kind for kind in InpaintError.__subclasses__() if kind.__module__ == errors.__name__]
    assert {kind.code for kind in kinds} == set(documented()) | COMMANDS_ONLY


def test_every_code_is_explained(gateway):
    for code, status in problems.STATUSES.items():
        page = gateway.client.get(f"/problems/{code}").json()
        assert page["code"] == code
        assert page["status"] == status
        assert page["explanation"].endswith(".")


def test_a_code_that_does_not_exist_is_not_explained(gateway):
    assert gateway.client.get("/problems/nonsense").status_code == 404


def test_a_problem_says_all_that_the_standard_asks(gateway):
    answer = gateway.client.get("/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == "/problems/not-found"
    assert body["title"] == "Not found"
    assert body["status"] == 404
    assert body["detail"] == "There is nothing at /nothing."
    assert body["code"] == "not-found"
    assert body["instance"] == "/nothing"
    assert re.fullmatch(r"[0-9a-f]{32}", body["request_id"])
    assert body["errors"] == []


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-123", True), ("with space", False), ("x" * 65, False), ("é", False)]
)
def test_a_sane_request_id_is_kept(gateway, given, kept):
    answer = gateway.client.get("/nothing", headers={"X-Request-ID": given.encode()})
    assert (answer.json()["request_id"] == given) == kept


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/inpaint", "POST"),
        ("/albums/x", "DELETE, GET, HEAD"),
        ("/albums/x/items", "GET, HEAD, POST"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_named_with_those_it_takes(gateway, path, allowed):
    answer = gateway.client.put(path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert answer.json()["code"] == "method-not-allowed"
    assert "PUT" in answer.json()["detail"]


def test_a_path_with_one_slash_too_many_is_not_found_but_never_redirected(gateway):
    assert gateway.client.get("/readyz/").status_code == 404
