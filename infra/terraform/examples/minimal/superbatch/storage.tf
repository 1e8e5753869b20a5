# Buckets of the project that rounds run in. None can be made public, none has rules by object.
#
#   raw                   what is curated; jobs read it
#   work                  corpora, embeddings, workdirs, curated sets: rounds write here
#   templates             what Dataflow launches; written by this configuration only, since whoever writes here decides
#                         what runs as the publisher
#   temporary             Dataflow's files of ingest, embed, curate and export
#   publisher_temporary   Dataflow's files of publish: its code passes through here, so that others may not write it
locals {
  buckets = {
    raw                 = { versioned = true, temporary = false, restorable = var.retention.superseded }
    work                = { versioned = false, temporary = false, restorable = 7 } # jobs delete much here; 7 is the least
    templates           = { versioned = true, temporary = false, restorable = var.retention.superseded }
    temporary           = { versioned = false, temporary = true, restorable = 0 }
    publisher_temporary = { versioned = false, temporary = true, restorable = 0 }
  }
}

resource "google_storage_bucket" "this" {
  for_each                    = local.buckets
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-${replace(each.key, "_", "-")}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = each.value.temporary
  labels                      = local.labels

  versioning {
    enabled = each.value.versioned
  }

  # Deleted objects can be restored for so long, and cost as before.
  soft_delete_policy {
    retention_duration_seconds = each.value.restorable * 86400
  }

  lifecycle_rule {
    condition {
      age = var.retention.temporary
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.temporary ? [var.retention.temporary] : []
    content {
      condition {
        age = lifecycle_rule.value
      }
      action {
        type = "Delete"
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.versioned ? [var.retention.superseded] : []
    content {
      condition {
        days_since_noncurrent_time = lifecycle_rule.value
      }
      action {
        type = "Delete"
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.key == "work" ? [var.retention.cold] : []
    content {
      condition {
        age = lifecycle_rule.value
      }
      action {
        type          = "SetStorageClass"
        storage_class = "NEARLINE"
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.key == "work" && var.retention.working != null ? [var.retention.working] : []
    content {
      condition {
        age = lifecycle_rule.value
      }
      action {
        type = "Delete"
      }
    }
  }

  depends_on = [google_project_service.this]
}

# Who may do what in them, besides reading what Dataflow's role lets every worker read.
locals {
  bucket_grants = {
    "workers read raw"                     = { bucket = "raw", role = "roles/storage.objectViewer", account = "workers" }
    "workers write work"                   = { bucket = "work", role = "roles/storage.objectUser", account = "workers" }
    "trainer writes work"                  = { bucket = "work", role = "roles/storage.objectUser", account = "trainer" }
    "publisher reads work"                 = { bucket = "work", role = "roles/storage.objectViewer", account = "publisher" }
    "scheduler reads work"                 = { bucket = "work", role = "roles/storage.objectViewer", account = "scheduler" }
    "scheduler reads templates"            = { bucket = "templates", role = "roles/storage.objectViewer", account = "scheduler" }
    "workers write temporary"              = { bucket = "temporary", role = "roles/storage.objectUser", account = "workers" }
    "publisher writes its own temporary"   = { bucket = "publisher_temporary", role = "roles/storage.objectUser", account = "publisher" }
    "workers look at temporary"            = { bucket = "temporary", role = "roles/storage.legacyBucketReader", account = "workers" }
    "publisher looks at its own temporary" = { bucket = "publisher_temporary", role = "roles/storage.legacyBucketReader", account = "publisher" }
  }
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = local.bucket_grants
  bucket   = google_storage_bucket.this[each.value.bucket].name
  role     = each.value.role
  member   = local.members[each.value.account]
}
