"""Check docker-compose.yml by the compose specification's own JSON schema.

No container engine is needed. The schema comes from the package `check-jsonschema`, which ships it.
"""

import copy
import json
import re
from importlib import resources
from pathlib import Path

import pytest
import yaml
from jsonschema.validators import validator_for

COMPOSE = Path(__file__).parents[3] / "docker-compose.yml"


@pytest.fixture(scope="module")
def schema():
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    return json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def problems(schema, document):
    validator = validator_for(schema)
    validator.check_schema(schema)
    return [
        f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(document)
    ]


def test_the_file_follows_the_compose_specification(schema, compose):
    assert problems(schema, compose) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["services"]["postgres"].update(healtcheck={}),
        lambda c: c["services"]["postgres"].update(ports="5432:5432"),
        lambda c: c["services"]["redis"]["healthcheck"].update(retries=[3]),
        lambda c: c.update(service={}),
    ],
    ids=["misspelt key", "ports as text", "retries as a list", "misspelt section"],
)
def test_the_schema_would_notice(schema, compose, spoil):
    spoilt = copy.deepcopy(compose)
    spoil(spoilt)
    assert problems(schema, spoilt)


def test_postgres_18_and_redis_have_healthchecks_and_keep_their_data(compose):
    services = compose["services"]
    assert services["postgres"]["image"] == "postgres:18"
    assert services["redis"]["image"].startswith("redis:")
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        for volume in service["volumes"]:
            assert volume.split(":")[0] in compose["volumes"], name


def test_nothing_is_published_beyond_this_machine(compose):
    for name, service in compose["services"].items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), name


def test_the_url_in_the_comment_is_the_one_of_the_service(compose):
    text = COMPOSE.read_text(encoding="utf-8")
    (url,) = re.findall(r"PGMEM_DATABASE_URL=(\S+)", text)
    environment = compose["services"]["postgres"]["environment"]
    default = re.fullmatch(r"\$\{PGMEM_PASSWORD:-(\w+)\}", environment["POSTGRES_PASSWORD"])[1]
    user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    assert url == f"postgresql://{user}:{default}@127.0.0.1:5432/{database}"
