"""What is in deploy/ names things that exist, and agrees with the server and with itself."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streaming.metrics import Metrics
from streaming.protocols import Limits
from tests.commands import problems

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    return {one["kind"]: one for one in found}


def test_kubernetes(objects: dict[str, Any]) -> None:
    deployment, template = objects["Deployment"], objects["Deployment"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    labels = template["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    assert not problems("asr " + " ".join(container["args"]))
    limits = dict(x.split("=") for x in container["args"] if "=" in x)
    assert limits.keys() <= {*Limits.__dataclass_fields__}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert template["spec"]["terminationGracePeriodSeconds"] > pause + float(limits["drain_seconds"])
    (port,) = container["ports"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert [(x["path"], x["port"]) for x in probes] == [
        ("/health", port["name"]),
        ("/ready", port["name"]),
        ("/health", port["name"]),
    ]
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    backend = objects["Ingress"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": objects["Service"]["metadata"]["name"], "port": {"name": "http"}}


def test_the_autoscaler_reads_metrics_that_there_are(objects: dict[str, Any]) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    wanted = {x["pods"]["metric"]["name"] for x in objects["HorizontalPodAutoscaler"]["spec"]["metrics"]}
    assert wanted == {rule["name"]["as"] for rule in rules}
    told = Metrics().exposition().decode()
    for rule in rules:
        series = rule["seriesQuery"].partition("{")[0]
        assert re.search(rf"^{series}[ {{]", told, flags=re.MULTILINE)


def test_the_image() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    setup = (ROOT / "tools" / "setup").read_text()
    assert f"ARG TORCH={re.search(r'^TORCH=(.*)$', setup, flags=re.MULTILINE)[1]}\n" in text  # type: ignore[index]
    assert re.search(r"^CPU_INDEX=(.*)$", setup, flags=re.MULTILINE)[1] in text  # type: ignore[index]
    kept = {x[1:] for x in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if x[0] == "!"}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == kept and all((ROOT / one).exists() for one in copied)
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert "opus" in parser["options.extras_require"]
    command = re.search(r"^CMD \[(.*)\]$", text, flags=re.MULTILINE)[1]  # type: ignore[index]
    assert not problems("asr " + command.replace('"', "").replace(",", ""))
