variable "project_id" {
  description = "Project that rounds run in; it exists already."
  type        = string
}

variable "published_project_id" {
  description = "Project of the published bucket; it exists already, and holds nothing else."
  type        = string
}

variable "billing_account" {
  description = "Billing account of both projects."
  type        = string
}

variable "monthly_budget" {
  description = "Money a month, in the billing account's currency, that alerts are about."
  type        = number
}

variable "alert_emails" {
  description = "Who is told of failures and of the budget."
  type        = set(string)
}

variable "region" {
  description = "Region of everything."
  type        = string
  default     = "europe-west4"
}

variable "readers" {
  description = "Who may read published data, as IAM members."
  type        = set(string)
  default     = []
}

variable "image" {
  description = "Image of all jobs, REPOSITORY/NAME:TAG; null until the first is pushed."
  type        = string
  default     = null
}

variable "tpu" {
  description = "TPU slices of the trainer (module superbatch describes them); null for none."
  type = object({
    zone        = string
    accelerator = optional(string, "tpu-v5-lite-podslice")
    topology    = optional(string, "4x4")
    max_slices  = optional(number, 1)
    spot        = optional(bool, true)
  })
  default = null
}
