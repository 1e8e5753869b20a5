# Who may do what: the module by itself, with everything switched on, so that its resources can be looked at.
variables {
  project_id           = "example-rounds"
  published_project_id = "example-published"
  billing_account      = "01AB23-45CD67-89EF01"
  monthly_budget       = 5000
  alert_emails         = ["data-team@example.org"]
  readers              = ["group:researchers@example.org"]
  published_prefix     = "data"
  image                = "europe-west4-docker.pkg.dev/example-rounds/superbatch/superbatch:0.1.0"
  tpu                  = { zone = "europe-west4-b" }
  internet_access      = true
}

run "everything" {
  command = plan
  module {
    source = "./superbatch"
  }

  # No public bucket.
  assert {
    condition = alltrue([
      for bucket in concat(values(google_storage_bucket.this), [google_storage_bucket.published]) :
      bucket.public_access_prevention == "enforced" && bucket.uniform_bucket_level_access
    ])
    error_message = "A bucket could be made public, or has rules by object."
  }
  assert {
    condition     = !anytrue([for grant in output.grants : contains(["allUsers", "allAuthenticatedUsers"], grant.member)])
    error_message = "Something is granted to everybody."
  }

  # No primitive role, and none that administers.
  assert {
    condition     = length(output.grants) > 20
    error_message = "The grants that are looked at here are not all."
  }
  assert {
    condition     = !anytrue([for grant in output.grants : can(regex("^roles/(owner|editor|viewer)$|[aA]dmin$", grant.role))])
    error_message = "Somebody gets a primitive or an administrator's role."
  }

  # Only the publisher writes the published bucket.
  assert {
    condition = alltrue([
      for binding in jsondecode(google_storage_bucket_iam_policy.published.policy_data).bindings :
      binding.role == "roles/storage.objectViewer" || binding.members == ["serviceAccount:superbatch-publisher@example-rounds.iam.gserviceaccount.com"]
    ])
    error_message = "Somebody else than the publisher may write published data."
  }
  assert {
    condition = anytrue([
      for binding in jsondecode(google_storage_bucket_iam_policy.published.policy_data).bindings :
      binding.role == "roles/storage.objectViewer" && contains(binding.members, "serviceAccount:superbatch-scheduler@example-rounds.iam.gserviceaccount.com")
    ])
    error_message = "The scheduler cannot see whether a version is published."
  }
  assert {
    condition     = google_storage_bucket_iam_policy.published.bucket == google_storage_bucket.published.name && !contains([for grant in google_storage_bucket_iam_member.this : grant.bucket], google_storage_bucket.published.name)
    error_message = "The published bucket's policy is not the only thing that says who writes it."
  }
  assert {
    condition = google_storage_bucket.published.project != var.project_id && alltrue([
      for grant in google_project_iam_member.this : grant.project == var.project_id
    ])
    error_message = "A grant on a whole project reaches the published bucket."
  }

  # Nobody overwrites there, except pointers. Overwriting and deleting need storage.objects.delete: of the roles that are
  # granted, objectCreator and objectViewer lack it.
  assert {
    condition = alltrue([
      for binding in jsondecode(google_storage_bucket_iam_policy.published.policy_data).bindings :
      contains(["roles/storage.objectCreator", "roles/storage.objectViewer"], binding.role) || (
        binding.role == "roles/storage.objectUser" &&
        try(binding.condition.expression, "") == "resource.name.startsWith(\"projects/_/buckets/example-published-superbatch-published/objects/data/aliases/\")"
      )
    ])
    error_message = "Something below the published bucket can be overwritten that is no pointer."
  }
  assert {
    condition     = google_storage_bucket.published.versioning[0].enabled && google_storage_bucket.published.force_destroy == false
    error_message = "Published data could be lost by one mistake."
  }
  assert {
    condition     = alltrue([for rule in google_storage_bucket.published.lifecycle_rule : one(rule.action).type == "AbortIncompleteMultipartUpload" || one(rule.condition).matches_prefix == tolist(["data/aliases/"])])
    error_message = "A rule deletes published data."
  }

  # Each role by itself.
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.this : grant.role if grant.bucket == google_storage_bucket.this["templates"].name]) == toset(["roles/storage.objectViewer"])
    error_message = "Somebody may write templates, and so decide what runs as the publisher."
  }
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.this : grant.member if grant.bucket == google_storage_bucket.this["publisher_temporary"].name]) == toset(["serviceAccount:superbatch-publisher@example-rounds.iam.gserviceaccount.com"])
    error_message = "Somebody may change the publisher's code on its way."
  }
  assert {
    condition     = alltrue([for grant in google_storage_bucket_iam_member.this : grant.role != "roles/storage.objectUser" if grant.bucket == google_storage_bucket.this["raw"].name])
    error_message = "Somebody may change raw data."
  }
  assert {
    condition     = !anytrue([for grant in output.grants : grant.member == "serviceAccount:superbatch-trainer@example-rounds.iam.gserviceaccount.com" && grant.on == var.project_id])
    error_message = "The trainer has a role on the whole project."
  }
  assert {
    condition     = toset([for grant in google_service_account_iam_member.acts_as : grant.service_account_id if grant.member == "serviceAccount:superbatch-scheduler@example-rounds.iam.gserviceaccount.com"]) == toset(["projects/example-rounds/serviceAccounts/superbatch-workers@example-rounds.iam.gserviceaccount.com", "projects/example-rounds/serviceAccounts/superbatch-publisher@example-rounds.iam.gserviceaccount.com"])
    error_message = "The scheduler starts jobs as somebody else than the workers and the publisher."
  }
}

