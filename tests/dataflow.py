"""Builds each Beam job as it would be sent to Dataflow, without network or credentials: `python -m tests.dataflow`.

    python -m tests.dataflow MINIATURE OUT

Enters: the miniature's artifacts. Leaves, for every job, `OUT/JOB/job.json` (what the service would be sent) and
`OUT/JOB/pipeline.pb` (the portable graph that workers get). Dataflow's client is internal to Beam, so it stays in here.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.runners.dataflow.internal import apiclient

from beam_pipelines import curate, curate_plan, embed, export, ingest, job, publication, publish, sources
from beam_pipelines.curate_config import CurateConfig
from schemas import manifest as manifests

BUCKET = "gs://a-bucket-of-ours"
FLAGS = [
    "--runner=DataflowRunner", "--no_auth", "--dry_run=True", "--sdk_location=container", "--project=a-project",
    "--region=europe-west4", f"--staging_location={BUCKET}/staging", f"--temp_location={BUCKET}/temp",
    "--sdk_container_image=europe-docker.pkg.dev/a-project/ours/superbatch:1", "--machine_type=n2-standard-8",
    "--max_num_workers=40", "--worker_disk_type=compute.googleapis.com/projects//zones//diskTypes/pd-ssd",
    "--service_account_email=ingest@a-project.iam.gserviceaccount.com", "--no_use_public_ips", "--disk_size_gb=100",
]  # fmt: skip


def builders(miniature: str) -> dict[str, tuple[Any, Callable[[beam.Pipeline], None]]]:
    """Each job's config, whose paths are in a bucket, and what builds its graph."""
    corpus = manifests.read(f"{miniature}/corpora/pool")
    ingest_config = ingest.IngestConfig(
        source=f"webdataset:{BUCKET}/raw/*.tar", name="pool", output=f"{BUCKET}/pool", max_text_repeats=10
    )
    tasks = [sources.Task(index=i, path=f"{BUCKET}/raw/{i}.tar", name=f"{i}.tar") for i in range(3)]
    embed_config = embed.EmbedConfig(
        corpus=f"{BUCKET}/pool", reference=f"{BUCKET}/reference", output=f"{BUCKET}/embeddings"
    )
    parent = manifests.Parent(role="corpus", path=f"{BUCKET}/pool", fingerprint=corpus.fingerprint)
    curate_config = CurateConfig(
        corpus=f"{BUCKET}/pool", selections=f"{BUCKET}/distill", output=f"{BUCKET}/curated", budget=2, shards=1
    )
    output = curate_plan.Output(
        label="curated", directory=f"{BUCKET}/curated", name="curated", version="1.0.0", config=curate_config,
        parents=[parent], dataset=manifests.DatasetInfo(name="curated", split="train"), rows=2, shards=1,
    )  # fmt: skip
    control = replace(output, label="uniform control", config=curate_config.of_control("uniform", 2))
    inputs = curate_plan.Inputs(
        corpus=f"{BUCKET}/pool", corpus_rows=corpus.rows, corpus_shards=1, selections=f"{BUCKET}/distill/selections",
        block_size=2, embedding_shards=1, parents={"corpus": parent},
    )  # fmt: skip
    export_config = export.ExportConfig(format="tfrecord", dataset=f"{miniature}/curated", output=f"{BUCKET}/exported")
    planned, shards = export.plan(export_config, "tfrecord")
    publish_config = publish.PublishConfig(dataset=f"{BUCKET}/pool", destination=f"{BUCKET}/data", alias="latest")
    version = publication.Publication(
        source=f"{BUCKET}/pool", destination=f"{BUCKET}/data", name="pool", version="1.0.0",
        fingerprint=corpus.fingerprint, files="0" * 64, manifest_sha256="0" * 64, publisher="us",
    )  # fmt: skip
    return {
        "ingest": (ingest_config, lambda pipeline: ingest.build(pipeline, ingest_config, tasks)),
        "embed": (embed_config, lambda pipeline: embed.build(pipeline, embed_config, corpus, [parent])),
        "curate": (curate_config, lambda pipeline: curate.build(pipeline, curate_config, inputs, [output, control])),
        "export": (export_config, lambda pipeline: export.build(pipeline, planned, shards)),
        "publish": (publish_config, lambda pipeline: publish.build(pipeline, version, publish_config.alias)),
    }


def main(miniature: str, out: str) -> None:
    """Builds them all."""
    for name, (config, build) in builders(miniature).items():
        folder = Path(out) / name
        folder.mkdir(parents=True)
        options = job.parse_options([*FLAGS, f"--job_name=superbatch-{name}"], config)
        pipeline = beam.Pipeline(options=options)
        build(pipeline)
        described = pipeline.run().job
        described.google_cloud_options.staging_location = str(folder)
        client = apiclient.DataflowApplicationClient(described.options, str(folder))
        client.create_job_description(described)
        (folder / "job.json").write_text(described.json())


if __name__ == "__main__":
    main(*sys.argv[1:])
