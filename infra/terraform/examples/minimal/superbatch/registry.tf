# Images. A tag never moves, so a template that names one runs what it ran when it was made.
resource "google_artifact_registry_repository" "images" {
  project       = var.project_id
  location      = var.region
  repository_id = var.name
  description   = "Images of Superbatch: launchers, workers and trainers"
  format        = "DOCKER"
  labels        = local.labels

  docker_config {
    immutable_tags = true
  }

  # Layers of builds that were never tagged.
  cleanup_policies {
    id     = "untagged"
    action = "DELETE"
    condition {
      tag_state  = "UNTAGGED"
      older_than = "${var.retention.superseded}d"
    }
  }

  depends_on = [google_project_service.this]
}

# What the cluster pulls from elsewhere (JobSet's controller), through Google: nodes have no way out to the internet.
resource "google_artifact_registry_repository" "kubernetes" {
  count         = var.tpu == null ? 0 : 1
  project       = var.project_id
  location      = var.region
  repository_id = "${var.name}-kubernetes"
  description   = "registry.k8s.io, pulled through"
  format        = "DOCKER"
  mode          = "REMOTE_REPOSITORY"
  labels        = local.labels

  remote_repository_config {
    common_repository {
      uri = "https://registry.k8s.io"
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_artifact_registry_repository_iam_member" "images" {
  for_each   = toset(["workers", "publisher", "nodes"])
  project    = var.project_id
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = local.members[each.value]
}

resource "google_artifact_registry_repository_iam_member" "kubernetes" {
  count      = var.tpu == null ? 0 : 1
  project    = var.project_id
  location   = google_artifact_registry_repository.kubernetes[0].location
  repository = google_artifact_registry_repository.kubernetes[0].name
  role       = "roles/artifactregistry.reader"
  member     = local.members["nodes"]
}
