# Values that cannot work are refused before anything is made.
variables {
  project_id           = "example-rounds"
  published_project_id = "example-published"
  billing_account      = "01AB23-45CD67-89EF01"
  monthly_budget       = 5000
  alert_emails         = ["data-team@example.org"]
}

run "published_data_in_the_same_project" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    published_project_id = "example-rounds"
  }
  expect_failures = [var.published_project_id]
}

run "public_readers" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    readers = ["allUsers"]
  }
  expect_failures = [var.readers]
}

run "a_tag_that_moves" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    image = "europe-west4-docker.pkg.dev/example-rounds/superbatch/superbatch:latest"
  }
  expect_failures = [var.image]
}

run "alerts_that_reach_nobody" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    alert_emails = []
  }
  expect_failures = [var.alert_emails]
}

run "everything_else_at_once" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    billing_account  = "12345"
    monthly_budget   = 0.5
    name             = "Superbatch"
    published_prefix = "/data/"
    retention        = { superseded = 400, working = 30 }
    composer         = { image_version = "composer-2-airflow-2", size = "SMALL" }
  }
  expect_failures = [
    var.billing_account, var.monthly_budget, var.name, var.published_prefix, var.retention, var.composer,
  ]
}

run "tpus_elsewhere" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    tpu = { zone = "us-central1-a", accelerator = "tpu-v9", topology = "4x4x4" }
  }
  expect_failures = [var.tpu]
}

run "a_slice_that_is_no_whole_number_of_machines" {
  command = plan
  module {
    source = "./superbatch"
  }
  variables {
    tpu = { zone = "europe-west4-b", topology = "1x2" }
  }
  expect_failures = [google_container_node_pool.tpu]
}
