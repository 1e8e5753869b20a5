# TPU capacity: a cluster whose machines have no public addresses, and a pool of slices that is empty while nothing runs.
locals {
  tpu_machines = {
    "tpu-v4-podslice"      = "ct4p-hightpu-4t"
    "tpu-v5p-slice"        = "ct5p-hightpu-4t"
    "tpu-v5-lite-podslice" = "ct5lp-hightpu-4t"
    "tpu-v6e-slice"        = "ct6e-standard-4t"
  }
  tpu_sides = var.tpu == null ? [1] : [for side in split("x", var.tpu.topology) : tonumber(side)]
  # Machines of four chips; a slice of fewer is refused below.
  tpu_chips = local.tpu_sides[0] * try(local.tpu_sides[1], 1) * try(local.tpu_sides[2], 1)
  tpu_hosts = local.tpu_chips / 4
}

resource "google_container_cluster" "this" {
  count                    = var.tpu == null ? 0 : 1
  project                  = var.project_id
  name                     = var.name
  location                 = var.region
  network                  = google_compute_network.this.id
  subnetwork               = google_compute_subnetwork.this.id
  networking_mode          = "VPC_NATIVE"
  remove_default_node_pool = true
  initial_node_count       = 1
  deletion_protection      = true
  enable_shielded_nodes    = true
  resource_labels          = local.labels

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = true
  }

  # None by address; private endpoints ask for the block.
  master_authorized_networks_config {}

  # The control plane answers under a name, to whoever IAM lets in; its address does not matter.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }
  }

  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  release_channel {
    channel = "REGULAR"
  }

  # Of the pool that is removed at once.
  node_config {
    service_account = local.emails["nodes"]
  }

  depends_on = [google_project_service.this, google_project_iam_member.this]
}

# JobSet's controller, and evaluations, which run on CPUs.
resource "google_container_node_pool" "cpu" {
  count    = var.tpu == null ? 0 : 1
  project  = var.project_id
  name     = "cpu"
  location = var.region
  cluster  = google_container_cluster.this[0].name

  autoscaling {
    total_min_node_count = 1
    total_max_node_count = 8
  }

  node_config {
    machine_type    = "n2-standard-8"
    service_account = local.emails["nodes"]
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    labels          = local.labels

    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    shielded_instance_config {
      enable_secure_boot = true
    }
  }
}

# A slice of several hosts is a pool of its own, which grows and shrinks as a whole.
resource "google_container_node_pool" "tpu" {
  count          = var.tpu == null ? 0 : var.tpu.max_slices
  project        = var.project_id
  name           = "tpu-${count.index}"
  location       = var.region
  node_locations = [var.tpu.zone]
  cluster        = google_container_cluster.this[0].name

  autoscaling {
    total_min_node_count = 0
    total_max_node_count = local.tpu_hosts
    location_policy      = "ANY"
  }

  dynamic "placement_policy" {
    for_each = local.tpu_hosts > 1 ? [var.tpu.topology] : []
    content {
      type         = "COMPACT"
      tpu_topology = placement_policy.value
    }
  }

  node_config {
    machine_type    = local.tpu_machines[var.tpu.accelerator]
    spot            = var.tpu.spot
    service_account = local.emails["nodes"]
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    labels          = local.labels

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  lifecycle {
    precondition {
      condition     = local.tpu_chips >= 4 && local.tpu_chips % 4 == 0
      error_message = "tpu.topology ${try(var.tpu.topology, "")} is ${local.tpu_chips} chips; machines of four chips make slices of 4, 8, 16, … of them."
    }
  }
}
