# One account a role. Nobody has a key: machines and pods are given them.
locals {
  accounts = {
    workers   = "ingest, embed, curate and export, on Dataflow"
    trainer   = "train, distill and evaluate, on Kubernetes"
    publisher = "publish, on Dataflow; the only one that writes published data"
    scheduler = "Composer: starts jobs as the accounts above"
    nodes     = "machines of the cluster; pods have accounts of their own"
  }
  project_roles = {
    # Starting a Flex template makes its launcher start the job: both are the worker's account.
    workers   = ["roles/dataflow.worker", "roles/dataflow.developer"]
    publisher = ["roles/dataflow.worker", "roles/dataflow.developer"]
    trainer   = []
    scheduler = ["roles/composer.worker", "roles/dataflow.developer", "roles/container.developer", "roles/logging.viewer"]
    nodes     = ["roles/container.defaultNodeServiceAccount"]
  }
  project_grants = merge([
    for account, roles in local.project_roles : {
      for role in roles : "${account} ${role}" => { account = account, role = role }
    }
  ]...)
  # Who may start what as whom. A Flex launcher starts the job as itself, which needs saying.
  acts_as = {
    "scheduler as workers"   = { who = "scheduler", whom = "workers" }
    "scheduler as publisher" = { who = "scheduler", whom = "publisher" }
    "workers as workers"     = { who = "workers", whom = "workers" }
    "publisher as publisher" = { who = "publisher", whom = "publisher" }
  }
  # Their addresses follow from their names, so a plan shows who is granted what before they are there.
  emails        = { for role, account in google_service_account.this : role => "${account.account_id}@${account.project}.iam.gserviceaccount.com" }
  members       = { for role, email in local.emails : role => "serviceAccount:${email}" }
  account_names = { for role, email in local.emails : role => "projects/${var.project_id}/serviceAccounts/${email}" }
  trainer_pod   = "serviceAccount:${var.project_id}.svc.id.goog[superbatch/trainer]" # namespace and account of the JobSet
}

resource "google_service_account" "this" {
  for_each     = local.accounts
  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "Superbatch ${each.key}"
  description  = each.value
  depends_on   = [google_project_service.this]
}

resource "google_project_iam_member" "this" {
  for_each = local.project_grants
  project  = var.project_id
  role     = each.value.role
  member   = local.members[each.value.account]
}

resource "google_service_account_iam_member" "acts_as" {
  for_each           = local.acts_as
  service_account_id = local.account_names[each.value.whom]
  role               = "roles/iam.serviceAccountUser"
  member             = local.members[each.value.who]
}

resource "google_service_account_iam_member" "trainer_pod" {
  count              = var.tpu == null ? 0 : 1
  service_account_id = local.account_names["trainer"]
  role               = "roles/iam.workloadIdentityUser"
  member             = local.trainer_pod
  depends_on         = [google_container_cluster.this] # which makes the pool of identities
}
