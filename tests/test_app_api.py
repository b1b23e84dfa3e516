"Schemathesis reads the OpenAPI description and asks what nobody would ask; whatever comes back must be as described, and never a 500."

import json
from collections import Counter

import hypothesis
import pytest
import schemathesis
from app_fakes import Slope
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from test_app import PHOTO, post

from dogdepth.app import ASSETS, Limits, create_app


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    "An app, a visitor's key, and a photo of theirs that is done."
    app = create_app(Slope(), tmp_path_factory.mktemp("api"), Limits(photos=10**6, all_photos=10**6), decoders=1)
    it = post(app.test_client()).json
    yield app, {"Authorization": "Bearer " + it["key"]}, it["id"]
    app.extensions["dogdepth"].close()


OPERATIONS = [
    (path, method)
    for path, ops in json.loads((ASSETS / "openapi.json").read_text(encoding="utf-8"))["paths"].items()
    for method in ops
    if method != "parameters"
]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def schema(api):
    return schemathesis.openapi.from_wsgi("/api/openapi.json", api[0])


def question(schema, path, method, api):
    "One request, made from the description or against it; half of them by someone with a key, half of those about a photo that is there."
    app, key, id = api
    operation, yes = schema[path][method.upper()], st.booleans()

    @st.composite
    def ask(draw):
        mode = draw(st.sampled_from(MODES))
        case = draw(operation.as_strategy(generation_mode=mode))
        headers = key if draw(yes) else {}
        if "id" in (case.path_parameters or {}) and draw(yes) and method != "delete":
            case.path_parameters["id"] = id
        if path == "/api/predict" and draw(yes):
            case.body = {**case.body, "photo": PHOTO} if isinstance(case.body, dict) else PHOTO
        if isinstance(case.query, dict):
            case.query.pop("wait", None)  # waiting is tested elsewhere, and slow
        return case, headers

    return ask()


def fuzz(schema, api, path, method, n, count=None, **how):
    @hypothesis.settings(
        max_examples=n,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
        **how,
    )
    @hypothesis.given(question(schema, path, method, api))
    def run(asked):
        case, headers = asked
        r = case.call(headers=headers)
        if count is not None:
            count[r.status_code] += 1
        case.validate_response(r, checks=CHECKS)

    run()


@pytest.mark.parametrize("path, method", OPERATIONS)
def test_api_is_as_described(schema, api, path, method):
    fuzz(schema, api, path, method, 15, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("path, method", OPERATIONS)
def test_api_is_as_described_at_length(schema, api, path, method):
    fuzz(schema, api, path, method, 400)


def test_answers_are_of_many_kinds(schema, api, capsys):
    "The fuzz does reach what it should: photos taken, refused, not found. By questions of its own, so that it may run alone."
    asked = Counter()
    for path, method in OPERATIONS:
        fuzz(schema, api, path, method, 15, derandomize=True, count=asked)
    with capsys.disabled():
        print(f"\n  schemathesis: {dict(sorted(asked.items()))}", end="")
    assert asked[200] + asked[202] > 5 and asked[404] and asked[403] and not asked[500]