run "machines_are_reached_by_nobody" {
  command = plan
  module {
    source = "./superbatch"
  }

  assert {
    condition     = google_compute_subnetwork.this.private_ip_google_access && google_compute_network.this.auto_create_subnetworks == false
    error_message = "Machines without public addresses do not reach Google's services."
  }
  assert {
    condition     = alltrue([for allowed in google_compute_firewall.dataflow[*] : length(coalesce(allowed.source_ranges, [])) == 0 && length(allowed.source_tags) == 1])
    error_message = "The firewall lets in more than workers of Dataflow."
  }
  assert {
    condition = alltrue([
      for spec in google_storage_bucket_object.template : jsondecode(spec.content).defaultEnvironment.ipConfiguration == "WORKER_IP_PRIVATE"
    ])
    error_message = "A template gives its workers public addresses."
  }
  assert {
    condition     = google_container_cluster.this[0].private_cluster_config[0].enable_private_nodes && google_container_cluster.this[0].private_cluster_config[0].enable_private_endpoint
    error_message = "The cluster's machines, or its control plane, have public addresses."
  }
  assert {
    condition     = google_composer_environment.this[0].config[0].enable_private_environment
    error_message = "Composer has public addresses."
  }
}

run "templates_run_as_their_role" {
  command = plan
  module {
    source = "./superbatch"
  }

  assert {
    condition     = toset(keys(google_storage_bucket_object.template)) == toset(["ingest", "embed", "curate", "export", "publish"])
    error_message = "A job has no template."
  }
  assert {
    condition = alltrue([
      for job, spec in google_storage_bucket_object.template :
      jsondecode(spec.content).defaultEnvironment.serviceAccountEmail == "superbatch-${job == "publish" ? "publisher" : "workers"}@example-rounds.iam.gserviceaccount.com"
    ])
    error_message = "A job runs as another role."
  }
  assert {
    condition     = alltrue([for job, spec in google_storage_bucket_object.template : jsondecode(spec.content).image == "${var.image}-${job}" && jsondecode(spec.content).defaultEnvironment.sdkContainerImage == "${var.image}-${job}"])
    error_message = "Launcher and workers do not run one image."
  }
  assert {
    condition     = startswith(jsondecode(google_storage_bucket_object.template["publish"].content).defaultEnvironment.stagingLocation, "gs://${google_storage_bucket.this["publisher_temporary"].name}/")
    error_message = "The publisher's code passes through a bucket that others write."
  }
  assert {
    condition     = google_artifact_registry_repository.images.docker_config[0].immutable_tags
    error_message = "A template's image could change under its tag."
  }
}

