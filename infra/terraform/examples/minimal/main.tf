# Everything a team needs for one schedule of rounds. Copy this folder, fill in terraform.tfvars and apply it.
terraform {
  required_version = ">= 1.9"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7.0, < 9.0"
    }
  }
  # State holds no secrets, but whoever can write it decides what is applied: keep it in a bucket of your own.
  # backend "gcs" { bucket = "…" }
}

provider "google" {
  project = var.project_id
  region  = var.region
  # Budgets and the registry count their requests for this project.
  billing_project       = var.project_id
  user_project_override = true
}

module "superbatch" {
  source = "./superbatch"

  project_id           = var.project_id
  published_project_id = var.published_project_id
  billing_account      = var.billing_account
  monthly_budget       = var.monthly_budget
  alert_emails         = var.alert_emails
  region               = var.region
  readers              = var.readers
  image                = var.image
  tpu                  = var.tpu
}
