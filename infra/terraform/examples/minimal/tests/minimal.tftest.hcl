# What `terraform apply` of this folder makes, as it stands: no image yet, no TPUs.
variables {
  project_id           = "example-rounds"
  published_project_id = "example-published"
  billing_account      = "01AB23-45CD67-89EF01"
  monthly_budget       = 5000
  alert_emails         = ["data-team@example.org"]
  readers              = ["group:researchers@example.org"]
}

run "the_first_apply" {
  command = plan

  assert {
    condition     = output.deployment.cluster == null && length(output.superbatch.templates) == 0
    error_message = "Without an image and without TPUs there must be neither templates nor a cluster."
  }
  assert {
    condition     = output.deployment.templates == "gs://example-rounds-superbatch-templates/flex"
    error_message = "infra/airflow looks for templates elsewhere."
  }
  assert {
    condition     = output.superbatch.destination == "gs://example-published-superbatch-published"
    error_message = "superbatch publish would write elsewhere."
  }
}