run "data_goes_when_it_should" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    retention = { temporary = 3, superseded = 14, working = 200 }
  }

  assert {
    condition = alltrue([
      for name in ["temporary", "publisher_temporary"] :
      anytrue([for rule in google_storage_bucket.this[name].lifecycle_rule : one(rule.action).type == "Delete" && one(rule.condition).age == 3])
    ])
    error_message = "Temporary files stay."
  }
  assert {
    condition     = toset([for name, bucket in google_storage_bucket.this : name if bucket.versioning[0].enabled]) == toset(["raw", "templates"])
    error_message = "Versions are kept where they do not help, or not where they do."
  }
  assert {
    condition = alltrue([
      for name in ["raw", "templates"] :
      [for rule in google_storage_bucket.this[name].lifecycle_rule : one(rule.condition).days_since_noncurrent_time if one(rule.action).type == "Delete"] == [14]
    ])
    error_message = "Replaced versions stay, or current ones go."
  }
  assert {
    condition     = [for rule in google_storage_bucket.this["work"].lifecycle_rule : one(rule.condition).age if one(rule.action).type == "Delete"] == [200]
    error_message = "Working data goes at another time than asked for."
  }
  assert {
    condition = { for name, bucket in google_storage_bucket.this : name => bucket.soft_delete_policy[0].retention_duration_seconds / 86400 } == {
      raw = 14, work = 7, templates = 14, temporary = 0, publisher_temporary = 0
    }
    error_message = "Deleted objects are kept for another time."
  }
}

run "tpus" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    tpu = { zone = "europe-west4-a", accelerator = "tpu-v5p-slice", topology = "2x2x4", max_slices = 2, spot = false }
  }

  assert {
    condition     = length(google_container_node_pool.tpu) == 2 && google_container_node_pool.tpu[0].node_config[0].machine_type == "ct5p-hightpu-4t"
    error_message = "There must be one pool a slice, of v5p machines."
  }
  assert {
    condition     = google_container_node_pool.tpu[0].autoscaling[0].total_max_node_count == 4 && google_container_node_pool.tpu[0].autoscaling[0].total_min_node_count == 0
    error_message = "16 chips are four machines of four, and none while nothing runs."
  }
  assert {
    condition     = google_container_node_pool.tpu[1].placement_policy[0].tpu_topology == "2x2x4"
    error_message = "The pool's machines are no slice."
  }
  assert {
    condition     = google_service_account_iam_member.trainer_pod[0].member == "serviceAccount:example-rounds.svc.id.goog[superbatch/trainer]"
    error_message = "The JobSet's pods do not run as the trainer."
  }
}

run "somebody_is_told" {
  command = plan
  override_data {
    target = data.google_project.this
    values = { number = "11" }
  }
  override_data {
    target = data.google_project.published
    values = { number = "22" }
  }
  module {
    source = "./superbatch"
  }

  assert {
    condition     = toset(keys(google_monitoring_alert_policy.log)) == toset(["job_failed", "rejected_too_much", "training_failed"])
    error_message = "A failure goes unnoticed."
  }
  assert {
    condition     = alltrue([for policy in concat(values(google_monitoring_alert_policy.log), google_monitoring_alert_policy.round) : length(policy.notification_channels) == 1])
    error_message = "An alert reaches nobody."
  }
  assert {
    condition     = google_billing_budget.this.amount[0].specified_amount[0].units == "5000" && google_billing_budget.this.budget_filter[0].projects == toset(["projects/11", "projects/22"])
    error_message = "The budget is not the one that was asked for."
  }
}
