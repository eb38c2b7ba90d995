"""Everything in infra/ by its own tool or schema, as far as that runs without a cluster."""

import asyncio
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
BIN = Path(sys.executable).parent


def _yaml(name: str) -> list[Any]:
    return [part for part in yaml.safe_load_all((INFRA / name).read_text()) if part]


def test_prefect_yaml_deploys_what_kontext_up_deploys() -> None:
    from prefect.cli.deploy._models import PrefectYamlModel

    from flows.server.register import QUEUES, deployments

    (text,) = _yaml("prefect.yaml")
    text.pop("definitions")
    parsed = PrefectYamlModel.model_validate(text)
    found = {each.name: each for each in parsed.deployments}
    ours = {each.name: each for each in asyncio.run(deployments())}
    assert set(found) == set(ours)
    for name, deployment in found.items():
        path, _, attribute = str(deployment.entrypoint).partition(":")
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert getattr(module, attribute).name == name.removeprefix("stage-")
        pool = deployment.work_pool
        assert pool is not None and pool.work_queue_name in QUEUES[str(pool.name)]
        assert (pool.name, pool.work_queue_name) == (
            ours[name].work_pool_name,
            ours[name].work_queue_name,
        )


def test_compose_file_is_valid_and_keeps_to_localhost() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, INFRA / "compose.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    (compose,) = _yaml("compose.yaml")
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service.get("depends_on", {})) <= set(compose["services"])
    assert not re.search(r"(PASSWORD|SECRET\w*): (?!\$\{)\S", (INFRA / "compose.yaml").read_text())


def test_every_server_is_ours_and_has_its_password_from_a_secret() -> None:
    (compose,) = _yaml("compose.yaml")
    secret = "kontext:${SERVER_PASSWORD:?set SERVER_PASSWORD}"
    server = compose["services"]["server"]
    assert "flows.server.web:create_app" in server["command"]
    assert server["environment"]["PREFECT_SERVER_API_AUTH_STRING"] == secret
    for name in ("register", "worker-cpu", "worker-gpu"):
        environment = compose["services"][name]["environment"]
        assert environment["PREFECT_API_AUTH_STRING"] == secret
        host = urlsplit(environment["PREFECT_API_URL"]).hostname
        assert host in server["environment"]["KONTEXT_SERVER_NAMES"].split()
    keys = next(r for r in _yaml("kubernetes/namespace.yaml") if r["kind"] == "Secret")[
        "stringData"
    ]
    assert {"PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"} <= set(keys)
    resources = [r for name in ("server", "worker-cpu", "worker-gpu")
                 for r in _yaml(f"kubernetes/{name}.yaml") if "template" in r["spec"]]  # fmt: skip
    pods = [each["spec"]["template"]["spec"]["containers"][0] for each in resources]
    assert all(pod["envFrom"] == [{"secretRef": {"name": "kontext"}}] for pod in pods)
    values = {e["name"]: e["value"] for pod in pods for e in pod["env"]}
    assert "flows.server.web:create_app" in pods[0]["command"]
    assert urlsplit(values["PREFECT_API_URL"]).hostname in values["KONTEXT_SERVER_NAMES"].split(
        ", "
    )


def test_the_image_has_every_package_the_workers_import() -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", (INFRA / "Dockerfile").read_text(), re.M))
    assert {"schemas", "kontext", "tasks", "flows"} <= copied


@pytest.mark.parametrize("file", sorted(p.name for p in (INFRA / "kubernetes").glob("*.yaml")))
def test_kubernetes_manifests_match_the_published_schemas(file: str) -> None:
    import kubernetes_validate

    for resource in _yaml(f"kubernetes/{file}"):
        assert resource["metadata"]["name"]
        if resource["kind"] == "RayCluster":  # a custom resource: no published core schema
            _check_ray(resource)
        else:
            kubernetes_validate.validate(resource, "1.34", strict=True)


def _check_ray(cluster: dict[str, Any]) -> None:
    """The fields KubeRay's CRD requires; its pod templates against the core schema."""
    import kubernetes_validate

    assert cluster["apiVersion"] == "ray.io/v1"
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)
    for group in groups[1:]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_gpu_workers_ask_for_gpus_and_the_right_nodes() -> None:
    (worker,) = _yaml("kubernetes/worker-gpu.yaml")
    pod = worker["spec"]["template"]["spec"]
    assert "nvidia.com/gpu.product" in pod["nodeSelector"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["terminationGracePeriodSeconds"] > 20  # a trainer saves within 20 s of SIGTERM


_SLURM = """#!/bin/bash
echo "$(basename "$0") $*" >> "$SAID"
[ "$(basename "$0")" != kontext ] || exit "$CODE"
"""


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (75, True)])
def test_slurm_job_requeues_itself_while_there_is_more_to_do(
    code: int, requeued: bool, tmp_path: Path
) -> None:
    for name in ("kontext", "scontrol"):
        (tmp_path / name).write_text(_SLURM)
        (tmp_path / name).chmod(0o755)
    said = tmp_path / "said"
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "KONTEXT_HOME": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SAID": str(said),
        "CODE": str(code),
    }
    script = INFRA / "slurm" / "train.sbatch"
    done = subprocess.run(["bash", script, "--recipe", "ci"], env=variables, check=False)
    lines = said.read_text().splitlines()
    assert lines[0] == "kontext run --direct --seconds 13200 --recipe ci"
    assert lines[1:] == (["scontrol requeue 7"] if requeued else [])
    assert done.returncode == (0 if requeued else code)
    limit = re.search(r"^#SBATCH --time=(\d+):00:00$", script.read_text(), re.M)
    assert limit is not None and int(limit[1]) * 3600 > 13200 + 600  # time to save


