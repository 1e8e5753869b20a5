# What Dataflow launches: of each job its image, its parameters (metadata/, which infra/flex/templates.py writes) and where
# it runs. Whoever launches gives parameters only. A run is started by Airflow and not by a resource here: a finished batch
# job is no state to keep, and `terraform apply` would start it again.
locals {
  jobs = var.image == null ? toset([]) : toset([for file in fileset("${path.module}/metadata", "*.json") : trimsuffix(file, ".json")])
  temporary = {
    workers   = "gs://${google_storage_bucket.this["temporary"].name}/dataflow"
    publisher = "gs://${google_storage_bucket.this["publisher_temporary"].name}/dataflow"
  }
  subnetwork = "regions/${var.region}/subnetworks/${google_compute_subnetwork.this.name}"
}

resource "google_storage_bucket_object" "template" {
  for_each     = local.jobs
  bucket       = google_storage_bucket.this["templates"].name
  name         = "flex/${each.value}.json"
  content_type = "application/json"
  content = jsonencode({
    image    = "${var.image}-${each.value}"
    sdkInfo  = { language = "PYTHON" }
    metadata = jsondecode(file("${path.module}/metadata/${each.value}.json"))
    defaultEnvironment = {
      sdkContainerImage    = "${var.image}-${each.value}"
      serviceAccountEmail  = local.emails[each.value == "publish" ? "publisher" : "workers"]
      ipConfiguration      = "WORKER_IP_PRIVATE"
      subnetwork           = local.subnetwork
      workerRegion         = var.region
      tempLocation         = local.temporary[each.value == "publish" ? "publisher" : "workers"]
      stagingLocation      = "${local.temporary[each.value == "publish" ? "publisher" : "workers"]}/staging"
      additionalUserLabels = local.labels
    }
  })
}
