# Where datasets are published: in a project of its own, with a policy that lists everyone there is.
#
# A version is DESTINATION/NAME/VERSION/, its `_claim.json` first and its manifest last; pointers to versions are in
# DESTINATION/aliases/. The publisher may create objects, and replace or delete them below aliases/ only: replacing an
# object needs the permission to delete it, which objectCreator lacks.
locals {
  published_bucket = "${var.published_project_id}-${var.name}-published"
  published_folder = var.published_prefix == "" ? "" : "${var.published_prefix}/"
  publisher        = local.members["publisher"]
  published_bindings = [
    {
      role    = "roles/storage.objectCreator"
      members = [local.publisher]
    },
    {
      role    = "roles/storage.objectViewer"
      members = sort(setunion([local.publisher, local.members["scheduler"]], var.readers)) # it looks for manifests
    },
    {
      role    = "roles/storage.objectUser"
      members = [local.publisher]
      condition = {
        title       = "aliases only"
        description = "Pointers move; what they point to never changes."
        expression  = "resource.name.startsWith(\"projects/_/buckets/${local.published_bucket}/objects/${local.published_folder}aliases/\")"
      }
    },
  ]
}

resource "google_storage_bucket" "published" {
  project                     = var.published_project_id
  name                        = local.published_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false
  labels                      = local.labels

  # Only aliases are ever replaced: their history is that of what readers were given.
  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = var.retention.superseded * 86400
  }

  lifecycle_rule {
    condition {
      age = var.retention.temporary
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  lifecycle_rule {
    condition {
      num_newer_versions         = 100
      days_since_noncurrent_time = var.retention.superseded
      matches_prefix             = ["${local.published_folder}aliases/"]
    }
    action {
      type = "Delete"
    }
  }

  depends_on = [google_project_service.published]
}

# The whole policy and not members of it: a new bucket lets all editors of its project write, and this takes that away.
resource "google_storage_bucket_iam_policy" "published" {
  bucket      = google_storage_bucket.published.name
  policy_data = jsonencode({ version = 3, bindings = local.published_bindings })
}
