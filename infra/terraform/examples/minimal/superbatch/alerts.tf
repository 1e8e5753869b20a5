# Who is told when something goes wrong. What to do then stands in docs/operations.md.
locals {
  # In Google's query language for logs. What our jobs say is theirs to say: a test holds these to it.
  log_alerts = merge(
    {
      job_failed = {
        title   = "a Dataflow job failed"
        filter  = <<-FILTER
          resource.type="dataflow_step"
          log_id("dataflow.googleapis.com/job-message")
          severity>=ERROR
          textPayload=~"^Workflow failed|launcher container"
        FILTER
        content = "A stage of a round has failed, or could not be launched. The job's own last error says why; started again, it goes on where it was."
      }
      rejected_too_much = {
        title   = "a job rejected too much"
        filter  = <<-FILTER
          resource.type="dataflow_step"
          severity>=ERROR
          (textPayload:"rows were rejected, and --max_rejected_fraction is" OR jsonPayload.message:"rows were rejected, and --max_rejected_fraction is")
        FILTER
        content = "A larger share of rows than --max_rejected_fraction was rejected: the source is not what it was. The message names the reasons; every rejection is in rejections/ of the job's output."
      }
    },
    var.tpu == null ? {} : {
      training_failed = {
        title   = "a training run failed"
        filter  = <<-FILTER
          resource.type="k8s_cluster"
          resource.labels.cluster_name="${var.name}"
          log_id("events")
          jsonPayload.involvedObject.kind="JobSet"
          jsonPayload.reason=~"^(FailedJobs|ReachedMaxRestarts|FailJobSetFailurePolicyAction)$"
        FILTER
        content = "The JobSet of train or distill has given up restarting. Preemptions do not count: look at the log of its first pod that failed."
      }
    },
  )
}

resource "google_monitoring_notification_channel" "email" {
  for_each     = var.alert_emails
  project      = var.project_id
  display_name = "Superbatch: ${each.value}"
  type         = "email"
  labels       = { email_address = each.value }
  depends_on   = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "log" {
  for_each              = local.log_alerts
  project               = var.project_id
  display_name          = "Superbatch: ${each.value.title}"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]
  user_labels           = local.labels

  conditions {
    display_name = each.value.title
    condition_matched_log {
      filter = trimspace(each.value.filter)
    }
  }

  alert_strategy {
    auto_close = "86400s"
    notification_rate_limit {
      period = "300s"
    }
  }

  documentation {
    content   = each.value.content
    mime_type = "text/markdown"
  }
}

resource "google_monitoring_alert_policy" "round" {
  count                 = var.composer == null ? 0 : 1
  project               = var.project_id
  display_name          = "Superbatch: a round failed"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]
  user_labels           = local.labels

  conditions {
    display_name = "a run of a DAG failed"
    condition_threshold {
      filter          = "resource.type=\"cloud_composer_workflow\" AND metric.type=\"composer.googleapis.com/workflow/run_count\" AND metric.labels.state=\"failed\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_DELTA"
      }
    }
  }

  documentation {
    content   = "A round ended without publishing, after all its retries, or because the curated set did not beat its control. Airflow shows at which task."
    mime_type = "text/markdown"
  }

  depends_on = [google_composer_environment.this]
}

resource "google_billing_budget" "this" {
  billing_account = var.billing_account
  display_name    = "Superbatch (${var.project_id})"

  budget_filter {
    projects        = ["projects/${data.google_project.this.number}", "projects/${data.google_project.published.number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      units = tostring(var.monthly_budget)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    monitoring_notification_channels = slice([for channel in google_monitoring_notification_channel.email : channel.id], 0, min(5, length(var.alert_emails)))
  }

  depends_on = [google_project_service.this]
}
