# The services that both projects need. They stay on when this is destroyed: others may use them too.
data "google_project" "this" {
  project_id = var.project_id
}

data "google_project" "published" {
  project_id = var.published_project_id
}

resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "billingbudgets.googleapis.com",
    "composer.googleapis.com",
    "compute.googleapis.com",
    "container.googleapis.com",
    "dataflow.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "storage.googleapis.com",
  ])
  project            = var.project_id
  service            = each.value
  disable_on_destroy = false
}

resource "google_project_service" "published" {
  project            = var.published_project_id
  service            = "storage.googleapis.com"
  disable_on_destroy = false
}

locals {
  labels = merge({ application = var.name }, var.labels)
}
