output "buckets" {
  description = "Names of the buckets: raw, work, templates, temporary, publisher_temporary and published."
  value = merge(
    { for use, bucket in google_storage_bucket.this : use => bucket.name },
    { published = google_storage_bucket.published.name },
  )
}

output "destination" {
  description = "What `superbatch publish --destination` is given."
  value       = trimsuffix("gs://${google_storage_bucket.published.name}/${local.published_folder}", "/")
}

output "templates" {
  description = "Spec of each job's Flex template, for `gcloud dataflow flex-template run --template-file-gcs-location`; empty until image is given."
  value       = { for job, spec in google_storage_bucket_object.template : job => "gs://${spec.bucket}/${spec.name}" }
}

output "registry" {
  description = "Where images are pushed: REGISTRY/superbatch:TAG."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}

output "kubernetes_registry" {
  description = "registry.k8s.io through Google, for JobSet's controller; null without TPUs."
  value       = one([for mirror in google_artifact_registry_repository.kubernetes : "${var.region}-docker.pkg.dev/${var.project_id}/${mirror.repository_id}"])
}

output "accounts" {
  description = "E-mail addresses of the service accounts: workers, trainer, publisher, scheduler and nodes."
  value       = local.emails
}

output "dags" {
  description = "Composer's DAG folder, gs://…/dags; null without Composer."
  value       = one([for environment in google_composer_environment.this : environment.config[0].dag_gcs_prefix])
}

output "deployment" {
  description = "Where rounds run, by the names that infra/airflow asks for."
  value = {
    project                   = var.project_id
    region                    = var.region
    templates                 = "gs://${google_storage_bucket.this["templates"].name}/flex"
    temporary                 = local.temporary.workers
    publisher_temporary       = local.temporary.publisher
    worker_service_account    = local.emails["workers"]
    publisher_service_account = local.emails["publisher"]
    subnetwork                = local.subnetwork
    cluster                   = one(google_container_cluster.this[*].name)
    cluster_location          = one(google_container_cluster.this[*].location)
  }
}

output "grants" {
  description = "Every grant that this makes, for whoever reviews them: account, role and what on."
  value = concat(
    [for grant in values(google_project_iam_member.this) : { member = grant.member, role = grant.role, on = grant.project, condition = null }],
    [for grant in values(google_storage_bucket_iam_member.this) : { member = grant.member, role = grant.role, on = grant.bucket, condition = null }],
    flatten([for binding in local.published_bindings : [
      for member in binding.members : {
        member = member, role = binding.role, on = google_storage_bucket.published.name, condition = try(binding.condition.expression, null)
      }
    ]]),
    [for grant in values(google_service_account_iam_member.acts_as) : { member = grant.member, role = grant.role, on = grant.service_account_id, condition = null }],
    [for grant in google_service_account_iam_member.trainer_pod : { member = grant.member, role = grant.role, on = grant.service_account_id, condition = null }],
    [for grant in concat(values(google_artifact_registry_repository_iam_member.images), google_artifact_registry_repository_iam_member.kubernetes) : { member = grant.member, role = grant.role, on = grant.repository, condition = null }],
  )
}
