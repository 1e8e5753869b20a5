"""The batch jobs: idempotent Beam pipelines from one artifact to the next."""