_ACTIONS = {  # boto3 call -> IAM action
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "download_file": "s3:GetObject",
    "put_object": "s3:PutObject",
    "upload_file": "s3:PutObject",
    "copy": "s3:PutObject",  # of an object that it may get
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
    "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "get_bucket_location": "s3:GetBucketLocation",
    "create_bucket": "",  # only where nobody has made it; not in the policy of least rights
}


def test_iam_policy_allows_what_the_store_calls_and_nothing_more() -> None:
    source = (ROOT / "kontext/store/objects/s3.py").read_text()
    called = set(re.findall(r"_client\.(\w+)\(", source)) - {"close", "get_paginator"}
    called |= set(re.findall(r'_listed\(\s*"(\w+)"', source))
    assert called <= set(_ACTIONS), called - set(_ACTIONS)
    needed = {_ACTIONS[name] for name in called} - {""}
    policy = json.loads((INFRA / "iam" / "policy.json").read_text())
    assert policy["Version"] == "2012-10-17"
    allowed: set[str] = set()
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        assert statement["Resource"] in ("arn:aws:s3:::kontext", "arn:aws:s3:::kontext/*")
        on_bucket = all("Bucket" in action for action in statement["Action"])
        assert statement["Resource"].endswith("/*") != on_bucket
        allowed |= set(statement["Action"])
    assert needed <= allowed
    assert not any("*" in action for action in allowed)
    # AWS asks for the location of a bucket when a client follows a region redirect
    assert allowed - needed <= {"s3:GetBucketLocation"}


@pytest.fixture(scope="module")
def prefect_tables() -> duckdb.DuckDBPyConnection:
    """Prefect's tables, empty, in DuckDB, which reads these Postgres queries."""
    from prefect.server.database.orm_models import Base

    lake = duckdb.connect()
    kinds = {"UUID": "UUID", "Timestamp": "TIMESTAMPTZ", "Integer": "BIGINT", "Boolean": "BOOLEAN"}
    for table in Base.metadata.tables.values():
        columns = []
        for column in table.columns:
            kind = kinds.get(type(column.type).__name__, "VARCHAR")
            columns.append(f'"{column.name}" {kind}')
        lake.execute(f'CREATE TABLE "{table.name}" ({", ".join(columns)})')
    lake.execute("CREATE MACRO pg_database_size(name) AS 0")
    lake.execute("CREATE MACRO current_database() AS 'prefect'")
    return lake


def _queries() -> list[tuple[str, str]]:
    board = json.loads((INFRA / "grafana" / "dashboard.json").read_text())
    found = [(p["title"], t["rawSql"]) for p in board["panels"] for t in p["targets"]]
    (alerts,) = _yaml("grafana/alerts.yaml")
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    return found + [(rule["title"], rule["data"][0]["model"]["rawSql"]) for rule in rules]


@pytest.mark.parametrize(("title", "sql"), _queries())
def test_every_dashboard_and_alert_query_fits_prefects_tables(
    prefect_tables: duckdb.DuckDBPyConnection, title: str, sql: str
) -> None:
    plain = re.sub(r"\$__timeFilter\(([^)]*)\)", r"\1 IS NOT NULL", sql)
    assert "$__" not in plain
    prefect_tables.execute(plain).fetchall()


def test_dashboard_and_alerts_have_what_grafana_needs() -> None:
    board = json.loads((INFRA / "grafana" / "dashboard.json").read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 8
    assert {"uid", "title", "schemaVersion", "panels", "time"} <= set(board)
    (alerts,) = _yaml("grafana/alerts.yaml")
    operator = (ROOT / "docs" / "operator.md").read_text()
    for rule in alerts["groups"][0]["rules"]:
        assert rule["condition"] in {query["refId"] for query in rule["data"]}
        row = re.search(r"row '([^']+)'", rule["annotations"]["summary"])
        assert row is not None and row[1] in operator


@pytest.mark.parametrize("script", ["backup", "restore"])
def test_backup_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", INFRA / "backup" / f"{script}.sh"], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, INFRA / "backup" / f"{script}.sh"], check=True)
