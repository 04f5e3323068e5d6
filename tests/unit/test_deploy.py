"""The compose file says what deploy/README.md promises; checked by Docker itself where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flujo_client.protocol.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_every_role_is_there_and_workers_can_be_scaled(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert set(services) == {"redis", "manager", "worker", "flower", "otel"}
    assert not any("container_name" in service for service in services.values())
    assert "ports" not in services["worker"]
    assert {services[name]["image"] for name in ("manager", "worker", "flower")} == {"flujo-distributed"}
    assert set(compose) <= {"x-flujo", "services", "volumes"}


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_each_role_is_asked_whether_it_is_of_use(compose: dict[str, Any], role: str) -> None:
    service = compose["services"][role]

    assert service["healthcheck"]["test"] == ["CMD", "flujo", role, "--health"]
    assert Settings.from_env({"FLUJO_HEALTH_PORT": str(service["environment"]["FLUJO_HEALTH_PORT"])}).health_port
    assert "ports" not in service
    assert service["restart"] == "unless-stopped"  # it leaves by itself when it is of no use


def test_flower_asks_for_a_password_and_is_read_only(compose: dict[str, Any]) -> None:
    flower = compose["services"]["flower"]

    assert "?" in flower["environment"]["FLOWER_BASIC_AUTH"]
    assert "--read_only=True" in flower["command"]
    assert all(port.startswith("127.0.0.1:") for port in flower["ports"])


def test_every_variable_is_a_setting_and_every_mounted_file_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        given = {name: value for name, value in service.get("environment", {}).items() if name.startswith("FLUJO_")}
        variables = {name: value if name == "FLUJO_URL" else "1" for name, value in given.items()}
        assert Settings.from_env(variables)
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source


def test_images_of_others_are_pinned(compose: dict[str, Any]) -> None:
    images = {service["image"] for service in compose["services"].values()} - {"flujo-distributed"}

    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in images), images


def test_the_collector_takes_what_every_process_sends() -> None:
    pipelines = yaml.safe_load((ROOT / "deploy" / "otel-collector.yaml").read_text())["service"]["pipelines"]

    assert set(pipelines) == {"traces", "metrics"}


def test_redis_keeps_what_it_is_given() -> None:
    lines = (ROOT / "deploy" / "redis.conf").read_text().splitlines()

    assert {"appendonly yes", "maxmemory-policy noeviction"} <= set(lines)


def test_the_file_follows_the_compose_specification() -> None:
    """Against the specification's own JSON schema, of which check-jsonschema carries a copy."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run([*command, "docker-compose.yml"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_reads_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    environment = os.environ | {"FLOWER_BASIC_AUTH": "a:b"}
    done = subprocess.run(
        [docker, "compose", "config", "-q"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
