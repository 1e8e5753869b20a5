# Airflow, which starts the stages of a round (infra/airflow).
resource "google_composer_environment" "this" {
  count   = var.composer == null ? 0 : 1
  project = var.project_id
  name    = var.name
  region  = var.region
  labels  = local.labels

  config {
    environment_size           = var.composer.size
    enable_private_environment = true

    software_config {
      image_version = var.composer.image_version
    }

    node_config {
      network         = google_compute_network.this.id
      subnetwork      = google_compute_subnetwork.this.id
      service_account = local.emails["scheduler"]
    }
  }

  depends_on = [google_project_iam_member.this]
}
